//! Reading an image.

use std::fs::File;
use std::io;
use std::time::Duration;

use super::checksum::Checksum;
use super::codec::Unpacker;
use super::commit::{Commit, State};
use super::end::End;
use super::index::{Entry, Index};
use super::protection::{Effort, Protection};
use super::record::{BLOCK, Kind, MAX_PAYLOAD, Record};
use super::wire::Reader;
use super::{
    Chunk, CodecKind, Header, Identity, ImageError, ImageId, Key, RECORDS_OFFSET, Saved, Stage,
    Totals,
};
use crate::{BlockBuffer, PAGE_SIZE, Phases, ReadAt};

/// A whole image.
#[derive(Debug)]
pub struct Image<S> {
    source: S,
    identity: Identity,
    protection: Protection,
    effort: Effort,
    saved: Saved,
    commit: Commit,
    end: End,
    /// Bytes of the payload of the record at the end.
    end_payload: u64,
    notes: Vec<u8>,
    direct_map: Option<u64>,
}

impl<S: ReadAt> Image<S> {
    /// The most bytes of data in one chunk.
    pub const CHUNK_SIZE: u64 = MAX_PAYLOAD;

    /// Opens the image in `source` and checks all that can be checked without reading memory: that it is
    /// whole, and was not resumed before.
    ///
    /// # Errors
    ///
    /// [`ImageError`] that says why this is no image, or none that may be resumed.
    pub fn open(source: S) -> Result<Self, ImageError> {
        Self::open_with(source, None)
    }

    /// As [`open`](Self::open), for an image that is sealed, if there is a key.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open). [`ImageError::NeedsKey`], [`ImageError::WrongKey`] or [`ImageError::NotSealed`] if the
    /// key is not what it takes, which is known before anything else is looked at.
    pub fn open_with(source: S, key: Option<&Key>) -> Result<Self, ImageError> {
        let (image, resumable) = Self::examine_with(source, key)?;
        resumable.map(|()| image)
    }

    /// As [`open`](Self::open), for those who only look: a whole image, and whether it may be resumed.
    ///
    /// # Errors
    ///
    /// [`ImageError`] that says why there is no whole image.
    pub fn examine(source: S) -> Result<(Self, Result<(), ImageError>), ImageError> {
        Self::examine_with(source, None)
    }

