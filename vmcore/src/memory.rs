//! Saved memory, by physical address: one trait for cores, dumps, images, and views of them.

use std::io;
use std::ops::ControlFlow;

use crate::{PhysAddr, PhysRange, RangeMap};

/// What is known of a page of saved memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageClass {
    /// It holds something.
    Data,
    /// All its bytes are zero.
    Zero,
    /// Its kernel had it on a list of free pages: what it holds means nothing to anyone.
    Free,
}

/// Physical memory of a machine that was saved.
///
/// Whatever file it comes from, this is how it is read, searched and restored.
pub trait Memory {
    /// Which memory there is. Ranges of [`PageClass::Data`] and [`PageClass::Zero`] can be read; those of
    /// [`PageClass::Free`] were left out because they were free, and other memory is not there at all.
    ///
    /// That a range is [`PageClass::Data`] only says that nobody looked closer.
    fn contents(&self) -> &RangeMap<PageClass>;

    /// Fills `buf` with the memory from `addr` on, across ranges.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Absent`] with the first address that is not there, or [`MemoryError::Read`].
    fn read(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), MemoryError>;

    /// Whether [`for_each_piece`](Self::for_each_piece) hands out bytes without a copy. If not, those who
    /// want the bytes somewhere had better [`read`](Self::read) them to there.
    fn is_mapped(&self) -> bool {
        false
    }

    /// Hands the bytes of `range` to `each`, in order and in pieces of a few MiB at most, until it
    /// breaks. Memory that is mapped is handed out without a copy.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    fn for_each_piece(
        &self,
        range: PhysRange,
        each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), MemoryError> {
        let mut buf = Vec::new();
        for piece in range.pieces(1 << 20) {
            buf.resize(usize::try_from(piece.len()).unwrap_or(usize::MAX), 0);
            self.read(piece.start(), &mut buf)?;
            if each(&buf).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl<M: Memory + ?Sized> Memory for &M {
    fn contents(&self) -> &RangeMap<PageClass> {
        (**self).contents()
    }

    fn read(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), MemoryError> {
        (**self).read(addr, buf)
    }

    fn is_mapped(&self) -> bool {
        (**self).is_mapped()
    }

    fn for_each_piece(
        &self,
        range: PhysRange,
        each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), MemoryError> {
        (**self).for_each_piece(range, each)
    }
}

impl<M: Memory + ?Sized> Memory for Box<M> {
    fn contents(&self) -> &RangeMap<PageClass> {
        (**self).contents()
    }

    fn read(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), MemoryError> {
        (**self).read(addr, buf)
    }

    fn is_mapped(&self) -> bool {
        (**self).is_mapped()
    }

    fn for_each_piece(
        &self,
        range: PhysRange,
        each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), MemoryError> {
        (**self).for_each_piece(range, each)
    }
}

/// Why saved memory cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// Memory that was not saved was asked for.
    #[error("the memory at {addr} was not saved")]
    Absent {
        /// The first address that is missing.
        addr: PhysAddr,
    },
    /// The memory was saved but cannot be read.
    #[error("cannot read the saved memory at {addr}")]
    Read {
        /// The first address that was to be read.
        addr: PhysAddr,
        /// What the reading met.
        #[source]
        source: io::Error,
    },
}
