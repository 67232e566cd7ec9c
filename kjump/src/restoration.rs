//! Kernel D: writes the memory of a sleeping machine back, and jumps into it.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use kexec_image::saved_memory;
use krestore_core::{DevMem, FileTarget, Guard, Plan, Summary, Target};
use vmcore::image::{Identity, Image};
use vmcore::{MemoryError, PAGE_SIZE, PhysRange, Progress, RangeMap};

use crate::{DeviceReader, Error, jump, machine};

/// An image that is to be restored by this kernel.
#[derive(Debug)]
pub struct Restoration {
    path: PathBuf,
    image: Image<DeviceReader>,
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
    /// Opens the image in the device or file at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] with the reason why it cannot be resumed.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let image = Image::open(DeviceReader::open(path).map_err(Error::open(path))?)
            .map_err(Error::image(path))?;
        Ok(Self {
            path: path.to_owned(),
            image,
        })
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> &Image<DeviceReader> {
        &self.image
    }

    /// Checks that all memory of the image can be restored to `memory`, and writes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Restore`] with the first range that cannot be, and why.
    pub fn check(&self, memory: &dyn Target) -> Result<Summary, Error> {
        let core = self.image.core().map_err(Error::image(&self.path))?;
        let machine = saved_memory(self.image.identity());
        Ok(krestore_core::check(
            &core,
            plan(self.image.identity(), &machine),
            memory,
        )?)
    }

    /// Writes all memory of the image to `memory`, after [`check`](Self::check)ing it.
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
        let core = self.image.core().map_err(Error::image(&self.path))?;
        let machine = saved_memory(self.image.identity());
        let summary = krestore_core::restore(
            &core,
            plan(self.image.identity(), &machine),
            memory.as_mut(),
            progress,
        )?;
        Ok(Restored {
            path: self.path,
            image: self.image,
            memory,
            summary,
        })
    }
}

/// How the memory that `machine` is is restored.
fn plan<'a>(identity: &Identity, machine: &'a RangeMap<()>) -> Plan<'a> {
    Plan {
        machine,
        fill: identity.free_fill,
    }
}

/// An image whose memory is all back.
pub struct Restored {
    path: PathBuf,
    image: Image<DeviceReader>,
    memory: Box<dyn Target>,
    summary: Summary,
}

impl Restored {
    /// What was written.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Jumps into the restored machine, which goes on where it jumped away. Right before, the image is
    /// marked as resumed.
    ///
    /// # Errors
    ///
    /// [`Error::Kexec`] if the kernel refused, [`Error::Mark`] if the image could not be marked.
    pub fn jump_back(mut self) -> Result<Infallible, Error> {
        let entry = self.image.saved().jump_back;
        let page = PhysRange::from_len(entry.align_down(PAGE_SIZE), PAGE_SIZE)
            .ok_or(MemoryError::Absent { addr: entry })?;
        let page = self.memory.read(page)?;
        jump::load_way_back(entry, &page, self.image.identity().window)?;
        // From here on the image is stale, so nothing but the jump comes after.
        let file = OpenOptions::new().write(true).open(&self.path);
        file.and_then(|file| self.image.mark_resumed(&file))
            .map_err(|source| Error::Mark {
                path: self.path.clone(),
                source,
            })?;
        jump::leave()
    }
}