    /// As [`examine`](Self::examine), for an image that is sealed, if there is a key.
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with).
    pub fn examine_with(
        source: S,
        key: Option<&Key>,
    ) -> Result<(Self, Result<(), ImageError>), ImageError> {
        let (header, protection) = Header::open(&source, key)?;
        let Header {
            identity, stage, ..
        } = header;
        let saved = stage.saved()?;
        let commit = match Commit::read(&source, identity.id, saved)? {
            Some(commit) => commit,
            None => Commit {
                state: State::Committed,
                attempts: 0,
                end: find_end(&source, identity.id, Some(&protection))?,
            },
        };
        let id = identity.id;
        let expected = commit.end.saturating_add(BLOCK);
        if source.size() < expected {
            return Err(ImageError::Truncated {
                expected,
                size: source.size(),
            });
        }
        let record = Record::read(&source, id, commit.end, Some(Kind::End), &protection)?;
        let payload = record.read_payload(&source, commit.end, &protection)?;
        let end = End::decode(&record.body, &payload)?;
        let record = Record::read(&source, id, RECORDS_OFFSET, Some(Kind::Notes), &protection)?;
        let notes = record.read_payload(&source, RECORDS_OFFSET, &protection)?;
        let direct_map = direct_map(&record);
        let resumable = saved.resumable().and(commit.state.resumable());
        let image = Self {
            source,
            identity,
            protection,
            effort: Effort::default(),
            saved,
            commit,
            end,
            end_payload: payload.len() as u64,
            notes,
            direct_map,
        };
        Ok((image, resumable))
    }

    /// Whose memory it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Zeroes the key of a sealed image. What is in it cannot be read after that.
    pub fn forget_key(&mut self) {
        self.protection = Protection::Checksums;
    }

    /// Whether it is sealed.
    pub fn is_sealed(&self) -> bool {
        self.protection.is_sealed()
    }

    /// How long it took all its readers together to check what they read of memory, and to decrypt it.
    pub fn protection_took(&self) -> Duration {
        self.effort.took()
    }

    /// What was saved.
    pub fn saved(&self) -> Saved {
        self.saved
    }

    /// How often somebody set out to resume it, and the machine did not go on.
    pub fn attempts(&self) -> u32 {
        self.commit.attempts
    }

    /// What there is in it.
    pub fn totals(&self) -> Totals {
        self.end.totals
    }

    /// Whether all that was free is left out of it.
    pub fn is_without_free(&self) -> bool {
        self.end.without_free
    }

    /// How long it took to save it, and what came before.
    pub fn phases(&self) -> &Phases {
        &self.end.phases
    }

    /// The notes of the machine's core.
    pub fn notes(&self) -> &[u8] {
        &self.notes
    }

    /// The virtual address at which the machine's kernel maps physical address 0, if that is known.
    pub fn direct_map(&self) -> Option<u64> {
        self.direct_map
    }

    /// How many bytes it takes.
    pub fn size(&self) -> u64 {
        // No overflow: the end was read.
        self.commit.end + BLOCK + Record::padded(self.end_payload)
    }

    /// The chunks of the image, in ascending order of their memory.
    ///
    /// # Errors
    ///
    /// [`ImageError`] if the index is damaged. So may be what is not read yet, which the iterator tells.
    pub fn index(&self) -> Result<Index<'_, S>, ImageError> {
        Index::open(
            &self.source,
            self.identity.id,
            &self.protection,
            self.end.index,
            self.commit.end,
        )
    }

    /// Something that reads chunks. Each thread should have its own.
    pub fn reader(&self) -> ChunkReader<'_, S> {
        ChunkReader {
            image: self,
            buffer: BlockBuffer::new(0),
            unpacker: Unpacker::new(),
            scratch: Vec::new(),
        }
    }

    /// Writes to `target`, which must hold this image, that the machine went on from it. When this
    /// returns, that is on stable storage, and the image will never be opened again.
    ///
    /// # Errors
    ///
    /// If the record could not be brought to stable storage; the image may then be valid or not.
    pub fn mark_resumed(&self, target: &File) -> io::Result<()> {
        self.mark(target, State::Resumed, self.commit.attempts)
    }

    /// Writes to `target`, which must hold this image, that somebody sets out to resume it once more. One that
    /// was resumed stays so. When this returns, that is on stable storage.
    ///
    /// # Errors
    ///
    /// As [`mark_resumed`](Self::mark_resumed).
    pub fn mark_attempt(&self, target: &File) -> io::Result<()> {
        // Somebody may have marked it since it was opened, and that must not be undone.
        let now =
            Commit::read(&self.source, self.identity.id, self.saved).map_err(io::Error::other)?;
        if now.is_some_and(|now| now != self.commit) {
            return Err(io::Error::other("somebody else has marked it meanwhile"));
        }
        let attempts = self.commit.attempts.saturating_add(1);
        self.mark(target, self.commit.state, attempts)
    }

    /// Takes back that the machine went on, since it did not: the image is again what it was when it was
    /// opened. So one that was resumed before stays so.
    ///
    /// # Errors
    ///
    /// As [`mark_resumed`](Self::mark_resumed).
    pub fn unmark_resumed(&self, target: &File) -> io::Result<()> {
        self.mark(target, self.commit.state, self.commit.attempts)
    }

    /// Writes to `target`, which must hold this image, that it is given up. When this returns, that is on
    /// stable storage, and the image will never be opened again.
    ///
    /// # Errors
    ///
    /// As [`mark_resumed`](Self::mark_resumed).
    pub fn discard(&self, target: &File) -> io::Result<()> {
        self.mark(target, State::Discarded, self.commit.attempts)
    }

    fn mark(&self, target: &File, state: State, attempts: u32) -> io::Result<()> {
        let commit = Commit {
            state,
            attempts,
            ..self.commit
        };
        commit.write(self.identity.id, target)
    }
}

