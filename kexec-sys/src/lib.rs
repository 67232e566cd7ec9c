//! The kexec system calls of Linux, the reboot commands that go with them, and the files in which the
//! kernel shows their state.
//!
//! * [`load`] and [`file_load`] hand an image to the kernel, [`unload`] and [`file_unload`] take it
//!   back; [`Segment`] is one piece of an image, with the memory that it is for.
//! * [`kexec`] jumps into what was loaded, [`reboot`] gives any [`RebootCommand`].
//! * [`KernelState`] reads what `/sys/kernel` says: is something loaded, where is VMCOREINFO.
//! * [`Error`] says what went wrong and what to do about it. The kernel answers most refusals with a
//!   bare `EPERM` or `EINVAL`; [`Cause::diagnose`] tells a missing capability from lockdown, a sysctl,
//!   a container or a kernel that was built without the feature, by [`Evidence`] from `/proc` and
//!   `/sys`.
//!
//! ```no_run
//! use kexec_sys::{LoadFlags, Segment};
//!
//! // Machine code that starts at its first byte and knows how to get back.
//! let code: &[u8] = &[0xc3];
//! let segment = Segment::new(code, 0x100_0000, 0x1000)?;
//! kexec_sys::load(0x100_0000, &[segment], LoadFlags::PRESERVE_CONTEXT)?;
//!
//! // File systems are not synced by the kernel.
//! kexec_sys::kexec()?;
//! println!("back again");
//! # Ok::<(), kexec_sys::Error>(())
//! ```
//!
//! # What is left to others
//!
//! The crate has no policy. It does not know what an image is made of, or which memory is free for it;
//! it does not sync file systems, stop processes or take network interfaces down; it does not retry. It
//! is for 64-bit x86 first, and has nothing that would not work elsewhere, but for [`PAGE_SIZE`].
//!
//! # Invariants
//!
//! * Addresses and sizes are `u64`, in bytes, and physical. All of them are checked when a [`Segment`]
//!   is made, and lists of segments when they are loaded, so that the kernel's `EINVAL` is left with few
//!   meanings.
//! * A [`Segment`] borrows its buffer: the kernel cannot be handed memory that was freed.
//! * No function takes the machine down but [`reboot`] and [`kexec`].
//! * Files of the kernel are read up to a bound and never trusted to be well-formed.
//!
//! # Why loading and jumping are safe functions
//!
//! An image that is wrong makes the machine crash, yet no function here is `unsafe`. `unsafe` marks
//! duties that keep *this process* free of undefined behaviour, and the process has none here:
//!
//! * Loading only reads buffers that the caller has borrowed, into memory of the kernel's. The image
//!   harms nobody before the jump.
//! * The jump ends the process as a power-off does, or, with [`LoadFlags::PRESERVE_CONTEXT`], lets the
//!   image run while the whole machine stands still. Such an image can change the memory of this
//!   process, just as it can change that of every other process and of the kernel. The standard library
//!   draws the line there too: what the operating system is asked to do to memory from outside, as by
//!   writing to `/proc/self/mem`, is not what soundness is about (`std::os::unix::io`, "`/proc/self/mem`
//!   and similar OS features").
//!
//! The kernel asks for `CAP_SYS_BOOT` instead. What a caller answers for is written at [`kexec`].

mod call;
mod cause;
mod device_mapper;
mod diagnosis;
mod error;
mod evidence;
mod flags;
mod keyring;
mod load;
mod pseudo_file;
mod reboot;
mod segment;
mod state;

pub use call::Call;
pub use cause::{Cause, ImageKind, KernelOption};
pub use device_mapper::DeviceMapperTable;
pub use error::Error;
pub use evidence::{Evidence, Lockdown};
pub use flags::{Arch, FileLoadFlags, LoadFlags};
pub use keyring::read_user_key;
pub use load::{file_load, file_unload, load, load_for, unload};
pub use reboot::{RebootCommand, kexec, reboot};
pub use segment::{MAX_SEGMENTS, PAGE_SIZE, Segment};
pub use state::{KernelState, VmcoreInfoNote};
