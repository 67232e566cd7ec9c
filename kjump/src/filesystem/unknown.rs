//! What is none of the kinds that are known.

use vmcore::ReadAt;

use super::{FileSystem, place};

/// How much is taken of the beginning and of the end, where most formats have what describes them.
const END: u64 = 1 << 20;

pub(super) fn describe(device: &impl ReadAt) -> FileSystem {
    FileSystem {
        kind: "unknown",
        uuid: String::new(),
        label: String::new(),
        written: None,
        places: vec![place(0, END), place(device.size().saturating_sub(END), END)],
    }
}
