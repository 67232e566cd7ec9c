//! What is on a block device, and whether it was used since somebody looked.
//!
//! A machine that sleeps still has its file systems mounted: it knows what is on them, and will write as
//! if nobody else had. So whoever mounts one of them for writing while it sleeps must not resume it. All
//! such use leaves traces in known places: a superblock, the head of a journal. [`recognise`] finds out
//! what is on a device and which these [places](FileSystem::places) are, and [`FileSystem::digest`] takes
//! a digest of what is there.
//!
//! What is on a device is hostile until checked: a few MiB at most are read, whatever it claims.

mod btrfs;
mod encrypted;
mod ext;
mod fat;
mod luks;
mod lvm;
mod md;
mod swap;
mod unknown;
mod xfs;

use std::io;
use std::ops::Range;

use byteorder::{BE, ByteOrder, LE};
use sha2::{Digest as _, Sha256};
use vmcore::ReadAt;
use vmcore::image::Digest;

/// What is on a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// What it is, such as `ext4`.
    pub kind: &'static str,
    /// The number that tells it from all others, as the tools print it; empty if it has none.
    pub uuid: String,
    /// Its name; empty if it has none.
    pub label: String,
    /// When it was last mounted or written, in seconds since the beginning of 1970, if it says so.
    pub written: Option<u64>,
    /// The places that change when it is used, as ranges of bytes. They may overlap, and may depend on
    /// what is there.
    pub places: Vec<Range<u64>>,
}

/// One kind of file system: reads it, if it is there.
type Reader<S> = fn(&S) -> io::Result<Option<FileSystem>>;

/// What a logical volume on an encrypted device is, for those who have no key.
pub(crate) const ENCRYPTED: &str = encrypted::KIND;
/// What a member of a RAID array is.
pub(crate) const MEMBER: &str = md::KIND;

/// How much is taken of the beginning, and of the end, of what cannot be read: all file systems that are known
/// here have their superblocks there.
const CONTENTS: u64 = 4 << 20;
const END: u64 = 128 << 10;

/// The most bytes that are read for a digest.
const MOST: u64 = 32 << 20;

/// Finds out what is on `device`. There is always something: of what it does not know, it takes the
/// first and the last MiB.
///
/// # Errors
///
/// What the reading met.
pub fn recognise(device: &impl ReadAt) -> io::Result<FileSystem> {
    let readers: [Reader<_>; 7] = [
        luks::recognise,
        xfs::recognise,
        btrfs::recognise,
        ext::recognise,
        swap::recognise,
        lvm::recognise,
        // Last of those that are known: what says FAT may be the boot sector of something else.
        fat::recognise,
    ];
    for recognise in readers {
        if let Some(found) = recognise(device)? {
            return Ok(found);
        }
    }
    Ok(unknown::describe(device))
}

/// Finds out what is on `device`, which is known to be of `kind`. Of what [`recognise`] would take for something
/// else, a member of an array and what is encrypted, that has to be known.
///
/// # Errors
///
/// What the reading met.
pub fn recognise_as(device: &impl ReadAt, kind: &str) -> io::Result<FileSystem> {
    match kind {
        MEMBER => Ok(md::recognise(device)?.unwrap_or_else(|| unknown::describe(device))),
        ENCRYPTED => Ok(encrypted::describe(device)),
        _ => recognise(device),
    }
}

/// What is looked at of a device of this kind, in words.
pub(crate) fn looked_at(kind: &str) -> &'static str {
    match kind {
        "ext2" => "its superblock and group descriptors",
        "ext3" | "ext4" => "its superblock, group descriptors and the head of its journal",
        "xfs" => "the headers of its first group and its log around the head",
        "btrfs" => "its superblocks",
        "vfat" => "its boot sector, table and root directory",
        "swap" => "its beginning, and a page here and there",
        "luks1" | "luks2" => "its headers, and the beginning and the end of what is encrypted",
        lvm::KIND => "its label and metadata",
        md::KIND => "its superblock, and the beginning and the end of its data",
        _ => "its beginning and its end",
    }
}

impl FileSystem {
    /// The digest of the places that change when the file system is used.
    ///
    /// # Errors
    ///
    /// What the reading met.
    pub fn digest(&self, device: &impl ReadAt) -> io::Result<Digest> {
        let mut digest = Sha256::new();
        digest.update(self.kind);
        let mut left = MOST;
        for place in &self.places {
            let end = place.end.min(device.size());
            let len = end.saturating_sub(place.start).min(left);
            left -= len;
            // Where it is counts as well as what is there: the head of a log moves.
            digest.update(place.start.to_le_bytes());
            digest.update(len.to_le_bytes());
            device.for_each_piece(place.start..place.start.saturating_add(len), &mut |bytes| {
                digest.update(bytes);
                Ok(())
            })?;
        }
        Ok(Digest(digest.finalize().into()))
    }
}

/// `N` bytes of `device` from `offset` on; `None` if it ends before.
fn read<const N: usize>(device: &impl ReadAt, offset: u64) -> io::Result<Option<[u8; N]>> {
    let fits = offset
        .checked_add(N as u64)
        .is_some_and(|end| end <= device.size());
    if !fits {
        return Ok(None);
    }
    let mut bytes = [0; N];
    device.read_exact_at(&mut bytes, offset)?;
    Ok(Some(bytes))
}

/// The `len` bytes from `start` on, as far as there can be any.
fn place(start: u64, len: u64) -> Range<u64> {
    start..start.saturating_add(len)
}

/// A UUID as tools print it; empty if all of it is zero.
fn uuid(bytes: &[u8]) -> String {
    if bytes.iter().all(|&byte| byte == 0) {
        return String::new();
    }
    let mut text = String::new();
    for (number, byte) in bytes.iter().enumerate() {
        if matches!(number, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// A name that ends with a zero byte or fills its field up. What a terminal would obey becomes `?`.
fn label(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end])
        .trim_end()
        .chars()
        .map(|char| if char.is_control() { '?' } else { char })
        .collect()
}

/// A little-endian number in a superblock, whose offsets all lie within it.
fn le16(bytes: &[u8], at: usize) -> u64 {
    LE::read_u16(&bytes[at..]).into()
}

fn le32(bytes: &[u8], at: usize) -> u64 {
    LE::read_u32(&bytes[at..]).into()
}

/// A big-endian one.
fn be32(bytes: &[u8], at: usize) -> u64 {
    BE::read_u32(&bytes[at..]).into()
}

#[cfg(test)]
mod tests;
