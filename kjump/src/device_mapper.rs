//! What a device of the device mapper is made of, as the kernel tells it.
//!
//! Structures are those of `include/uapi/linux/dm-ioctl.h`; the words of each target are what its status
//! function prints (`linear_status`, `stripe_status` and `crypt_status` in `drivers/md`), the first two of which
//! `Documentation/admin-guide/device-mapper` describes too.

use std::io;

use byteorder::{ByteOrder, NativeEndian};
use kexec_sys::DeviceMapperTable;

/// Major and minor number of a device.
pub(crate) type Numbers = (u32, u32);

/// A part of a mapped device. Places and lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) len: u64,
    pub(crate) mapped: Mapped,
}

/// Where the bytes of a part are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mapped {
    /// On a device, from a place on.
    Linear(Numbers, u64),
    /// On several, by chunks of so many bytes in turns.
    Striped(u64, Vec<(Numbers, u64)>),
    /// On a device, from a place on, encrypted.
    Crypt(Numbers, u64),
    /// Elsewhere, as the target of this name knows.
    Other(String),
}

/// Size of `struct dm_target_spec`, which the words of the target follow.
const SPEC: usize = 40;
const SECTOR: u64 = 512;
/// The most targets that are read.
const MOST: u32 = 4096;

/// Asks the kernel for the parts of the device with these numbers, in order.
pub(crate) fn table(numbers: Numbers) -> io::Result<Vec<Target>> {
    let table = DeviceMapperTable::read(numbers.0, numbers.1)?;
    parse(table.targets(), table.count)
        .ok_or_else(|| io::Error::other("the kernel's answer makes no sense"))
}

/// Reads `count` targets, which must follow each other without a gap. Nothing of them is kept but what is
/// returned: dm-crypt's words have a key among them.
pub(crate) fn parse(bytes: &[u8], count: u32) -> Option<Vec<Target>> {
    let mut targets = Vec::new();
    let (mut at, mut end) = (0, 0);
    for _ in 0..Some(count).filter(|&count| count <= MOST)? {
        let spec = bytes.get(at..)?.first_chunk::<SPEC>()?;
        let start = NativeEndian::read_u64(&spec[..]).checked_mul(SECTOR)?;
        let len = NativeEndian::read_u64(&spec[8..]).checked_mul(SECTOR)?;
        if start != end || len == 0 {
            return None;
        }
        end = start.checked_add(len)?;
        let kind = text(&spec[24..])?;
        let words = text(bytes.get(at.checked_add(SPEC)?..)?)?;
        targets.push(Target {
            len,
            mapped: mapped(kind, words)?,
        });
        // From the beginning of the first one. What points back does not begin where this one ends.
        at = usize::try_from(NativeEndian::read_u32(&spec[20..])).ok()?;
    }
    Some(targets)
}

/// A text that ends with a zero byte or fills all of `bytes`.
fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|&byte| byte == 0);
    std::str::from_utf8(&bytes[..end.unwrap_or(bytes.len())]).ok()
}

fn mapped(kind: &str, words: &str) -> Option<Mapped> {
    let mut words = words.split_ascii_whitespace();
    Some(match kind {
        "linear" => Mapped::Linear(numbers(words.next()?)?, place(words.next()?)?),
        "striped" => {
            let count: u32 = words.next()?.parse().ok()?;
            let chunk = place(words.next()?)?;
            let mut stripes = Vec::new();
            for _ in 0..count {
                stripes.push((numbers(words.next()?)?, place(words.next()?)?));
            }
            Mapped::Striped(chunk, stripes)
        }
        // Cipher, key, and what is added to the numbers of sectors come first.
        "crypt" => {
            let device = words.nth(3)?;
            Mapped::Crypt(numbers(device)?, place(words.next()?)?)
        }
        _ => Mapped::Other(kind.chars().filter(char::is_ascii_graphic).collect()),
    })
}

