//! Restoring and verifying images: on all CPUs, in one pass, in memory that does not grow with the machine.

use std::io::Read;

use vmcore::image::{Chunk, ChunkReader, Entry, Image, ImageError, ImageStream, Index};
use vmcore::{PAGE_SIZE, PageClass, PhysRange, Progress, RangeMap, ReadAt};

use crate::share::share;
use crate::{Plan, RestoreError, Summary, Target};

/// What a plan makes of the chunks of an image, which come in ascending order.
struct Checker<'a> {
    plan: Plan<'a>,
    target: &'a dyn Target,
    seen: RangeMap<()>,
    summary: Summary,
}

impl<'a> Checker<'a> {
    fn new(plan: Plan<'a>, target: &'a dyn Target) -> Self {
        Self {
            plan,
            target,
            seen: RangeMap::new(),
            summary: Summary::default(),
        }
    }

    /// Checks that all of `chunk` is memory of the machine and may be written.
    fn add(&mut self, chunk: &Chunk) -> Result<(), RestoreError> {
        let range = chunk.range();
        if !self.plan.machine.covers(range) {
            return Err(RestoreError::NotOfMachine { range });
        }
        self.target.check(range)?;
        self.seen
            .insert(range, ())
            .map_err(|_| RestoreError::NotOfMachine { range })?;
        for (range, class) in chunk.iter() {
            *match class {
                PageClass::Data => &mut self.summary.data,
                PageClass::Zero => &mut self.summary.zeros,
                PageClass::Free if self.plan.fill.is_none() => continue,
                PageClass::Free => &mut self.summary.free,
            } += range.len();
        }
        Ok(())
    }

    /// Checks that nothing is missing.
    fn finish(self) -> Result<Summary, RestoreError> {
        match self.plan.machine.without(&self.seen).ranges().next() {
            Some(range) => Err(RestoreError::Missing { range }),
            None => Ok(self.summary),
        }
    }
}

/// Checks that `image` has all memory of the machine and nothing else, and that all of that can be restored
/// to `target`. Reads no memory and writes nothing: a dry run.
///
/// # Errors
///
/// [`RestoreError`] with the first range that cannot be restored, and why; or that the index of the
/// image is damaged.
pub fn check_image<S: ReadAt>(
    image: &Image<S>,
    plan: Plan<'_>,
    target: &dyn Target,
) -> Result<Summary, RestoreError> {
    let mut checker = Checker::new(plan, target);
    for entry in image.index()? {
        checker.add(&entry?.chunk)?;
    }
    checker.finish()
}

