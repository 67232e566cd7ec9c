//! Why the kernel refused a call, in words that a person can act on.

use std::fmt;

use crate::{Lockdown, RebootCommand};

/// Why the kernel refused a call. Displayed as one sentence that says what to do about it.
///
/// Made by [`Cause::diagnose`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The thread does not have `CAP_SYS_BOOT`.
    NoCapability,
    /// The thread has `CAP_SYS_BOOT` only within a user namespace.
    UserNamespace,
    /// The thread lives in a PID namespace of its own, in which the command is not known.
    PidNamespace,
    /// `kernel.kexec_load_disabled` is set.
    LoadDisabled,
    /// No loads of this kind are left (`kernel.kexec_load_limit_reboot` or `…_panic`).
    LoadLimitReached(ImageKind),
    /// The kernel is locked down.
    Lockdown(Lockdown),
    /// The kernel insists on a signature that it trusts, and the file has none.
    NotSigned,
    /// Something refused that leaves no trace: a security module or a seccomp filter.
    Forbidden,
    /// The kernel refused, and without `/proc` it cannot be told why.
    Unknowable,
    /// The running kernel was built without what the call needs.
    NotBuiltIn(KernelOption),
    /// The running kernel does not know a flag that is younger than others.
    UnknownFlag,
    /// The image is for an architecture that the running kernel does not run.
    WrongArch,
    /// The segments take more than half of the memory of the machine.
    TooLarge {
        /// What they take, in bytes.
        bytes: u64,
        /// What there is, in bytes.
        mem_total: u64,
    },
    /// The kernel rejects the arguments, and which of them cannot be told.
    BadArguments,
    /// A segment lies outside the memory that the kernel can address, or is not aligned to its pages.
    OutsideMemory,
    /// A segment of an image for crashes, or its entry, lies outside the memory reserved for them.
    OutsideCrashMemory {
        /// How much is reserved, in bytes, if known.
        reserved: Option<u64>,
    },
    /// Another call is loading, unloading or jumping.
    Busy,
    /// There is not enough free memory for the image.
    NoMemory,
    /// A buffer could not be read.
    BadBuffer,
    /// A file is not open for reading.
    BadFile,
    /// A file is open for writing.
    FileBusy,
    /// A file is larger than the kernel takes.
    FileTooLarge,
    /// A file is no kernel that the running one can load.
    NotAKernel,
    /// Nothing is loaded to jump into.
    NothingLoaded,
    /// A process or a device could not be stopped for the jump.
    NotSuspended,
    /// The running kernel does not know the command.
    UnknownCommand(RebootCommand),
    /// None of the above.
    Other,
}

/// What an image is loaded for. The kernel keeps one of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageKind {
    /// For [`kexec`](crate::kexec).
    Reboot,
    /// For the moment in which the kernel crashes.
    Crash,
}

/// A build option of the kernel. Displayed with its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KernelOption {
    /// `CONFIG_KEXEC`: `kexec_load(2)`.
    Kexec,
    /// `CONFIG_KEXEC_FILE`: `kexec_file_load(2)`.
    KexecFile,
    /// `CONFIG_KEXEC_JUMP`: [`LoadFlags::PRESERVE_CONTEXT`](crate::LoadFlags::PRESERVE_CONTEXT).
    KexecJump,
    /// `CONFIG_CRASH_DUMP`: images for crashes.
    CrashDump,
    /// `CONFIG_VMCORE_INFO`, which other options select: VMCOREINFO.
    VmcoreInfo,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentence = match *self {
            Self::NoCapability => {
                "this thread does not have CAP_SYS_BOOT: run as root, or give the program that capability"
            }
            Self::UserNamespace => {
                "CAP_SYS_BOOT does not count in a user namespace: run outside of the container"
            }
            Self::PidNamespace => {
                "a PID namespace has no such command: run outside of the container"
            }
            Self::LoadDisabled => {
                "kernel.kexec_load_disabled is set until the next boot: load before it gets set, or find \
                 out what sets it"
            }
            Self::LoadLimitReached(kind) => {
                return write!(
                    f,
                    "{kind} allows no more loads until the next boot: find out what sets it"
                );
            }
            Self::Lockdown(mode) => {
                return write!(
                    f,
                    "the kernel is locked down ({mode}): switch Secure Boot off, or boot without \
                     lockdown="
                );
            }
            Self::NotSigned => {
                "the running kernel does not trust the signature of the file, or finds none: sign it \
                 with a key that the kernel has, or take the kernel of the distribution"
            }
            Self::Forbidden => {
                "a security module or a seccomp filter forbids it: see the kernel's log and the audit \
                 log for which"
            }
            Self::Unknowable => {
                "the kernel refused, and does not say why while /proc is missing: run as root, or mount \
                 /proc and /sys and try again"
            }
            Self::NotBuiltIn(option) => {
                return write!(
                    f,
                    "the running kernel was built without {option}: boot one that has it"
                );
            }
            Self::UnknownFlag => {
                "the running kernel does not know one of the flags: leave the newest out, or boot a newer \
                 kernel"
            }
            Self::WrongArch => {
                "the image is for another architecture than the running kernel: load one of the same"
            }
            Self::TooLarge { bytes, mem_total } => {
                return write!(
                    f,
                    "the segments take {bytes} bytes, and the kernel gives at most half of its \
                     {mem_total}: make them smaller"
                );
            }
            Self::BadArguments => {
                "the kernel does not take these arguments: see its log, and the documentation of the call \
                 for what it takes"
            }
            Self::OutsideMemory => {
                "a segment lies outside the memory that the kernel can address, or is not aligned to its \
                 pages: place it elsewhere"
            }
            Self::OutsideCrashMemory { reserved: Some(0) } => {
                "no memory is reserved for an image for crashes: boot with crashkernel="
            }
            Self::OutsideCrashMemory { .. } => {
                "the image does not lie in the memory reserved for crashes: place it in what /proc/iomem \
                 calls \"Crash kernel\""
            }
            Self::Busy => {
                "another call is loading, unloading or jumping: try again when it is done"
            }
            Self::NoMemory => {
                "there is not enough free memory for the image: free some, or make the image smaller"
            }
            Self::BadBuffer => {
                "a buffer could not be read: see whether a file that is mapped there has become shorter"
            }
            Self::BadFile => "a file is not open for reading: open it so",
            Self::FileBusy => "a file is open for writing: close it first",
            Self::FileTooLarge => "a file is larger than the kernel takes: make it smaller",
            Self::NotAKernel => {
                "the file is no kernel that the running one can load: take one of the same architecture, \
                 in a format it knows, on x86 a 64-bit bzImage"
            }
            Self::NothingLoaded => "nothing is loaded: load an image first",
            Self::NotSuspended => {
                "a process or a device could not be stopped, or another kexec call is under way: see the \
                 kernel's log for which, and try again"
            }
            Self::UnknownCommand(RebootCommand::RfcJumpTo | RebootCommand::RfcJumpBack) => {
                "only kernels with the patches of the 2007 RFC know this command: load with \
                 PRESERVE_CONTEXT and jump by kexec"
            }
            Self::UnknownCommand(_) => {
                "the running kernel does not know this command: boot one that was built with it"
            }
            Self::Other => "the kernel does not say more than its code: see its log",
        };
        f.write_str(sentence)
    }
}

