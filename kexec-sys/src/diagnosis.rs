//! From the code of a refusal and what can be observed to its cause.

use crate::{
    Arch, Call, Cause, Evidence, FileLoadFlags, ImageKind, KernelOption, LoadFlags, Lockdown,
    RebootCommand,
};

impl Cause {
    /// Why `call` failed with the code `errno`, judging by `evidence` alone.
    ///
    /// Follows what mainline answers: `kernel/kexec.c`, `kernel/kexec_core.c`, `kernel/kexec_file.c`,
    /// `kernel/reboot.c`, `kernel/pid_namespace.c`. Where a code has several causes and the evidence
    /// does not tell, the answer is one of the general causes, such as [`Cause::BadArguments`].
    ///
    /// ```
    /// use kexec_sys::{Call, Cause, Evidence, Lockdown, RebootCommand};
    ///
    /// const EPERM: i32 = 1;
    /// let call = Call::Reboot(RebootCommand::Kexec);
    ///
    /// let mut evidence = Evidence::default();
    /// assert_eq!(Cause::diagnose(call, EPERM, &evidence), Cause::Unknowable);
    /// evidence.sys_boot = Some(false);
    /// assert_eq!(Cause::diagnose(call, EPERM, &evidence), Cause::NoCapability);
    /// ```
    #[must_use]
    pub fn diagnose(call: Call, errno: i32, evidence: &Evidence) -> Self {
        match call {
            _ if errno == libc::EPERM => refused(call, evidence),
            _ if errno == libc::EACCES => Self::Forbidden,
            Call::Load { arch, flags, bytes } => load_failed(arch, flags, bytes, errno, evidence),
            Call::FileLoad { flags } => file_load_failed(flags, errno, evidence),
            Call::Reboot(command) => reboot_failed(command, errno, evidence),
        }
    }
}

/// EPERM has the most causes. They are tried in the order in which the kernel looks at them.
fn refused(call: Call, evidence: &Evidence) -> Cause {
    match evidence.sys_boot {
        None => return Cause::Unknowable,
        Some(false) => return Cause::NoCapability,
        Some(true) => {}
    }
    if evidence.initial_user_namespace == Some(false) {
        return Cause::UserNamespace;
    }
    let lockdown = match evidence.lockdown {
        None | Some(Lockdown::None) => None,
        Some(mode) => Some(Cause::Lockdown(mode)),
    };
    let kind = match call {
        Call::Load { flags, .. } if flags.contains(LoadFlags::ON_CRASH) => ImageKind::Crash,
        Call::FileLoad { flags } if flags.contains(FileLoadFlags::ON_CRASH) => ImageKind::Crash,
        Call::Load { .. } | Call::FileLoad { .. } => ImageKind::Reboot,
        Call::Reboot(RebootCommand::SwSuspend) => return lockdown.unwrap_or(Cause::Forbidden),
        Call::Reboot(_) => return Cause::Forbidden,
    };
    if evidence.load_disabled == Some(true) {
        return Cause::LoadDisabled;
    }
    let left = match kind {
        ImageKind::Reboot => evidence.load_limit_reboot,
        ImageKind::Crash => evidence.load_limit_panic,
    };
    let limit = (left == Some(0)).then_some(Cause::LoadLimitReached(kind));
    let by_lockdown = match call {
        Call::FileLoad { .. } => lockdown.map(|_| Cause::NotSigned),
        _ => lockdown,
    };
    // The kernel looks at the limit first, but this very call may have used the last load up before it
    // was refused. Lockdown refuses every kexec_load, so it is the cause in any case; a file that is
    // signed would pass it.
    match call {
        Call::FileLoad { .. } => limit.or(by_lockdown),
        _ => by_lockdown.or(limit),
    }
    .unwrap_or(Cause::Forbidden)
}

