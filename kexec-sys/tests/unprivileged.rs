//! Makes the calls without the capability that they need, so that the kernel refuses them.
//!
//! Works as root and as anybody: each test gives the capability away first, in a thread of its own, as
//! capabilities belong to threads. No call is made before `/proc` has confirmed that it is gone.
#![allow(unsafe_code, reason = "libc has no wrapper for capset")]
#![allow(clippy::unwrap_used, reason = "panics are how tests fail")]

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::{io, thread};

use kexec_sys::{
    Cause, Error, Evidence, FileLoadFlags, KernelOption, LoadFlags, RebootCommand, Segment,
};

/// `CAP_SYS_BOOT` of `include/uapi/linux/capability.h`.
const CAP_SYS_BOOT: u32 = 22;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`: 32 capabilities.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives `CAP_SYS_BOOT` away, for this thread.
fn drop_sys_boot() {
    // _LINUX_CAPABILITY_VERSION_3, and this thread.
    let mut header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: this version of the call fills two `Data`.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    assert_eq!(result, 0, "capget: {}", io::Error::last_os_error());
    for set in [
        &mut data[0].effective,
        &mut data[0].permitted,
        &mut data[0].inheritable,
    ] {
        *set &= !(1 << CAP_SYS_BOOT);
    }
    // SAFETY: this version of the call reads two `Data`.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    assert_eq!(result, 0, "capset: {}", io::Error::last_os_error());
}

/// Panics unless this thread has no `CAP_SYS_BOOT` and cannot get it back. Reads `/proc` by itself, for
/// the machine's sake: a test that only `Evidence` guards would reboot it if that were broken.
fn assert_harmless() {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    for set in ["CapEff:", "CapPrm:", "CapInh:"] {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(set))
            .unwrap();
        let bits = u64::from_str_radix(line.trim(), 16).unwrap();
        assert_eq!(
            bits & (1 << CAP_SYS_BOOT),
            0,
            "CAP_SYS_BOOT is still in {set}"
        );
    }
}

/// Runs `test` in a thread without `CAP_SYS_BOOT`.
fn unprivileged(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            drop_sys_boot();
            assert_harmless();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Checks that a load was refused for the want of the capability, or, by a kernel that has no such call
/// at all, because of that.
fn assert_refused(result: Result<(), Error>, name: &str, option: KernelOption) {
    let error = result.unwrap_err();
    assert!(
        error.to_string().starts_with(&format!("{name} failed: ")),
        "{error}"
    );
    let Error::Syscall { cause, source, .. } = &error else {
        panic!("{error}");
    };
    match source.raw_os_error() {
        Some(libc::EPERM) => assert_eq!(*cause, Cause::NoCapability),
        Some(libc::ENOSYS) => assert_eq!(*cause, Cause::NotBuiltIn(option)),
        _ => panic!("{error}: {source}"),
    }
}

#[test]
fn the_thread_itself_is_observed() {
    unprivileged(|| {
        let evidence = Evidence::gather(Path::new("/"));
        assert_eq!(evidence.sys_boot, Some(false));
    });
}

#[test]
fn a_load_is_refused() {
    unprivileged(|| {
        let segment = Segment::new(b"\xc3", 0x100_0000, 0x1000).unwrap();
        for flags in [LoadFlags::empty(), LoadFlags::PRESERVE_CONTEXT] {
            let result = kexec_sys::load(0x100_0000, &[segment], flags);
            assert_refused(result, "kexec_load", KernelOption::Kexec);
        }
        let result = kexec_sys::unload(LoadFlags::empty());
        assert_refused(result, "kexec_load", KernelOption::Kexec);
    });
}

#[test]
fn a_file_load_is_refused() {
    unprivileged(|| {
        let kernel = File::open("/dev/null").unwrap();
        let cmdline = CString::new("quiet").unwrap();
        for initrd in [None, Some(kernel.as_fd())] {
            let flags = FileLoadFlags::empty();
            let result = kexec_sys::file_load(kernel.as_fd(), initrd, &cmdline, flags);
            assert_refused(result, "kexec_file_load", KernelOption::KexecFile);
        }
        let result = kexec_sys::file_unload(FileLoadFlags::empty());
        assert_refused(result, "kexec_file_load", KernelOption::KexecFile);
    });
}

#[test]
fn bad_arguments_do_not_reach_the_kernel() {
    unprivileged(|| {
        let flags = LoadFlags::empty();
        assert!(matches!(
            kexec_sys::load(0, &[], flags),
            Err(Error::NoSegments)
        ));
        let segment = Segment::new(&[], 0x1000, 0x1000).unwrap();
        assert!(matches!(
            kexec_sys::load(0, &[segment; 17], flags),
            Err(Error::TooManySegments { count: 17 })
        ));
        assert!(matches!(
            kexec_sys::load(0, &[segment; 2], flags),
            Err(Error::SegmentsOverlap { .. })
        ));
        let file = File::open("/dev/null").unwrap();
        let cmdline = CString::default();
        let result = kexec_sys::file_load(file.as_fd(), None, &cmdline, FileLoadFlags::UNLOAD);
        assert!(matches!(result, Err(Error::UnloadFlag)));
    });
}

#[test]
fn a_jump_is_refused() {
    unprivileged(|| {
        for jump in [
            kexec_sys::kexec,
            || kexec_sys::reboot(RebootCommand::Kexec),
            || kexec_sys::reboot(RebootCommand::RfcJumpTo),
        ] {
            assert_harmless();
            let error = jump().unwrap_err();
            assert_eq!(error.cause(), Some(Cause::NoCapability), "{error}");
            let Error::Syscall { source, .. } = error else {
                panic!("{error}");
            };
            assert_eq!(source.raw_os_error(), Some(libc::EPERM));
        }
    });
}
