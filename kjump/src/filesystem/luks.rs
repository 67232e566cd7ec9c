//! LUKS: a device that is encrypted.
//!
//! What is inside cannot be read without the key, but what is written there shows: the same place of the
//! device has other bytes then. So besides the headers, the beginning of what is encrypted is taken, where
//! the superblocks are of all file systems that are known here. Offsets are those of the LUKS1 (section
//! 2.2) and LUKS2 (section 2.1) on-disk format specifications.

use std::io;

use byteorder::{BE, ByteOrder};
use vmcore::ReadAt;

use super::{CONTENTS, END, FileSystem, be32, label, place, read};

pub(super) fn recognise(device: &impl ReadAt) -> io::Result<Option<FileSystem>> {
    let Some(header) = read::<4096>(device, 0)? else {
        return Ok(None);
    };
    if &header[..6] != b"LUKS\xba\xbe" {
        return Ok(None);
    }
    let (kind, start, name) = match BE::read_u16(&header[6..]) {
        1 => ("luks1", be32(&header, 104) * 512, String::new()),
        2 => (
            "luks2",
            segment(device)?.unwrap_or(16 << 20),
            label(&header[24..72]),
        ),
        _ => return Ok(None),
    };
    Ok(Some(FileSystem {
        kind,
        uuid: label(&header[168..208]),
        label: name,
        written: None,
        places: vec![
            place(0, 4096),
            place(start, CONTENTS),
            place(device.size().saturating_sub(END), END),
        ],
    }))
}

/// Where the encrypted part begins, as the JSON behind the LUKS2 header says: the first `"offset"` behind
/// the word `"segments"`.
fn segment(device: &impl ReadAt) -> io::Result<Option<u64>> {
    let Some(json) = read::<{ 12 << 10 }>(device, 4096)? else {
        return Ok(None);
    };
    let json = String::from_utf8_lossy(&json);
    Ok(json
        .split_once("\"segments\"")
        .and_then(|(_, rest)| rest.split_once("\"offset\":\""))
        .and_then(|(_, rest)| rest.split_once('"'))
        .and_then(|(offset, _)| offset.parse().ok()))
}
