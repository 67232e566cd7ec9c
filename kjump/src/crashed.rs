//! Kernel B after a panic: sees the machine that broke down.
#![allow(
    unsafe_code,
    reason = "reading /proc/vmcore through mappings needs a promise about the memory behind it"
)]

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::thread;

use vmcore::elf::{Core, CoreWriteError};
use vmcore::image::{Identity, Layout, Options, Sink};
use vmcore::{Classes, DumpLevel, LeaveOut, MappedFile, Phases, Progress, Saved, Written};

use crate::{Error, machine};

/// The machine whose kernel panicked, seen by the kernel that waited for that. It cannot go on; it can be
/// looked at.
#[derive(Debug)]
pub struct Crashed {
    machine: Saved<Core<MappedFile>>,
}

impl Crashed {
    /// Where the kernel shows the memory of the machine that was there before.
    const VMCORE: &str = "/proc/vmcore";

    /// Whether this kernel was entered by a panic: there is memory of another one, and no way back.
    #[must_use]
    pub fn is_here() -> bool {
        let line = machine::command_line().unwrap_or_default();
        Path::new(Self::VMCORE).exists()
            && kexec_image::CommandLine::jump_back_entry(&line).is_none()
    }

    /// Finds the machine that panicked.
    ///
    /// # Errors
    ///
    /// [`Error::NoSleeper`] if there is none, or [`Error::Core`] if its memory cannot be read.
    pub fn find() -> Result<Self, Error> {
        let path = Path::new(Self::VMCORE);
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoSleeper {
                    what: "/proc/vmcore",
                });
            }
            other => other.map_err(Error::open(path))?,
        };
        // SAFETY: what /proc/vmcore shows is memory that this kernel does not use, of one that stands
        // still; it neither changes nor shrinks.
        let mapped = unsafe { MappedFile::new(file) }.map_err(Error::read(path))?;
        let machine = Saved::of_core(Core::open(mapped)?, None, None);
        Ok(Self { machine })
    }

    /// What the machine said of itself, if it did.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.machine.identity()
    }

    /// The release of its kernel, if it told.
    #[must_use]
    pub fn release(&self) -> Option<&str> {
        self.machine.info()?.get("OSRELEASE")
    }

    /// Finds out, on all CPUs, what of its pages a dump of `level` has.
    ///
    /// # Errors
    ///
    /// [`Error::Pages`] if its memory cannot be read.
    pub fn classify(&self, level: DumpLevel) -> Result<Classes, Error> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Ok(self
            .machine
            .filtered(self.machine.classify(threads)?, level)?)
    }

    /// Writes the machine to `sink`, which `path` is the name of, as an image, without what a dump of `level`
    /// leaves out. It can be looked at and converted, and never resumed.
    ///
    /// # Errors
    ///
    /// [`Error::WriteImage`] if it cannot be written, or if the machine did not say what it is, since its
    /// kernel for panics was loaded by another tool.
    pub fn write(
        &self,
        path: &Path,
        sink: &impl Sink,
        options: Options<'_>,
        level: DumpLevel,
        phases: &mut dyn FnMut() -> Phases,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Written, Error> {
        self.machine
            .write_image(sink, options, LeaveOut::Dump(level), phases, progress)
            .map_err(Error::write_image(path))
    }

    /// Writes the machine to `sink`, which `path` is the name of, as a core for debuggers.
    ///
    /// # Errors
    ///
    /// [`Error::WriteCore`] if it cannot be written.
    pub fn write_core(
        &self,
        path: &Path,
        sink: &mut impl Write,
        classes: &Classes,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        let (memory, core) = self
            .machine
            .core(Layout::Seen, classes)
            .map_err(Error::swap)?;
        core.write(&memory, sink, progress)
            .and_then(|()| sink.flush().map_err(CoreWriteError::Write))
            .map_err(Error::write_core(path))
    }
}
