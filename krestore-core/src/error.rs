//! Why memory cannot be restored.

use std::io;

use vmcore::image::ImageError;
use vmcore::{MemoryError, PhysRange};

/// Why memory cannot be restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The running kernel owns the memory.
    #[error(
        "{range} holds memory of the running kernel ({owned}); restore from a kernel that was loaded into the window of the image, as `kjump resume` does"
    )]
    OwnMemory {
        /// What was to be written.
        range: PhysRange,
        /// The running kernel's part of it.
        owned: PhysRange,
    },
    /// Something else than ordinary memory is there.
    #[error("{range} is no memory that can be restored: {name:?} is at {occupied}")]
    Occupied {
        /// What was to be written.
        range: PhysRange,
        /// The part of it that something else has.
        occupied: PhysRange,
        /// The name that `/proc/iomem` has for that.
        name: String,
    },
    /// The core holds memory that the machine never had.
    #[error(
        "the core holds {range}, which is no RAM of the machine that the image was made of, or lies in the window: the image is damaged"
    )]
    NotOfMachine {
        /// What is too much.
        range: PhysRange,
    },
    /// The image lacks memory that the machine has.
    #[error("the image lacks {range}, which is memory of its machine: the image is damaged")]
    Missing {
        /// The first range that is missing.
        range: PhysRange,
    },
    /// The image cannot be read, or is damaged.
    #[error("cannot restore the image")]
    Image(#[from] ImageError),
    /// The memory cannot be mapped.
    #[error(
        "cannot map {range} of {device}: {}",
        if source.kind() == io::ErrorKind::PermissionDenied {
            "the kernel forbids it (lockdown, or a driver that claims this memory)"
        } else {
            "see the cause"
        }
    )]
    Map {
        /// What was to be mapped.
        range: PhysRange,
        /// The device.
        device: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The saved memory could not be read.
    #[error("cannot restore {range}: reading what was saved of it failed")]
    Memory {
        /// What was to be restored.
        range: PhysRange,
        /// What the reading met.
        #[source]
        source: MemoryError,
    },
    /// The target could not be written, or read.
    #[error("cannot restore {range}: the target failed")]
    Target {
        /// What was to be restored.
        range: PhysRange,
        /// What the writing met.
        #[source]
        source: io::Error,
    },
}
