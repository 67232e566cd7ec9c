//! Saved memory, back to where it was.
//!
//! [`restore_image`] writes an image to a [`Target`], and [`restore`] any other [`Memory`](vmcore::Memory): to the
//! memory of a sleeping machine through [`DevMem`] or [`FileTarget::oldmem`], or to a plain file with
//! [`FileTarget::plain`]. All CPUs work, each on memory of its own, and what they need does not grow with
//! the machine. Data is decompressed, or read, right to where it belongs.
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
mod image;
mod mem;
mod restore;
mod share;
mod target;

pub use error::RestoreError;
pub use guard::Guard;
pub use image::{check_image, restore_image, restore_stream, verify_image, verify_stream};
pub use mem::DevMem;
pub use restore::{Plan, Summary, check, restore};
pub use target::{FileTarget, Filler, Target};
