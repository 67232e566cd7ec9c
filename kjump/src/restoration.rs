//! Kernel D: writes the memory of a sleeping machine back, and jumps into it.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use krestore_core::{DevMem, FileTarget, Guard, Plan, Summary, Target};
use vmcore::image::{Identity, Image, Jump};
use vmcore::{
    Format, Memory, MemoryError, PAGE_SIZE, PhysRange, Progress, RangeMap, Saved, SavedFile,
};

use crate::{DeviceReader, Error, jump, machine};

/// A machine that is to be restored by this kernel: one in an image, or in an ELF core that tells of the
/// jump that it was saved after.
#[derive(Debug)]
pub struct Restoration {
    path: PathBuf,
    image: Option<Image<DeviceReader>>,
    machine: Saved<Box<dyn Memory + Send + Sync>>,
    identity: Identity,
    jump: Jump,
}

/// The device by which old memory is reached unless another one is asked for: `/dev/oldmem` where a kernel
/// has it, else `/dev/mem`.
#[must_use]
pub fn memory_device() -> &'static Path {
    let oldmem = Path::new(FileTarget::OLDMEM);
    if oldmem.exists() {
        oldmem
    } else {
        Path::new(DevMem::PATH)
    }
}

/// Opens what is at `path` to restore to: `/dev/mem` and `/dev/oldmem` are the machine's memory, with a
/// guard; all else is a plain file, which is made if it is not there.
///
/// # Errors
///
/// [`Error::Open`], or [`Error::IoMem`] if the guard cannot know which memory is whose.
pub fn open_memory(path: &Path) -> Result<Box<dyn Target>, Error> {
    let guard = || Ok::<_, Error>(Guard::new(&machine::iomem()?));
    let target: Box<dyn Target> = if path == Path::new(DevMem::PATH) {
        Box::new(DevMem::open(path, guard()?).map_err(Error::open(path))?)
    } else if path == Path::new(FileTarget::OLDMEM) {
        Box::new(FileTarget::oldmem(path, guard()?).map_err(Error::open(path))?)
    } else {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(Error::open(path))?;
        Box::new(FileTarget::plain(file))
    };
    Ok(target)
}

impl Restoration {
    /// Opens the image or core in the device or file at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] with the reason why an image cannot be resumed, [`Error::File`] if it is none and no core
    /// either, [`Error::NoJump`] if a core does not tell how to get back into its machine.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let reader = || DeviceReader::open(path).map_err(Error::open(path));
        let file = SavedFile::open(reader()?).map_err(Error::file(path))?;
        let image = match file.format {
            Format::Image => Some(Image::open(reader()?).map_err(Error::image(path))?),
            _ => None,
        };
        let machine = file.machine;
        match (machine.identity().cloned(), machine.jump()) {
            (Some(identity), Some(jump)) => Ok(Self {
                path: path.to_owned(),
                image,
                identity,
                jump,
                machine,
            }),
            _ => Err(Error::NoJump {
                path: path.to_owned(),
            }),
        }
    }

    /// What the machine said of itself.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether this is an image, which is marked so that nobody resumes it twice; a core cannot be.
    #[must_use]
    pub fn is_image(&self) -> bool {
        self.image.is_some()
    }

    /// Checks that all memory of the machine can be restored to `memory`, and writes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Restore`] with the first range that cannot be, and why.
    pub fn check(&self, memory: &dyn Target) -> Result<Summary, Error> {
        let machine = self.identity.saved_memory();
        let raw = self.machine.raw().map_err(Error::swap)?;
        Ok(krestore_core::check(&raw, self.plan(&machine), memory)?)
    }

    /// Writes all memory of the machine to `memory`, after [`check`](Self::check)ing it.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check), before the first byte is written; [`Error::Restore`] later if a byte
    /// could not be brought over.
    pub fn restore(
        self,
        mut memory: Box<dyn Target>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Restored, Error> {
        let machine = self.identity.saved_memory();
        let raw = self.machine.raw().map_err(Error::swap)?;
        let plan = self.plan(&machine);
        let summary = krestore_core::restore(&raw, plan, memory.as_mut(), progress)?;
        drop(raw);
        Ok(Restored {
            restoration: self,
            memory,
            summary,
        })
    }

    /// How the memory is restored that the machine had where it may be written.
    fn plan<'a>(&self, machine: &'a RangeMap<()>) -> Plan<'a> {
        Plan {
            machine,
            fill: self.identity.free_fill,
        }
    }
}

/// A machine whose memory is all back.
pub struct Restored {
    restoration: Restoration,
    memory: Box<dyn Target>,
    summary: Summary,
}

impl Restored {
    /// What was written.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Jumps into the restored machine, which goes on where it jumped away. Right before, an image is
    /// marked as resumed.
    ///
    /// # Errors
    ///
    /// [`Error::Kexec`] if the kernel refused, [`Error::Mark`] if the image could not be marked.
    pub fn jump_back(mut self) -> Result<Infallible, Error> {
        let Restoration {
            path,
            image,
            identity,
            jump: Jump { back, .. },
            ..
        } = self.restoration;
        let page = PhysRange::from_len(back.align_down(PAGE_SIZE), PAGE_SIZE)
            .ok_or(MemoryError::Absent { addr: back })?;
        let page = self.memory.read(page)?;
        jump::load_way_back(back, &page, identity.window)?;
        // From here on the image is stale, so nothing but the jump comes after.
        if let Some(image) = image {
            let file = OpenOptions::new().write(true).open(&path);
            file.and_then(|file| image.mark_resumed(&file))
                .map_err(|source| Error::Mark { path, source })?;
        }
        jump::leave()
    }
}
