//! Compression of chunks.

use std::fmt;
use std::io;
use std::str::FromStr;

use lz4::block::{compress_to_buffer, decompress_to_buffer};
use zstd::bulk::{Compressor, Decompressor};

use super::checksum::BLOCK;

/// How data is to be compressed.
///
/// ```
/// use vmcore::image::Codec;
///
/// assert_eq!("zstd:9".parse(), Ok(Codec::Zstd(9)));
/// assert_eq!("zstd".parse::<Codec>()?.to_string(), "zstd:1");
/// assert!("lzo".parse::<Codec>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// By LZ4: at the speed of memory or so.
    #[default]
    Lz4,
    /// By Zstandard at this level, from 1 to 19: smaller, and slower.
    Zstd(i32),
}

impl Codec {
    /// The level of Zstandard if none is given.
    const LEVEL: i32 = 1;
    /// The levels that Zstandard has without asking for much memory when it decompresses.
    const LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

    /// How many bytes a thread needs that compresses by it.
    #[must_use]
    pub const fn memory(self) -> u64 {
        match self {
            Self::None => 2 << 20,
            Self::Lz4 => 3 << 20,
            // The tables for inputs of 1 MiB, whatever the level (`ZSTD_estimateCCtxSize`).
            Self::Zstd(1..=5) => 5 << 20,
            Self::Zstd(_) => 16 << 20,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Lz4 => f.write_str("lz4"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

impl FromStr for Codec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None => match text {
                "none" => Ok(Self::None),
                "lz4" => Ok(Self::Lz4),
                "zstd" => Ok(Self::Zstd(Self::LEVEL)),
                _ => Err("it is none, lz4, zstd or zstd:LEVEL".to_owned()),
            },
            Some(("zstd", level)) => match level.parse() {
                Ok(level) if Self::LEVELS.contains(&level) => Ok(Self::Zstd(level)),
                _ => Err("the level of zstd is a number from 1 to 19".to_owned()),
            },
            Some(_) => Err("only zstd has levels".to_owned()),
        }
    }
}

/// How the data of a chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CodecKind {
    /// As it is.
    None,
    /// As one block of LZ4.
    Lz4,
    /// As one frame of Zstandard.
    Zstd,
}

impl CodecKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Lz4, Self::Zstd];

    pub(super) const fn number(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }
}

impl fmt::Display for CodecKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// Compresses chunks.
pub(super) struct Packer {
    codec: Codec,
    zstd: Option<Compressor<'static>>,
}

/// How much of a chunk is tried first: so many parts, of so many bytes.
const SAMPLES: usize = 24;
const SAMPLE: usize = 512;

impl Packer {
    pub(super) fn new(codec: Codec) -> io::Result<Self> {
        let zstd = match codec {
            Codec::Zstd(level) => Some(Compressor::new(level)?),
            Codec::None | Codec::Lz4 => None,
        };
        Ok(Self { codec, zstd })
    }

    /// Compresses `data` into `out`, and returns how it is stored and its size there; `None` if it is
    /// better stored as it is, since compressing it would not save a block.
    pub(super) fn pack(&mut self, data: &[u8], out: &mut [u8]) -> Option<(CodecKind, usize)> {
        let limit = data.len().checked_sub(BLOCK)?;
        let out = out.get_mut(..limit)?;
        let packed = match self.codec {
            Codec::None => None,
            // Zstandard finds out itself, and makes a little of much that LZ4 can make nothing of.
            Codec::Lz4 if is_noise(data, out) => None,
            Codec::Lz4 => Some((CodecKind::Lz4, lz4(data, out)?)),
            Codec::Zstd(_) => {
                let len = self.zstd.as_mut()?.compress_to_buffer(data, out).ok()?;
                Some((CodecKind::Zstd, len))
            }
        };
        packed.filter(|(_, len)| *len > 0)
    }
}

/// Whether LZ4 makes none of many small parts of `data` smaller, from all over it and from all parts of
/// pages. What is random is so throughout, most often: a little of it tells for a small part of the time.
fn is_noise(data: &[u8], out: &mut [u8]) -> bool {
    let step = data.len() / SAMPLES;
    data.len() > 8 * SAMPLES * SAMPLE
        && !(0..SAMPLES).any(|nth| {
            let start = nth * step + nth * SAMPLE % BLOCK;
            let sample = data.get(start..start + SAMPLE);
            let room = out.get_mut(..SAMPLE * 15 / 16);
            let both = sample.zip(room);
            both.is_some_and(|(sample, room)| lz4(sample, room).is_some())
        })
}

/// The size of `data` in `out`; `None` if it does not fit.
fn lz4(data: &[u8], out: &mut [u8]) -> Option<usize> {
    compress_to_buffer(data, None, false, out).ok()
}

/// Decompresses chunks.
pub(super) struct Unpacker {
    zstd: Option<Decompressor<'static>>,
}

impl Unpacker {
    pub(super) fn new() -> Self {
        Self { zstd: None }
    }

    /// Decompresses all of `stored` into `data`; `None` unless it fills that exactly.
    pub(super) fn unpack(&mut self, kind: CodecKind, stored: &[u8], data: &mut [u8]) -> Option<()> {
        let len = match kind {
            CodecKind::None => {
                data.copy_from_slice(stored.get(..data.len())?);
                stored.len()
            }
            CodecKind::Lz4 => {
                let expected = i32::try_from(data.len()).ok()?;
                decompress_to_buffer(stored, Some(expected), data).ok()?
            }
            CodecKind::Zstd => {
                if self.zstd.is_none() {
                    self.zstd = Some(Decompressor::new().ok()?);
                }
                self.zstd
                    .as_mut()?
                    .decompress_to_buffer(stored, data)
                    .ok()?
            }
        };
        (len == data.len()).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn random(len: usize, mut state: u64) -> Vec<u8> {
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..len).map(|_| next()).collect()
    }

    proptest! {
        #[test]
        fn what_is_packed_unpacks(codec in 0..3_usize, pages in 1..257_usize, noise in 0..257_usize) {
            let codec = [Codec::None, Codec::Lz4, Codec::Zstd(3)][codec];
            let mut data = vec![7; pages * BLOCK];
            let random = random(noise.min(pages) * BLOCK, 9);
            data[..random.len()].copy_from_slice(&random);
            let mut out = vec![0; 1 << 20];
            let packed = Packer::new(codec).unwrap().pack(&data, &mut out);
            prop_assert!(codec != Codec::None || packed.is_none());
            if let Some((kind, len)) = packed {
                prop_assert!(len <= data.len() - BLOCK);
                let mut again = vec![0; data.len()];
                prop_assert!(Unpacker::new().unpack(kind, &out[..len], &mut again).is_some());
                prop_assert!(again == data);
            }
        }

        #[test]
        fn junk_does_no_harm(kind in 0..3_usize, junk in prop::collection::vec(any::<u8>(), 0..2000), len in 0..9000_usize) {
            let mut data = vec![0; len];
            let _ = Unpacker::new().unpack(CodecKind::ALL[kind], &junk, &mut data);
        }
    }

    #[test]
    fn noise_is_not_packed_and_text_is() {
        let mut out = vec![0; 1 << 20];
        for codec in [Codec::Lz4, Codec::Zstd(1)] {
            let mut packer = Packer::new(codec).unwrap();
            assert_eq!(packer.pack(&random(1 << 20, 5), &mut out), None);
            let text = b"put a machine's whole memory aside ".repeat(1 << 15);
            let (_, len) = packer.pack(&text[..1 << 20], &mut out).unwrap();
            assert!(len < 1 << 16, "{codec}: {len}");
        }
    }
}
