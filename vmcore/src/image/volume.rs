//! The devices whose contents a sleeping machine counts on.

use std::fmt;

use super::Mapping;
use super::wire::{Reader, Writer};

/// A digest of the places of a device that change when it is used: SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A block device that a machine had mounted for writing, or swapped on, when it was saved. Whoever
/// writes to it while the machine sleeps, and then resumes the machine, destroys what is on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The device, as the machine called it.
    pub device: String,
    /// What it was used for: where it was mounted, or that it was swap.
    pub used: String,
    /// What is on it, such as `ext4`.
    pub kind: String,
    /// The number that tells it from all others; empty if it has none.
    pub uuid: String,
    /// Its size in bytes.
    pub size: u64,
    /// Where its bytes are if it is made of other devices, which other kernels have not put together.
    pub mapping: Option<Mapping>,
    /// What was on it when the machine stood still.
    pub state: VolumeState,
}

/// What was on a [`Volume`] when the machine stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// Nobody has looked yet: the machine still runs.
    Pending,
    /// Nobody is to look, whoever hibernated the machine answers for it.
    Exempt,
    /// This was on it.
    Known {
        /// The digest of the places that change when it is used.
        digest: Digest,
        /// When it was last written by what it says itself, in seconds since the beginning of 1970; 0
        /// if it does not say.
        written: u64,
    },
}

impl Volume {
    /// The most volumes that are read: more than a header has room for, if they have names.
    const MOST: u32 = 1024;

    pub(super) fn encode_all(volumes: &[Self], to: &mut Writer) {
        let count = volumes.len().min(Self::MOST as usize);
        // No truncation: it is `MOST` at most.
        to.u32(count as u32);
        for volume in &volumes[..count] {
            // Before there were mappings, a length was here, which was more than 1.
            match &volume.mapping {
                None => to.u32(0),
                Some(mapping) => {
                    to.u32(1);
                    mapping.encode(to);
                }
            }
            for text in [&volume.device, &volume.used, &volume.kind, &volume.uuid] {
                to.string(text);
            }
            to.u64(volume.size);
            match volume.state {
                VolumeState::Pending => to.u32(0),
                VolumeState::Exempt => to.u32(1),
                VolumeState::Known { digest, written } => {
                    to.u32(2);
                    to.raw(&digest.0);
                    to.u64(written);
                }
            }
        }
    }

    pub(super) fn decode_all(from: &mut Reader<'_>) -> Option<Vec<Self>> {
        let count = from.u32().filter(|&count| count <= Self::MOST)?;
        // Nothing is allocated by the count: this ends where the bytes do.
        let mut volumes = Vec::new();
        for _ in 0..count {
            let mapping = match from.u32()? {
                0 => None,
                1 => Some(Mapping::decode(from)?),
                _ => return None,
            };
            volumes.push(Self {
                mapping,
                device: from.string()?,
                used: from.string()?,
                kind: from.string()?,
                uuid: from.string()?,
                size: from.u64()?,
                state: match from.u32()? {
                    0 => VolumeState::Pending,
                    1 => VolumeState::Exempt,
                    2 => VolumeState::Known {
                        digest: Digest(from.array()?),
                        written: from.u64()?,
                    },
                    _ => return None,
                },
            });
        }
        Some(volumes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_as_they_were_before_mappings_are_none() {
        // One that was written as its texts, its size and its state, whatever follows.
        for used in ["mounted at /", "swap", ""] {
            let mut writer = Writer::default();
            writer.u32(1);
            for text in ["/dev/vda1", used, "ext4", "a-number"] {
                writer.string(text);
            }
            writer.u64(1 << 30);
            writer.u32(0);
            writer.raw(&[0; 4096]);
            assert!(Volume::decode_all(&mut Reader::new(&writer.bytes)).is_none());
        }
        let mut writer = Writer::default();
        Volume::encode_all(&[], &mut writer);
        assert_eq!(writer.bytes, [0; 4]);
    }
}
