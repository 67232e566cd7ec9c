//! Where memory is restored to.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use vmcore::{Memory, PhysRange};

use crate::{Guard, RestoreError};

/// Something that memory can be restored to.
pub trait Target {
    /// Whether this is the memory of the machine, so that it can be jumped to when it is restored.
    fn is_memory(&self) -> bool;

    /// Checks that `range` may be written, and can be.
    ///
    /// # Errors
    ///
    /// [`RestoreError`] that says what is in the way.
    fn check(&self, range: PhysRange) -> Result<(), RestoreError>;

    /// Writes what `memory` has in `range` to `range`.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; `range` may then be written in part.
    fn write(&mut self, range: PhysRange, memory: &dyn Memory) -> Result<(), RestoreError>;

    /// Makes all bytes of `range` the same.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    fn fill(&mut self, range: PhysRange, byte: u8) -> Result<(), RestoreError>;

    /// Reads what is in `range` now.
    ///
    /// # Errors
    ///
    /// [`RestoreError`] if it cannot be read.
    fn read(&mut self, range: PhysRange) -> Result<Vec<u8>, RestoreError>;
}

/// A file whose offsets are physical addresses, written by `pwrite(2)`: `/dev/oldmem`, or a plain file
/// that becomes a picture of memory.
#[derive(Debug)]
pub struct FileTarget {
    file: File,
    /// `/dev/oldmem` has one: memory is behind it.
    guard: Option<Guard>,
}

impl FileTarget {
    /// Where the device is that reads and writes memory of a kernel that was there before. The 2007
    /// patches made it writable, and a module can bring it back.
    pub const OLDMEM: &str = "/dev/oldmem";

    /// Opens the device `/dev/oldmem` at `path`.
    ///
    /// # Errors
    ///
    /// If it is not there or cannot be opened.
    pub fn oldmem(path: &Path, guard: Guard) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self {
            file,
            guard: Some(guard),
        })
    }

    /// Restores to a plain file, which must be open for reading and writing: the byte at offset N
    /// becomes the byte at address N. Where the core has no memory the file has holes.
    #[must_use]
    pub fn plain(file: File) -> Self {
        Self { file, guard: None }
    }
}

impl Target for FileTarget {
    fn is_memory(&self) -> bool {
        self.guard.is_some()
    }

    fn check(&self, range: PhysRange) -> Result<(), RestoreError> {
        match &self.guard {
            Some(guard) => guard.check(range),
            None => Ok(()),
        }
    }

    fn write(&mut self, range: PhysRange, memory: &dyn Memory) -> Result<(), RestoreError> {
        let mut at = range.start().get();
        let mut written = Ok(());
        let read = memory.for_each_piece(range, &mut |piece| {
            written = self.file.write_all_at(piece, at);
            at += piece.len() as u64;
            match written {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        read.map_err(|source| RestoreError::Memory { range, source })?;
        written.map_err(|source| RestoreError::Target { range, source })
    }

    fn fill(&mut self, range: PhysRange, byte: u8) -> Result<(), RestoreError> {
        const PIECE: u64 = 64 << 10;
        let bytes = [byte; PIECE as usize];
        for piece in range.pieces(PIECE) {
            self.file
                .write_all_at(&bytes[..piece.len() as usize], piece.start().get())
                .map_err(|source| RestoreError::Target { range, source })?;
        }
        Ok(())
    }

    fn read(&mut self, range: PhysRange) -> Result<Vec<u8>, RestoreError> {
        let mut bytes = vec![0; range.len() as usize];
        self.file
            .read_exact_at(&mut bytes, range.start().get())
            .map_err(|source| RestoreError::Target { range, source })?;
        Ok(bytes)
    }
}
