//! Memory of a Linux machine that was saved, or is being saved.
//!
//! * [`PhysAddr`], [`PhysRange`] and [`RangeMap`]: the model of memory that all of this project shares,
//!   and [`MemoryKind`], what firmware says a range is for.
//! * [`IoMem`]: the memory of the running machine in that model.
//! * [`Memory`]: memory that was saved, whatever file it lies in.
//! * [`elf`]: ELF64 cores as the kernel writes them to `/proc/vmcore`, read from any [`ReadAt`] source
//!   and written as headers; their notes and [`VmcoreInfo`].
//! * [`kdump`]: dumps as makedumpfile writes them, kdump-compressed and flattened.
//! * [`AddressSpace`], [`PageMap`] and [`Classifier`]: what a kernel whose memory was saved says of that
//!   memory; above all, which pages were free.
//! * [`Swap`] and [`View`]: what changed places when a machine jumped, and its memory with that undone.
//! * [`Saved`] and [`SavedFile`]: all of this for a machine, whatever file it was saved to.
//! * [`DumpLevel`]: what of a machine that crashed is of no interest.
//! * [`image`]: the hibernation image, memory in compressed and checked chunks.
//! * [`Progress`] and [`Phases`]: how far long work has come, and how long what came before it took.
//!
//! The crate knows nothing of kexec: how memory comes to be saved, or gets back to where it was, is for
//! others.
//!
//! # Invariants
//!
//! * Whatever is read is hostile: arithmetic on it is checked, what is allocated is bounded by the size
//!   of the source, nothing panics.
//! * A [`RangeMap`] is ordered and free of overlaps; so are the segments of an [`elf::Core`].
//! * The only `unsafe` is in the mapping of [`MappedFile`].

mod address;
mod block_buffer;
mod classify;
mod dump_level;
pub mod elf;
#[cfg(test)]
mod fake_machine;
mod file;
pub mod image;
mod iomem;
pub mod kdump;
mod mapped;
mod memory;
mod memory_kind;
mod pages;
mod phases;
mod progress;
mod range_map;
mod saved;
mod source;
mod survey;
mod swap;
mod translate;
mod vmcoreinfo;

pub use address::{PAGE_SIZE, PhysAddr, PhysRange};
pub use block_buffer::{BLOCK, BlockBuffer};
pub use classify::{Classifier, Counts, for_each_run};
pub use dump_level::{DumpLevel, DumpLevelError};
pub use file::{FileError, Format, SavedFile, Stored};
pub use iomem::{IoMem, IoMemEntry, IoMemError};
pub use mapped::MappedFile;
pub use memory::{Memory, MemoryError, PageClass};
pub use memory_kind::MemoryKind;
pub use pages::{PageMap, PageUse, PagesError};
pub use phases::Phases;
pub use progress::Progress;
pub use range_map::{Overlap, RangeMap};
pub use saved::{Classes, LeaveOut, Saved, WriteError, Written};
pub use source::{Part, ReadAt, ReadFile};
pub use swap::{Swap, SwapError, View};
pub use translate::{AddressSpace, Mapping, TranslateError};
pub use vmcoreinfo::{InfoError, VmcoreInfo};
