//! Block devices past the page cache.
//!
//! The kernels that save and restore have little memory. Through the page cache they write in small
//! steps and wait after each, since little of their memory may be dirty; and they read every page into
//! memory that they must find first. Memory that was mapped from `/proc/vmcore` or `/dev/mem` cannot be
//! the buffer of direct I/O, so the bytes go through a buffer of a thread: that is the one copy there
//! is, instead of the one from or to the page cache.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use vmcore::image::Sink;
use vmcore::{BLOCK, BlockBuffer, ReadAt};

/// Opens the device or file at `path` for direct I/O, or for cached I/O if it does not take that; tells
/// which.
fn open(path: &Path, options: &OpenOptions) -> io::Result<(File, bool)> {
    let direct = options
        .clone()
        .custom_flags(OFlag::O_DIRECT.bits())
        .open(path);
    match direct {
        Ok(file) => Ok((file, true)),
        Err(_) => Ok((options.open(path)?, false)),
    }
}

/// Whether direct I/O takes `bytes` at `offset`.
fn is_aligned(bytes: &[u8], offset: u64) -> bool {
    bytes.as_ptr().align_offset(BLOCK) == 0
        && bytes.len().is_multiple_of(BLOCK)
        && offset.is_multiple_of(BLOCK as u64)
}

/// A device, or a file, that is written anywhere, by several threads at once.
#[derive(Debug)]
pub struct DeviceSink {
    file: File,
    is_direct: bool,
}

impl DeviceSink {
    /// Opens the device or file at `path`.
    ///
    /// # Errors
    ///
    /// What `open(2)` says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (file, is_direct) = open(path, OpenOptions::new().write(true))?;
        Ok(Self { file, is_direct })
    }

    /// `result`, where an error tells if it is because the device was taken away. Then its driver says so, or makes
    /// it one of no size (`blk_mark_disk_dead` in `block/genhd.c`), on which there is no space left.
    fn told(&self, result: io::Result<()>) -> io::Result<()> {
        let is_device = || {
            let metadata = self.file.metadata();
            metadata.is_ok_and(|metadata| metadata.file_type().is_block_device())
        };
        let has_no_size = || {
            (&self.file)
                .seek(SeekFrom::End(0))
                .is_ok_and(|size| size == 0)
        };
        result.map_err(|error| {
            let errno = error.raw_os_error().map(Errno::from_raw);
            let says_so = matches!(errno, Some(Errno::ENODEV | Errno::ENXIO));
            if is_device() && (says_so || has_no_size()) {
                return io::Error::new(error.kind(), format!("the device is gone ({error})"));
            }
            error
        })
    }
}

impl Sink for DeviceSink {
    fn can_seek(&self) -> bool {
        true
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if !self.is_direct || is_aligned(bytes, offset) {
            return self.told(self.file.write_all_at(bytes, offset));
        }
        let mut buffer = BlockBuffer::new(bytes.len());
        buffer.get_mut().copy_from_slice(bytes);
        self.told(self.file.write_all_at(buffer.get(), offset))
    }

    fn sync(&self) -> io::Result<()> {
        self.told(self.file.sync_data())
    }
}

/// A device, or a file, that is read at any offset.
#[derive(Debug)]
pub struct DeviceReader {
    file: File,
    is_direct: bool,
    size: u64,
    /// For what direct I/O does not take.
    buffer: Mutex<BlockBuffer>,
}

impl DeviceReader {
    /// Bytes of the buffer.
    const BUFFER: usize = 256 << 10;

    /// Opens the device or file at `path`.
    ///
    /// # Errors
    ///
    /// What `open(2)` says, or that it cannot seek, as a pipe.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (mut file, is_direct) = open(path, OpenOptions::new().read(true))?;
        Ok(Self {
            size: file.seek(SeekFrom::End(0))?,
            file,
            is_direct,
            buffer: Mutex::new(BlockBuffer::new(Self::BUFFER)),
        })
    }
}

impl ReadAt for DeviceReader {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_direct(&self) -> bool {
        self.is_direct
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if !self.is_direct || is_aligned(buf, offset) {
            return self.file.read_exact_at(buf, offset);
        }
        // A panic in another thread may have left other bytes in the buffer, which does not matter.
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let skip = at % BLOCK as u64;
            let wanted = (skip as usize).saturating_add(rest.len());
            let len = wanted.min(Self::BUFFER).next_multiple_of(BLOCK);
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
    fn what_is_written_arrives_where_it_belongs() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let device = DeviceSink::open(file.path()).unwrap();
        let bytes = bytes((9 << 20) + 8192);
        let (first, rest) = bytes.split_at(8192);
        // At odd addresses, most of them, and backwards.
        let pieces = rest.chunks(3 << 20).zip((8192..).step_by(3 << 20));
        for (piece, at) in pieces.collect::<Vec<_>>().into_iter().rev() {
            device.write_at(piece, at).unwrap();
        }
        device.write_at(first, 0).unwrap();
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
            (4096, 3 << 20),
            (5 << 20, bytes.len()),
            (7, 7),
        ] {
            let mut read = vec![0; end - start];
            device.read_exact_at(&mut read, start as u64).unwrap();
            assert!(read == bytes[start..end]);
        }
        let mut aligned = BlockBuffer::new(1 << 20);
        device.read_exact_at(aligned.get_mut(), 4096).unwrap();
        assert!(aligned.get() == &bytes[4096..][..1 << 20]);
        let mut beyond = [0; 10];
        assert!(
            device
                .read_exact_at(&mut beyond, bytes.len() as u64 - 9)
                .is_err()
        );
        assert!(device.read_exact_at(&mut beyond, u64::MAX - 3).is_err());
    }
}
