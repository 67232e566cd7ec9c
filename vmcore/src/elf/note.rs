//! ELF notes.

use scroll::{LE, Pread};

/// One note: who owns it, its kind, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    /// The owner's name, without the zero byte that ends it in the file.
    pub name: &'a [u8],
    /// The kind of the note; each owner has kinds of its own.
    pub kind: u32,
    /// What the note says.
    pub desc: &'a [u8],
}

impl Note<'_> {
    /// The note as bytes, padded to a multiple of four.
    ///
    /// # Panics
    ///
    /// If name or description has 4 GiB or more.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let len = |len: usize| u32::try_from(len).expect("a note has less than 4 GiB");
        let mut bytes = Vec::new();
        for word in [len(self.name.len() + 1), len(self.desc.len()), self.kind] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for part in [&[self.name, &[0]].concat(), self.desc] {
            bytes.extend_from_slice(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }
}

/// The notes of a `PT_NOTE` segment, in order.
///
/// Names and descriptions are padded to 4 bytes, as in all cores that Linux writes, 64-bit ones too.
/// Iteration ends at the first note without a name (the kernel fills the room behind its notes with
/// zeros) or at one that does not fit into the segment.
///
/// ```
/// use vmcore::elf::{Notes, encode_note};
///
/// let segment = encode_note("CORE", 1, b"abcde");
/// assert_eq!(segment.len(), 12 + 8 + 8);
/// let note = Notes::new(&segment).next().unwrap();
/// assert_eq!((note.name, note.kind, note.desc), (&b"CORE"[..], 1, &b"abcde"[..]));
/// ```
#[derive(Clone, Debug)]
pub struct Notes<'a> {
    rest: &'a [u8],
}

impl<'a> Notes<'a> {
    /// The notes in `segment`.
    #[must_use]
    pub fn new(segment: &'a [u8]) -> Self {
        Self { rest: segment }
    }

    /// Takes `len` bytes and the padding behind them.
    fn take(&mut self, len: u32) -> Option<&'a [u8]> {
        let len = usize::try_from(len).ok()?;
        let taken = self.rest.get(..len)?;
        // The padding of the last note may be missing.
        let padded = len.checked_next_multiple_of(4)?.min(self.rest.len());
        self.rest = &self.rest[padded..];
        Some(taken)
    }
}

impl<'a> Iterator for Notes<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        let offset = &mut 0;
        let mut word = || self.rest.gread_with::<u32>(offset, LE).ok();
        let (name_len, desc_len, kind) = (word()?, word()?, word()?);
        self.rest = &self.rest[*offset..];
        if name_len == 0 {
            self.rest = &[];
            return None;
        }
        let note = self.take(name_len).and_then(|name| {
            let desc = self.take(desc_len)?;
            let name = name.strip_suffix(&[0]).unwrap_or(name);
            Some(Note { name, kind, desc })
        });
        if note.is_none() {
            self.rest = &[];
        }
        note
    }
}

/// The bytes of a note.
///
/// # Panics
///
/// If `name` or `desc` has 4 GiB or more.
#[must_use]
pub fn encode_note(name: &str, kind: u32, desc: &[u8]) -> Vec<u8> {
    let name = name.as_bytes();
    Note { name, kind, desc }.encode()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn notes_read_back(notes in prop::collection::vec(("[A-Za-z]{1,12}", any::<u32>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6)) {
            let bytes: Vec<u8> = notes.iter().flat_map(|(name, kind, desc)| encode_note(name, *kind, desc)).collect();
            let read: Vec<_> = Notes::new(&bytes)
                .map(|note| (String::from_utf8(note.name.to_vec()).unwrap(), note.kind, note.desc.to_vec()))
                .collect();
            prop_assert_eq!(read, notes);
        }

        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Notes::new(&bytes).count() <= bytes.len() / 12);
        }
    }

    #[test]
    fn zeros_end_the_notes() {
        let mut bytes = encode_note("CORE", 1, b"");
        bytes.resize(400, 0);
        assert_eq!(Notes::new(&bytes).count(), 1);
    }
}
