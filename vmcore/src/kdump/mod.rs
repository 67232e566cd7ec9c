//! Dumps as makedumpfile writes them: the kdump-compressed format, and the flattened one.
//!
//! A kdump-compressed file holds pages of memory, each compressed by itself, and leaves out those that
//! nobody needs. [`Dump`] reads one from any [`ReadAt`] source. Where a dump is written to a pipe,
//! makedumpfile wraps it up as records that say where in the file each piece belongs; [`Flattened`]
//! undoes that, and is a source again, on which a [`Dump`] or an [`elf::Core`](crate::elf::Core) is
//! opened.
//!
//! Layouts are those of `diskdump_mod.h`, `makedumpfile.h` and `IMPLEMENTATION` of makedumpfile 1.7.
//! A kdump-compressed file has these parts, of which all but the last two begin at a multiple of the
//! block size:
//!
//! | part | where |
//! | --- | --- |
//! | main header, `struct disk_dump_header` | block 0 |
//! | sub header, `struct kdump_sub_header`, and notes | block 1 |
//! | first bitmap: which pages are memory | block 1 + blocks of the sub header |
//! | second bitmap: which pages the dump holds | half of the bitmap blocks further |
//! | descriptors, `struct page_desc`, one for each bit that is set in the second bitmap | behind the bitmaps |
//! | data of the pages | where descriptors say |

mod bitmap;
mod dump;
mod flattened;
mod header;
mod page;
mod window;

pub use dump::Dump;
pub use flattened::{Flattened, is_flattened};
pub use header::{Codec, Header, SIGNATURE};

use crate::ReadAt;

/// Why something is no dump that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// The source could not be read.
    #[error("cannot read the dump at offset {offset:#x}")]
    Read {
        /// Where it was read.
        offset: u64,
        /// What the reading met.
        #[source]
        source: std::io::Error,
    },
    /// The source ends before what it should hold.
    #[error("the dump is truncated: {what} ends at {end:#x}, the file at {size:#x}")]
    Truncated {
        /// What does not fit.
        what: &'static str,
        /// The offset where it would end.
        end: u64,
        /// Size of the source in bytes.
        size: u64,
    },
    /// The first bytes are not those of a kdump-compressed file.
    #[error(
        "not a kdump-compressed file (it begins with {:?})",
        String::from_utf8_lossy(magic)
    )]
    NotKdump {
        /// The first eight bytes.
        magic: [u8; 8],
    },
    /// The first bytes are not those of a flattened file.
    #[error("not a file in makedumpfile's flattened format")]
    NotFlattened,
    /// A flattened file was taken for the file that it holds.
    #[error(
        "a file in makedumpfile's flattened format, which has to be put in order first (makedumpfile -R)"
    )]
    Flattened,
    /// A dump of a kind of machine that cannot be read.
    #[error("a dump of a machine of kind {machine:?}; only dumps of x86_64 can be read")]
    OtherMachine {
        /// The kind of machine, as `uname -m` prints it.
        machine: String,
    },
    /// A version of the format that cannot be read.
    #[error(
        "version {version} of the {format} format, which this tool does not read (1 to {newest})"
    )]
    Version {
        /// Which format.
        format: &'static str,
        /// The version that the header names.
        version: i64,
        /// The newest version that can be read.
        newest: i64,
    },
    /// Pages of a size that x86_64 does not have.
    #[error("a dump with blocks of {size} bytes; only blocks of 4096 bytes can be read")]
    BlockSize {
        /// The size that the header names.
        size: i32,
    },
    /// One of several files that a dump was split into.
    #[error(
        "one part of a dump that was split, with page frames {start:#x} to {end:#x}; join the parts first (makedumpfile --reassemble)"
    )]
    Split {
        /// The first page frame of this part.
        start: u64,
        /// The page frame behind the last of this part.
        end: u64,
    },
    /// A header says something that cannot be.
    #[error("{what} is {value:#x}, which cannot be right")]
    Malformed {
        /// What the header speaks of.
        what: &'static str,
        /// What it says.
        value: u64,
    },
}

/// The most bytes of notes, and of VMCOREINFO, that are read. A machine of 8,192 CPUs has 3 MiB.
const MAX_NOTES: u64 = 64 << 20;

/// Checks that `len` bytes at `offset` end within `size`.
fn check_end(what: &'static str, offset: u64, len: u64, size: u64) -> Result<(), DumpError> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        end => Err(DumpError::Truncated {
            what,
            end: end.unwrap_or(u64::MAX),
            size,
        }),
    }
}

/// Reads `len` bytes at `offset`, [`MAX_NOTES`] at most, after a look whether the source has them.
fn read(
    source: &impl ReadAt,
    what: &'static str,
    offset: u64,
    len: u64,
) -> Result<Vec<u8>, DumpError> {
    check_end(what, offset, len, source.size())?;
    let size = usize::try_from(len.min(MAX_NOTES + 1)).unwrap_or(usize::MAX);
    if len > MAX_NOTES {
        return Err(DumpError::Malformed { what, value: len });
    }
    let mut bytes = vec![0; size];
    source
        .read_exact_at(&mut bytes, offset)
        .map_err(|source| DumpError::Read { offset, source })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
