//! The memory in an image, at any address.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::index::Entry;
use super::{Image, ImageError};
use crate::{Memory, MemoryError, PageClass, PhysAddr, PhysRange, RangeMap, ReadAt};

/// How many chunks are kept.
const KEPT: usize = 16;

/// The memory in an image, for those who look at it here and there.
///
/// What it needs grows with the index of the image. Those who want all of it in order, and little room for
/// that, take [`Image::index`] and [`Image::reader`].
#[derive(Debug)]
pub struct ImageMemory<S> {
    image: Image<S>,
    contents: RangeMap<PageClass>,
    entries: Vec<Entry>,
    /// The data of the chunks that were read last, by the number of their entry.
    kept: Mutex<VecDeque<(usize, Arc<Vec<u8>>)>>,
}

impl<S: ReadAt> ImageMemory<S> {
    /// Reads the index of `image`.
    ///
    /// # Errors
    ///
    /// [`ImageError`] if it is damaged.
    pub fn open(image: Image<S>) -> Result<Self, ImageError> {
        let entries: Vec<Entry> = image.index()?.collect::<Result<_, _>>()?;
        let mut contents = RangeMap::new();
        for (range, class) in entries.iter().flat_map(|entry| entry.chunk.iter()) {
            let inserted = contents.insert(range, class);
            debug_assert!(inserted.is_ok(), "the index is in order");
        }
        Ok(Self {
            image,
            contents,
            entries,
            kept: Mutex::new(VecDeque::new()),
        })
    }

    /// The image.
    pub fn image(&self) -> &Image<S> {
        &self.image
    }

    /// The data of the chunk `number`.
    fn data(&self, number: usize, entry: &Entry) -> Result<Arc<Vec<u8>>, ImageError> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut kept = lock();
            if let Some(at) = kept.iter().position(|(which, _)| *which == number)
                && let Some(found) = kept.remove(at)
            {
                let data = Arc::clone(&found.1);
                kept.push_back(found);
                return Ok(data);
            }
        }
        // No truncation: a chunk's data.
        let mut data = vec![0; entry.chunk.data_len() as usize];
        self.image.reader().read(entry, &mut [&mut data])?;
        let data = Arc::new(data);
        let mut kept = lock();
        kept.push_back((number, Arc::clone(&data)));
        if kept.len() > KEPT {
            kept.pop_front();
        }
        Ok(data)
    }

    /// Reads a part of one run of one chunk; returns how much.
    fn read_some(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<usize, MemoryError> {
        let absent = MemoryError::Absent { addr };
        let after = self
            .entries
            .partition_point(|entry| entry.chunk.range().start() <= addr);
        let Some((number, entry)) = after
            .checked_sub(1)
            .and_then(|number| Some((number, self.entries.get(number)?)))
        else {
            return Err(absent);
        };
        let mut before = 0;
        for (range, class) in entry.chunk.iter() {
            if !range.contains(addr) {
                if class == PageClass::Data {
                    before += range.len();
                }
                continue;
            }
            // No truncation: at most what the buffer has.
            let left = range.end().get() - addr.get();
            let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
            match class {
                PageClass::Free => return Err(absent),
                PageClass::Zero => buf[..len].fill(0),
                PageClass::Data => {
                    let failed = |error: ImageError| MemoryError::Read {
                        addr,
                        source: std::io::Error::other(error),
                    };
                    let data = self.data(number, entry).map_err(failed)?;
                    // No truncation: within the data of a chunk.
                    let start = (before + addr.get() - range.start().get()) as usize;
                    let bytes = data.get(start..start + len).ok_or(absent)?;
                    buf[..len].copy_from_slice(bytes);
                }
            }
            return Ok(len);
        }
        Err(absent)
    }
}

impl<S: ReadAt> Memory for ImageMemory<S> {
    fn contents(&self) -> &RangeMap<PageClass> {
        &self.contents
    }

    fn read(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), MemoryError> {
        if PhysRange::from_len(addr, buf.len() as u64).is_none() && !buf.is_empty() {
            return Err(MemoryError::Absent { addr });
        }
        let (mut at, mut rest) = (addr, buf);
        while !rest.is_empty() {
            let read = self.read_some(at, rest)?;
            rest = &mut rest[read..];
            at = at
                .checked_add(read as u64)
                .ok_or(MemoryError::Absent { addr: at })?;
        }
        Ok(())
    }
}
