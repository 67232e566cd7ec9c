//! Hibernation by kexec for stock Linux: put a machine's whole memory aside, and bring it back.
//!
//! Four kernels play their parts, and each has a type here:
//!
//! | kernel | what it does | here |
//! | --- | --- | --- |
//! | A | runs; loads B beside itself and jumps | [`Hibernation`] |
//! | B | sees A's memory as a core, saves it, powers off or jumps back | [`Sleeper`] |
//! | C | is booted later; loads D where B was, and leaves for it | [`Resumption`] |
//! | D | writes A's memory back and jumps into A | [`Restoration`] |
//!
//! A kernel B that was loaded for panics sees a machine that will not go on: [`Crashed`].
//!
//! A goes on where its jump was, with a return value. All four can be the same kernel file.
//!
//! ```no_run
//! use kjump::{Hibernation, ImageTarget, Kernel, window};
//!
//! let machine = kjump::machine::read()?;
//! let kernel = std::fs::read("/boot/vmlinuz")?;
//! let initramfs = std::fs::read("/boot/kjump.cpio.gz")?;
//!
//! let target = ImageTarget::claim("/dev/nvme0n1p3".as_ref())?;
//! let hibernation = Hibernation {
//!     machine: &machine,
//!     kernel: &Kernel::parse(&kernel)?,
//!     initramfs: &initramfs,
//!     append: "kjump.role=save kjump.image=/dev/nvme0n1p3",
//!     window: window::Request::default(),
//!     secret: None, // Or a key, with which the image is encrypted.
//! };
//! let prepared = hibernation.prepare()?;
//! prepared.load()?;
//! target.prepare(&prepared.identity)?;
//! kjump::jump()?; // The machine is off. Some time later it goes on, here.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The layers below are re-exported whole: [`sys`] for the system calls, [`image`] for plans,
//! [`memory`] for cores and images, [`restore`] for targets.
//!
//! # Invariants
//!
//! * Nothing is jumped to that was not checked as a whole before.
//! * A function that does not come back says so in its type.
//! * No `unsafe` here but the promise that a mapping of `/proc/vmcore` is sound, the instruction that
//!   reads the time-stamp counter, and those that overwrite vector registers.

/// The example in the README, so that it is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

mod arrays;
mod block_device;
mod calibration;
mod clock;
mod crashed;
mod device;
mod device_mapper;
pub mod doctor;
mod error;
pub mod filesystem;
mod handover;
mod hibernation;
pub mod in_place;
mod jump;
pub mod machine;
pub mod modules;
mod moment;
mod presence;
mod proc_vmcore;
pub mod protocol;
mod restoration;
mod resumption;
mod same_memory;
mod sleeper;
mod spare;
mod target;
mod threads;
mod traces;
pub mod volumes;
mod way_back;

pub use block_device::BlockDevice;
pub use calibration::Calibration;
pub use clock::{Departure, Measure, NoDeparture};
pub use crashed::Crashed;
pub use device::{DeviceReader, DeviceSink};
pub use error::{Error, chain};
pub use handover::take_seal;
pub use hibernation::{Hibernation, Prepared, random_id};
pub use jump::{jump, jump_back};
pub use moment::Moment;
pub use protocol::Protocol;
pub use restoration::{Restoration, Restored, Verify, memory_device, open_memory};
pub use resumption::{Check, Resumption};
pub use sleeper::Sleeper;
pub use target::{ImageTarget, Outcome, find_image};
pub use threads::threads_for;
pub use traces::overwrite as overwrite_traces;
pub use way_back::{WayBack, jump_back_unseen};

#[doc(no_inline)]
pub use kexec_image::{CommandLine, Kernel, LoadPlan, Machine, initramfs, window};
#[doc(no_inline)]
pub use vmcore::{PhysAddr, PhysRange, Progress};
#[doc(inline)]
pub use {kexec_image as image, kexec_sys as sys, krestore_core as restore, vmcore as memory};
