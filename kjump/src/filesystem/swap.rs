//! Swap.
//!
//! Offsets are those of `union swap_header` (`include/linux/swap.h`). Nothing on the device tells that it
//! was swapped on. A kernel that just began to swap writes to the beginning of the device, in clusters of
//! pages (`setup_clusters` in `mm/swapfile.c`), so that is taken, and a page here and there of the rest.

use std::io;

use vmcore::{PAGE_SIZE, ReadAt};

use super::{FileSystem, label, le32, place, read, uuid};

/// How much of the beginning is taken.
const BEGINNING: u64 = 4 << 20;
/// How many pages of the rest are taken.
const SAMPLES: u64 = 256;

pub(super) fn recognise(device: &impl ReadAt) -> io::Result<Option<FileSystem>> {
    let Some(header) = read::<{ PAGE_SIZE as usize }>(device, 0)? else {
        return Ok(None);
    };
    // The other two are what in-kernel hibernation leaves there, by the kernel or by uswsusp.
    let signature = &header[header.len() - 10..];
    let is_swap = [b"SWAPSPACE2", b"S1SUSPEND\0", b"ULSUSPEND\0"]
        .iter()
        .any(|known| *known == signature);
    if !is_swap || le32(&header, 1024) != 1 {
        return Ok(None);
    }
    let mut places = vec![place(0, BEGINNING)];
    let step = (device.size() / SAMPLES) / PAGE_SIZE * PAGE_SIZE;
    places.extend(
        (1..SAMPLES)
            .map(|number| number * step)
            .filter(|&start| start >= BEGINNING)
            .map(|start| place(start, PAGE_SIZE)),
    );
    Ok(Some(FileSystem {
        kind: "swap",
        uuid: uuid(&header[1036..1052]),
        label: label(&header[1052..1068]),
        written: None,
        places,
    }))
}
