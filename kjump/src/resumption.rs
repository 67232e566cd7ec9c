//! Kernel C: finds an image, and leaves for the kernel that restores it.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kexec_image::{Boot, Kernel, LoadPlan, Machine};
use vmcore::image::{Identity, Image, ImageError, Paging, Platform, Seal, VolumeState};

use crate::handover::KeyPage;
use crate::{BlockDevice, DeviceReader, Error, Moment, jump, same_memory, traces, volumes};

/// How long a device may take to appear: whoever resumes does so early.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often somebody may set out to resume an image: a kernel that fails to restore it must not be
/// started again and again.
const MOST_ATTEMPTS: u32 = 3;

/// An image that can be resumed on this machine.
#[derive(Debug)]
pub struct Resumption<'a> {
    machine: &'a Machine,
    path: PathBuf,
    image: Image<DeviceReader>,
    again: bool,
    seal: Option<Seal>,
    key_page: Option<KeyPage>,
}

/// What was found when one thing was looked at that must hold for an image to be resumed.
#[derive(Debug)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// What was found, or why the image must not be resumed.
    pub result: Result<String, Error>,
}

impl<'a> Resumption<'a> {
    /// Opens the image in the device or file at `path` and checks that it is complete, was not resumed
    /// before, is of this `machine`, and that nobody used the devices that the machine in it counts on.
    ///
    /// # Errors
    ///
    /// [`Error`] with the first reason why it must not be resumed, and what can be done.
    pub fn open(machine: &'a Machine, path: &Path) -> Result<Self, Error> {
        Self::open_with(machine, path, None, false)
    }