/// The sysctl that limits the loads.
impl fmt::Display for ImageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reboot => "kernel.kexec_load_limit_reboot",
            Self::Crash => "kernel.kexec_load_limit_panic",
        })
    }
}

impl fmt::Display for KernelOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kexec => "CONFIG_KEXEC",
            Self::KexecFile => "CONFIG_KEXEC_FILE",
            Self::KexecJump => "CONFIG_KEXEC_JUMP",
            Self::CrashDump => "CONFIG_CRASH_DUMP",
            Self::VmcoreInfo => "CONFIG_VMCORE_INFO",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Cause; 31] = [
        Cause::NoCapability,
        Cause::UserNamespace,
        Cause::PidNamespace,
        Cause::LoadDisabled,
        Cause::LoadLimitReached(ImageKind::Reboot),
        Cause::LoadLimitReached(ImageKind::Crash),
        Cause::Lockdown(Lockdown::Integrity),
        Cause::NotSigned,
        Cause::Forbidden,
        Cause::Unknowable,
        Cause::NotBuiltIn(KernelOption::KexecJump),
        Cause::UnknownFlag,
        Cause::WrongArch,
        Cause::TooLarge {
            bytes: 4097,
            mem_total: 8192,
        },
        Cause::BadArguments,
        Cause::OutsideMemory,
        Cause::OutsideCrashMemory { reserved: Some(0) },
        Cause::OutsideCrashMemory { reserved: None },
        Cause::Busy,
        Cause::NoMemory,
        Cause::BadBuffer,
        Cause::BadFile,
        Cause::FileBusy,
        Cause::FileTooLarge,
        Cause::NotAKernel,
        Cause::NothingLoaded,
        Cause::NotSuspended,
        Cause::UnknownCommand(RebootCommand::RfcJumpTo),
        Cause::UnknownCommand(RebootCommand::RfcJumpBack),
        Cause::UnknownCommand(RebootCommand::SwSuspend),
        Cause::Other,
    ];

    #[test]
    fn each_cause_is_one_sentence_with_something_to_do() {
        for cause in ALL {
            let text = cause.to_string();
            let (what, advice) = text.split_once(": ").unwrap_or_default();
            assert!(!what.is_empty() && !advice.is_empty(), "{cause:?}: {text}");
            assert!(
                !text.contains(['\n', '.']) || text.contains("kernel."),
                "{cause:?}: {text}"
            );
            assert!(!text.contains("  "), "{cause:?}: {text}");
        }
    }

    #[test]
    fn values_are_told() {
        let text = |cause: Cause| cause.to_string();
        assert!(text(ALL[4]).starts_with("kernel.kexec_load_limit_reboot "));
        assert!(text(ALL[5]).starts_with("kernel.kexec_load_limit_panic "));
        assert!(text(ALL[6]).contains("(integrity)"));
        assert!(text(ALL[10]).contains("CONFIG_KEXEC_JUMP"));
        assert!(text(ALL[13]).contains("4097") && text(ALL[13]).contains("8192"));
        assert!(text(ALL[16]).contains("crashkernel="));
        assert!(text(ALL[17]).contains("/proc/iomem"));
    }
}
