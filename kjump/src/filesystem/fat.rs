//! FAT12, FAT16 and FAT32.
//!
//! Offsets are those of `struct fat_boot_sector` (`include/uapi/linux/msdos_fs.h`). A mount for writing
//! sets a flag in the boot sector, but only if it is not set, and of a machine that sleeps it is. So all of
//! the table is taken, up to a limit, and the root directory: what was written has to show there.

use std::io;

use vmcore::ReadAt;

use super::{FileSystem, label, le16, le32, place, read};

/// The most of the table that is taken: that of a FAT32 of 32 GiB with clusters of 16 KiB.
const MOST: u64 = 8 << 20;

pub(super) fn recognise(device: &impl ReadAt) -> io::Result<Option<FileSystem>> {
    let Some(boot) = read::<512>(device, 0)? else {
        return Ok(None);
    };
    let sector = le16(&boot, 11);
    let cluster = u64::from(boot[13]);
    let reserved = le16(&boot, 14);
    let tables = u64::from(boot[16]);
    let root_entries = le16(&boot, 17);
    let sane = matches!(boot[0], 0xeb | 0xe9)
        && le16(&boot, 510) == 0xaa55
        && matches!(sector, 512 | 1024 | 2048 | 4096)
        && cluster.is_power_of_two()
        && reserved > 0
        && (1..=2).contains(&tables)
        // What is no FAT has some other number here (`fat_read_bpb`: `fat_valid_media`).
        && (boot[21] == 0xf0 || boot[21] >= 0xf8);
    if !sane {
        return Ok(None);
    }
    // FAT32 has its fields where the others have the extension of the boot sector.
    let is_32 = le16(&boot, 22) == 0;
    let table = if is_32 {
        le32(&boot, 36)
    } else {
        le16(&boot, 22)
    } * sector;
    let extension = if is_32 { 64 } else { 36 };
    if table == 0 {
        return Ok(None);
    }
    let start = reserved * sector;
    let data = start + tables * table;
    let mut places = vec![place(0, sector), place(start, table.min(MOST))];
    if is_32 {
        // FSInfo, which tells how much is free, and the first cluster of the root directory.
        places.push(place(le16(&boot, 48) * sector, sector));
        let root = le32(&boot, 44).saturating_sub(2);
        places.push(place(
            (root * cluster * sector).saturating_add(data),
            cluster * sector,
        ));
    } else {
        places.push(place(data, root_entries * 32));
    }
    let serial = le32(&boot, extension + 3);
    Ok(Some(FileSystem {
        kind: "vfat",
        // As blkid(8) prints it.
        uuid: format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff),
        label: label(&boot[extension + 7..extension + 18]),
        written: None,
        places,
    }))
}