/// Writes all memory in `image` to `target`, after [`check_image`], by the work of `threads` threads.
///
/// Data is checked as it is read. What is compressed goes from the buffer that it was read to right to
/// where it belongs; what is not is read to where it belongs, if the source takes that.
///
/// # Errors
///
/// [`RestoreError`]. Those of [`check_image`] come before the first byte is written; after others, the
/// target is written in part and must not be jumped to.
pub fn restore_image<S: ReadAt + Sync>(
    image: &Image<S>,
    plan: Plan<'_>,
    target: &dyn Target,
    threads: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Summary, RestoreError> {
    let summary = check_image(image, plan, target)?;
    let batches = Batches {
        index: image.index()?,
        longest: target.piece(),
        next: None,
    };
    let worker = || Writer {
        target,
        fill: plan.fill,
        scratch: Vec::new(),
    };
    let work = |(writer, reader): &mut (Writer<'_>, ChunkReader<'_, S>), batch: Vec<Entry>| {
        writer.batch(&batch, reader)
    };
    let both = || (worker(), image.reader());
    share(threads, batches, both, work, summary.total(), progress)?;
    Ok(summary)
}

/// Writes all memory of an image that comes in order to `target`. What comes is checked before it is
/// written; that all of it comes, at the end.
///
/// # Errors
///
/// [`RestoreError`]; the target may then be written in part, and must not be jumped to.
pub fn restore_stream<R: Read>(
    stream: &mut ImageStream<R>,
    plan: Plan<'_>,
    target: &dyn Target,
    progress: &mut dyn FnMut(Progress),
) -> Result<Summary, RestoreError> {
    let total = plan.machine.bytes();
    let mut done = 0;
    let mut checker = Checker::new(plan, target);
    let mut writer = Writer {
        target,
        fill: plan.fill,
        scratch: Vec::new(),
    };
    while let Some(mut next) = stream.next_chunk()? {
        let chunk = next.chunk.clone();
        checker.add(&chunk)?;
        writer.chunk(&chunk, &mut |places| next.read(places))?;
        done += chunk.range().len();
        progress(Progress { done, total });
    }
    checker.finish()
}

/// Reads all memory in `image` and checks it, by the work of `threads` threads; returns how many bytes of
/// data there are.
///
/// # Errors
///
/// [`ImageError`] with the first damage that is found.
pub fn verify_image<S: ReadAt + Sync>(
    image: &Image<S>,
    threads: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, ImageError> {
    let total = image.totals().data_bytes();
    let mut data = 0;
    let work = |(reader, buffer): &mut (ChunkReader<'_, S>, Vec<u8>), entry: Entry| {
        let len = entry.chunk.data_len();
        // No truncation: a chunk's data.
        buffer.resize(len as usize, 0);
        reader.read(&entry, &mut [buffer])?;
        Ok(len)
    };
    let both = || (image.reader(), Vec::new());
    share(threads, image.index()?, both, work, total, &mut |at| {
        data = at.done;
        progress(at);
    })?;
    if data == total {
        Ok(data)
    } else {
        Err(ImageError::Malformed {
            what: "its end tells of other memory",
        })
    }
}

/// Reads all memory of an image that comes in order and checks it; returns how many bytes of data there
/// are.
///
/// # Errors
///
/// [`ImageError`] with the first damage that is found, or that the image is not whole.
pub fn verify_stream<R: Read>(
    stream: &mut ImageStream<R>,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, ImageError> {
    let total = stream.identity().saved_memory().bytes();
    let (mut done, mut data) = (0, 0);
    let mut buffer = Vec::new();
    while let Some(mut next) = stream.next_chunk()? {
        let len = next.chunk.data_len();
        // No truncation: a chunk's data.
        buffer.resize(len as usize, 0);
        next.read(&mut [&mut buffer])?;
        data += len;
        done += next.chunk.range().len();
        progress(Progress { done, total });
    }
    Ok(data)
}

/// Chunks that are written together: such as follow each other in memory, of not more than `longest`
/// bytes of it.
struct Batches<'a, S> {
    index: Index<'a, S>,
    longest: u64,
    next: Option<Entry>,
}

impl<S: ReadAt> Iterator for Batches<'_, S> {
    type Item = Result<Vec<Entry>, RestoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut batch: Vec<Entry> = Vec::new();
        let mut len = 0_u64;
        loop {
            let entry = match self.next.take().map(Ok).or_else(|| self.index.next()) {
                None if batch.is_empty() => return None,
                None => return Some(Ok(batch)),
                Some(Err(error)) => return Some(Err(error.into())),
                Some(Ok(entry)) => entry,
            };
            let range = entry.chunk.range();
            let follows = batch
                .last()
                .is_none_or(|last| last.chunk.range().end() == range.start());
            if batch.is_empty() || (follows && len.saturating_add(range.len()) <= self.longest) {
                len = len.saturating_add(range.len());
                batch.push(entry);
            } else {
                self.next = Some(entry);
                return Some(Ok(batch));
            }
        }
    }
}

/// Writes chunks.
struct Writer<'a> {
    target: &'a dyn Target,
    fill: Option<u8>,
    /// The data of a chunk that goes to places which are far apart.
    scratch: Vec<u8>,
}

