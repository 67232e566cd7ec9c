//! Writing an image: on all CPUs, in order, in one pass over memory.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::chunk::{CHUNK_PAGES, Chunk, MAX_RUNS, Runs};
use super::codec::Packer;
use super::commit::{Commit, State};
use super::end::End;
use super::gather::Gather;
use super::index::{Entry, IndexWriter};
use super::protection::{Effort, Protection};
use super::record::{BLOCK, Kind, MAX_PAYLOAD, Record};
use super::sealing::{self, Written};
use super::sink::{Sink, lock};
use super::wire::Writer;
use super::{
    COMMIT_OFFSET, COMMIT_SIZE, Codec, CodecKind, Header, Identity, ImageError, ImageId,
    RECORDS_OFFSET, Saved, Seal, Stage, Totals,
};
use crate::survey::{Part, Survey};
use crate::{BlockBuffer, Memory, PAGE_SIZE, PageClass, Phases, PhysAddr, Progress};

/// Writes a header alone: the target now belongs to `identity`, and what was there before is no more.
///
/// # Errors
///
/// [`ImageError::Write`], or [`ImageError::Malformed`] if the memory map is too long for a header.
pub fn prepare(identity: &Identity, sink: &impl Sink) -> Result<(), ImageError> {
    write_header(identity, Stage::Prepared, None, sink).map(drop)
}

/// Writes a header that says why nothing was saved, for the machine to read when it goes on.
///
/// # Errors
///
/// As [`prepare`].
pub fn record_failure(
    identity: &Identity,
    reason: &str,
    sink: &impl Sink,
) -> Result<(), ImageError> {
    write_header(identity, Stage::Failed(reason.to_owned()), None, sink).map(drop)
}

/// Writes the header, and makes what was said of an image before void. Returns how the records are to be
/// protected.
fn write_header(
    identity: &Identity,
    stage: Stage,
    seal: Option<&Seal>,
    sink: &impl Sink,
) -> Result<Protection, ImageError> {
    let (sealed, protection) = match seal {
        Some(seal) => {
            if seal.id != identity.id {
                return Err(ImageError::WrongKey);
            }
            let nonce = sealing::random()?;
            let sealing = seal.sealing;
            let key = seal.key.of_records(&nonce);
            (Some(Written { sealing, nonce }), Protection::Sealed(key))
        }
        None => (None, Protection::Checksums),
    };
    let header = Header {
        identity: identity.clone(),
        stage,
        sealed,
    };
    let mut bytes = header.encode(&protection)?;
    bytes.resize((COMMIT_OFFSET + COMMIT_SIZE) as usize, 0);
    sink.write_at(&bytes, 0)
        .and_then(|()| sink.sync())
        .map_err(ImageError::writing("the header of the image"))?;
    Ok(protection)
}

/// How an image is written.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// How it is compressed.
    pub codec: Codec,
    /// How many threads do it; each needs [`Codec::memory`].
    pub threads: usize,
    /// How it is sealed, if it is.
    pub seal: Option<&'a Seal>,
}

/// What is written, besides memory.
pub(crate) struct Subject<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) jump_back: Option<PhysAddr>,
    /// The notes of the machine's core.
    pub(crate) notes: &'a [u8],
    /// The virtual address at which the machine's kernel maps physical address 0, if that is known.
    pub(crate) direct_map: Option<u64>,
    /// Whether all that was free is left out.
    pub(crate) without_free: bool,
}

/// Writes a whole image: the header, all memory that `survey` tells of, the index, and, when all that is on
/// stable storage, the commit record. `phases` is asked how long everything took, when all memory is
/// written. Returns what there is in the image, and how long its protection took, of all threads together.
///
/// # Errors
///
/// [`ImageError`]; the image then is not valid, and never was.
pub(crate) fn write<M: Memory + Sync + ?Sized>(
    subject: &Subject<'_>,
    memory: &M,
    survey: Survey<'_>,
    sink: &impl Sink,
    options: Options<'_>,
    phases: &mut dyn FnMut() -> Phases,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Totals, Duration), ImageError> {
    let stage = Stage::Saved(Saved {
        jump_back: subject.jump_back,
        in_order: !sink.can_seek(),
    });
    let protection = write_header(subject.identity, stage, options.seal, sink)?;

    let engine = Engine::new(subject.identity.id, &protection, memory, survey, sink);
    engine.write_notes(subject)?;
    engine.run(options, progress)?;
    let totals = engine.finish(subject, phases)?;
    Ok((totals, engine.effort.took()))
}

/// How long nobody looks how far the threads have come: to look takes time from them.
const LOOK: Duration = Duration::from_millis(50);

