//! Kernel B: sees the machine that jumped to it.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::thread;

use kexec_image::CommandLine;
use vmcore::elf::Core;
use vmcore::image::{self, Identity, Jump, Layout, Options, Sink};
use vmcore::{
    Classes, LeaveOut, MappedFile, Memory as _, PAGE_SIZE, Phases, PhysAddr, Progress, Saved,
    Written,
};

use crate::device::DeviceSink;
use crate::{Error, jump, machine, proc_vmcore, target, volumes};

/// The machine that jumped to this kernel and sleeps: its memory, and the way back into it.
#[derive(Debug)]
pub struct Sleeper {
    machine: Saved<Core<MappedFile>>,
    identity: Identity,
    jump_back: PhysAddr,
}

impl Sleeper {
    /// Finds the machine that jumped to this kernel.
    ///
    /// # Errors
    ///
    /// [`Error::NoSleeper`] if there is none, or [`Error::Core`] if its memory cannot be read.
    pub fn find() -> Result<Self, Error> {
        let jump_back =
            CommandLine::jump_back_entry(&machine::command_line()?).ok_or(Error::NO_ENTRY)?;
        let jump = Jump {
            back: jump_back,
            layout: Layout::Raw,
        };
        let machine = Saved::of_core(proc_vmcore::open()?, None, Some(jump));
        let identity = machine.identity().cloned().ok_or(Error::NoSleeper {
            what: "the note in /proc/vmcore that tells the window",
        })?;
        Ok(Self {
            machine,
            identity,
            jump_back,
        })
    }

    /// What the machine said of itself.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The address to jump to, to get back.
    #[must_use]
    pub fn entry(&self) -> PhysAddr {
        self.jump_back
    }

    /// Finds out what its pages are for, on all CPUs.
    ///
    /// # Errors
    ///
    /// [`Error::Pages`] if its memory cannot be read.
    pub fn classify(&self) -> Result<Classes, Error> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Ok(self.machine.classify(threads)?)
    }

    /// Saves the machine to the device at `path`, which it must have prepared for that. When this
    /// returns the image is complete and on stable storage. `phases` is asked how long everything
    /// took, when all memory is written: the end of the image tells.
    ///
    /// # Errors
    ///
    /// [`Error::WrongTarget`] if the device is not the one, before anything is written; else as
    /// [`write`](Self::write).
    pub fn save(
        &self,
        path: &Path,
        options: Options<'_>,
        leave_out: LeaveOut,
        phases: &mut dyn FnMut() -> Phases,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Written, Error> {
        target::check_prepared(path, &self.identity)?;
        let device = DeviceSink::open(path).map_err(Error::open(path))?;
        self.write(path, &device, options, leave_out, phases, progress)
    }

    /// Saves the machine to `sink`, which `path` is the name of, as an image, after a look at the devices
    /// that the machine counts on.
    ///
    /// # Errors
    ///
    /// [`Error::WriteImage`] if it cannot be written, [`Error::UnreadVolume`] if a device cannot be looked at.
    pub fn write(
        &self,
        path: &Path,
        sink: &impl Sink,
        options: Options<'_>,
        leave_out: LeaveOut,
        phases: &mut dyn FnMut() -> Phases,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Written, Error> {
        let mut identity = self.identity.clone();
        volumes::record(&mut identity.volumes)?;
        self.machine
            .write_image_as(&identity, sink, options, leave_out, phases, progress)
            .map_err(Error::write_image(path))
    }

    /// Saves the machine to `sink`, which `path` is the name of, as a core of its memory as it saw it:
    /// for debuggers, which `kjump restore` takes too.
    ///
    /// # Errors
    ///
    /// [`Error::WriteCore`] if it cannot be written, [`Error::Swap`] if it is not known how the machine saw its
    /// memory.
    pub fn write_core(
        &self,
        path: &Path,
        sink: &mut impl Write,
        classes: &Classes,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        proc_vmcore::write_core(&self.machine, path, sink, classes, progress)
    }

    /// Leaves word for the machine on the device at `path` why it was not saved.
    ///
    /// # Errors
    ///
    /// As [`save`](Self::save).
    pub fn record_failure(&self, path: &Path, reason: &str) -> Result<(), Error> {
        let header =
            image::Header::read(&target::open(path, false)?).map_err(Error::image(path))?;
        target::check_id(&header, path, &self.identity)?;
        let file = OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(Error::open(path))?;
        image::record_failure(&self.identity, reason, &file)
            .map_err(|error| Error::write_image(path)(error.into()))
    }

    /// Jumps back: the machine goes on where it jumped away.
    ///
    /// # Errors
    ///
    /// [`Error::Core`] if the page to jump to cannot be read, [`Error::Kexec`] if the kernel refused.
    pub fn jump_back(&self) -> Result<Infallible, Error> {
        let mut page = vec![0; PAGE_SIZE as usize];
        self.machine
            .memory()
            .read(self.jump_back.align_down(PAGE_SIZE), &mut page)?;
        jump::jump_back(self.jump_back, &page, &self.identity)
    }
}