/// Reads the data of a chunk to where it belongs.
type ReadTo<'a> = dyn FnMut(&mut [&mut [u8]]) -> Result<(), ImageError> + 'a;

impl Writer<'_> {
    /// Writes chunks that follow each other; returns how many bytes.
    fn batch<S: ReadAt>(
        &mut self,
        batch: &[Entry],
        reader: &mut ChunkReader<'_, S>,
    ) -> Result<u64, RestoreError> {
        let chunks = || batch.iter().map(|entry| &entry.chunk);
        let written: u64 = chunks().map(|chunk| self.written(chunk)).sum();
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else {
            return Ok(0);
        };
        let whole = PhysRange::new(
            first.chunk.range().start().get(),
            last.chunk.range().end().get(),
        );
        match whole {
            Some(whole) if batch.len() > 1 && self.is_worth_it(whole, written) => {
                let fill = self.fill;
                self.target.place(whole, &mut |bytes| {
                    let mut rest = bytes;
                    for entry in batch {
                        // No truncation: a part of what is mapped.
                        let len = entry.chunk.range().len() as usize;
                        let (bytes, later) = rest.split_at_mut(len);
                        fill_chunk(&entry.chunk, bytes, fill, &mut |places| {
                            reader.read(entry, places)
                        })?;
                        rest = later;
                    }
                    Ok(())
                })?;
            }
            _ => {
                for entry in batch {
                    self.chunk(&entry.chunk, &mut |places| reader.read(entry, places))?;
                }
            }
        }
        Ok(written)
    }

    /// Writes one chunk.
    fn chunk(&mut self, chunk: &Chunk, read: &mut ReadTo<'_>) -> Result<(), RestoreError> {
        let range = chunk.range();
        if range.len() <= self.target.piece() && self.is_worth_it(range, self.written(chunk)) {
            let fill = self.fill;
            return self
                .target
                .place(range, &mut |bytes| fill_chunk(chunk, bytes, fill, read));
        }
        // No truncation: a chunk's data.
        self.scratch.resize(chunk.data_len() as usize, 0);
        if !self.scratch.is_empty() {
            read(&mut [&mut self.scratch])?;
        }
        let mut data = self.scratch.as_slice();
        for (range, class) in chunk.iter() {
            match class {
                PageClass::Data => {
                    let (now, later) = data.split_at(range.len() as usize);
                    self.target.write(range, now)?;
                    data = later;
                }
                PageClass::Zero => self.target.fill(range, 0)?,
                PageClass::Free => {
                    if let Some(byte) = self.fill {
                        self.target.fill(range, byte)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// How many bytes of `chunk` are written.
    fn written(&self, chunk: &Chunk) -> u64 {
        chunk
            .iter()
            .filter(|(_, class)| *class != PageClass::Free || self.fill.is_some())
            .map(|(range, _)| range.len())
            .sum()
    }

    /// Whether all of `range` is to be placed at once to write so many bytes of it.
    fn is_worth_it(&self, range: PhysRange, written: u64) -> bool {
        written == range.len() || (self.target.is_mapped() && written >= range.len() / 4)
    }
}

/// Fills `bytes`, which are where `chunk` belongs.
fn fill_chunk(
    chunk: &Chunk,
    bytes: &mut [u8],
    fill: Option<u8>,
    read: &mut ReadTo<'_>,
) -> Result<(), RestoreError> {
    let mut places = Vec::new();
    let mut rest = bytes;
    for (range, class) in chunk.iter() {
        let (now, later) = rest.split_at_mut(range.len() as usize);
        match class {
            PageClass::Data => places.push(now),
            PageClass::Zero => now.fill(0),
            PageClass::Free => {
                if let Some(byte) = fill {
                    now.fill(byte);
                }
            }
        }
        rest = later;
    }
    if !places.is_empty() {
        read(&mut places)?;
    }
    Ok(())
}

const _: () = assert!(Image::<Vec<u8>>::CHUNK_SIZE.is_multiple_of(PAGE_SIZE));
