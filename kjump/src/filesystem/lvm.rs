//! LVM: a device that logical volumes have their pieces on.
//!
//! The label is in one of the first four sectors: `LABELONE`, the number of the sector, a checksum, where the
//! header begins, and `LVM2 001`. In the header are the UUID, the size, and places, each an offset and a
//! length: those of data up to one that is zero, and then those of metadata (lvm2,
//! `lib/format_text/layout.h` and `lib/label/label.h`). Every change of a logical volume is written to the
//! metadata.

use std::io;

use byteorder::{ByteOrder, LE};
use vmcore::ReadAt;

use super::{FileSystem, le32, place, read};

/// The most of one area of metadata that is taken; they usually have that.
const METADATA: u64 = 1 << 20;
const SECTOR: usize = 512;

pub(super) const KIND: &str = "lvm";

pub(super) fn recognise(device: &impl ReadAt) -> io::Result<Option<FileSystem>> {
    let Some(start) = read::<{ 4 * SECTOR }>(device, 0)? else {
        return Ok(None);
    };
    let label = start.chunks_exact(SECTOR).find(|sector| {
        sector.starts_with(b"LABELONE") && sector.get(24..32) == Some(b"LVM2 001".as_slice())
    });
    let header = label.and_then(|label| label.get(usize::try_from(le32(label, 20)).ok()?..));
    let Some((number, rest)) = header.and_then(<[u8]>::split_first_chunk::<32>) else {
        return Ok(None);
    };
    let mut places = vec![place(0, (4 * SECTOR) as u64)];
    // Behind the size of the device.
    let locations = rest.get(8..).unwrap_or_default().chunks_exact(16);
    let locations = locations.map(|bytes| (LE::read_u64(bytes), LE::read_u64(&bytes[8..])));
    let areas = locations
        .skip_while(|&(offset, _)| offset != 0)
        .skip(1)
        .take_while(|&(offset, _)| offset != 0);
    places.extend(areas.map(|(offset, len)| place(offset, len.min(METADATA))));
    Ok(Some(FileSystem {
        kind: KIND,
        uuid: uuid(number),
        label: String::new(),
        written: None,
        places,
    }))
}

/// A UUID as LVM prints it: its 32 characters in groups.
fn uuid(number: &[u8; 32]) -> String {
    let mut text = String::new();
    for (at, &byte) in number.iter().enumerate() {
        if matches!(at, 6 | 10 | 14 | 18 | 22 | 26) {
            text.push('-');
        }
        text.push(if byte.is_ascii_graphic() {
            char::from(byte)
        } else {
            '?'
        });
    }
    text
}