    /// As [`open`](Self::open), for those who know what they do: an image that was resumed already, or
    /// that could not be restored several times, is taken too. The devices that the machine in it counts
    /// on must still be as they were.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_again(machine: &'a Machine, path: &Path) -> Result<Self, Error> {
        Self::open_with(machine, path, None, true)
    }

    /// As [`open`](Self::open), or [`open_again`](Self::open_again), with what it takes to read a sealed image.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(
        machine: &'a Machine,
        path: &Path,
        seal: Option<Seal>,
        again: bool,
    ) -> Result<Self, Error> {
        let (image, resumable) = examine(path, seal.as_ref())?;
        match resumable {
            Err(ImageError::Resumed) if again => {}
            other => other.map_err(Error::image(path))?,
        }
        if !again {
            few_attempts(&image, path)?;
        }
        check_index(&image).map_err(Error::image(path))?;
        for check in fitness(image.identity(), machine, path) {
            check.result?;
        }
        Ok(Self {
            machine,
            path: path.to_owned(),
            image,
            again,
            seal,
            key_page: None,
        })
    }

    /// Looks at all that must hold for the image in the device or file at `path` to be resumed on
    /// `machine`, whether or not something before did not.
    #[must_use]
    pub fn checks(machine: &Machine, path: &Path, seal: Option<&Seal>) -> Vec<Check> {
        let (image, resumable) = match examine(path, seal) {
            Ok(found) => found,
            Err(error) => return vec![Check::new("image", Err(error))],
        };
        let identity = image.identity();
        let saved = format!(
            "{} ({}), saved {}",
            identity.release,
            identity.id,
            Moment(identity.platform.time)
        );
        let whole = resumable
            .and_then(|()| check_index(&image))
            .map(|()| saved)
            .map_err(Error::image(path));
        let attempts = few_attempts(&image, path).map(|()| image.attempts().to_string());
        let mut checks = vec![
            Check::new("image", whole),
            Check::new("earlier attempts", attempts),
        ];
        checks.extend(fitness(identity, machine, path));
        checks
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> &Image<DeviceReader> {
        &self.image
    }

    /// Where the image is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the image is taken although it was resumed already.
    #[must_use]
    pub fn is_again(&self) -> bool {
        self.again
    }

    /// Checks that `kernel` is the same as the one that saved the machine: then it has shown that it runs
    /// beside it. Any other kernel may do as well, or may not.
    ///
    /// # Errors
    ///
    /// [`Error::OtherKernel`] with what both say that they are.
    pub fn check_kernel(&self, kernel: &Kernel<'_>) -> Result<(), Error> {
        let saver = &self.image.identity().platform.saver;
        match kernel.version() {
            Some(version) if !saver.is_empty() && version != saver => Err(Error::OtherKernel {
                image: saver.clone(),
                here: version.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Plans the kernel that restores the image. For one that is sealed, a page is found that will hand the key
    /// on; it stays empty until this kernel is [left](Self::leave).
    ///
    /// # Errors
    ///
    /// [`Error::Plan`] that says what does not fit; [`Error::PageMap`], [`Error::KeyPage`] or [`Error::Lock`] if no
    /// page can hand a key on.
    pub fn plan<'b>(&mut self, boot: &Boot<'b>) -> Result<LoadPlan<'b>, Error> {
        let identity = self.image.identity();
        if self.seal.is_some() && self.key_page.is_none() {
            self.key_page = Some(KeyPage::beside(identity)?);
        }
        let key_page = self.key_page.as_ref().map(KeyPage::at);
        Ok(LoadPlan::restoring(self.machine, identity, boot, key_page)?)
    }

    /// The devices that the kernel that restores the image looks at: the image's, and those that the machine
    /// in it counts on. If one of these is not found as it is, all disks.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] if sysfs does not show them.
    pub fn devices(&self) -> Result<Vec<BlockDevice>, Error> {
        let mut devices: Vec<BlockDevice> = BlockDevice::open(&self.path)?.into_iter().collect();
        for volume in &self.image.identity().volumes {
            if volume.state == VolumeState::Exempt {
                continue;
            }
            let Some(paths) = volumes::whereabouts(volume) else {
                return Ok(BlockDevice::disks());
            };
            for path in paths {
                devices.extend(BlockDevice::open(&path)?);
            }
        }
        Ok(devices)
    }

    /// Loads `plan` and leaves for it, after the image was marked with one attempt more. File systems are
    /// synced before, but not unmounted.
    ///
    /// # Errors
    ///
    /// [`Error::Kexec`] if the kernel refused, [`Error::KeyPage`] if it moved the page that is to hand the key on,
    /// before the image is marked; [`Error::Mark`] if that cannot be.
    pub fn leave(self, plan: LoadPlan<'_>) -> Result<Infallible, Error> {
        jump::load(&plan)?;
        drop(plan);
        let Self {
            path,
            mut image,
            seal,
            mut key_page,
            again: _,
            machine: _,
        } = self;
        // Whoever makes room in memory moves pages, and leaves what they had where they were. So the key comes
        // last, when all is loaded and written. What else this program had of it is zeroed.
        nix::unistd::sync();
        if let (Some(page), Some(seal)) = (&mut key_page, seal) {
            page.put(&seal)?;
        }
        image.forget_key();
        traces::overwrite();
        mark_attempt(&image, &path)?;
        jump::leave()
    }

    /// Marks the image with one attempt more.
    pub(crate) fn mark_attempt(&self) -> Result<(), Error> {
        mark_attempt(&self.image, &self.path)
    }
}

/// Marks `image`, which is at `path`, with one attempt more. One that was resumed stays marked as that.
fn mark_attempt(image: &Image<DeviceReader>, path: &Path) -> Result<(), Error> {
    let file = OpenOptions::new().write(true).open(path);
    file.and_then(|file| image.mark_attempt(&file))
        .map_err(|source| Error::Mark {
            path: path.to_owned(),
            source,
        })
}

/// Reads the index through, so that what is wrong with it is known before this kernel is left.
fn check_index(image: &Image<DeviceReader>) -> Result<(), ImageError> {
    image.index()?.try_for_each(|entry| entry.map(drop))
}

impl Check {
    fn new(name: impl Into<String>, result: Result<String, Error>) -> Self {
        Self {
            name: name.into(),
            result,
        }
    }
}

/// The image at `path`, and whether it may be resumed by what it says itself.
fn examine(
    path: &Path,
    seal: Option<&Seal>,
) -> Result<(Image<DeviceReader>, Result<(), ImageError>), Error> {
    let device = DeviceReader::open(path).map_err(Error::open(path))?;
    Image::examine_with(device, seal.map(|seal| &seal.key)).map_err(Error::image(path))
}

/// Checks that nobody failed too often to resume `image`.
fn few_attempts(image: &Image<DeviceReader>, path: &Path) -> Result<(), Error> {
    let attempts = image.attempts();
    if attempts >= MOST_ATTEMPTS {
        return Err(Error::TooManyAttempts {
            path: path.to_owned(),
            attempts,
        });
    }
    Ok(())
}

/// Looks, one after the other, at all that must be as it was for the machine of `identity`, whose image
/// is at `path`.
fn fitness<'a>(
    identity: &'a Identity,
    machine: &'a Machine,
    path: &'a Path,
) -> impl Iterator<Item = Check> + 'a {
    let (then, now) = (&identity.platform, &machine.platform);
    let machine_checks = [
        Check::new("hardware", same_hardware(then, now)),
        Check::new("CPU", same_cpu(then, now)),
        Check::new("paging", same_paging(identity.paging, machine.paging)),
        Check::new(
            "window",
            same_memory::check_window(identity.window, &machine.iomem),
        ),
        Check::new(
            "memory",
            same_memory::check_ram(&identity.memory, &machine.iomem),
        ),
    ];
    // These may have to wait for devices, so they are looked at when it is their turn.
    let volumes = identity.volumes.iter().map(move |volume| {
        let result = volumes::check(volume, &machine.volumes, path, PATIENCE);
        Check::new(volumes::name(volume), result)
    });
    machine_checks.into_iter().chain(volumes)
}

