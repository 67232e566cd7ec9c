//! What the fuzz targets share: a bound on memory, damage, and the shapes of files.
//!
//! Every target reads its input in two ways. *Raw* input is the file itself. *Built* input says what
//! the file is to hold, and a builder makes the file of it: it has magic numbers and checksums right,
//! so that the fuzzer reaches what stands behind them from the first second on, without a corpus.

#[path = "../../vmcore/tests/counting/mod.rs"]
mod counting;
pub mod image;
pub mod machine;
pub mod memory;
pub mod spec;

use arbitrary::Arbitrary;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Runs `run` and returns what it returned.
///
/// # Panics
///
/// If it held more than `bytes` bytes at once.
pub fn bounded<T>(bytes: usize, run: impl FnOnce() -> T) -> T {
    let (result, peak) = counting::peak(run);
    assert!(peak <= bytes, "{peak} bytes were held, of {bytes} allowed");
    result
}

/// Bytes that are written over others, as a disk or an attacker would.
#[derive(Arbitrary, Clone, Debug, Default)]
pub struct Damage {
    bytes: Vec<(u32, u8)>,
}

impl Damage {
    /// Whether there is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Does it to `file`.
    pub fn apply(&self, file: &mut [u8]) {
        for &(at, byte) in &self.bytes {
            let len = file.len();
            if len > 0 {
                file[at as usize % len] = byte;
            }
        }
    }
}

/// A number that is small as a rule, so that many of them make sense together, or any at all.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Number {
    /// Any below 256.
    Byte(u8),
    /// A multiple of a page, below 1 MiB.
    Pages(u8),
    /// Any below 65,536.
    Small(u16),
    /// Any.
    Any(u64),
}

impl Number {
    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        match self {
            Self::Byte(n) => n.into(),
            Self::Pages(n) => u64::from(n) * vmcore::PAGE_SIZE,
            Self::Small(n) => n.into(),
            Self::Any(n) => n,
        }
    }
}