/// What became of the image in `source`, by what stands in clear also if it is sealed: its header, and
/// whether it may be resumed. Whether it is whole is not looked at.
///
/// # Errors
///
/// [`ImageError`] if there is no header.
pub fn glance(source: &impl ReadAt) -> Result<(Header, Result<(), ImageError>), ImageError> {
    let header = Header::read(source)?;
    let state = match &header.stage {
        Stage::Prepared => Err(ImageError::Prepared),
        Stage::Failed(reason) => Err(ImageError::Failed {
            reason: reason.clone(),
        }),
        Stage::Saved(saved) => match Commit::read(source, header.identity.id, *saved) {
            Ok(Some(commit)) => saved.resumable().and(commit.state.resumable()),
            Ok(None) => saved.resumable(),
            Err(error @ ImageError::Read { .. }) => return Err(error),
            Err(error) => Err(error),
        },
    };
    Ok((header, state))
}

/// Writes to `target`, which must hold a whole image, that it is given up, without its key. When this
/// returns, that is on stable storage, and the image will never be opened again.
///
/// # Errors
///
/// [`ImageError`] if there is none, or the record could not be brought to stable storage.
pub fn discard(source: &impl ReadAt, target: &File) -> Result<(), ImageError> {
    let header = Header::read(source)?;
    let id = header.identity.id;
    let (attempts, end) = match Commit::read(source, id, header.stage.saved()?) {
        Ok(Some(commit)) => (commit.attempts, commit.end),
        // One that was written in order gets its record now.
        Ok(None) | Err(ImageError::Checksum { .. }) => (0, find_end(source, id, None)?),
        Err(error) => return Err(error),
    };
    let commit = Commit {
        state: State::Discarded,
        attempts,
        end,
    };
    commit
        .write(id, target)
        .map_err(ImageError::writing("the commit record"))
}

/// What the record of the notes says of the direct map.
pub(super) fn direct_map(notes: &Record) -> Option<u64> {
    Reader::new(&notes.body).u64().filter(|&base| base != 0)
}

/// Finds the end of the image `id` that nobody could go back in to say where it is. Without `protection`, by what
/// its records say in clear, which may be a lie.
fn find_end(
    source: &impl ReadAt,
    id: ImageId,
    protection: Option<&Protection>,
) -> Result<u64, ImageError> {
    let mut at = RECORDS_OFFSET;
    loop {
        if at.checked_add(BLOCK).is_none_or(|end| end > source.size()) {
            return Err(ImageError::Uncommitted);
        }
        let record = match protection {
            Some(protection) => Record::read(source, id, at, None, protection),
            None => Record::read_clear(source, id, at),
        };
        let record = match record {
            Err(
                ImageError::Damaged { .. }
                | ImageError::Tampered { .. }
                | ImageError::Foreign { .. },
            ) => return Err(ImageError::Uncommitted),
            other => other?,
        };
        if record.kind == Kind::End {
            return Ok(at);
        }
        at = record.next(at).ok_or(ImageError::Uncommitted)?;
    }
}

/// Reads chunks of an image.
pub struct ChunkReader<'a, S> {
    image: &'a Image<S>,
    buffer: BlockBuffer,
    unpacker: Unpacker,
    /// Data that goes to several places.
    scratch: Vec<u8>,
}

/// How much is read, and its checksum taken, before it has left the caches of a CPU.
const BITE: usize = 128 << 10;

