//! ELF64 cores: headers, segments of memory, notes.
//!
//! A core is what `/proc/vmcore` holds: an ELF64 file of type `ET_CORE` whose `PT_LOAD` segments say
//! which physical memory lies where in the file, and whose `PT_NOTE` segments hold notes. [`Core`]
//! reads one from any source, [`CoreWriter`] writes one, and [`CoreHeaders`] the headers alone.

mod core;
mod headers;
mod kcore;
mod note;
mod writer;

pub use self::core::Core;
pub use headers::CoreHeaders;
pub use kcore::direct_map_base;
pub use note::{Note, Notes, encode_note};
pub use writer::{CoreWriteError, CoreWriter};

use crate::{Overlap, PhysRange};

/// A piece of physical memory in a core: what one `PT_LOAD` program header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The physical memory.
    pub memory: PhysRange,
    /// Where its first byte lies in the file.
    pub offset: u64,
    /// How many bytes of it the file holds; those after are zero.
    pub file_size: u64,
    /// The kernel's virtual address of its first byte; 0 where that is not known.
    pub virt: u64,
}

/// Why something is no core that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoreError {
    /// The source could not be read.
    #[error("cannot read the core at offset {offset:#x}")]
    Read {
        /// Where it was read.
        offset: u64,
        /// What the reading met.
        #[source]
        source: std::io::Error,
    },
    /// The source ends before its headers do.
    #[error("the core is truncated: {what} ends at {end:#x}, the file at {size:#x}")]
    Truncated {
        /// What does not fit.
        what: &'static str,
        /// The offset where it would end.
        end: u64,
        /// Size of the source in bytes.
        size: u64,
    },
    /// The first bytes are not those of an ELF file.
    #[error("not an ELF file (it begins with {magic:02x?})")]
    NotElf {
        /// The first four bytes.
        magic: [u8; 4],
    },
    /// An ELF file for 32-bit machines.
    #[error("an ELF32 file; cores of 64-bit machines are ELF64 (kexec --elf64-core-headers)")]
    Elf32,
    /// An ELF file of big-endian machines.
    #[error("an ELF file of a big-endian machine, which this tool does not read")]
    BigEndian,
    /// An ELF file, but no core.
    #[error("an ELF file of type {kind}, not a core (type 4)")]
    NotCore {
        /// `e_type`.
        kind: u16,
    },
    /// A header says something that cannot be.
    #[error("{what} is {value:#x}, which cannot be right")]
    Malformed {
        /// What the header speaks of.
        what: &'static str,
        /// What it says.
        value: u64,
    },
    /// Two segments claim the same memory.
    #[error("two segments of the core claim the same memory")]
    Overlap(#[from] Overlap),
}

/// Size of the ELF64 file header, `Elf64_Ehdr`.
const FILE_HEADER: u64 = 64;
/// Size of an ELF64 program header, `Elf64_Phdr`.
const PROGRAM_HEADER: u64 = 56;
/// Size of an ELF64 section header, `Elf64_Shdr`.
const SECTION_HEADER: u64 = 64;
/// `e_phnum` when the number of program headers does not fit: it is in `sh_info` of section 0.
const PN_XNUM: u16 = 0xffff;
