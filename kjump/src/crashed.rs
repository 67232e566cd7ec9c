//! Kernel B after a panic: sees the machine that broke down.

use std::io::Write;
use std::path::Path;
use std::thread;

use vmcore::elf::Core;
use vmcore::image::{Identity, Options, Sink};
use vmcore::{Classes, DumpLevel, LeaveOut, MappedFile, Phases, Progress, Saved, Written};

use crate::{Error, machine, proc_vmcore};

/// The machine whose kernel panicked, seen by the kernel that waited for that. It cannot go on; it can be
/// looked at.
#[derive(Debug)]
pub struct Crashed {
    machine: Saved<Core<MappedFile>>,
}

impl Crashed {
    /// Whether this kernel was entered by a panic: there is memory of another one, and no way back.
    #[must_use]
    pub fn is_here() -> bool {
        let line = machine::command_line().unwrap_or_default();
        proc_vmcore::exists() && kexec_image::CommandLine::jump_back_entry(&line).is_none()
    }

    /// Finds the machine that panicked.
    ///
    /// # Errors
    ///
    /// [`Error::NoSleeper`] if there is none, or [`Error::Core`] if its memory cannot be read.
    pub fn find() -> Result<Self, Error> {
        let machine = Saved::of_core(proc_vmcore::open()?, None, None);
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
        proc_vmcore::write_core(&self.machine, path, sink, classes, progress)
    }
}
