//! The hibernation image: a saved core, between a header that says what machine it is and a record
//! that makes it valid.
//!
//! | offset | size | what |
//! | --- | --- | --- |
//! | 0 | [`HEADER_SIZE`] | the [`Header`]: whose memory this is, and what became of it |
//! | [`HEADER_SIZE`] | `core_size` | an ELF core of the raw memory, without its free pages |
//! | the next multiple of 4096 | 4096 | the commit record |
//!
//! Numbers are little-endian. The header and the commit record each carry a checksum, and both carry
//! the random [`ImageId`], so that a record of an image that was there before proves nothing.
//!
//! # The life of an image
//!
//! 1. The machine that is about to be saved writes the header with [`Stage::Prepared`]. From then on the
//!    image that was there before is no more.
//! 2. The saving kernel finds its id there, which proves that it has the right device, writes the
//!    header with [`Stage::Saved`], the core, and, when all that is on stable storage, the commit
//!    record: now the image is valid. If saving fails, the header says [`Stage::Failed`] and why.
//! 3. Whoever sets out to resume the image counts that in the commit record.
//! 4. Right before the jump back into the machine, the commit record is marked as resumed: from then on
//!    the image is stale for ever. So it is when somebody discards it.

mod commit;
mod header;
mod identity;
mod jump;
mod platform;
mod read;
mod volume;
mod wire;
mod write;

use std::io;

pub use header::{Header, Saved, Stage};
pub use identity::{Identity, ImageId, Paging};
pub use jump::{Jump, Layout};
pub use platform::Platform;
pub use read::Image;
pub use volume::{Digest, Volume, VolumeState};
pub use write::{Sink, prepare, record_failure, write};

use crate::MemoryError;
use crate::elf::CoreError;

/// Size of the header in bytes.
pub const HEADER_SIZE: u64 = 64 << 10;

/// Size of the commit record in bytes, and what its offset is a multiple of.
const COMMIT_SIZE: u64 = 4096;

/// How many bytes an image of a core of `core_size` bytes takes; `None` if that overflows.
///
/// ```
/// assert_eq!(vmcore::image::size_for(1), Some((64 << 10) + 4096 + 4096));
/// ```
#[must_use]
pub fn size_for(core_size: u64) -> Option<u64> {
    commit_offset(core_size)?.checked_add(COMMIT_SIZE)
}

/// Where the commit record of an image lies.
fn commit_offset(core_size: u64) -> Option<u64> {
    core_size
        .checked_next_multiple_of(COMMIT_SIZE)?
        .checked_add(HEADER_SIZE)
}

/// Why something is no image that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The source could not be read.
    #[error("cannot read {what}")]
    Read {
        /// What was to be read.
        what: &'static str,
        /// What the reading met.
        #[source]
        source: io::Error,
    },
    /// The target could not be written.
    #[error("cannot write {what}")]
    Write {
        /// What was to be written.
        what: &'static str,
        /// What the writing met.
        #[source]
        source: io::Error,
    },
    /// The memory that was to be saved could not be read.
    #[error("the memory that is to be saved cannot be read")]
    Memory(#[source] MemoryError),
    /// The first bytes are not those of an image.
    #[error("this is no hibernation image (it begins with {magic:02x?})")]
    NotImage {
        /// The first eight bytes.
        magic: [u8; 8],
    },
    /// An image of a format that this version does not know.
    #[error("the image has format version {version}; this tool knows version {known}")]
    Version {
        /// The version of the image.
        version: u32,
        /// The version that this crate reads and writes.
        known: u32,
    },
    /// A checksum is wrong.
    #[error("{what} is damaged: its checksum is wrong")]
    Checksum {
        /// What the checksum is for.
        what: &'static str,
    },
    /// Something in the header cannot be, in spite of a right checksum.
    #[error("the header of the image is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// The source ends before the image does.
    #[error("the image is truncated: it takes {expected} bytes, and there are {size}")]
    Truncated {
        /// Bytes that the image takes.
        expected: u64,
        /// Bytes that the source has.
        size: u64,
    },
    /// The target was prepared, but nothing was saved to it.
    #[error(
        "nothing was saved here: hibernation began, but its saving kernel never wrote the image"
    )]
    Prepared,
    /// Saving failed.
    #[error("nothing was saved here: saving failed: {reason}")]
    Failed {
        /// What the saving kernel said.
        reason: String,
    },
    /// Saving was interrupted.
    #[error("the image is incomplete: saving was interrupted before it was committed")]
    Uncommitted,
    /// The image was resumed before.
    #[error(
        "the image was resumed already; the machine went on from there, and resuming it again would destroy its file systems"
    )]
    Resumed,
    /// The image was given up.
    #[error("the image was discarded")]
    Discarded,
    /// The core in the image is not usable.
    #[error("the core in the image is not usable")]
    Core(#[from] CoreError),
}

#[cfg(test)]
mod tests;
