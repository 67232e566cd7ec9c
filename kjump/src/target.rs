//! Where the image of a machine goes.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use vmcore::ReadFile;
use vmcore::image::{self, Header, Identity, ImageError, ImageId, Stage};

use crate::error::chain;
use crate::{BlockDevice, DeviceReader, Error, presence};

/// A block device that is to take an image, claimed by the machine that is to be saved.
#[derive(Debug)]
pub struct ImageTarget {
    path: PathBuf,
    file: File,
    size: u64,
}

/// What became of a hibernation, as the machine finds it when it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was saved, and restored from there.
    Resumed,
    /// The saving kernel came back without having saved it, and said why.
    NotSaved(String),
}

impl ImageTarget {
    /// Opens the block device at `path` for an image, if nobody uses it.
    ///
    /// # Errors
    ///
    /// [`Error::NotBlockDevice`], [`Error::NotPlainDevice`] if other kernels will not find it,
    /// [`Error::TargetInUse`] if it is mounted or used otherwise, or [`Error::Open`].
    pub fn claim(path: &Path) -> Result<Self, Error> {
        let Some(device) = BlockDevice::open(path)? else {
            return Err(Error::NotBlockDevice {
                path: path.to_owned(),
            });
        };
        if let Some(made_of) = device.made_of() {
            return Err(Error::NotPlainDevice {
                path: path.to_owned(),
                made_of,
            });
        }
        // For a block device, O_EXCL without O_CREAT asks the kernel that nobody else uses it (open(2)).
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::fcntl::OFlag::O_EXCL.bits())
            .open(path);
        let mut file = match file {
            Err(source) if source.kind() == io::ErrorKind::ResourceBusy => {
                return Err(Error::TargetInUse {
                    path: path.to_owned(),
                    source,
                });
            }
            other => other.map_err(Error::open(path))?,
        };
        let size = file.seek(SeekFrom::End(0)).map_err(Error::read(path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
        })
    }

    /// Checks that the device takes `needed` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::TargetTooSmall`].
    pub fn check_size(&self, needed: u64) -> Result<(), Error> {
        if self.size < needed {
            return Err(Error::TargetTooSmall {
                path: self.path.clone(),
                available: self.size,
                needed,
            });
        }
        Ok(())
    }

    /// Makes the device the place for the image of `identity`: what was there before is no more. Then
    /// lets go of the device, so that nothing of it stays in this kernel's caches: after the jump it
    /// will hold what others wrote.
    ///
    /// # Errors
    ///
    /// [`Error::WriteImage`] if it cannot be written.
    pub fn prepare(self, identity: &Identity) -> Result<(), Error> {
        image::prepare(identity, &self.file)
            .map_err(|error| Error::write_image(&self.path)(error.into()))
    }

    /// Gives up the image of `identity` in the device at `path`, if it could still be resumed, as whoever lets the
    /// machine go on has to do before. Tells whether there was one.
    ///
    /// # Errors
    ///
    /// [`Error::Open`], [`Error::WrongTarget`] or [`Error::Image`] if that is not known, or cannot be done.
    pub fn give_up(path: &Path, identity: &Identity) -> Result<bool, Error> {
        let device = DeviceReader::open(path).map_err(Error::open(path))?;
        let (header, fate) = image::glance(&device).map_err(Error::image(path))?;
        check_id(&header, path, identity)?;
        if fate.is_err() {
            return Ok(false);
        }
        give_up(&device, path).map(|()| true)
    }

    /// What became of the hibernation of `identity`, whose image was to go to `path`, for the machine itself as it
    /// goes on. An image that could still be resumed is given up: it would bring the machine back to where it
    /// was before now, over file systems that it has written to since.
    ///
    /// # Errors
    ///
    /// [`Error::NoOutcome`] if the device cannot be read, or is gone, [`Error::WrongTarget`] or [`Error::Image`] if
    /// there is something else on it.
    pub fn outcome(path: &Path, identity: &Identity) -> Result<Outcome, Error> {
        let no_outcome = |why: String| Error::NoOutcome {
            path: path.to_owned(),
            why,
        };
        // What is asked of it may never be answered.
        if presence::is_gone(path) {
            return Err(no_outcome("it is gone".to_owned()));
        }
        // Past the page cache: what this kernel knew of the device before the jump is what it is not asked for.
        let device = DeviceReader::open(path)
            .map_err(|source| no_outcome(chain(&Error::open(path)(source))))?;
        let unread = |error| match error {
            ImageError::Read { .. } | ImageError::Truncated { .. } => no_outcome(chain(&error)),
            error => Error::image(path)(error),
        };
        let (header, fate) = image::glance(&device).map_err(unread)?;
        check_id(&header, path, identity)?;
        Ok(match fate {
            Err(ImageError::Resumed) => Outcome::Resumed,
            Err(ImageError::Failed { reason }) => Outcome::NotSaved(reason),
            Err(ImageError::Prepared) => Outcome::NotSaved(format!(
                "the saving kernel came back and had not written to {}; its console tells why",
                path.display()
            )),
            Err(other) => Outcome::NotSaved(other.to_string()),
            Ok(()) => Outcome::NotSaved(format!(
                "the saving kernel came back after it had written a whole image, {}",
                match give_up(&device, path) {
                    Ok(()) => "which is given up".to_owned(),
                    Err(error) => format!(
                        "and that cannot be given up ({}): it must never be resumed",
                        chain(&error)
                    ),
                }
            )),
        })
    }
}

