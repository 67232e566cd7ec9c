//! md: a member of a RAID array.
//!
//! Offsets are those of `include/uapi/linux/raid/md_p.h`, places those of `super_90_load` and `super_1_load`
//! (`drivers/md/md.c`). The first write to an array that has been still marks it as such in the superblocks of
//! all its members, with the time (`md_write_start`, `md_update_sb`); levels without redundancy do not do that.
//! The beginning and the end of each member's data are taken besides.

use std::io;

use byteorder::{ByteOrder, LE};
use vmcore::ReadAt;

use super::{CONTENTS, END, FileSystem, label, le32, place, read, uuid};

/// `MD_SB_MAGIC`.
const MAGIC: u64 = 0xa92b_4efc;
const SIZE: u64 = 4096;
const SECTOR: u64 = 512;

pub(super) const KIND: &str = "md";

/// Reads what says that `device` is a member of an array. To be asked only of what is known to be one: a
/// superblock at the end of a device may be left from another use of it.
pub(super) fn recognise(device: &impl ReadAt) -> io::Result<Option<FileSystem>> {
    // Versions 1.1, 1.2 and 1.0.
    let last = (device.size() / SECTOR).saturating_sub(16) / 8 * 8 * SECTOR;
    for at in [0, 4096, last] {
        if let Some(found) = version_1(device, at)? {
            return Ok(Some(found));
        }
    }
    version_0(device)
}

fn version_1(device: &impl ReadAt, at: u64) -> io::Result<Option<FileSystem>> {
    let Some(superblock) = read::<256>(device, at)? else {
        return Ok(None);
    };
    let sectors = |at: usize| LE::read_u64(&superblock[at..]).saturating_mul(SECTOR);
    if le32(&superblock, 0) != MAGIC || le32(&superblock, 4) != 1 || sectors(144) != at {
        return Ok(None);
    }
    let (start, len) = (sectors(128), sectors(136));
    Ok(Some(member(
        place(at, SIZE),
        uuid(&superblock[16..32]),
        le32(&superblock, 160),
        label(&superblock[32..64]),
        place(start, len),
    )))
}

/// Version 0.90, in the last whole 64 KiB.
fn version_0(device: &impl ReadAt) -> io::Result<Option<FileSystem>> {
    const RESERVED: u64 = 64 << 10;
    let Some(at) = (device.size() / RESERVED * RESERVED).checked_sub(RESERVED) else {
        return Ok(None);
    };
    let Some(superblock) = read::<{ SIZE as usize }>(device, at)? else {
        return Ok(None);
    };
    if le32(&superblock, 0) != MAGIC || le32(&superblock, 4) != 0 {
        return Ok(None);
    }
    let set = [&superblock[20..24], &superblock[52..64]].concat();
    Ok(Some(member(
        place(at, SIZE),
        uuid(&set),
        // The first word of the descriptor of this member.
        le32(&superblock, 992 * 4),
        String::new(),
        place(0, at),
    )))
}

fn member(
    superblock: std::ops::Range<u64>,
    set: String,
    number: u64,
    label: String,
    data: std::ops::Range<u64>,
) -> FileSystem {
    FileSystem {
        kind: KIND,
        uuid: format!("{set} device {number}"),
        label,
        written: None,
        places: vec![
            superblock,
            place(data.start, CONTENTS.min(data.end - data.start)),
            place(data.end.saturating_sub(END).max(data.start), END),
        ],
    }
}
