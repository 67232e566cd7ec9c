//! The hibernation image: a machine's memory in compressed, checked chunks, between a header that says
//! what machine it is and a record that makes it valid.
//!
//! | offset | size | what |
//! | --- | --- | --- |
//! | 0 | [`HEADER_SIZE`] | the [`Header`]: whose memory this is, and what became of its saving |
//! | [`HEADER_SIZE`] | 4096 | the commit record: what became of the image |
//! | 64 KiB | | records: the notes, chunks of memory, parts of the index, the end |
//!
//! `docs/format.md` has every byte. Numbers are little-endian. Everything has a checksum and the random
//! [`ImageId`], and records have their own offset besides, so that what is left of an image that was there
//! before proves nothing.
//!
//! # The life of an image
//!
//! 1. The machine that is about to be saved writes the header with [`Stage::Prepared`], and zeros over the commit
//!    record. From then on the image that was there before is no more.
//! 2. The saving kernel finds its id there, which proves that it has the right device, writes the
//!    header with [`Stage::Saved`], the records, and, when all that is on stable storage, the commit
//!    record: now the image is valid. If saving fails, the header says [`Stage::Failed`] and why.
//! 3. Whoever sets out to resume the image counts that in the commit record.
//! 4. Right before the jump back into the machine, the commit record is marked as resumed: from then on
//!    the image is stale for ever. So it is when somebody discards it.
//!
//! An image that is written to a pipe has no commit record. Its end, which comes last, makes it valid.
//!
//! # Sealed images
//!
//! With a [`Seal`] all that is in the records is encrypted, and the header has a tag that tells whether a key is
//! the right one and the header the one that was written. In clear are the header, so the machine's identity
//! with its memory map, where and how long the records are, and the commit record, which is marked by those
//! who have no key. A sealed image whose records were cut off, changed places, or come from another image
//! or another writing is refused as one that was changed. What nobody can tell by the image alone is
//! whether the commit record was put back.

mod checksum;
mod chunk;
mod codec;
mod commit;
mod end;
mod gather;
mod header;
mod identity;
mod index;
mod jump;
mod mapping;
mod memory;
mod platform;
mod protection;
mod read;
mod record;
mod sealing;
mod sink;
mod stream;
mod volume;
mod wire;
mod write;

use std::io;

pub use chunk::Chunk;
pub use codec::{Codec, CodecKind};
pub use end::Totals;
pub use header::{Header, Saved, Stage};
pub use identity::{Identity, ImageId, Paging};
pub use index::{Entry, Index};
pub use jump::{Jump, Layout};
pub use mapping::{Component, Mapping, Segment, Stripe};
pub use memory::ImageMemory;
pub use platform::Platform;
pub use read::{ChunkReader, Image, discard, glance};
pub use sealing::{Kdf, Key, Seal, Sealing, Secret};
pub use sink::{Sink, Stream};
pub use stream::{ImageStream, StreamChunk};
pub use volume::{Digest, Volume, VolumeState};
pub use write::{Options, prepare, record_failure};
pub(crate) use write::{Subject, write};

use crate::{MemoryError, PagesError};

/// Size of the header in bytes.
pub const HEADER_SIZE: u64 = 60 << 10;

/// Where the commit record is, and its size.
const COMMIT_OFFSET: u64 = HEADER_SIZE;
const COMMIT_SIZE: u64 = 4096;

/// Where the records begin.
const RECORDS_OFFSET: u64 = COMMIT_OFFSET + COMMIT_SIZE;