/// Checks that `header`, which was found at `path`, is of the image of `identity`.
pub(crate) fn check_id(header: &Header, path: &Path, identity: &Identity) -> Result<(), Error> {
    if header.identity.id != identity.id {
        return Err(Error::WrongTarget {
            path: path.to_owned(),
            found: format!("it holds the image {}", header.identity.id),
        });
    }
    Ok(())
}

/// Gives up the image on `device`, which is at `path`.
fn give_up(device: &DeviceReader, path: &Path) -> Result<(), Error> {
    let file = OpenOptions::new().write(true).open(path);
    let file = file.map_err(Error::open(path))?;
    image::discard(device, &file).map_err(Error::image(path))
}

/// Opens the device or file at `path`.
pub(crate) fn open(path: &Path, write: bool) -> Result<ReadFile, Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .open(path)
        .map_err(Error::open(path))?;
    ReadFile::new(file).map_err(Error::read(path))
}

/// Finds the device that holds the image `id`, or is to: the one at `path`, or any other, since the same
/// device may have another name in another kernel.
///
/// # Errors
///
/// [`Error::NoDevice`] if no block device holds it now; one may still appear.
pub fn find_image(path: &Path, id: ImageId) -> Result<PathBuf, Error> {
    let holds = |path: &Path| {
        let header = open(path, false)
            .ok()
            .and_then(|source| Header::read(&source).ok());
        header.is_some_and(|header| header.identity.id == id)
    };
    if holds(path) {
        return Ok(path.to_owned());
    }
    let class = Path::new("/sys/class/block");
    for entry in std::fs::read_dir(class)
        .map_err(Error::read(class))?
        .flatten()
    {
        // Where the name of a device has a slash, sysfs has an exclamation mark.
        let name = entry.file_name().to_string_lossy().replace('!', "/");
        let device = Path::new("/dev").join(name);
        if holds(&device) {
            return Ok(device);
        }
    }
    Err(Error::NoDevice {
        path: path.to_owned(),
        id,
    })
}