impl<S: ReadAt> ChunkReader<'_, S> {
    /// Brings the data of `entry` to `places`, one behind the other, which must be whole pages, just as many. The
    /// data was checked when this returns, and if it is compressed, before the first byte is written.
    ///
    /// # Errors
    ///
    /// [`ImageError`] if it cannot be read, or is damaged: then the places hold anything.
    pub fn read(&mut self, entry: &Entry, places: &mut [&mut [u8]]) -> Result<(), ImageError> {
        let room: usize = places.iter().map(|place| place.len()).sum();
        let whole = places
            .iter()
            .all(|place| place.len().is_multiple_of(PAGE_SIZE as usize));
        if !whole || room as u64 != entry.chunk.data_len() {
            return Err(ImageError::Malformed {
                what: "the places for a piece of memory",
            });
        }
        let protection = &self.image.protection;
        // What is encrypted is decrypted as it goes on, or, if it is compressed, before that.
        let in_place = !protection.is_sealed() && !self.image.source.is_direct();
        if entry.chunk.codec() == CodecKind::None && in_place {
            return self.read_in_place(entry, places);
        }
        let payload = Record::padded(entry.stored);
        // No truncation: `MAX_PAYLOAD` at most.
        let len = (BLOCK + payload) as usize;
        if self.buffer.get().len() < len {
            self.buffer = BlockBuffer::new((BLOCK + MAX_PAYLOAD) as usize);
        }
        let Some(buffer) = self.buffer.get_mut().get_mut(..len) else {
            return Err(ImageError::Malformed { what: "the index" });
        };
        self.image
            .source
            .read_exact_at(buffer, entry.offset)
            .map_err(ImageError::reading("a piece of memory"))?;
        let (block, padded) = buffer.split_at_mut(BLOCK as usize);
        let record = self.image.check_block(entry, block)?;
        let effort = &self.image.effort;
        if let (CodecKind::None, [place]) = (entry.chunk.codec(), &mut *places) {
            return effort.of(|| record.open_payload_to(padded, place, entry.offset, protection));
        }
        effort.of(|| record.open_payload(padded, entry.offset, protection))?;
        let stored = &padded[..entry.stored as usize];
        unpack(
            &mut self.unpacker,
            &mut self.scratch,
            &entry.chunk,
            stored,
            places,
        )
    }

    /// Reads data that is stored as it is right to where it belongs.
    fn read_in_place(&mut self, entry: &Entry, places: &mut [&mut [u8]]) -> Result<(), ImageError> {
        let source = &self.image.source;
        let failed = || ImageError::reading("a piece of memory");
        let mut block = [0; BLOCK as usize];
        source
            .read_exact_at(&mut block, entry.offset)
            .map_err(failed())?;
        let record = self.image.check_block(entry, &mut block)?;
        let mut sum = Checksum::new();
        // No overflow: the entry lies in the image, which the index checks.
        let mut at = entry.offset + BLOCK;
        for place in places {
            for bite in place.chunks_mut(BITE) {
                source.read_exact_at(bite, at).map_err(failed())?;
                self.image.effort.of(|| sum.add(bite));
                at += bite.len() as u64;
            }
        }
        if u128::from(sum.get()).to_le_bytes() == record.check {
            Ok(())
        } else {
            Err(ImageError::Damaged {
                what: "a piece of memory",
                offset: entry.offset,
            })
        }
    }
}

/// Decompresses `stored` to `places`, by way of `scratch` if there are several.
pub(super) fn unpack(
    unpacker: &mut Unpacker,
    scratch: &mut Vec<u8>,
    chunk: &Chunk,
    stored: &[u8],
    places: &mut [&mut [u8]],
) -> Result<(), ImageError> {
    let malformed = || ImageError::Malformed {
        what: "compressed memory",
    };
    if chunk.codec() == CodecKind::None {
        return scatter(stored, places).ok_or_else(malformed);
    }
    if let [place] = places {
        return unpacker
            .unpack(chunk.codec(), stored, place)
            .ok_or_else(malformed);
    }
    // No truncation: `MAX_PAYLOAD` at most.
    scratch.resize(chunk.data_len() as usize, 0);
    unpacker
        .unpack(chunk.codec(), stored, scratch)
        .and_then(|()| scatter(scratch, places))
        .ok_or_else(malformed)
}

/// Copies `data` to `places`, which have just its size.
fn scatter(data: &[u8], places: &mut [&mut [u8]]) -> Option<()> {
    let mut rest = data;
    for place in places {
        let (now, later) = rest.split_at_checked(place.len())?;
        place.copy_from_slice(now);
        rest = later;
    }
    rest.is_empty().then_some(())
}

impl<S> Image<S> {
    /// The block of the record that `entry` tells of.
    fn check_block(&self, entry: &Entry, block: &mut [u8]) -> Result<Record, ImageError> {
        let (id, kind) = (self.identity.id, Some(Kind::Chunk));
        let decode = || Record::decode(block, id, entry.offset, kind, &self.protection);
        let record = self.effort.of(decode)?;
        let chunk = Chunk::decode(&mut Reader::new(&record.body), record.payload)?;
        if chunk == entry.chunk && record.payload == entry.stored {
            Ok(record)
        } else {
            Err(ImageError::Foreign {
                what: "a piece of memory",
                offset: entry.offset,
            })
        }
    }
}
