//! Where an image is written: files, memory, pipes.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where an image is written.
pub trait Sink: Sync {
    /// Whether bytes can be written anywhere. If not, each write follows the one before it.
    fn can_seek(&self) -> bool;

    /// Writes all of `bytes` at `offset`. Both offset and length are multiples of 4096.
    ///
    /// # Errors
    ///
    /// What the writing met.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when all that was written is on stable storage.
    ///
    /// # Errors
    ///
    /// If it cannot be brought there; then it must be taken as lost.
    fn sync(&self) -> io::Result<()>;
}

impl<S: Sink + ?Sized> Sink for &S {
    fn can_seek(&self) -> bool {
        (**self).can_seek()
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        (**self).write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }
}

/// A file, or a device through the page cache.
impl Sink for File {
    fn can_seek(&self) -> bool {
        true
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// An image in memory.
impl Sink for Mutex<Vec<u8>> {
    fn can_seek(&self) -> bool {
        true
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start
            .checked_add(bytes.len())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let mut image = lock(self);
        if image.len() < end {
            image.resize(end, 0);
        }
        image[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Something that takes bytes in order only, such as a pipe. Whoever reads it answers for what happens
/// behind it.
#[derive(Debug)]
pub struct Stream<W>(Mutex<W>);

impl<W: Write> Stream<W> {
    /// A sink that hands all bytes to `writer`.
    pub fn new(writer: W) -> Self {
        Self(Mutex::new(writer))
    }
}

impl<W: Write + Send> Sink for Stream<W> {
    fn can_seek(&self) -> bool {
        false
    }

    fn write_at(&self, bytes: &[u8], _: u64) -> io::Result<()> {
        lock(&self.0).write_all(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        lock(&self.0).flush()
    }
}

/// What is behind `mutex`. A panic of its holder ends all that this is used for.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