/// Checks that `path` is what the machine of `identity` prepared for its image.
pub(crate) fn check_prepared(path: &Path, identity: &Identity) -> Result<(), Error> {
    let wrong = |found: String| Error::WrongTarget {
        path: path.to_owned(),
        found,
    };
    match Header::read(&open(path, false)?) {
        Ok(header) if header.identity.id != identity.id => {
            Err(wrong(format!("it holds the image {}", header.identity.id)))
        }
        Ok(header) if header.stage != Stage::Prepared => Err(wrong(
            "it holds the image of this machine, already written".to_owned(),
        )),
        Ok(_) => Ok(()),
        Err(error) => Err(wrong(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use vmcore::elf::{Core, CoreHeaders};
    use vmcore::image::{Codec, Image, Jump, Layout, Options, Paging, Platform};
    use vmcore::{LeaveOut, Phases, PhysAddr, PhysRange, RangeMap, Saved};

    use super::*;

    fn identity(id: u8) -> Identity {
        Identity {
            id: ImageId([id; 16]),
            release: "6.12.0".to_owned(),
            build_id: Vec::new(),
            paging: Paging::FourLevel,
            window: PhysRange::new(0x100_0000, 0x200_0000).unwrap(),
            low: RangeMap::new(),
            memory: RangeMap::new(),
            free_fill: None,
            uptime: 90_061,
            platform: Platform::default(),
            volumes: Vec::new(),
        }
    }

    /// A device as somebody left it.
    fn device(write: impl FnOnce(&mut File)) -> tempfile::NamedTempFile {
        let device = tempfile::NamedTempFile::new().unwrap();
        write(&mut device.reopen().unwrap());
        device
    }

    fn save(file: &mut File) {
        let memory = Core::open(CoreHeaders::new().encode()).unwrap();
        let jump = Jump {
            back: PhysAddr::new(0x5000),
            layout: Layout::Raw,
        };
        let options = Options {
            codec: Codec::Lz4,
            threads: 1,
            seal: None,
        };
        Saved::of_core(memory, Some(identity(1)), Some(jump))
            .write_image(
                &*file,
                options,
                LeaveOut::Free,
                &mut Phases::new,
                &mut |_| {},
            )
            .unwrap();
    }

    #[test]
    fn the_machine_learns_what_became_of_it() {
        let outcome = |device: &tempfile::NamedTempFile| {
            ImageTarget::outcome(device.path(), &identity(1)).unwrap()
        };
        let reason = |device: &tempfile::NamedTempFile| match outcome(device) {
            Outcome::NotSaved(reason) => reason,
            Outcome::Resumed => panic!("it was not saved"),
        };
        let resumed = device(|file| {
            save(file);
            let image = Image::open(ReadFile::new(file.try_clone().unwrap()).unwrap()).unwrap();
            image.mark_resumed(file).unwrap();
        });
        assert_eq!(outcome(&resumed), Outcome::Resumed);
        let failed = device(|file| image::record_failure(&identity(1), "disk full", file).unwrap());
        assert_eq!(reason(&failed), "disk full");
        let prepared = device(|file| image::prepare(&identity(1), file).unwrap());
        assert!(reason(&prepared).contains("had not written"));
        let saved = device(save);
        assert!(reason(&saved).contains("came back after"));
        // The machine goes on, so nobody must resume that any more.
        let image = Image::open(std::fs::read(saved.path()).unwrap());
        assert!(matches!(image, Err(ImageError::Discarded)));
        assert!(reason(&saved).contains("discarded"));
        // Whoever lets the machine go on can give it up before.
        let again = device(save);
        let give_up = |id| ImageTarget::give_up(again.path(), &identity(id));
        assert!(matches!(give_up(2), Err(Error::WrongTarget { .. })));
        assert!(give_up(1).unwrap());
        let image = Image::open(std::fs::read(again.path()).unwrap());
        assert!(matches!(image, Err(ImageError::Discarded)));
        assert!(!give_up(1).unwrap());
        for silent in [Path::new("/nonexistent"), device(|_| {}).path()] {
            let error = ImageTarget::outcome(silent, &identity(1)).unwrap_err();
            assert!(matches!(error, Error::NoOutcome { .. }), "{error}");
        }
    }

    #[test]
    fn another_device_is_noticed() {
        let other = device(|file| image::prepare(&identity(2), file).unwrap());
        assert!(ImageTarget::outcome(other.path(), &identity(1)).is_err());
        assert!(check_prepared(other.path(), &identity(1)).is_err());
        assert!(check_prepared(other.path(), &identity(2)).is_ok());
        assert_eq!(
            find_image(other.path(), ImageId([2; 16])).unwrap(),
            other.path()
        );
        let error = find_image(other.path(), ImageId([1; 16])).unwrap_err();
        assert!(matches!(error, Error::NoDevice { .. }));
        for foreign in [
            device(save),
            device(|file| file.write_all(&[0; 1 << 20]).unwrap()),
        ] {
            let error = check_prepared(foreign.path(), &identity(1)).unwrap_err();
            assert!(matches!(error, Error::WrongTarget { .. }), "{error}");
        }
    }

    #[test]
    fn files_and_what_is_not_there_are_no_targets() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let claim = |path: &Path| ImageTarget::claim(path).unwrap_err();
        assert!(matches!(claim(file.path()), Error::NotBlockDevice { .. }));
        assert!(matches!(
            claim(Path::new("/nonexistent")),
            Error::Open { .. }
        ));
    }

    #[test]
    fn a_device_that_is_made_of_a_file_is_no_target() {
        // Most machines show some that are not set up. Opening those would say that they are empty.
        let Some(device) = Path::new("/dev/loop0").exists().then_some("/dev/loop0") else {
            return;
        };
        let error = ImageTarget::claim(Path::new(device)).unwrap_err();
        assert!(matches!(error, Error::NotPlainDevice { .. }), "{error}");
        assert!(error.to_string().contains("a file in a file system"));
    }
}