/// All that the threads share.
struct Engine<'a, 's, M: ?Sized, S> {
    id: ImageId,
    protection: &'a Protection,
    effort: Effort,
    memory: &'a M,
    sink: &'a S,
    /// All of memory, in bytes.
    total: u64,
    survey: Mutex<Parts<'s>>,
    order: Mutex<Order>,
    /// Something about the order changed.
    changed: Condvar,
    /// A thread has ended.
    ended: Condvar,
}

/// What is still to be done.
struct Parts<'s> {
    survey: Survey<'s>,
    handed_out: u64,
}

/// What is done one after the other.
struct Order {
    /// The number of the part that is next to get a place in the image.
    turn: u64,
    /// Where the next record will be.
    offset: u64,
    /// Up to where a sink that takes bytes in order has them.
    written: u64,
    /// Pages without data whose chunk is not written yet, and where they begin.
    pending: Option<(PhysAddr, Runs)>,
    index: IndexWriter,
    totals: Totals,
    /// Bytes of memory that are done.
    done: u64,
    /// How many threads work.
    working: usize,
    failure: Option<ImageError>,
}

/// A part of memory whose data was gathered, and compressed if that paid.
struct Packed {
    start: PhysAddr,
    runs: Runs,
    codec: CodecKind,
    /// Bytes of data as it is stored.
    stored: u64,
}

/// A record that has its place.
struct Placed {
    offset: u64,
    kind: Kind,
    body: Vec<u8>,
    payload: Payload,
}

/// Where the payload of a record is.
enum Payload {
    /// In this.
    Own(Vec<u8>),
    /// In the thread's buffer: so many bytes.
    Buffer(u64),
}

impl<'a, 's, M: Memory + Sync + ?Sized, S: Sink> Engine<'a, 's, M, S> {
    fn new(
        id: ImageId,
        protection: &'a Protection,
        memory: &'a M,
        survey: Survey<'s>,
        sink: &'a S,
    ) -> Self {
        Self {
            id,
            protection,
            effort: Effort::default(),
            memory,
            sink,
            total: survey.total(),
            survey: Mutex::new(Parts {
                survey,
                handed_out: 0,
            }),
            order: Mutex::new(Order {
                turn: 0,
                offset: RECORDS_OFFSET,
                written: RECORDS_OFFSET,
                pending: None,
                index: IndexWriter::default(),
                totals: Totals::default(),
                done: 0,
                working: 0,
                failure: None,
            }),
            changed: Condvar::new(),
            ended: Condvar::new(),
        }
    }

    fn write_notes(&self, subject: &Subject<'_>) -> Result<(), ImageError> {
        let notes = subject.notes;
        if notes.len() as u64 > MAX_PAYLOAD {
            return Err(ImageError::Malformed {
                what: "the notes are too long",
            });
        }
        let mut body = Writer::default();
        // No kernel maps anything at 0.
        body.u64(subject.direct_map.unwrap_or_default());
        let placed = self
            .lock_order()
            .place(Kind::Notes, body.bytes, Payload::Own(notes.to_vec()));
        self.write_record(&placed, &mut BlockBuffer::new(0))
    }