/// Checks that the page tables have the same depth.
fn same_paging(image: Paging, here: Paging) -> Result<String, Error> {
    if image != here {
        return Err(Error::OtherPaging { image, here });
    }
    Ok(here.to_string())
}

/// Checks that this is the machine that was saved, by what its firmware says of it.
fn same_hardware(image: &Platform, here: &Platform) -> Result<String, Error> {
    let fields = |platform: &Platform| {
        [
            platform.vendor.clone(),
            platform.product.clone(),
            platform.board.clone(),
            platform.uuid.clone(),
        ]
    };
    for (then, now) in fields(image).into_iter().zip(fields(here)) {
        // Of what one of them does not know, nothing follows.
        if !then.is_empty() && !now.is_empty() && then != now {
            return Err(Error::OtherMachine {
                image: then,
                here: now,
            });
        }
    }
    Ok(format!("{} {}", here.vendor, here.product)
        .trim()
        .to_owned())
}

/// Checks that the CPUs can do all that those could that the kernel in the image runs on.
fn same_cpu(image: &Platform, here: &Platform) -> Result<String, Error> {
    match image.lacking(here) {
        Some(feature) => Err(Error::OtherCpu {
            feature: feature.to_owned(),
            image: image.cpu.clone(),
            here: here.cpu.clone(),
        }),
        None => Ok(here.cpu.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_machine_is_noticed_by_what_both_know() {
        let here = Platform {
            vendor: "Maker".into(),
            product: "Machine".into(),
            uuid: "1".into(),
            ..Platform::default()
        };
        assert!(same_hardware(&here, &here).is_ok());
        assert!(same_hardware(&Platform::default(), &here).is_ok());
        assert!(same_hardware(&here, &Platform::default()).is_ok());
        let other = Platform {
            uuid: "2".into(),
            ..here.clone()
        };
        let error = same_hardware(&other, &here).unwrap_err();
        assert!(matches!(error, Error::OtherMachine { .. }));
    }

    #[test]
    fn a_cpu_that_can_more_will_do() {
        let cpu = |features: &str| Platform {
            features: features.into(),
            ..Platform::default()
        };
        assert!(same_cpu(&cpu("sse avx"), &cpu("avx avx2 sse")).is_ok());
        assert!(same_cpu(&cpu(""), &cpu("")).is_ok());
        let error = same_cpu(&cpu("sse avx"), &cpu("sse avx2")).unwrap_err();
        assert!(error.to_string().contains("\"avx\""), "{error}");
    }
}
