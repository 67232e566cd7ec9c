//! What is encrypted, and has no header of its own: a logical volume on a device that is encrypted.
//!
//! dm-crypt keeps places and lengths, so what is written shows as other bytes at the same place.

use vmcore::ReadAt;

use super::{CONTENTS, END, FileSystem, place};

pub(super) const KIND: &str = "encrypted";

pub(super) fn describe(device: &impl ReadAt) -> FileSystem {
    FileSystem {
        kind: KIND,
        uuid: String::new(),
        label: String::new(),
        written: None,
        places: vec![
            place(0, CONTENTS),
            place(device.size().saturating_sub(END), END),
        ],
    }
}
