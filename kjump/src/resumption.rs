//! Kernel C: finds an image, and leaves for the kernel that restores it.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kexec_image::{Boot, LoadPlan, Machine};
use vmcore::image::Image;
use vmcore::{MemoryKind, PAGE_SIZE, PhysRange, RangeMap};

use crate::{DeviceReader, Error, jump, volumes};

/// How long a device may take to appear: whoever resumes does so early.
const PATIENCE: Duration = Duration::from_secs(10);

/// An image that can be resumed on this machine.
#[derive(Debug)]
pub struct Resumption<'a> {
    machine: &'a Machine,
    path: PathBuf,
    image: Image<DeviceReader>,
}

impl<'a> Resumption<'a> {
    /// Opens the image in the device or file at `path` and checks that it is complete, was not resumed
    /// before, and is of this `machine`.
    ///
    /// # Errors
    ///
    /// [`Error::Image`], [`Error::OtherMemory`] or [`Error::OtherPaging`] with the reason.
    pub fn open(machine: &'a Machine, path: &Path) -> Result<Self, Error> {
        let image = Image::open(DeviceReader::open(path).map_err(Error::open(path))?)
            .map_err(Error::image(path))?;
        image.core().map_err(Error::image(path))?;
        let identity = image.identity();
        if identity.paging != machine.paging {
            return Err(Error::OtherPaging {
                image: identity.paging,
                here: machine.paging,
            });
        }
        same_memory(&identity.memory, &machine.iomem.memory())?;
        volumes::check(&identity.volumes, &machine.volumes, path, PATIENCE)?;
        Ok(Self {
            machine,
            path: path.to_owned(),
            image,
        })
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

    /// Plans the kernel that restores the image.
    ///
    /// # Errors
    ///
    /// [`Error::Plan`] that says what does not fit.
    pub fn plan<'b>(&self, boot: &Boot<'b>) -> Result<LoadPlan<'b>, Error> {
        Ok(LoadPlan::restoring(
            self.machine,
            self.image.identity(),
            boot,
        )?)
    }

    /// Loads `plan` and leaves for it. File systems are synced before, but not unmounted.
    ///
    /// # Errors
    ///
    /// [`Error::Kexec`] if the kernel refused.
    pub fn leave(&self, plan: &LoadPlan<'_>) -> Result<Infallible, Error> {
        jump::load(plan)?;
        jump::leave()
    }
}

/// Checks that two machines have the same RAM.
fn same_memory(image: &RangeMap<MemoryKind>, here: &RangeMap<MemoryKind>) -> Result<(), Error> {
    let ram = |map: &RangeMap<MemoryKind>| {
        map.filter_map(|kind| (*kind == MemoryKind::Ram).then_some(()))
            .shrink_to(PAGE_SIZE)
    };
    let (image, here) = (ram(image), ram(here));
    let missing = |of: &RangeMap<()>, from: &RangeMap<()>| -> Option<PhysRange> {
        let mut rest = of.clone();
        for range in from.ranges() {
            rest.remove(range);
        }
        rest.ranges().next()
    };
    if let Some(range) = missing(&image, &here) {
        return Err(Error::OtherMemory {
            range,
            in_image: true,
        });
    }
    match missing(&here, &image) {
        Some(range) => Err(Error::OtherMemory {
            range,
            in_image: false,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(u64, u64, MemoryKind)]) -> RangeMap<MemoryKind> {
        let mut map = RangeMap::new();
        for &(start, end, kind) in entries {
            map.insert(PhysRange::new(start, end).unwrap(), kind)
                .unwrap();
        }
        map
    }

    #[test]
    fn other_memory_is_noticed_both_ways() {
        let small = map(&[(0x10_0000, 0x2000_0000, MemoryKind::Ram)]);
        let large = map(&[(0x10_0000, 0x4000_0000, MemoryKind::Ram)]);
        assert!(same_memory(&small, &small).is_ok());
        assert!(matches!(
            same_memory(&large, &small),
            Err(Error::OtherMemory { in_image: true, .. })
        ));
        assert!(matches!(
            same_memory(&small, &large),
            Err(Error::OtherMemory {
                in_image: false,
                ..
            })
        ));
    }

    #[test]
    fn parts_of_pages_and_other_kinds_do_not_matter() {
        let one = map(&[
            (0x10_0000, 0x2000_0000, MemoryKind::Ram),
            (0x2000_0000, 0x2000_1000, MemoryKind::Reserved),
        ]);
        let other = map(&[(0x10_0000, 0x2000_0400, MemoryKind::Ram)]);
        assert!(same_memory(&one, &other).is_ok());
    }
}
