//! btrfs.
//!
//! Offsets are those of `struct btrfs_super_block` (`include/uapi/linux/btrfs_tree.h`). Every commit writes
//! all copies of the superblock, with the next generation and the new root.

use std::io;

use byteorder::{ByteOrder, LE};
use vmcore::ReadAt;

use super::{FileSystem, label, place, read, uuid};

/// Where the copies of the superblock are, as far as the device reaches (`btrfs_sb_offset`).
const SUPERBLOCKS: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
const SIZE: usize = 4096;

pub(super) fn recognise(device: &impl ReadAt) -> io::Result<Option<FileSystem>> {
    let Some(superblock) = read::<SIZE>(device, SUPERBLOCKS[0])? else {
        return Ok(None);
    };
    if &superblock[0x40..0x48] != b"_BHRfS_M" {
        return Ok(None);
    }
    let mut number = uuid(&superblock[0x20..0x30]);
    // A file system may have several devices, and each has an id there.
    if LE::read_u64(&superblock[0x88..]) > 1 {
        let device_id = LE::read_u64(&superblock[0xc9..]);
        number.push_str(&format!(" device {device_id}"));
    }
    Ok(Some(FileSystem {
        kind: "btrfs",
        uuid: number,
        label: label(&superblock[0x12b..0x22b]),
        written: None,
        places: SUPERBLOCKS
            .into_iter()
            .filter(|&start| start.saturating_add(SIZE as u64) <= device.size())
            .map(|start| place(start, SIZE as u64))
            .collect(),
    }))
}