    fn lock_order(&self) -> MutexGuard<'_, Order> {
        lock(&self.order)
    }

    fn wait<'g>(&self, order: MutexGuard<'g, Order>) -> MutexGuard<'g, Order> {
        self.changed
            .wait(order)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets threads write all memory, and tells how far they have come.
    fn run(
        &self,
        options: Options<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ImageError> {
        let threads = options.threads.max(1);
        self.lock_order().working = threads;
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    // What ends this thread ends them all, a panic too.
                    let ended = Ended(self);
                    let result =
                        Worker::new(self, options.codec).and_then(|mut worker| worker.run());
                    ended.with(result);
                });
            }
            let mut told = None;
            let mut order = self.lock_order();
            while order.working > 0 {
                let done = order.done;
                drop(order);
                // Whoever hears of progress may count on it that there is some.
                if told != Some(done) {
                    told = Some(done);
                    progress(Progress {
                        done,
                        total: self.total,
                    });
                }
                order = self.lock_order();
                if order.working > 0 {
                    let waited = self.ended.wait_timeout(order, LOOK);
                    order = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        });
        let mut order = self.lock_order();
        match order.failure.take() {
            Some(failure) => Err(failure),
            None => {
                progress(Progress {
                    done: order.done,
                    total: self.total,
                });
                Ok(())
            }
        }
    }

    /// The next part of memory, and its number; `None` when there is no more.
    fn next_part(&self) -> Result<Option<(u64, Part)>, ImageError> {
        let mut parts = lock(&self.survey);
        let Some(part) = parts.survey.next_part().map_err(ImageError::Pages)? else {
            return Ok(None);
        };
        let number = parts.handed_out;
        parts.handed_out += 1;
        Ok(Some((number, part)))
    }

    /// Waits until it is the turn of part `number`, gives it a place, and lets the next one go; returns
    /// what is to be written then. `None` if another thread failed.
    fn take_turn(&self, number: u64, packed: Packed) -> Option<Vec<Placed>> {
        let mut order = self.lock_order();
        while order.turn != number && order.failure.is_none() {
            order = self.wait(order);
        }
        if order.failure.is_some() {
            return None;
        }
        let placed = order.add(packed);
        order.turn += 1;
        self.changed.notify_all();
        Some(placed)
    }

    /// Writes a record. If its payload is in `buffer`, that is so behind room for its block.
    fn write_record(&self, placed: &Placed, buffer: &mut BlockBuffer) -> Result<(), ImageError> {
        let mut own;
        let len;
        let bytes = match &placed.payload {
            Payload::Buffer(payload) => {
                len = *payload;
                buffer.get_mut()
            }
            Payload::Own(payload) => {
                len = payload.len() as u64;
                own = BlockBuffer::new((BLOCK + Record::padded(len)) as usize);
                own.get_mut()[BLOCK as usize..][..payload.len()].copy_from_slice(payload);
                own.get_mut()
            }
        };
        // No truncation: payloads are in memory.
        let bytes = &mut bytes[..(BLOCK + Record::padded(len)) as usize];
        let (block, padded) = bytes.split_at_mut(BLOCK as usize);
        padded[len as usize..].fill(0);
        let protected = self.effort.of(|| {
            let record = Record {
                kind: placed.kind,
                payload: len,
                check: self.protection.payload(padded, placed.offset),
                body: placed.body.clone(),
            };
            record.encode(self.id, placed.offset, self.protection)
        });
        block.copy_from_slice(&protected);
        if self.sink.can_seek() {
            return self
                .sink
                .write_at(bytes, placed.offset)
                .map_err(ImageError::writing("the image"));
        }
        // What comes before must be there first.
        let mut order = self.lock_order();
        while order.written != placed.offset && order.failure.is_none() {
            order = self.wait(order);
        }
        if order.failure.is_some() {
            return Ok(());
        }
        drop(order);
        let result = self.sink.write_at(bytes, placed.offset);
        let mut order = self.lock_order();
        order.written += bytes.len() as u64;
        self.changed.notify_all();
        result.map_err(ImageError::writing("the image"))
    }

    /// Writes what is left: the last pages, the index, the end, the commit record.
    fn finish(
        &self,
        subject: &Subject<'_>,
        phases: &mut dyn FnMut() -> Phases,
    ) -> Result<Totals, ImageError> {
        let mut order = self.lock_order();
        let mut records: Vec<Placed> = order.flush_pending().into_iter().collect();
        records.extend(order.flush_index());
        let totals = order.totals;
        let record = End {
            index: order.index.last(),
            without_free: subject.without_free,
            totals,
            phases: phases(),
        };
        let end = order.offset;
        let (body, payload) = record.encode();
        records.push(order.place(Kind::End, body, Payload::Own(payload)));
        drop(order);
        for record in &records {
            self.write_record(record, &mut BlockBuffer::new(0))?;
        }
        let failed = ImageError::writing("the image");
        self.sink.sync().map_err(failed)?;
        if self.sink.can_seek() {
            let commit = Commit {
                state: State::Committed,
                attempts: 0,
                end,
            };
            let mut block = BlockBuffer::new(COMMIT_SIZE as usize);
            block.get_mut().copy_from_slice(&commit.encode(self.id));
            self.sink
                .write_at(block.get(), COMMIT_OFFSET)
                .and_then(|()| self.sink.sync())
                .map_err(ImageError::writing("the commit record"))?;
        }
        Ok(totals)
    }
}

/// Tells the others that a thread has ended.
struct Ended<'e, 'a, 's, M: Memory + Sync + ?Sized, S: Sink>(&'e Engine<'a, 's, M, S>);

impl<M: Memory + Sync + ?Sized, S: Sink> Ended<'_, '_, '_, M, S> {
    fn with(self, result: Result<(), ImageError>) {
        if let Err(error) = result {
            self.0.lock_order().failure.get_or_insert(error);
        }
    }
}

impl<M: Memory + Sync + ?Sized, S: Sink> Drop for Ended<'_, '_, '_, M, S> {
    fn drop(&mut self) {
        let mut order = self.0.lock_order();
        order.working -= 1;
        if thread::panicking() {
            order.failure.get_or_insert(ImageError::Thread);
        }
        self.0.changed.notify_all();
        self.0.ended.notify_all();
    }
}

impl Order {
    /// Gives a record its place.
    fn place(&mut self, kind: Kind, body: Vec<u8>, payload: Payload) -> Placed {
        let len = match &payload {
            Payload::Own(bytes) => bytes.len() as u64,
            Payload::Buffer(len) => *len,
        };
        let offset = self.offset;
        // No overflow: this is written to something that has a size of 64 bits.
        self.offset += BLOCK + Record::padded(len);
        Placed {
            offset,
            kind,
            body,
            payload,
        }
    }

