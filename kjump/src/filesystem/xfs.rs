//! XFS.
//!
//! Offsets are those of `struct xfs_dsb` (`fs/xfs/libxfs/xfs_format.h`). XFS keeps the superblock as it is
//! while it is mounted; what every use changes is the log. The first word of each sector of the log is
//! the number of the round that it was written in, or the magic number of a record, which has the round
//! in its second word (`xlog_get_cycle` in `fs/xfs/xfs_log_priv.h`). So the place that is written next, the
//! head, is where the round drops, and it is found by halving.

use std::io;
use std::ops::Range;

use byteorder::{BE, ByteOrder};
use vmcore::ReadAt;

use super::{FileSystem, be32, label, place, read, uuid};

/// Unit of the log.
const SECTOR: u64 = 512;
/// The magic number of a record in the log.
const RECORD: u64 = 0xfeed_babe;
/// How much of the log around its head is taken. Recovery, and each unmount, write there.
const AROUND: u64 = 128 << 10;

pub(super) fn recognise(device: &impl ReadAt) -> io::Result<Option<FileSystem>> {
    let Some(superblock) = read::<512>(device, 0)? else {
        return Ok(None);
    };
    let (block_log, group_log) = (superblock[120], superblock[124]);
    if &superblock[..4] != b"XFSB"
        || !(9..=16).contains(&block_log)
        || group_log > 31
        || be32(&superblock, 4) != 1 << block_log
    {
        return Ok(None);
    }
    // The headers of the first group: superblock, free space, inodes, and the list of free blocks.
    let sector = u64::from(BE::read_u16(&superblock[102..])).clamp(SECTOR, 32 << 10);
    let mut places = vec![place(0, 4 * sector)];
    if let Some(log) = log(&superblock, block_log, group_log) {
        places.extend(around_head(device, log)?);
    }
    Ok(Some(FileSystem {
        kind: "xfs",
        uuid: uuid(&superblock[32..48]),
        label: label(&superblock[108..120]),
        written: None,
        places,
    }))
}

/// Where the log is; `None` if it is on another device.
fn log(superblock: &[u8], block_log: u8, group_log: u8) -> Option<Range<u64>> {
    // A block's address is the number of its group and its number in there.
    let start = BE::read_u64(&superblock[48..]);
    let group_blocks = be32(superblock, 84);
    let block = (start >> group_log)
        .checked_mul(group_blocks)?
        .checked_add(start & ((1 << group_log) - 1))?;
    let start = block.checked_mul(1 << block_log)?;
    let len = be32(superblock, 96) << block_log;
    (start != 0 && len >= SECTOR).then_some(start..start.checked_add(len)?)
}

/// The places around the head of the log.
fn around_head(device: &impl ReadAt, log: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let sectors = (log.end - log.start) / SECTOR;
    let round = |sector: u64| -> io::Result<Option<u64>> {
        let start = read::<8>(device, log.start.saturating_add(sector * SECTOR))?;
        Ok(start.map(|start| match be32(&start, 0) {
            RECORD => be32(&start, 4),
            round => round,
        }))
    };
    // The first sector whose round is not that of the sector at the beginning; all before have it.
    let first = round(0)?;
    let (mut same, mut other) = (0, sectors);
    while other - same > 1 {
        let middle = same + (other - same) / 2;
        if round(middle)? == first {
            same = middle;
        } else {
            other = middle;
        }
    }
    // The log is a ring: what does not fit before its end goes on at its beginning.
    let len = sectors * SECTOR;
    let most = len.min(2 * AROUND);
    let start = (other % sectors * SECTOR + len - most / 2) % len;
    let first = most.min(len - start);
    Ok(vec![
        place(log.start.saturating_add(start), first),
        place(log.start, most - first),
    ])
}
