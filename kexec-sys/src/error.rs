//! What can go wrong.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Call, Cause, Evidence, KernelOption, MAX_SEGMENTS, PAGE_SIZE};

/// What went wrong, with the values that were wrong and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A segment has no memory.
    #[error("the segment at {mem:#x} has no memory: leave it out")]
    EmptySegment {
        /// Physical address of the segment.
        mem: u64,
    },
    /// A segment does not consist of whole pages.
    #[error(
        "the segment at {mem:#x} with {memsz:#x} bytes is not made of whole pages: \
         align both numbers to {page:#x}",
        page = PAGE_SIZE
    )]
    UnalignedSegment {
        /// Physical address of the segment.
        mem: u64,
        /// Size of its memory in bytes.
        memsz: u64,
    },
    /// The buffer of a segment is longer than its memory.
    #[error(
        "the segment at {mem:#x} has {memsz:#x} bytes of memory for a buffer of {bufsz:#x}: \
         give it more"
    )]
    BufferTooLarge {
        /// Physical address of the segment.
        mem: u64,
        /// Size of its memory in bytes.
        memsz: u64,
        /// Length of the buffer in bytes.
        bufsz: usize,
    },
    /// A segment reaches beyond the last address.
    #[error(
        "the segment at {mem:#x} with {memsz:#x} bytes reaches beyond the last address of this \
         machine: place it lower"
    )]
    BeyondAddressSpace {
        /// Physical address of the segment.
        mem: u64,
        /// Size of its memory in bytes.
        memsz: u64,
    },
    /// The entry is no address of this machine.
    #[error("the entry {entry:#x} is no address of this machine: it takes lower ones only")]
    EntryTooHigh {
        /// Physical address of the entry.
        entry: u64,
    },
    /// There is nothing to load. The kernel would unload, which is [`unload`](crate::unload).
    #[error("there is no segment to load: give at least one, or unload")]
    NoSegments,
    /// There are more segments than the kernel takes.
    #[error("{count} segments are too many for the kernel: merge them into {max} or fewer", max = MAX_SEGMENTS)]
    TooManySegments {
        /// How many there are.
        count: usize,
    },
    /// Two segments claim the same memory.
    #[error("the segments at {first:#x} and {second:#x} overlap: give each its own memory")]
    SegmentsOverlap {
        /// Physical address of the segment that comes first in the list.
        first: u64,
        /// Physical address of the other.
        second: u64,
    },
    /// A load was told to unload.
    #[error("the flag UNLOAD does not load anything: unload by file_unload")]
    UnloadFlag,
    /// The kernel refused a call.
    #[error("{call} failed: {cause}")]
    Syscall {
        /// The call.
        call: Call,
        /// Why, as far as can be told.
        cause: Cause,
        /// The code that the kernel gave.
        source: io::Error,
    },
    /// There is no `/sys/kernel`.
    #[error("{} is missing: mount sysfs first", root.display())]
    NotMounted {
        /// Where it should be.
        root: PathBuf,
    },
    /// A state file is missing because the kernel was built without what it is about.
    #[error(
        "{} is missing: the running kernel was built without {option}, boot one that has it",
        path.display()
    )]
    NotBuiltIn {
        /// The file.
        path: PathBuf,
        /// What the kernel was built without.
        option: KernelOption,
    },
    /// A state file cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the reading met.
        source: io::Error,
    },
    /// A state file has contents that make no sense: the kernel is one that this crate does not know.
    #[error("{} holds {text:?}, which is not {expected}: is this a kernel's file?", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its first characters.
        text: String,
        /// What should be in it.
        expected: &'static str,
    },
}

impl Error {
    /// Why the kernel refused, if it is the kernel that did.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Syscall { cause, .. } => Some(*cause),
            _ => None,
        }
    }

    /// The error for `call`, which has just failed in this thread.
    pub(crate) fn last_os_error(call: Call) -> Self {
        // First of all: gathering evidence makes calls of its own.
        let source = io::Error::last_os_error();
        let errno = source.raw_os_error().unwrap_or_default();
        let evidence = Evidence::gather(Path::new("/"));
        Self::Syscall {
            call,
            cause: Cause::diagnose(call, errno, &evidence),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::RebootCommand;

    #[test]
    fn the_code_of_the_kernel_is_told_once() {
        let error = Error::Syscall {
            call: Call::Reboot(RebootCommand::Kexec),
            cause: Cause::NoCapability,
            source: io::Error::from_raw_os_error(libc::EPERM),
        };
        let source = error.source().unwrap().to_string();
        let text = error.to_string();
        assert!(text.starts_with("reboot failed: "), "{text}");
        assert!(text.ends_with(&Cause::NoCapability.to_string()), "{text}");
        assert!(!text.contains(&source), "{text}");
        assert!(Cause::NoCapability.to_string().contains("CAP_SYS_BOOT"));
        assert_eq!(error.cause(), Some(Cause::NoCapability));
        assert_eq!(Error::NoSegments.cause(), None);
    }

    #[test]
    fn errors_can_cross_threads() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<Error>();
    }
}
