//! Where bytes come from: one trait for cores and images that are mapped, read on demand, or in memory.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes that can be read at any offset.
///
/// Offsets and sizes are `u64`: a core may be larger than the address space that a mapping could have.
pub trait ReadAt {
    /// How many bytes there are.
    fn size(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] if the bytes end before `buf` is full, else what the reading
    /// met.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Whether bytes come past all caches, so that few large reads to buffers at multiples of
    /// [`BLOCK`](crate::BLOCK) are best.
    fn is_direct(&self) -> bool {
        false
    }

    /// Whether [`for_each_piece`](Self::for_each_piece) hands out bytes without a copy.
    fn is_mapped(&self) -> bool {
        false
    }

    /// Hands the bytes of `range` to `each`, in order and in pieces of a few MiB at most. Sources that
    /// have the bytes in memory hand them out without a copy.
    ///
    /// # Errors
    ///
    /// As [`read_exact_at`](Self::read_exact_at), and what `each` returns.
    fn for_each_piece(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        const PIECE: u64 = 1 << 20;
        let mut buf = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let len = PIECE.min(range.end - at);
            buf.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
            self.read_exact_at(&mut buf, at)?;
            each(&buf)?;
            at += len;
        }
        Ok(())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, offset)
    }

    fn is_direct(&self) -> bool {
        (**self).is_direct()
    }

    fn is_mapped(&self) -> bool {
        (**self).is_mapped()
    }

    fn for_each_piece(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        (**self).for_each_piece(range, each)
    }
}

/// The part `range` of `bytes`, if they reach so far.
fn part(bytes: &[u8], range: Range<u64>) -> io::Result<&[u8]> {
    usize::try_from(range.start)
        .ok()
        .zip(usize::try_from(range.end).ok())
        .and_then(|(start, end)| bytes.get(start..end))
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// The end of `len` bytes from `offset`, unless that overflows.
fn end_of(offset: u64, len: usize) -> io::Result<u64> {
    u64::try_from(len)
        .ok()
        .and_then(|len| offset.checked_add(len))
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

impl ReadAt for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        buf.copy_from_slice(part(self, offset..end_of(offset, buf.len())?)?);
        Ok(())
    }

    fn is_mapped(&self) -> bool {
        true
    }

    fn for_each_piece(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        each(part(self, range)?)
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.as_slice().size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buf, offset)
    }

    fn is_mapped(&self) -> bool {
        true
    }

    fn for_each_piece(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.as_slice().for_each_piece(range, each)
    }
}

/// A file or block device, read on demand with `pread(2)`.
#[derive(Debug)]
pub struct ReadFile {
    file: File,
    size: u64,
}

impl ReadFile {
    /// Finds out how large `file` is; works for block devices and `/proc/vmcore` too, whose size is
    /// found by seeking to the end.
    ///
    /// # Errors
    ///
    /// If the file cannot seek, as a pipe.
    pub fn new(mut file: File) -> io::Result<Self> {
        let size = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, size })
    }

    /// The file itself.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl ReadAt for ReadFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

/// The bytes `range` of another source, as a source of its own.
#[derive(Clone, Copy, Debug)]
pub struct Part<S> {
    source: S,
    start: u64,
    size: u64,
}

impl<S: ReadAt> Part<S> {
    /// The `size` bytes of `source` from `start` on; `None` if `source` ends before.
    pub fn new(source: S, start: u64, size: u64) -> Option<Self> {
        (start.checked_add(size)? <= source.size()).then_some(Self {
            source,
            start,
            size,
        })
    }

    /// The range of the underlying source that `range` of this one is.
    fn inner(&self, range: Range<u64>) -> io::Result<Range<u64>> {
        if range.start <= range.end && range.end <= self.size {
            // No overflow: `start + size` was checked when this was made.
            Ok(self.start + range.start..self.start + range.end)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

impl<S: ReadAt> ReadAt for Part<S> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let range = self.inner(offset..end_of(offset, buf.len())?)?;
        self.source.read_exact_at(buf, range.start)
    }

    fn is_mapped(&self) -> bool {
        self.source.is_mapped()
    }

    fn for_each_piece(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.source.for_each_piece(self.inner(range)?, each)
    }
}
