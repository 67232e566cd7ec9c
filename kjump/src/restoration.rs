//! Kernel D: writes the memory of a sleeping machine back, and jumps into it.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use krestore_core::{DevMem, FileTarget, Guard, Plan, Summary, Target};
use vmcore::image::{Codec, Header, Identity, Image, ImageError, Jump, Layout, Seal};
use vmcore::{Memory, MemoryError, PAGE_SIZE, PhysRange, Progress, RangeMap, Saved, SavedFile};

use crate::volumes::{self, PATIENCE};
use crate::{DeviceReader, Error, jump, machine, threads_for};

/// A machine that is to be restored by this kernel: one in an image, or in an ELF core that tells of the
/// jump that it was saved after.
#[derive(Debug)]
pub struct Restoration {
    path: PathBuf,
    source: Source,
    identity: Identity,
    jump: Jump,
}

/// What the memory comes from.
#[derive(Debug)]
enum Source {
    Image(Image<DeviceReader>),
    Core(Saved<Box<dyn Memory + Send + Sync>>),
}

/// How much of an image is read and checked before the first byte of memory is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// All that tells of memory; memory itself is checked as it is read, and nothing is jumped to unless
    /// all of it was right.
    #[default]
    Index,
    /// All of it. So it is read twice.
    Full,
}

impl FromStr for Verify {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "index" => Ok(Self::Index),
            "full" => Ok(Self::Full),
            _ => Err("it is index or full".to_owned()),
        }
    }
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
        Self::open_with(path, None, false)
    }

    /// As [`open`](Self::open), for those who know what they do: an image that was resumed already is taken
    /// too.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_again(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, None, true)
    }

    /// As [`open`](Self::open), or [`open_again`](Self::open_again), with what it takes to read a sealed image.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(path: &Path, seal: Option<&Seal>, again: bool) -> Result<Self, Error> {
        let reader = || DeviceReader::open(path).map_err(Error::open(path));
        let mut magic = [0; 8];
        let is_image = vmcore::ReadAt::read_exact_at(&reader()?, &mut magic, 0).is_ok()
            && &magic == Header::MAGIC;
        if is_image {
            let key = seal.map(|seal| &seal.key);
            let (image, resumable) =
                Image::examine_with(reader()?, key).map_err(Error::image(path))?;
            match resumable {
                Err(ImageError::Resumed) if again => {}
                other => other.map_err(Error::image(path))?,
            }
            let no_jump = || Error::NoJump {
                path: path.to_owned(),
            };
            return Ok(Self {
                path: path.to_owned(),
                identity: image.identity().clone(),
                jump: Jump {
                    back: image.saved().jump_back.ok_or_else(no_jump)?,
                    layout: Layout::Raw,
                },
                source: Source::Image(image),
            });
        }
        if seal.is_some() {
            return Err(Error::image(path)(ImageError::NotSealed));
        }
        let machine = SavedFile::open(reader()?)
            .map_err(Error::file(path))?
            .machine;
        match (machine.identity().cloned(), machine.jump()) {
            (Some(identity), Some(jump)) => Ok(Self {
                path: path.to_owned(),
                source: Source::Core(machine),
                identity,
                jump,
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
        matches!(self.source, Source::Image(_))
    }

    /// Checks that all memory of the machine can be restored to `memory`, and writes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Restore`] with the first range that cannot be, and why.
    pub fn check(&self, memory: &dyn Target) -> Result<Summary, Error> {
        let machine = self.identity.saved_memory();
        let plan = self.plan(&machine);
        Ok(match &self.source {
            Source::Image(image) => krestore_core::check_image(image, plan, memory)?,
            Source::Core(saved) => {
                krestore_core::check(&saved.raw().map_err(Error::swap)?, plan, memory)?
            }
        })
    }

    /// Reads all of an image and checks it; there is nothing that a core could be checked by.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] with the first damage that is found.
    pub fn verify(&self, progress: &mut dyn FnMut(Progress)) -> Result<(), Error> {
        match &self.source {
            Source::Image(image) => {
                krestore_core::verify_image(image, threads_for(Codec::Lz4), progress)
                    .map(drop)
                    .map_err(Error::image(&self.path))
            }
            Source::Core(_) => Ok(()),
        }
    }

    /// Checks that nobody used the machine's devices since it was saved. Of a core that is not known.
    ///
    /// # Errors
    ///
    /// [`Error::UsedVolume`] and its like, which name the device.
    pub fn check_volumes(&self) -> Result<(), Error> {
        if !self.is_image() {
            return Ok(());
        }
        let here = volumes::in_use()?;
        for volume in &self.identity.volumes {
            volumes::check(volume, &here, &self.path, PATIENCE)?;
        }
        Ok(())
    }

    /// Writes all memory of the machine to `memory`, after [`check`](Self::check)ing it, on all CPUs.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check) and [`check_volumes`](Self::check_volumes), before the first byte is
    /// written; [`Error::Restore`] later if a byte could not be brought over.
    pub fn restore(
        self,
        memory: Box<dyn Target>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Restored, Error> {
        if memory.is_memory() {
            self.check_volumes()?;
        }
        let machine = self.identity.saved_memory();
        let plan = self.plan(&machine);
        let threads = threads_for(Codec::Lz4);
        let target = memory.as_ref();
        let summary = match &self.source {
            Source::Image(image) => {
                krestore_core::restore_image(image, plan, target, threads, progress)?
            }
            Source::Core(saved) => {
                let raw = saved.raw().map_err(Error::swap)?;
                krestore_core::restore(&raw, plan, target, threads, progress)?
            }
        };
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

    /// How long checksums took, or decryption, of all threads together; of a core, which has none, nothing.
    #[must_use]
    pub fn protection_took(&self) -> Duration {
        match &self.restoration.source {
            Source::Image(image) => image.protection_took(),
            Source::Core(_) => Duration::ZERO,
        }
    }

    /// Jumps into the restored machine, which goes on where it jumped away. Right before, an image is
    /// marked as resumed.
    ///
    /// # Errors
    ///
    /// [`Error::Kexec`] if the kernel refused, [`Error::Mark`] if the image could not be marked.
    pub fn jump_back(self) -> Result<Infallible, Error> {
        let Restoration {
            path,
            source,
            identity,
            jump: Jump { back, .. },
        } = self.restoration;
        let page = PhysRange::from_len(back.align_down(PAGE_SIZE), PAGE_SIZE)
            .ok_or(MemoryError::Absent { addr: back })?;
        let page = self.memory.read(page)?;
        jump::load_way_back(back, &page, &identity)?;
        let Source::Image(mut image) = source else {
            return jump::leave();
        };
        image.forget_key();
        let mark = |source| Error::Mark {
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new().write(true).open(&path).map_err(mark)?;
        // From here on the image is stale, so nothing but the jump comes after.
        image.mark_resumed(&file).map_err(mark)?;
        jump::leave().inspect_err(|_| {
            // The machine did not go on, so it can be tried again. If this fails too, it cannot.
            let _ = image.unmark_resumed(&file);
        })
    }
}