fn load_failed(arch: Arch, flags: LoadFlags, bytes: u64, errno: i32, evidence: &Evidence) -> Cause {
    match errno {
        libc::ENOSYS => Cause::NotBuiltIn(KernelOption::Kexec),
        libc::EBUSY => Cause::Busy,
        libc::ENOMEM => Cause::NoMemory,
        libc::EFAULT => Cause::BadBuffer,
        libc::EADDRNOTAVAIL => outside(flags.contains(LoadFlags::ON_CRASH), evidence),
        // Too many segments, overlaps and long buffers were ruled out before the call.
        libc::EINVAL => {
            if arch != Arch::Default && arch != Arch::NATIVE {
                return Cause::WrongArch;
            }
            if let Some(mem_total) = evidence.mem_total
                && bytes > mem_total / 2
            {
                return Cause::TooLarge { bytes, mem_total };
            }
            if flags.intersects(LoadFlags::UPDATE_ELFCOREHDR | LoadFlags::CRASH_HOTPLUG_SUPPORT) {
                return Cause::UnknownFlag;
            }
            if flags.contains(LoadFlags::PRESERVE_CONTEXT) && evidence.mem_total.is_some() {
                return Cause::NotBuiltIn(KernelOption::KexecJump);
            }
            Cause::BadArguments
        }
        _ => Cause::Other,
    }
}

fn file_load_failed(flags: FileLoadFlags, errno: i32, evidence: &Evidence) -> Cause {
    match errno {
        libc::ENOSYS => Cause::NotBuiltIn(KernelOption::KexecFile),
        libc::EBUSY => Cause::Busy,
        libc::ENOMEM => Cause::NoMemory,
        libc::EFAULT => Cause::BadBuffer,
        libc::EBADF => Cause::BadFile,
        libc::ETXTBSY => Cause::FileBusy,
        libc::EFBIG => Cause::FileTooLarge,
        libc::ENOEXEC => Cause::NotAKernel,
        libc::EADDRNOTAVAIL => outside(flags.contains(FileLoadFlags::ON_CRASH), evidence),
        // What the verification of a signature answers: none there, none that fits, key not known,
        // revoked or expired, algorithm not known.
        libc::ENODATA
        | libc::EBADMSG
        | libc::ELIBBAD
        | libc::ENOKEY
        | libc::EKEYREJECTED
        | libc::EKEYREVOKED
        | libc::EKEYEXPIRED
        | libc::ENOPKG => Cause::NotSigned,
        libc::EINVAL if flags.intersects(NEWER_FILE_FLAGS) => Cause::UnknownFlag,
        libc::EINVAL => Cause::BadArguments,
        _ => Cause::Other,
    }
}

/// Flags that not all kernels with `kexec_file_load(2)` know.
const NEWER_FILE_FLAGS: FileLoadFlags = FileLoadFlags::DEBUG
    .union(FileLoadFlags::NO_CMA)
    .union(FileLoadFlags::FORCE_DTB);

fn reboot_failed(command: RebootCommand, errno: i32, evidence: &Evidence) -> Cause {
    let ends_namespace = matches!(
        command,
        RebootCommand::Restart | RebootCommand::Halt | RebootCommand::PowerOff
    );
    match (errno, command) {
        (libc::EINVAL, _) if evidence.initial_pid_namespace == Some(false) && !ends_namespace => {
            Cause::PidNamespace
        }
        (libc::EINVAL, RebootCommand::Kexec) if evidence.loaded != Some(true) => {
            Cause::NothingLoaded
        }
        // The jump passes on whatever a driver answers that cannot suspend its device.
        (_, RebootCommand::Kexec) => Cause::NotSuspended,
        (libc::EINVAL, _) => Cause::UnknownCommand(command),
        _ => Cause::Other,
    }
}

/// EADDRNOTAVAIL: the memory that a segment is for does not suit the kernel.
fn outside(on_crash: bool, evidence: &Evidence) -> Cause {
    if on_crash {
        Cause::OutsideCrashMemory {
            reserved: evidence.crash_size,
        }
    } else {
        Cause::OutsideMemory
    }
}

#[cfg(test)]
mod tests;
