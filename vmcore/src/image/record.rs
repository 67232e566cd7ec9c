//! Records: what an image is made of behind its header.
//!
//! A record is a block of 4096 bytes that says what it is, and a payload behind it, which is filled up to
//! whole blocks. Each block carries the id of its image and its own place in it, so that nothing of another
//! image, nor of another place, is taken for it.
//!
//! | offset in the block | size | what |
//! | --- | --- | --- |
//! | 0 | 8 | `KJRECORD` |
//! | 8 | 4 | what the record is: 1 the notes, 2 memory, 3 a part of the index, 4 the end |
//! | 12 | 4 | bytes of the body |
//! | 16 | 16 | the id of the image |
//! | 32 | 8 | the offset of the record in the image |
//! | 40 | 8 | bytes of the payload, without what fills its last block |
//! | 48 | 16 | the payload's check |
//! | 64 | 4016 | the body, filled up with zeros |
//! | 4080 | 16 | the block's check |
//!
//! A check is a checksum and eight zeros, or, if the image is sealed, a tag: then payload and body are
//! encrypted, and the first 64 bytes are not, but a change of them is found too.

use super::protection::{Check, Protection};
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
    /// What protects the payload and what fills its last block.
    pub(super) check: Check,
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
    pub(super) fn encode(&self, id: ImageId, offset: u64, protection: &Protection) -> Vec<u8> {
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
        block.raw(&self.check);
        let mut block = block.bytes;
        debug_assert_eq!(block.len(), BODY);
        block.extend_from_slice(&self.body);
        block.resize(BLOCK as usize - CHECK, 0);
        let check = protection.block(&mut block, BODY, offset);
        block.extend(check);
        block
    }

    /// The record in this block at `offset` of the image `id`. The block is decrypted where it is.
    pub(super) fn decode(
        block: &mut [u8],
        id: ImageId,
        offset: u64,
        kind: Option<Kind>,
        protection: &Protection,
    ) -> Result<Self, ImageError> {
        let what = kind.map_or("a record", Kind::name);
        let whole = block
            .get_mut(..BLOCK as usize)
            .and_then(|block| block.split_last_chunk_mut::<CHECK>());
        let Some((said, check)) = whole else {
            return Err(protection.broken(what, offset));
        };
        if !protection.open_block(said, BODY, offset, check) {
            return Err(protection.broken(what, offset));
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
            check: reader.array()?,
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
        protection: &Protection,
    ) -> Result<Self, ImageError> {
        let what = kind.map_or("a record", Kind::name);
        let mut block = Self::read_block(source, offset, what)?;
        Self::decode(&mut block, id, offset, kind, protection)
    }

    /// Reads what the record at `offset` of the image `id` says in clear, for those who have no key. Nothing of
    /// it is checked, and its body may be encrypted.
    pub(super) fn read_clear(
        source: &impl ReadAt,
        id: ImageId,
        offset: u64,
    ) -> Result<Self, ImageError> {
        let what = "a record";
        let block = Self::read_block(source, offset, what)?;
        Self::parse(&block[..BLOCK as usize - CHECK], id, offset)
            .ok_or(ImageError::Foreign { what, offset })
    }

    fn read_block(
        source: &impl ReadAt,
        offset: u64,
        what: &'static str,
    ) -> Result<[u8; BLOCK as usize], ImageError> {
        let mut block = [0; BLOCK as usize];
        source
            .read_exact_at(&mut block, offset)
            .map_err(ImageError::reading(what))?;
        Ok(block)
    }

    /// Checks `padded`, the payload and what fills its last block, of this record at `offset`, and decrypts
    /// it where it is. Nothing must be done with it if that fails.
    pub(super) fn open_payload(
        &self,
        padded: &mut [u8],
        offset: u64,
        protection: &Protection,
    ) -> Result<(), ImageError> {
        if protection.open_payload(padded, offset, &self.check) {
            Ok(())
        } else {
            Err(protection.broken(self.kind.name(), offset))
        }
    }

    /// As [`open_payload`](Self::open_payload), but decrypts it to `place`, which is as long.
    pub(super) fn open_payload_to(
        &self,
        padded: &[u8],
        place: &mut [u8],
        offset: u64,
        protection: &Protection,
    ) -> Result<(), ImageError> {
        if protection.open_payload_to(padded, place, offset, &self.check) {
            Ok(())
        } else {
            Err(protection.broken(self.kind.name(), offset))
        }
    }

    /// Reads the payload of this record, which is at `offset`, and checks it.
    pub(super) fn read_payload(
        &self,
        source: &impl ReadAt,
        offset: u64,
        protection: &Protection,
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
        self.open_payload(&mut payload, offset, protection)?;
        payload.truncate(self.payload as usize);
        Ok(payload)
    }
}
