//! Reading an image in order, as it comes out of a pipe.

use std::io::Read;

use super::codec::Unpacker;
use super::commit::Commit;
use super::end::End;
use super::protection::Protection;
use super::read::{direct_map, unpack};
use super::record::{BLOCK, Kind, Record};
use super::wire::Reader;
use super::{
    COMMIT_OFFSET, COMMIT_SIZE, Chunk, Header, Identity, ImageError, Key, RECORDS_OFFSET, Saved,
    Totals,
};

/// An image that comes in order.
///
/// What it holds of memory is checked as it comes; that it is whole is known at its end only.
#[derive(Debug)]
pub struct ImageStream<R> {
    source: R,
    identity: Identity,
    protection: Protection,
    saved: Saved,
    notes: Vec<u8>,
    direct_map: Option<u64>,
    /// Where the next record begins.
    at: u64,
    totals: Totals,
    end: Option<Totals>,
    after: u64,
    /// The chunk that was read last, as it is stored.
    stored: Vec<u8>,
    unpack: Scratch,
}

/// What decompression needs.
struct Scratch {
    unpacker: Unpacker,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

impl<R: Read> ImageStream<R> {
    /// Reads the beginning of the image that `source` has.
    ///
    /// # Errors
    ///
    /// [`ImageError`] that says why this is no image, or none that may be resumed.
    pub fn open(source: R) -> Result<Self, ImageError> {
        Self::open_with(source, |_| Ok(None))
    }

    /// As [`open`](Self::open), for an image that may be sealed. `key` is asked for its key, which one that
    /// is sealed must have and no other.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and what `key` says.
    pub fn open_with(
        mut source: R,
        key: impl FnOnce(&Header) -> Result<Option<Key>, ImageError>,
    ) -> Result<Self, ImageError> {
        let mut header = vec![0; COMMIT_OFFSET as usize];
        let reading = ImageError::reading;
        // What is too short for a header may be something else altogether.
        let (magic, rest) = header.split_at_mut(8);
        source
            .read_exact(magic)
            .map_err(reading("the header of the image"))?;
        if magic != Header::MAGIC {
            return Err(Header::decode(&header)
                .err()
                .unwrap_or(ImageError::Uncommitted));
        }
        source
            .read_exact(rest)
            .map_err(reading("the header of the image"))?;
        let key = key(&Header::decode(&header)?)?;
        let (header, protection) = Header::decode_with(&header, key.as_ref())?;
        let Header {
            identity, stage, ..
        } = header;
        let saved = stage.saved()?;
        let mut block = vec![0; COMMIT_SIZE as usize];
        source
            .read_exact(&mut block)
            .map_err(reading("the commit record of the image"))?;
        if let Some(commit) = Commit::decode(&block, identity.id, saved)? {
            commit.state.resumable()?;
        }
        let mut stream = Self {
            source,
            identity,
            protection,
            saved,
            notes: Vec::new(),
            direct_map: None,
            at: RECORDS_OFFSET,
            totals: Totals::default(),
            end: None,
            after: 0,
            stored: Vec::new(),
            unpack: Scratch {
                unpacker: Unpacker::new(),
                bytes: Vec::new(),
            },
        };
        let record = stream.record()?;
        if record.kind != Kind::Notes {
            return Err(ImageError::Malformed {
                what: "the notes are missing",
            });
        }
        stream.notes = std::mem::take(&mut stream.stored);
        stream.notes.truncate(record.payload as usize);
        stream.direct_map = direct_map(&record);
        Ok(stream)
    }

    /// Whose memory it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What was saved.
    pub fn saved(&self) -> Saved {
        self.saved
    }

    /// The notes of the machine's core.
    pub fn notes(&self) -> &[u8] {
        &self.notes
    }

    /// The virtual address at which the machine's kernel maps physical address 0, if that is known.
    pub fn direct_map(&self) -> Option<u64> {
        self.direct_map
    }

    /// What there is in it, once all of it was read.
    pub fn totals(&self) -> Option<Totals> {
        self.end
    }

    /// The next chunk, in ascending order of memory; `None` at the end, when it is known that the image is
    /// whole.
    ///
    /// # Errors
    ///
    /// [`ImageError`] if the image ends here, or is damaged.
    pub fn next_chunk(&mut self) -> Result<Option<StreamChunk<'_>>, ImageError> {
        if self.end.is_some() {
            return Ok(None);
        }
        loop {
            let record = self.record()?;
            match record.kind {
                Kind::Index => {}
                Kind::Notes => {
                    return Err(ImageError::Malformed {
                        what: "notes among its memory",
                    });
                }
                Kind::End => {
                    // No truncation: it is in memory.
                    let payload = &self.stored[..record.payload as usize];
                    let end = End::decode(&record.body, payload)?;
                    if end.totals != self.totals {
                        return Err(ImageError::Malformed {
                            what: "its end tells of other memory",
                        });
                    }
                    self.end = Some(end.totals);
                    return Ok(None);
                }
                Kind::Chunk => {
                    let chunk = Chunk::decode(&mut Reader::new(&record.body), record.payload)?;
                    if chunk.range().start().get() < self.after {
                        return Err(ImageError::Malformed {
                            what: "its memory is not in order",
                        });
                    }
                    self.after = chunk.range().end().get();
                    self.totals.count(chunk.runs());
                    self.totals.count_chunk(chunk.codec(), record.payload);
                    return Ok(Some(StreamChunk {
                        chunk,
                        // No truncation: it is in memory.
                        stored: &self.stored[..record.payload as usize],
                        unpack: &mut self.unpack,
                    }));
                }
            }
        }
    }

    /// Reads the next record, and its payload.
    fn record(&mut self) -> Result<Record, ImageError> {
        let mut block = [0; BLOCK as usize];
        let ended = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => ImageError::Uncommitted,
            _ => ImageError::reading("the image")(source),
        };
        self.source.read_exact(&mut block).map_err(ended)?;
        let record = Record::decode(
            &mut block,
            self.identity.id,
            self.at,
            None,
            &self.protection,
        )?;
        // As it comes, so that nothing is allocated because a record claims it.
        self.stored.clear();
        let padded = Record::padded(record.payload);
        let mut payload = self.source.by_ref().take(padded);
        let len = payload.read_to_end(&mut self.stored).map_err(ended)?;
        if (len as u64) < padded {
            return Err(ImageError::Uncommitted);
        }
        record.open_payload(&mut self.stored, self.at, &self.protection)?;
        self.at = record.next(self.at).ok_or(ImageError::Malformed {
            what: "a place in it",
        })?;
        Ok(record)
    }
}

/// A chunk that came out of a stream, checked.
pub struct StreamChunk<'a> {
    /// What it is about.
    pub chunk: Chunk,
    stored: &'a [u8],
    unpack: &'a mut Scratch,
}

impl StreamChunk<'_> {
    /// Brings the data to `places`, one behind the other, which must have room for just that.
    ///
    /// # Errors
    ///
    /// [`ImageError::Malformed`] if it cannot be decompressed.
    pub fn read(&mut self, places: &mut [&mut [u8]]) -> Result<(), ImageError> {
        let Scratch { unpacker, bytes } = self.unpack;
        unpack(unpacker, bytes, &self.chunk, self.stored, places)
    }
}
