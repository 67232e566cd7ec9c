//! ext2, ext3 and ext4.
//!
//! Offsets are those of `struct ext4_super_block` (`Documentation/filesystems/ext4/super.rst`). Every
//! mount for writing sets the time and counts up in the superblock (`ext4_setup_super`), and every replay
//! of the journal clears a flag there.

use std::io;

use vmcore::ReadAt;

use super::{FileSystem, label, le16, le32, place, read, uuid};

const SUPERBLOCK: u64 = 1024;
const MAGIC: u64 = 0xef53;
/// `s_feature_compat`: there is a journal.
const HAS_JOURNAL: u64 = 4;
/// `s_feature_incompat`: files have extents; ext4 has them.
const EXTENTS: u64 = 0x40;
/// `s_jnl_backup_type`: the superblock has a copy of the journal's inode.
const INODE_BACKUP: u8 = 1;
/// Magic number of a node of an extent tree.
const EXTENT_NODE: u64 = 0xf30a;

pub(super) fn recognise(device: &impl ReadAt) -> io::Result<Option<FileSystem>> {
    let Some(superblock) = read::<1024>(device, SUPERBLOCK)? else {
        return Ok(None);
    };
    // 1 KiB shifted left so often is the size of a block; 64 KiB is the largest.
    let shift = le32(&superblock, 0x18);
    if le16(&superblock, 0x38) != MAGIC || shift > 6 {
        return Ok(None);
    }
    let block = 1024 << shift;
    let has_journal = le32(&superblock, 0x5c) & HAS_JOURNAL != 0;
    let kind = match (le32(&superblock, 0x60) & EXTENTS != 0, has_journal) {
        (true, _) => "ext4",
        (false, true) => "ext3",
        (false, false) => "ext2",
    };
    let first_block = le32(&superblock, 0x14);
    let mut places = vec![
        place(SUPERBLOCK, 1024),
        // The descriptors of the first groups, which tell how much is free in each.
        place((first_block + 1) * block, block),
    ];
    if has_journal && let Some(start) = journal(&superblock) {
        // The superblock of the journal, and where it begins: the first place that is written after a
        // mount (`jbd2_journal_reset`).
        places.push(place(start.saturating_mul(block), 16 * block));
    }
    // The mount time has eight more bits elsewhere, and so has the write time.
    let time = |low, high: usize| le32(&superblock, low) | u64::from(superblock[high]) << 32;
    let written = time(0x2c, 0x275).max(time(0x30, 0x274));
    Ok(Some(FileSystem {
        kind,
        uuid: uuid(&superblock[0x68..0x78]),
        label: label(&superblock[0x78..0x88]),
        written: (written != 0).then_some(written),
        places,
    }))
}

/// The first block of the journal, by the copy of its inode's block map in the superblock; `None` if it
/// is on another device, or not told there. Then the superblock alone has to do.
fn journal(superblock: &[u8]) -> Option<u64> {
    let map = &superblock[0x10c..0x10c + 60];
    if superblock[0xfd] != INODE_BACKUP {
        return None;
    }
    if le16(map, 0) != EXTENT_NODE {
        // The old way: the numbers of the first twelve blocks.
        return Some(le32(map, 0)).filter(|&block| block != 0);
    }
    // Only a journal in more than four pieces has a tree of some depth.
    let (entries, depth) = (le16(map, 2), le16(map, 6));
    (entries > 0 && depth == 0).then(|| le16(map, 12 + 6) << 32 | le32(map, 12 + 8))
}
