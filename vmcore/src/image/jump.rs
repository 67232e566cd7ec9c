//! What a core must tell of the jump that it was saved after.

use super::wire::{Reader, Writer};
use crate::PhysAddr;
use crate::elf::{Notes, encode_note};

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
    /// Kind of the note: none that tools take for a note of a CPU, whoever its owner is.
    const NOTE_KIND: u32 = 0x4b4a_0002;

    /// These encoded notes, with the one of this jump in place of any other.
    #[must_use]
    pub fn put_into(self, notes: &[u8]) -> Vec<u8> {
        Notes::new(notes)
            .filter(|note| note.name != Self::NOTE_NAME.as_bytes() || note.kind != Self::NOTE_KIND)
            .flat_map(|note| note.encode())
            .chain(self.to_note())
            .collect()
    }

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

    /// The jump in these encoded notes; `None` if there is none, or none that makes sense.
    #[must_use]
    pub fn from_notes(notes: &[u8]) -> Option<Self> {
        let note = Notes::new(notes)
            .find(|note| note.name == Self::NOTE_NAME.as_bytes() && note.kind == Self::NOTE_KIND)?;
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