    /// Adds a part of memory. What has no data waits for what comes behind it.
    fn add(&mut self, packed: Packed) -> Vec<Placed> {
        let Packed {
            start,
            runs,
            codec,
            stored,
        } = packed;
        self.totals.count(&runs);
        self.done += runs.all_pages() * PAGE_SIZE;
        let mut placed = Vec::new();
        let follows = self.pending.as_ref().is_some_and(|(first, pending)| {
            first.checked_add(pending.all_pages() * PAGE_SIZE) == Some(start)
                && pending.len() + runs.len() <= MAX_RUNS
        });
        let (start, runs) = match self.pending.take() {
            Some((first, mut pending)) if follows => {
                pending.append(&runs);
                (first, pending)
            }
            Some(other) => {
                placed.extend(self.place_chunk(other.0, other.1, CodecKind::None, 0));
                (start, runs)
            }
            None => (start, runs),
        };
        if stored == 0 {
            self.pending = Some((start, runs));
        } else {
            placed.extend(self.place_chunk(start, runs, codec, stored));
        }
        if self.index.is_full() {
            placed.extend(self.flush_index());
        }
        placed
    }

    fn place_chunk(
        &mut self,
        start: PhysAddr,
        runs: Runs,
        codec: CodecKind,
        stored: u64,
    ) -> Option<Placed> {
        let chunk = Chunk::new(start, runs, codec)?;
        let mut body = Writer::default();
        chunk.encode(&mut body);
        let placed = self.place(Kind::Chunk, body.bytes, Payload::Buffer(stored));
        self.totals.count_chunk(codec, stored);
        self.index.add(&Entry {
            offset: placed.offset,
            stored,
            chunk,
        });
        Some(placed)
    }

    fn flush_pending(&mut self) -> Option<Placed> {
        let (start, runs) = self.pending.take()?;
        let placed = self.place_chunk(start, runs, CodecKind::None, 0)?;
        Some(Placed {
            payload: Payload::Own(Vec::new()),
            ..placed
        })
    }

    fn flush_index(&mut self) -> Option<Placed> {
        let part = self.index.take(self.offset)?;
        Some(self.place(Kind::Index, part.body, Payload::Own(part.payload)))
    }
}

/// A thread's buffers.
struct Worker<'e, 'a, 's, M: ?Sized, S> {
    engine: &'e Engine<'a, 's, M, S>,
    packer: Packer,
    /// The data as it is, behind room for a block.
    plain: BlockBuffer,
    /// The same compressed.
    packed: BlockBuffer,
}

/// Room for a record with the largest chunk.
const RECORD: usize = BLOCK as usize + (CHUNK_PAGES * PAGE_SIZE) as usize;

impl<'e, 'a, 's, M: Memory + Sync + ?Sized, S: Sink> Worker<'e, 'a, 's, M, S> {
    fn new(engine: &'e Engine<'a, 's, M, S>, codec: Codec) -> Result<Self, ImageError> {
        let packer = Packer::new(codec).map_err(ImageError::writing("the image"))?;
        Ok(Self {
            engine,
            packer,
            plain: BlockBuffer::new(RECORD),
            packed: BlockBuffer::new(if codec == Codec::None { 0 } else { RECORD }),
        })
    }

    fn run(&mut self) -> Result<(), ImageError> {
        while let Some((number, part)) = self.engine.next_part()? {
            let (packed, compressed) = self.pack(&part)?;
            let Some(records) = self.engine.take_turn(number, packed) else {
                break;
            };
            for record in records {
                let buffer = if compressed {
                    &mut self.packed
                } else {
                    &mut self.plain
                };
                self.engine.write_record(&record, buffer)?;
            }
        }
        Ok(())
    }

    /// Gathers the data of `part` and compresses it; tells whether that paid.
    fn pack(&mut self, part: &Part) -> Result<(Packed, bool), ImageError> {
        let plain = &mut self.plain.get_mut()[BLOCK as usize..];
        let runs = Gather::new(plain)
            .part(self.engine.memory, part)
            .map_err(ImageError::Memory)?;
        // No truncation: a buffer's size.
        let len = (runs.pages(PageClass::Data) * PAGE_SIZE) as usize;
        let data = &plain[..len];
        let room = self
            .packed
            .get_mut()
            .get_mut(BLOCK as usize..)
            .unwrap_or_default();
        let compressed = if data.is_empty() {
            None
        } else {
            self.packer.pack(data, room)
        };
        let (codec, stored) = compressed.unwrap_or((CodecKind::None, len));
        let packed = Packed {
            start: part.start(),
            runs,
            codec,
            stored: stored as u64,
        };
        Ok((packed, compressed.is_some()))
    }
}
