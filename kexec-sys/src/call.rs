//! Which system call it was, with the arguments that its failure depends on.

use std::fmt;

use crate::{Arch, FileLoadFlags, LoadFlags, RebootCommand};

/// A system call of this crate, with those of its arguments that tell why it failed.
///
/// Displayed as the name of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `kexec_load(2)`.
    Load {
        /// Architecture of the image.
        arch: Arch,
        /// Flags as they were given.
        flags: LoadFlags,
        /// Memory that all segments take together, in bytes.
        bytes: u64,
    },
    /// `kexec_file_load(2)`.
    FileLoad {
        /// Flags as the kernel got them.
        flags: FileLoadFlags,
    },
    /// `reboot(2)`.
    Reboot(RebootCommand),
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Load { .. } => "kexec_load",
            Self::FileLoad { .. } => "kexec_file_load",
            Self::Reboot(_) => "reboot",
        })
    }
}
