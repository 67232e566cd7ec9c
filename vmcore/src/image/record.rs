//! Records: what an image is made of behind its header.
//!
//! A record is a block of 4096 bytes that says what it is, and a payload behind it, which is filled up to
//! whole blocks. Each block carries the id of its image and its own place in it, so that nothing of another
//! image, nor of another place, is taken for it.

use super::checksum::checksum;
use super::wire::{Reader, Writer};
use super::{ImageError, ImageId};
use crate::ReadAt;

/// Size of the block of a record, and what all offsets are multiples of.
pub(super) const BLOCK: u64 = crate::BLOCK as u64;

const MAGIC: &[u8; 8] = b"KJRECORD";

/// The longest body of a block.
pub(super) const MAX_BODY: usize = BLOCK as usize - BODY - CHECK;

/// Where the body begins, and the size of what ends the block.
const BODY: usize = 64;
const CHECK: usize = 16;

/// The largest payload of a record, in bytes.
pub(super) const MAX_PAYLOAD: u64 = 1 << 20;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The notes of the machine's core.
    Notes,
    /// Memory.
    Chunk,
    /// A part of the index.
    Index,
    /// The end.
    End,
}

impl Kind {
    const ALL: [(Self, u32); 4] = [
        (Self::Notes, 1),
        (Self::Chunk, 2),
        (Self::Index, 3),
        (Self::End, 4),
    ];

    /// What to call it in messages.
    const fn name(self) -> &'static str {
        match self {
            Self::Notes => "the notes",
            Self::Chunk => "a piece of memory",
            Self::Index => "a part of the index",
            Self::End => "the end",
        }
    }
}

/// The block of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: Kind,
    /// Bytes of the payload, without what fills its last block.
    pub(super) payload: u64,
    /// The checksum of the payload and of what fills its last block.
    pub(super) checksum: u64,
    /// What the record says about the payload.
    pub(super) body: Vec<u8>,
}

impl Record {
    /// How many bytes a payload takes with what fills its last block.
    pub(super) const fn padded(payload: u64) -> u64 {
        // No overflow: payloads have `MAX_PAYLOAD` bytes at most.
        payload.next_multiple_of(BLOCK)
    }

    /// Where the next record begins if this one is at `offset`.
    pub(super) fn next(&self, offset: u64) -> Option<u64> {
        offset.checked_add(BLOCK + Self::padded(self.payload))
    }

    /// The block, for the image `id`, at `offset` in it. The body must not be longer than [`MAX_BODY`].
    pub(super) fn encode(&self, id: ImageId, offset: u64) -> Vec<u8> {
        debug_assert!(self.body.len() <= MAX_BODY);
        let mut block = Writer::default();
        block.raw(MAGIC);
        let number = Kind::ALL.iter().find(|(kind, _)| *kind == self.kind);
        block.u32(number.map_or(0, |(_, number)| *number));
        // No truncation: a body is shorter than a block.
        block.u32(self.body.len() as u32);
        block.raw(&id.0);
        block.u64(offset);
        block.u64(self.payload);
        block.u64(self.checksum);
        let mut block = block.bytes;
        block.resize(BODY, 0);
        block.extend_from_slice(&self.body);
        block.resize(BLOCK as usize - CHECK, 0);
        block.extend(checksum(&block).to_le_bytes());
        block.resize(BLOCK as usize, 0);
        block
    }

    /// The record in this block at `offset` of the image `id`.
    pub(super) fn decode(
        block: &[u8],
        id: ImageId,
        offset: u64,
        kind: Option<Kind>,
    ) -> Result<Self, ImageError> {
        let what = kind.map_or("a record", Kind::name);
        let damaged = ImageError::Damaged { what, offset };
        let (Some(said), Some(check)) = (
            block.get(..BLOCK as usize - CHECK),
            block.get(BLOCK as usize - CHECK..BLOCK as usize),
        ) else {
            return Err(damaged);
        };
        let mut expected = [0; CHECK];
        expected[..8].copy_from_slice(&checksum(said).to_le_bytes());
        if expected != check {
            return Err(damaged);
        }
        Self::parse(said, id, offset)
            .filter(|record| kind.is_none_or(|kind| kind == record.kind))
            .ok_or(ImageError::Foreign { what, offset })
    }

    fn parse(said: &[u8], id: ImageId, offset: u64) -> Option<Self> {
        let mut reader = Reader::new(said);
        let magic: [u8; 8] = reader.array()?;
        let number = reader.u32()?;
        let body_len = usize::try_from(reader.u32()?).ok()?;
        let record_id = ImageId(reader.array()?);
        let record_offset = reader.u64()?;
        let record = Self {
            kind: Kind::ALL.iter().find(|(_, known)| *known == number)?.0,
            payload: reader.u64().filter(|&len| len <= MAX_PAYLOAD)?,
            checksum: reader.u64()?,
            body: said.get(BODY..)?.get(..body_len)?.to_vec(),
        };
        (&magic == MAGIC && record_id == id && record_offset == offset).then_some(record)
    }

    /// Reads the record at `offset` of the image `id`, which must be of this `kind` if one is given.
    pub(super) fn read(
        source: &impl ReadAt,
        id: ImageId,
        offset: u64,
        kind: Option<Kind>,
    ) -> Result<Self, ImageError> {
        let what = kind.map_or("a record", Kind::name);
        let mut block = [0; BLOCK as usize];
        source
            .read_exact_at(&mut block, offset)
            .map_err(ImageError::reading(what))?;
        Self::decode(&block, id, offset, kind)
    }

    /// Checks `padded`, the payload and what fills its last block, of this record at `offset`.
    pub(super) fn check(&self, padded: &[u8], offset: u64) -> Result<(), ImageError> {
        if checksum(padded) == self.checksum {
            Ok(())
        } else {
            Err(ImageError::Damaged {
                what: self.kind.name(),
                offset,
            })
        }
    }

    /// Reads the payload of this record, which is at `offset`, and checks it.
    pub(super) fn read_payload(
        &self,
        source: &impl ReadAt,
        offset: u64,
    ) -> Result<Vec<u8>, ImageError> {
        let (next, size) = (self.next(offset).unwrap_or(u64::MAX), source.size());
        if next > size {
            return Err(ImageError::Truncated {
                expected: next,
                size,
            });
        }
        // No truncation: `MAX_PAYLOAD` bytes at most.
        let mut payload = vec![0; Self::padded(self.payload) as usize];
        let at = offset.checked_add(BLOCK).ok_or(ImageError::Malformed {
            what: "a place in it",
        })?;
        source
            .read_exact_at(&mut payload, at)
            .map_err(ImageError::reading(self.kind.name()))?;
        self.check(&payload, offset)?;
        payload.truncate(self.payload as usize);
        Ok(payload)
    }
}
