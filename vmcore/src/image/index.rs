//! The index: where each chunk is, and what memory it is about.
//!
//! It comes in parts of at most 128 KiB, written as they are full, each of which tells where the one
//! before it is. So it is written by those who cannot go back, and read by those who want it whole.

use super::chunk::{Chunk, MAX_RUNS};
use super::protection::Protection;
use super::record::{BLOCK, Kind, Record};
use super::wire::{Reader, Writer};
use super::{ImageError, ImageId};
use crate::ReadAt;

/// A part that is longer is written.
const PART: usize = 128 << 10;

/// A chunk, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where its record is, in bytes from the beginning of the image.
    pub(super) offset: u64,
    /// Bytes that its data takes there.
    pub(super) stored: u64,
    /// What it is about.
    pub chunk: Chunk,
}

impl Entry {
    /// How many bytes its data takes in the image.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored
    }

    fn encode(&self, to: &mut Writer) {
        to.u64(self.offset);
        to.u64(self.stored);
        self.chunk.encode(to);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, ImageError> {
        let malformed = ImageError::Malformed { what: "the index" };
        let (Some(offset), Some(stored)) = (from.u64(), from.u64()) else {
            return Err(malformed);
        };
        let chunk = Chunk::decode(from, stored)?;
        Ok(Self {
            offset,
            stored,
            chunk,
        })
    }
}

/// Puts the index together.
#[derive(Debug, Default)]
pub(super) struct IndexWriter {
    part: Writer,
    entries: u32,
    /// Where the last part is; 0 if there is none.
    last: u64,
}

/// A part of the index that is to be written.
pub(super) struct IndexPart {
    pub(super) body: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl IndexWriter {
    pub(super) fn add(&mut self, entry: &Entry) {
        entry.encode(&mut self.part);
        self.entries += 1;
    }

    /// Whether the part is full enough to be written.
    pub(super) fn is_full(&self) -> bool {
        self.part.bytes.len() >= PART
    }

    /// The part, which will be at `offset`; `None` if nothing was added.
    pub(super) fn take(&mut self, offset: u64) -> Option<IndexPart> {
        if self.entries == 0 {
            return None;
        }
        let mut body = Writer::default();
        body.u64(self.last);
        body.u32(self.entries);
        self.last = offset;
        self.entries = 0;
        Some(IndexPart {
            body: body.bytes,
            payload: std::mem::take(&mut self.part).bytes,
        })
    }

    /// Where the last part is.
    pub(super) fn last(&self) -> u64 {
        self.last
    }
}

/// The chunks of an image in ascending order of their memory, as the index has them.
///
/// Ends with the first error.
pub struct Index<'a, S> {
    source: &'a S,
    id: ImageId,
    protection: &'a Protection,
    /// Where the parts are, the first one last.
    parts: Vec<u64>,
    /// What is left of the current part, in reverse order.
    entries: Vec<Entry>,
    /// What all chunks end before.
    end: u64,
    /// The end of the last chunk, in memory and in the image.
    after: (u64, u64),
}

impl<'a, S: ReadAt> Index<'a, S> {
    /// The index whose last part is at `last`, of an image whose end is at `end`.
    pub(super) fn open(
        source: &'a S,
        id: ImageId,
        protection: &'a Protection,
        last: u64,
        end: u64,
    ) -> Result<Self, ImageError> {
        let malformed = ImageError::Malformed { what: "the index" };
        let mut parts = Vec::new();
        let mut at = last;
        while at != 0 {
            let (record, previous, _) = Self::part(source, id, protection, at)?;
            if previous >= at || record.next(at).is_none_or(|next| next > end) {
                return Err(malformed);
            }
            parts.push(at);
            at = previous;
        }
        Ok(Self {
            source,
            id,
            protection,
            parts,
            entries: Vec::new(),
            end,
            after: (0, 0),
        })
    }

    /// The record at `at`, where the part before it is, and how many entries it has.
    fn part(
        source: &S,
        id: ImageId,
        protection: &Protection,
        at: u64,
    ) -> Result<(Record, u64, u32), ImageError> {
        let record = Record::read(source, id, at, Some(Kind::Index), protection)?;
        let mut body = Reader::new(&record.body);
        match (body.u64(), body.u32()) {
            (Some(previous), Some(entries)) => Ok((record, previous, entries)),
            _ => Err(ImageError::Malformed { what: "the index" }),
        }
    }

    /// Reads the next part.
    fn read_part(&mut self, at: u64) -> Result<(), ImageError> {
        let (record, _, count) = Self::part(self.source, self.id, self.protection, at)?;
        let payload = record.read_payload(self.source, at, self.protection)?;
        let mut reader = Reader::new(&payload);
        let mut entries = Vec::new();
        for _ in 0..count {
            let entry = Entry::decode(&mut reader)?;
            let range = entry.chunk.range();
            let next = entry
                .offset
                .checked_add(BLOCK + Record::padded(entry.stored))
                .filter(|next| *next <= self.end);
            let (memory, image) = self.after;
            match next {
                Some(next) if range.start().get() >= memory && entry.offset >= image => {
                    self.after = (range.end().get(), next);
                }
                _ => return Err(ImageError::Malformed { what: "the index" }),
            }
            entries.push(entry);
        }
        entries.reverse();
        self.entries = entries;
        Ok(())
    }
}

impl<S: ReadAt> Iterator for Index<'_, S> {
    type Item = Result<Entry, ImageError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.entries.pop() {
                return Some(Ok(entry));
            }
            let at = self.parts.pop()?;
            if let Err(error) = self.read_part(at) {
                self.parts.clear();
                return Some(Err(error));
            }
        }
    }
}

// A part that is not full yet takes one more entry and is still a payload.
const _: () = assert!((PART + 32 + 4 * MAX_RUNS) as u64 <= super::record::MAX_PAYLOAD);
