//! Saved memory, back to where it was.
//!
//! [`restore`] writes [`Memory`](vmcore::Memory) to a [`Target`]: the memory of a sleeping machine through
//! [`DevMem`] or [`FileTarget::oldmem`], or a plain file with [`FileTarget::plain`]. No byte is copied
//! twice: what lies in a file is read straight into the mapped memory, or written straight from a
//! mapping of the file.
//!
//! # Invariants
//!
//! * Targets that are memory cannot be made without a [`Guard`], and [`restore`] asks it about *every*
//!   range before it writes the first byte. The guard refuses what the running kernel owns, and
//!   whatever is no ordinary memory.
//! * Nothing is written outside the memory that the caller says the sleeping machine had.
//! * The only `unsafe` is in the mapping of [`DevMem`].
//!
//! Jumping back is for others: this crate knows nothing of kexec.

mod error;
mod guard;
mod mem;
mod restore;
mod target;

pub use error::RestoreError;
pub use guard::Guard;
pub use mem::DevMem;
pub use restore::{Plan, Summary, check, restore};
pub use target::{FileTarget, Target};
