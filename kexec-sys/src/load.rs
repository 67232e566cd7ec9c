//! Handing an image to the kernel, and taking it back.
#![allow(
    unsafe_code,
    reason = "libc has no wrappers for kexec_load and kexec_file_load"
)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{c_long, c_ulong};

use crate::segment::check_list;
use crate::{Arch, Call, Error, FileLoadFlags, LoadFlags, Segment};

/// Loads an image of the running kernel's own architecture: `kexec_load(2)`.
///
/// The kernel copies all segments, so their buffers may go when this returns. The image replaces what
/// was loaded before. It does nothing until [`kexec`](crate::kexec), or until a crash with
/// [`LoadFlags::ON_CRASH`]; the kernel then moves it to the memory of its segments and starts it at the
/// physical address `entry`. With [`LoadFlags::PRESERVE_CONTEXT`] the old contents of that memory are
/// swapped out instead of overwritten, and the image may jump back.
///
/// `entry` need not lie in a segment: an image may jump into memory that is there already.
///
/// Sources: `kexec_load(2)`, `kernel/kexec.c`.
///
/// # Errors
///
/// * [`Error::NoSegments`], [`Error::TooManySegments`] or [`Error::SegmentsOverlap`] if the list is bad;
///   the kernel was not asked then.
/// * [`Error::EntryTooHigh`] if `entry` does not fit into an address of this machine.
/// * [`Error::Syscall`] if the kernel refuses. A failed [`LoadFlags::ON_CRASH`] may have unloaded
///   the old image, as both would lie in the same memory; other failures leave it loaded.
pub fn load(entry: u64, segments: &[Segment<'_>], flags: LoadFlags) -> Result<(), Error> {
    load_for(Arch::Default, entry, segments, flags)
}

/// Loads an image as [`load`] does, provided that the running kernel is one for `arch`.
///
/// # Errors
///
/// As [`load`], and [`Cause::WrongArch`](crate::Cause::WrongArch) for an architecture that the kernel
/// does not run.
pub fn load_for(
    arch: Arch,
    entry: u64,
    segments: &[Segment<'_>],
    flags: LoadFlags,
) -> Result<(), Error> {
    check_list(segments)?;
    let entry = usize::try_from(entry).map_err(|_| Error::EntryTooHigh { entry })?;
    // Segments do not overlap, so their sum fits.
    let bytes = segments.iter().map(Segment::memsz).sum();
    kexec_load(arch, entry, segments, flags, bytes)
}

/// Unloads the image for [`kexec`](crate::kexec), or with [`LoadFlags::ON_CRASH`] the one for crashes.
/// Unloading nothing is a success.
///
/// # Errors
///
/// [`Error::Syscall`] if the kernel refuses; it asks for the same rights as for loading.
pub fn unload(flags: LoadFlags) -> Result<(), Error> {
    kexec_load(Arch::Default, 0, &[], flags, 0)
}

fn kexec_load(
    arch: Arch,
    entry: usize,
    segments: &[Segment<'_>],
    flags: LoadFlags,
    bytes: u64,
) -> Result<(), Error> {
    // SAFETY: `Segment` has the layout of `struct kexec_segment`, and `segments` has as many as it
    // says. The kernel only reads, and only during the call: the segments themselves and, of each, the
    // buffer, which is borrowed for as long as the segment lives.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_load,
            entry,
            segments.len(),
            segments.as_ptr(),
            c_ulong::from(flags.bits() | arch.flag_bits()),
        )
    };
    check(result, Call::Load { arch, flags, bytes })
}

/// Loads a kernel, and an initramfs if there is one, from open files: `kexec_file_load(2)`.
///
/// The kernel parses the files by itself and can insist on a signature. It knows nothing of
/// [`LoadFlags::PRESERVE_CONTEXT`]: images that are to come back need [`load`].
/// [`FileLoadFlags::NO_INITRAMFS`] is set if `initrd` is `None` and cleared otherwise.
///
/// Sources: `kexec_file_load(2)`, `kernel/kexec_file.c`.
///
/// # Errors
///
/// * [`Error::UnloadFlag`] if `flags` has [`FileLoadFlags::UNLOAD`].
/// * [`Error::Syscall`] if the kernel refuses. A failed [`FileLoadFlags::ON_CRASH`] may have unloaded
///   the old image.
pub fn file_load(
    kernel: BorrowedFd<'_>,
    initrd: Option<BorrowedFd<'_>>,
    cmdline: &CStr,
    mut flags: FileLoadFlags,
) -> Result<(), Error> {
    if flags.contains(FileLoadFlags::UNLOAD) {
        return Err(Error::UnloadFlag);
    }
    flags.set(FileLoadFlags::NO_INITRAMFS, initrd.is_none());
    let cmdline = cmdline.to_bytes_with_nul();
    // SAFETY: the kernel only reads, and only during the call: two files that are open for as long as
    // they are borrowed, and `cmdline.len()` bytes of `cmdline`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            c_long::from(kernel.as_raw_fd()),
            c_long::from(initrd.map_or(-1, |fd| fd.as_raw_fd())),
            cmdline.len(),
            cmdline.as_ptr(),
            c_ulong::from(flags.bits()),
        )
    };
    check(result, Call::FileLoad { flags })
}

/// Unloads as [`unload`] does, by `kexec_file_load(2)`, for kernels that have only that call. What the
/// one call has loaded, the other unloads too.
///
/// # Errors
///
/// [`Error::Syscall`] if the kernel refuses; it asks for the same rights as for loading.
pub fn file_unload(flags: FileLoadFlags) -> Result<(), Error> {
    let flags = flags | FileLoadFlags::UNLOAD;
    // SAFETY: with this flag the kernel looks at no other argument.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            c_long::from(-1),
            c_long::from(-1),
            0usize,
            ptr::null::<u8>(),
            c_ulong::from(flags.bits()),
        )
    };
    check(result, Call::FileLoad { flags })
}

/// What `result`, which the call has just returned, means.
fn check(result: c_long, call: Call) -> Result<(), Error> {
    if result == 0 {
        Ok(())
    } else {
        Err(Error::last_os_error(call))
    }
}
