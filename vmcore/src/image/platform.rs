//! The hardware that a kernel runs on, as far as it counts on it.

use super::wire::{Reader, Writer};

/// The hardware that a kernel runs on, and the file that its saving kernel came from. What is not known
/// is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    /// Who made the machine, as its firmware says (`/sys/class/dmi/id/sys_vendor`).
    pub vendor: String,
    /// What it is called (`product_name`).
    pub product: String,
    /// Its main board (`board_name`).
    pub board: String,
    /// The number that tells it from all others (`product_uuid`).
    pub uuid: String,
    /// The model of its CPUs.
    pub cpu: String,
    /// What the kernel found that all its CPUs can do, as `/proc/cpuinfo` names it: words with spaces
    /// between. The kernel has patched itself to make use of it.
    pub features: String,
    /// What the file of the saving kernel says that it was built from.
    pub saver: String,
    /// When the machine prepared to be saved, in seconds since the beginning of 1970.
    pub time: u64,
}

impl Platform {
    /// The first of these features that `here` does not have.
    ///
    /// ```
    /// use vmcore::image::Platform;
    ///
    /// let with = |features: &str| Platform { features: features.to_owned(), ..Platform::default() };
    /// assert_eq!(with("fpu sse avx").lacking(&with("avx fpu la57 sse")), None);
    /// assert_eq!(with("fpu sse avx").lacking(&with("fpu sse")), Some("avx"));
    /// ```
    #[must_use]
    pub fn lacking(&self, here: &Self) -> Option<&str> {
        let there: std::collections::HashSet<&str> = here.features.split_whitespace().collect();
        self.features
            .split_whitespace()
            .find(|feature| !there.contains(feature))
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        for text in [
            &self.vendor,
            &self.product,
            &self.board,
            &self.uuid,
            &self.cpu,
            &self.features,
            &self.saver,
        ] {
            to.string(text);
        }
        to.u64(self.time);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            vendor: from.string()?,
            product: from.string()?,
            board: from.string()?,
            uuid: from.string()?,
            cpu: from.string()?,
            features: from.string()?,
            saver: from.string()?,
            time: from.u64()?,
        })
    }
}
