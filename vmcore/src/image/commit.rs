//! The commit record: what makes an image valid, and what became of it.
//!
//! All of it lies in the first 512 bytes of its block, a sector, which a device writes as a whole or not
//! at all.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::checksum::checksum;
use super::wire::{Reader, Writer};
use super::{COMMIT_OFFSET, COMMIT_SIZE, ImageError, ImageId, Saved};
use crate::ReadAt;

const MAGIC: &[u8; 8] = b"KJUMPEND";

/// Bytes of the record, with its checksum. What else is in its block says nothing.
const RECORD: usize = 48;

/// What became of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// All of it is on stable storage.
    Committed,
    /// The machine went on from it.
    Resumed,
    /// Somebody decided that it is not to be resumed.
    Discarded,
}

impl State {
    /// Whether an image may be resumed that this became of.
    pub(super) fn resumable(self) -> Result<(), ImageError> {
        match self {
            Self::Committed => Ok(()),
            Self::Resumed => Err(ImageError::Resumed),
            Self::Discarded => Err(ImageError::Discarded),
        }
    }
}

/// What the commit record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    /// What became of the image.
    pub(super) state: State,
    /// How often somebody set out to resume it, and the machine did not go on.
    pub(super) attempts: u32,
    /// Where the record is that ends the image.
    pub(super) end: u64,
}

impl Commit {
    /// The record for the image `id`, as a block.
    pub(super) fn encode(self, id: ImageId) -> Vec<u8> {
        let mut record = Writer::default();
        record.raw(MAGIC);
        record.raw(&id.0);
        record.u32(match self.state {
            State::Committed => 1,
            State::Resumed => 2,
            State::Discarded => 3,
        });
        record.u32(self.attempts);
        record.u64(self.end);
        let mut block = record.bytes;
        block.extend(checksum(&block).to_le_bytes());
        block.resize(COMMIT_SIZE as usize, 0);
        block
    }

    /// Writes the record for the image `id` to stable storage.
    pub(super) fn write(self, id: ImageId, target: &File) -> io::Result<()> {
        target.write_all_at(&self.encode(id), COMMIT_OFFSET)?;
        target.sync_data()
    }

    /// Reads what became of the image `id` that was `saved`.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode), or [`ImageError::Read`].
    pub(super) fn read(
        source: &impl ReadAt,
        id: ImageId,
        saved: Saved,
    ) -> Result<Option<Self>, ImageError> {
        let mut block = vec![0; COMMIT_SIZE as usize];
        source
            .read_exact_at(&mut block, COMMIT_OFFSET)
            .map_err(ImageError::reading("the commit record of the image"))?;
        Self::decode(&block, id, saved)
    }

    /// What `block` says became of the image `id` that was `saved`; `None` if nothing did yet, which can be so
    /// only of one that was written in order.
    ///
    /// # Errors
    ///
    /// [`ImageError::Uncommitted`] if there is no record for this image, and it takes one;
    /// [`ImageError::Checksum`] if there is something, and it cannot be known that the image was not resumed.
    pub(super) fn decode(
        block: &[u8],
        id: ImageId,
        saved: Saved,
    ) -> Result<Option<Self>, ImageError> {
        match Self::parse(block, id) {
            Some(commit) => Ok(Some(commit)),
            None if !saved.in_order => Err(ImageError::Uncommitted),
            None if block.iter().take(RECORD).all(|&byte| byte == 0) => Ok(None),
            None => Err(ImageError::Checksum {
                what: "the commit record of the image",
            }),
        }
    }

    fn parse(block: &[u8], id: ImageId) -> Option<Self> {
        let mut reader = Reader::new(block);
        let magic: [u8; 8] = reader.array()?;
        let record_id = ImageId(reader.array()?);
        let state = match reader.u32()? {
            1 => State::Committed,
            2 => State::Resumed,
            3 => State::Discarded,
            _ => return None,
        };
        let commit = Self {
            state,
            attempts: reader.u32()?,
            end: reader.u64()?,
        };
        let said = block.get(..block.len().checked_sub(reader.left())?)?;
        let right = reader.u64()? == checksum(said);
        (&magic == MAGIC && record_id == id && right).then_some(commit)
    }
}
