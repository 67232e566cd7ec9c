//! Kernel D: writes the memory of a sleeping machine back, and jumps into it.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use kexec_image::saved_memory;
use krestore_core::{DevMem, FileTarget, Guard, OldMem, RestoreError, Summary, Target};
use vmcore::image::Image;
use vmcore::{PAGE_SIZE, PhysAddr, PhysRange, Progress, ReadAt};

use crate::{DeviceReader, Error, jump, machine};

/// An image that is to be restored by this kernel.
#[derive(Debug)]
pub struct Restoration {
    path: PathBuf,
    image: Image<DeviceReader>,
}

/// What memory is restored to.
#[derive(Debug)]
#[non_exhaustive]
pub enum Memory {
    /// The machine's memory, by mapping `/dev/mem`.
    DevMem(DevMem),
    /// The machine's memory, by writing to `/dev/oldmem`.
    OldMem(OldMem),
    /// A plain file.
    File(FileTarget),
}

impl Memory {
    /// Opens what is at `path`: `/dev/mem` and `/dev/oldmem` are the machine's memory, all else is a
    /// plain file, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`Error::Open`], or [`Error::IoMem`] if the guard cannot know which memory is whose.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let guard = || Ok::<_, Error>(Guard::new(&machine::iomem()?));
        let opened = if path == Path::new(DevMem::PATH) {
            DevMem::open(path, guard()?).map(Self::DevMem)
        } else if path == Path::new(OldMem::PATH) {
            OldMem::open(path, guard()?).map(Self::OldMem)
        } else {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map(|file| Self::File(FileTarget::new(file)))
        };
        opened.map_err(Error::open(path))
    }
}

impl Target for Memory {
    fn check(&self, range: PhysRange) -> Result<(), RestoreError> {
        match self {
            Self::DevMem(target) => target.check(range),
            Self::OldMem(target) => target.check(range),
            Self::File(target) => target.check(range),
        }
    }

    fn write(
        &mut self,
        range: PhysRange,
        source: &dyn ReadAt,
        offset: u64,
    ) -> Result<(), RestoreError> {
        match self {
            Self::DevMem(target) => target.write(range, source, offset),
            Self::OldMem(target) => target.write(range, source, offset),
            Self::File(target) => target.write(range, source, offset),
        }
    }

    fn zero(&mut self, range: PhysRange) -> Result<(), RestoreError> {
        match self {
            Self::DevMem(target) => target.zero(range),
            Self::OldMem(target) => target.zero(range),
            Self::File(target) => target.zero(range),
        }
    }

    fn read(&mut self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), RestoreError> {
        match self {
            Self::DevMem(target) => target.read(addr, buf),
            Self::OldMem(target) => target.read(addr, buf),
            Self::File(target) => target.read(addr, buf),
        }
    }
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
    pub fn check(&self, memory: &impl Target) -> Result<Summary, Error> {
        let core = self.image.core().map_err(Error::image(&self.path))?;
        let machine = saved_memory(self.image.identity());
        Ok(krestore_core::check(&core, &machine, memory)?)
    }

    /// Writes all memory of the image to `memory`, after [`check`](Self::check)ing it.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check), before the first byte is written; [`Error::Restore`] later if a byte
    /// could not be brought over.
    pub fn restore<M: Target>(
        self,
        mut memory: M,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Restored<M>, Error> {
        let core = self.image.core().map_err(Error::image(&self.path))?;
        let machine = saved_memory(self.image.identity());
        let summary = krestore_core::restore(&core, &machine, &mut memory, progress)?;
        Ok(Restored {
            path: self.path,
            image: self.image,
            memory,
            summary,
        })
    }
}

/// An image whose memory is all back.
#[derive(Debug)]
pub struct Restored<M> {
    path: PathBuf,
    image: Image<DeviceReader>,
    memory: M,
    summary: Summary,
}

impl<M: Target> Restored<M> {
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
        let mut page = vec![0; PAGE_SIZE as usize];
        self.memory.read(entry.align_down(PAGE_SIZE), &mut page)?;
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
