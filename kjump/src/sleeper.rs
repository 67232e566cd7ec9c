//! Kernel B: sees the machine that jumped to it.
#![allow(
    unsafe_code,
    reason = "reading /proc/vmcore through mappings needs a promise about the memory behind it"
)]

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::thread;

use kexec_image::CommandLine;
use vmcore::elf::{Core, CoreWriteError, CoreWriter};
use vmcore::image::{self, Identity, Jump, Layout, Options, Sink};
use vmcore::{
    Classes, LeaveOut, MappedFile, Memory as _, PAGE_SIZE, Phases, PhysAddr, Progress, Saved, View,
    Written,
};

use crate::device::DeviceSink;
use crate::{Error, jump, machine, target, volumes};

/// The machine that jumped to this kernel and sleeps: its memory, and the way back into it.
#[derive(Debug)]
pub struct Sleeper {
    machine: Saved<Core<MappedFile>>,
    identity: Identity,
    jump_back: PhysAddr,
}

impl Sleeper {
    /// Where the kernel shows the memory of the machine that was there before.
    const VMCORE: &str = "/proc/vmcore";

    /// Finds the machine that jumped to this kernel.
    ///
    /// # Errors
    ///
    /// [`Error::NoSleeper`] if there is none, or [`Error::Core`] if its memory cannot be read.
    pub fn find() -> Result<Self, Error> {
        let jump_back =
            CommandLine::jump_back_entry(&machine::command_line()?).ok_or(Error::NoSleeper {
                what: "kexec_jump_back_entry= on the kernel command line",
            })?;
        let path = Path::new(Self::VMCORE);
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NoSleeper {
                    what: "/proc/vmcore",
                });
            }
            other => other.map_err(Error::open(path))?,
        };
        // SAFETY: what /proc/vmcore shows is memory that this kernel does not use, of one that stands
        // still; it neither changes nor shrinks.
        let mapped = unsafe { MappedFile::new(file) }.map_err(Error::read(path))?;
        let jump = Jump {
            back: jump_back,
            layout: Layout::Raw,
        };
        let machine = Saved::of_core(Core::open(mapped)?, None, Some(jump));
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
        let (memory, core) = self.core(Layout::Seen, classes)?;
        core.write(&memory, sink, progress)
            .and_then(|()| sink.flush().map_err(CoreWriteError::Write))
            .map_err(Error::write_core(path))
    }

    fn core(
        &self,
        layout: Layout,
        classes: &Classes,
    ) -> Result<(View<&Core<MappedFile>>, CoreWriter), Error> {
        self.machine.core(layout, classes).map_err(Error::swap)
    }

    /// Leaves word for the machine on the device at `path` why it was not saved.
    ///
    /// # Errors
    ///
    /// As [`save`](Self::save).
    pub fn record_failure(&self, path: &Path, reason: &str) -> Result<(), Error> {
        let header =
            image::Header::read(&target::open(path, false)?).map_err(Error::image(path))?;
        if header.identity.id != self.identity.id {
            return Err(Error::WrongTarget {
                path: path.to_owned(),
                found: format!("it holds the image {}", header.identity.id),
            });
        }
        let file = OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(Error::open(path))?;
        image::record_failure(&self.identity, reason, &file).map_err(Error::image(path))
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
