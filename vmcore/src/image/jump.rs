//! What a core must tell of the jump that it was saved after.

use super::wire::{Reader, Writer};
use crate::elf::{Core, encode_note};
use crate::{PhysAddr, ReadAt};

/// Where the window's contents are in saved memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Where the jump has put them: bytes lie where they are to be restored to.
    Raw,
    /// Where the machine itself saw them: what debuggers want.
    Seen,
}

/// What a core must tell of the jump that it was saved after, so that it can be restored, and be looked
/// at the other way. It is a note beside that of the [`Identity`](super::Identity).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// Where to jump to bring the machine back: an address in a page of its kernel.
    pub back: PhysAddr,
    /// Where the window's contents are.
    pub layout: Layout,
}

impl Jump {
    /// Owner name of the note.
    const NOTE_NAME: &str = "KJUMP";
    /// Kind of the note.
    const NOTE_KIND: u32 = 2;

    /// The note.
    #[must_use]
    pub fn to_note(self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u64(self.back.get());
        writer.u32(match self.layout {
            Layout::Raw => 1,
            Layout::Seen => 2,
        });
        encode_note(Self::NOTE_NAME, Self::NOTE_KIND, &writer.bytes)
    }

    /// The note in `core`; `None` if there is none, or none that makes sense.
    pub fn from_core<S: ReadAt>(core: &Core<S>) -> Option<Self> {
        let note = core.note(Self::NOTE_NAME, Self::NOTE_KIND)?;
        let mut reader = Reader::new(note.desc);
        Some(Self {
            back: PhysAddr::new(reader.u64()?),
            layout: match reader.u32()? {
                1 => Layout::Raw,
                2 => Layout::Seen,
                _ => return None,
            },
        })
    }
}
