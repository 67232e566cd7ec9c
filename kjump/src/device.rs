//! Block devices past the page cache.
//!
//! The kernels that save and restore have little memory. Through the page cache they write in small
//! steps and wait after each, since little of their memory may be dirty; and they read every page into
//! memory that they must find first. Memory that was mapped from `/proc/vmcore` or `/dev/mem` cannot be
//! the buffer of direct I/O, so the bytes go through a buffer of a few MiB: that is the one copy there
//! is, instead of the one from or to the page cache.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::fcntl::OFlag;
use vmcore::image::Sink;
use vmcore::{PAGE_SIZE, ReadAt};

/// What direct I/O wants addresses, offsets and lengths to be multiples of; block devices take this or
/// less (open(2), "`O_DIRECT`").
const ALIGN: usize = PAGE_SIZE as usize;

/// Opens the device or file at `path` for direct I/O, or for cached I/O if it does not take that.
fn open(path: &Path, options: &OpenOptions) -> io::Result<File> {
    let direct = options
        .clone()
        .custom_flags(OFlag::O_DIRECT.bits())
        .open(path);
    direct.or_else(|_| options.open(path))
}

/// A buffer at an address that direct I/O takes.
#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    const SIZE: usize = 4 << 20;

    fn new() -> Self {
        let bytes = vec![0; Self::SIZE + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN);
        Self { bytes, start }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.start..][..Self::SIZE]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..Self::SIZE]
    }
}

/// A device that is written from beginning to end.
#[derive(Debug)]
pub(crate) struct DeviceWriter {
    file: File,
    buffer: Buffer,
    filled: usize,
}

impl DeviceWriter {
    /// Opens the device at `path`.
    ///
    /// # Errors
    ///
    /// What `open(2)` says.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: open(path, OpenOptions::new().write(true))?,
            buffer: Buffer::new(),
            filled: 0,
        })
    }

    /// Writes what was gathered.
    fn write_out(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer.get()[..self.filled])?;
        self.filled = 0;
        Ok(())
    }
}

impl Write for DeviceWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.filled == Buffer::SIZE {
            self.write_out()?;
        }
        let len = buf.len().min(Buffer::SIZE - self.filled);
        self.buffer.get_mut()[self.filled..][..len].copy_from_slice(&buf[..len]);
        self.filled += len;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out()
    }
}

impl Sink for DeviceWriter {
    /// The parts of an image that are synced end at multiples of 4096 bytes, as direct I/O needs it.
    fn sync(&mut self) -> io::Result<()> {
        self.write_out()?;
        self.file.sync_data()
    }
}

/// A device, or a file, that is read at any offset.
#[derive(Debug)]
pub struct DeviceReader {
    file: File,
    size: u64,
    buffer: Mutex<Buffer>,
}

impl DeviceReader {
    /// Opens the device or file at `path`.
    ///
    /// # Errors
    ///
    /// What `open(2)` says, or that it cannot seek, as a pipe.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = open(path, OpenOptions::new().read(true))?;
        Ok(Self {
            size: file.seek(SeekFrom::End(0))?,
            file,
            buffer: Mutex::new(Buffer::new()),
        })
    }
}

impl ReadAt for DeviceReader {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        // A panic in another thread may have left other bytes in the buffer, which does not matter.
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let skip = at % ALIGN as u64;
            let wanted = (skip as usize).saturating_add(rest.len());
            let len = wanted.min(Buffer::SIZE).next_multiple_of(ALIGN);
            let read = self.file.read_at(&mut buffer.get_mut()[..len], at - skip)?;
            // The end of a file may be anywhere.
            let got = read.saturating_sub(skip as usize).min(rest.len());
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (now, later) = rest.split_at_mut(got);
            now.copy_from_slice(&buffer.get()[skip as usize..][..got]);
            at = at.saturating_add(got as u64);
            rest = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: u32) -> Vec<u8> {
        (0..len).map(|at| (at / 5) as u8).collect()
    }

    #[test]
    fn what_is_written_arrives_in_order() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut device = DeviceWriter::open(file.path()).unwrap();
        let bytes = bytes((9 << 20) + 8192);
        let (first, rest) = bytes.split_at(8192);
        device.write_all(first).unwrap();
        device.sync().unwrap();
        for piece in rest.chunks(1_000_003) {
            device.write_all(piece).unwrap();
        }
        device.sync().unwrap();
        assert!(std::fs::read(file.path()).unwrap() == bytes);
    }

    #[test]
    fn any_part_is_read() {
        let bytes = bytes((9 << 20) + 77);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let device = DeviceReader::open(file.path()).unwrap();
        assert_eq!(device.size(), bytes.len() as u64);
        for (start, end) in [
            (0, bytes.len()),
            (1, 2),
            (4095, 4097),
            (5 << 20, bytes.len()),
            (7, 7),
        ] {
            let mut read = vec![0; end - start];
            device.read_exact_at(&mut read, start as u64).unwrap();
            assert!(read == bytes[start..end]);
        }
        let mut beyond = [0; 10];
        assert!(
            device
                .read_exact_at(&mut beyond, bytes.len() as u64 - 9)
                .is_err()
        );
        assert!(device.read_exact_at(&mut beyond, u64::MAX - 3).is_err());
    }
}