/// The most bytes that an image of `memory` bytes of memory can take, if none of it can be compressed and
/// no two pages that are free or zero are neighbours.
///
/// ```
/// // Not more than a fiftieth more than the memory, if that is not small.
/// assert!(vmcore::image::largest_size(1 << 30) < (1 << 30) / 50 * 51 + (4 << 20));
/// ```
#[must_use]
pub const fn largest_size(memory: u64) -> u64 {
    /// Header, commit record, notes, the end, and what they begin with.
    const FIXED: u64 = RECORDS_OFFSET + 2 * record::MAX_PAYLOAD + 4 * record::BLOCK;
    // A block and an entry of the index for each part of 1 MiB or 400 runs, and a block for each part of
    // the index.
    let parts = memory.div_ceil(1 << 20).saturating_mul(3);
    parts
        .saturating_mul(record::BLOCK + 2048)
        .saturating_add(memory)
        .saturating_add(FIXED)
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
    /// What the pages of the memory are for could not be found out.
    #[error("the memory that is to be saved cannot be looked through")]
    Pages(#[source] PagesError),
    /// A thread that wrote the image panicked.
    #[error("the program that saves has an error: one of its threads panicked")]
    Thread,
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
    /// The header's checksum is wrong.
    #[error("{what} is damaged: its checksum is wrong")]
    Checksum {
        /// What the checksum is for.
        what: &'static str,
    },
    /// The checksum of a record is wrong.
    #[error("the image is damaged: {what}, at byte {offset}, has a wrong checksum")]
    Damaged {
        /// What is damaged.
        what: &'static str,
        /// Where its record begins.
        offset: u64,
    },
    /// A record of a sealed image is not what was written there with its key.
    #[error(
        "the image was damaged or tampered with: {what}, at byte {offset}, is not what was sealed"
    )]
    Tampered {
        /// What is not right.
        what: &'static str,
        /// Where its record begins.
        offset: u64,
    },
    /// The image is sealed, and there was no key.
    #[error("the image is encrypted with {kdf}, which it takes to use it")]
    NeedsKey {
        /// What its key comes from.
        kdf: Kdf,
    },
    /// The key is not the one that the image was sealed with, or somebody changed its header.
    #[error(
        "the key is not the one that the image was encrypted with, or the header of the image was tampered with"
    )]
    WrongKey,
    /// There is a key, and the image is not sealed.
    #[error(
        "the image is not encrypted, though a key was given: it may be one that somebody put there; without a key it is taken as it is"
    )]
    NotSealed,
    /// The secret is of another kind than the image takes.
    #[error("the image is encrypted with {expected}, and {given} was given")]
    OtherSecret {
        /// What it takes.
        expected: Kdf,
        /// What there is.
        given: Kdf,
    },
    /// A key is too short.
    #[error("the key has {len} bytes, and it takes {min} at least", min = Secret::MIN_LEN)]
    ShortKey {
        /// Its bytes.
        len: usize,
    },
    /// There are no random numbers.
    #[error("the kernel gives no random numbers, without which nothing can be encrypted")]
    Random(#[source] io::Error),
    /// There is not enough memory to try a passphrase.
    #[error("there is not enough memory for a passphrase, which takes {needed} KiB")]
    NoMemory {
        /// What it takes, in KiB.
        needed: u32,
    },
    /// A record is not what belongs there.
    #[error("the image is damaged: what is at byte {offset} is not {what} of this image")]
    Foreign {
        /// What was to be there.
        what: &'static str,
        /// Where.
        offset: u64,
    },
    /// Something in the image cannot be, in spite of a right checksum.
    #[error("the image is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// The source ends before the image does.
    #[error("the image is truncated: it takes at least {expected} bytes, and there are {size}")]
    Truncated {
        /// Bytes that the image takes at least.
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
    /// The machine panicked.
    #[error("the machine in the image panicked: it can be looked at, and not resumed")]
    Panicked,
    /// Somebody discarded the image.
    #[error("the image was discarded, so it is not resumed any more")]
    Discarded,
}

impl ImageError {
    /// What reading `what` met.
    pub(crate) fn reading(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Read { what, source }
    }

    /// What writing `what` met.
    pub(crate) fn writing(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Write { what, source }
    }
}

#[cfg(test)]
mod tests;