fn numbers(word: &str) -> Option<Numbers> {
    let (major, minor) = word.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A number of sectors, in bytes.
fn place(word: &str) -> Option<u64> {
    word.parse::<u64>().ok()?.checked_mul(SECTOR)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The kernel's answer about targets of these kinds, lengths in sectors, and words.
    fn answer(targets: &[(&str, u64, &str)]) -> Vec<u8> {
        let (mut bytes, mut start) = (Vec::new(), 0_u64);
        for (kind, sectors, words) in targets {
            let mut spec = Vec::new();
            spec.extend(start.to_ne_bytes());
            spec.extend(sectors.to_ne_bytes());
            spec.extend(0_u32.to_ne_bytes());
            let len = (SPEC + words.len() + 1).next_multiple_of(8);
            spec.extend(((bytes.len() + len) as u32).to_ne_bytes());
            spec.extend(kind.as_bytes());
            spec.resize(SPEC, 0);
            spec.extend(words.as_bytes());
            spec.resize(len, 0);
            bytes.extend(spec);
            start += sectors;
        }
        bytes
    }

    fn read(targets: &[(&str, u64, &str)]) -> Option<Vec<Mapped>> {
        let targets = parse(&answer(targets), targets.len() as u32)?;
        Some(targets.into_iter().map(|target| target.mapped).collect())
    }

    #[test]
    fn each_target_is_read() {
        assert_eq!(
            read(&[
                ("linear", 16, "8:2 2048"),
                ("striped", 256, "2 128 8:2 4096 259:300 0"),
                (
                    "crypt",
                    8,
                    "aes-xts-plain64 :64:logon:cryptsetup:abc-d0 0 8:5 32768 1 allow_discards"
                ),
                ("thin", 8, "253:2 1"),
            ]),
            Some(vec![
                Mapped::Linear((8, 2), 2048 * 512),
                Mapped::Striped(65536, vec![((8, 2), 4096 * 512), ((259, 300), 0)]),
                Mapped::Crypt((8, 5), 32768 * 512),
                Mapped::Other("thin".to_owned()),
            ])
        );
    }

    #[test]
    fn what_makes_no_sense_is_none() {
        for (kind, sectors, words) in [
            ("linear", 16, "8:2"),
            ("linear", 16, "sda2 0"),
            ("linear", 16, "8:2 -1"),
            ("linear", 16, "8:2 99999999999999999999"),
            ("linear", 16, "8:2 18446744073709551615"),
            ("linear", 0, "8:2 0"),
            ("linear", 1 << 60, "8:2 0"),
            ("striped", 16, "2 128 8:2 0"),
            ("striped", 16, "4294967295 128 8:2 0"),
            ("crypt", 16, "aes key 0"),
        ] {
            assert_eq!(read(&[(kind, sectors, words)]), None, "{kind} {words}");
        }
        // One that points back to itself, a gap, and more than there are.
        let mut bytes = answer(&[("linear", 8, "8:2 0"), ("linear", 8, "8:2 8")]);
        assert!(parse(&bytes, 2).is_some());
        assert!(parse(&bytes, 3).is_none());
        bytes[20..24].fill(0);
        assert!(parse(&bytes, 2).is_none());
        let mut bytes = answer(&[("linear", 8, "8:2 0")]);
        bytes[0] = 1;
        assert!(parse(&bytes, 1).is_none());
        assert!(parse(&bytes, u32::MAX).is_none());
        assert_eq!(parse(&[], 0), Some(Vec::new()));
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..10),
            count in 0u32..5,
        ) {
            let mut bytes = answer(&[
                ("linear", 16, "8:2 2048"),
                ("striped", 256, "2 128 8:2 4096 8:3 0"),
                ("crypt", 8, "aes-xts-plain64 0011 0 8:5 32768"),
            ]);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            parse(&bytes, count);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), words in ".{0,80}") {
            parse(&bytes, 4);
            for kind in ["linear", "striped", "crypt", "other"] {
                mapped(kind, &words);
            }
        }
    }
}
