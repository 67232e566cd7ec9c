//! `/proc/vmcore`: the memory of the kernel that was there before.
#![allow(
    unsafe_code,
    reason = "reading it through mappings needs a promise about the memory behind it"
)]

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use vmcore::elf::{Core, CoreWriteError};
use vmcore::image::Layout;
use vmcore::{Classes, MappedFile, Progress, Saved};

use crate::Error;

/// Where the kernel shows it.
const PATH: &str = "/proc/vmcore";

/// Whether there is such memory.
pub(crate) fn exists() -> bool {
    Path::new(PATH).exists()
}

/// The memory, read through mappings.
///
/// # Errors
///
/// [`Error::NoSleeper`] if there is none, or [`Error::Core`] if it cannot be read.
pub(crate) fn open() -> Result<Core<MappedFile>, Error> {
    let path = Path::new(PATH);
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::NoSleeper { what: PATH });
        }
        other => other.map_err(Error::open(path))?,
    };
    // SAFETY: what /proc/vmcore shows is memory that this kernel does not use, of one that stands still; it
    // neither changes nor shrinks.
    let mapped = unsafe { MappedFile::new(file) }.map_err(Error::read(path))?;
    Ok(Core::open(mapped)?)
}

/// Writes `machine`, as it saw its memory, to `sink`, which `path` is the name of, as a core.
///
/// # Errors
///
/// [`Error::WriteCore`] if it cannot be written, [`Error::Swap`] if it is not known how the machine saw its
/// memory.
pub(crate) fn write_core(
    machine: &Saved<Core<MappedFile>>,
    path: &Path,
    sink: &mut impl Write,
    classes: &Classes,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), Error> {
    let (memory, core) = machine.core(Layout::Seen, classes).map_err(Error::swap)?;
    core.write(&memory, sink, progress)
        .and_then(|()| sink.flush().map_err(CoreWriteError::Write))
        .map_err(Error::write_core(path))
}
