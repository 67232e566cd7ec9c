//! A block device as sysfs shows it: what drives it, and what it is made of.
//!
//! The kernel shows each device in a folder within that of the device that it hangs on
//! (`Documentation/admin-guide/sysfs-rules.rst`). So the way up from a partition leads over its disk, the
//! controller and the buses to the root, and what has a driver there has a link `driver`, whose link `module`
//! tells the module that the driver is in (`module_add_driver` in `drivers/base/module.c`).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use crate::modules::Need;
use crate::{Error, volumes};

/// A block device that sysfs shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// The root of the machine.
    root: PathBuf,
    /// Its folder, without links.
    folder: PathBuf,
}

/// What drives all devices of a bus, where the driver itself may not tell its module.
const OF_BUS: [(&str, &str); 2] = [("scsi", "sd_mod"), ("mmc", "mmc_block")];

/// Devices that are made of other things, by the beginning of their names.
const MADE_OF: [(&str, &str); 8] = [
    (
        "dm-",
        "a device of the device mapper (LVM, dm-crypt or multipath)",
    ),
    ("md", "a RAID of the kernel's own"),
    ("loop", "a file in a file system"),
    ("zram", "in this machine's memory"),
    ("ram", "in this machine's memory"),
    ("nbd", "reached over the network"),
    ("drbd", "reached over the network"),
    ("bcache", "made of other devices"),
];

const NETWORK: &str = "reached over the network";

impl BlockDevice {
    /// The block device at `path`; `None` if that is none, but a file.
    ///
    /// # Errors
    ///
    /// [`Error::Open`] if there is nothing, [`Error::Read`] if sysfs does not have it.
    pub fn open(path: &Path) -> Result<Option<Self>, Error> {
        let metadata = path.metadata().map_err(Error::open(path))?;
        if !metadata.file_type().is_block_device() {
            return Ok(None);
        }
        let (major, minor) = (major(metadata.rdev()), minor(metadata.rdev()));
        let root = Path::new("/");
        Self::at(root, &root.join(format!("sys/dev/block/{major}:{minor}"))).map(Some)
    }

    /// The disks of this machine, in the order of their names: what is not made of other devices.
    #[must_use]
    pub fn disks() -> Vec<Self> {
        Self::disks_at(Path::new("/"))
    }

    pub(crate) fn disks_at(root: &Path) -> Vec<Self> {
        let names = volumes::names_in(&root.join("sys/class/block"));
        let devices = names.iter().filter_map(|name| Self::named(root, name).ok());
        devices
            .filter(|device| !device.folder.join("partition").exists())
            .filter(|device| device.made_of().is_none())
            .collect()
    }

    /// The device that the kernel has this name for.
    pub(crate) fn named(root: &Path, name: &str) -> Result<Self, Error> {
        Self::at(root, &root.join("sys/class/block").join(name))
    }

    /// The device with this folder, or link to it.
    fn at(root: &Path, folder: &Path) -> Result<Self, Error> {
        Ok(Self {
            root: root.canonicalize().map_err(Error::read(root))?,
            folder: folder.canonicalize().map_err(Error::read(folder))?,
        })
    }

    /// The kernel's name for it.
    #[must_use]
    pub fn name(&self) -> String {
        name_of(&self.folder)
    }

    /// The modules of the drivers that it takes to see this device, those of buses and controllers before
    /// what hangs on them. If it is made of other devices, these are what they need: a saving kernel looks at
    /// those.
    #[must_use]
    pub fn drivers(&self) -> Vec<Need> {
        let mut needs = Vec::new();
        self.walk(&self.folder, &mut needs, &mut BTreeSet::new());
        needs
    }

    /// Adds what it takes to see the device in `folder`, unless it was `seen`: links in sysfs are followed,
    /// but not in circles.
    fn walk(&self, folder: &Path, needs: &mut Vec<Need>, seen: &mut BTreeSet<PathBuf>) {
        let sys = self.root.join("sys");
        let mut way: Vec<&Path> = folder
            .ancestors()
            .take_while(|folder| **folder != sys && folder.starts_with(&sys))
            .collect();
        way.reverse();
        for step in way {
            if !seen.insert(step.to_owned()) {
                continue;
            }
            // A disk that is seen over several controllers hangs on none of them.
            let below = links(&step.join("slaves"), |_| true);
            for other in controllers(step).into_iter().chain(below) {
                self.walk(&other, needs, seen);
            }
            let of_driver = target(&step.join("driver/module"));
            let bus = target(&step.join("subsystem"));
            let of_bus = OF_BUS
                .iter()
                .find(|(name, _)| bus.as_deref() == Some(*name));
            let of_bus = of_bus.map(|(_, module)| (*module).to_owned());
            for module in of_driver.into_iter().chain(of_bus) {
                let need = self.need(module, &name_of(folder));
                if !needs.iter().any(|known| known.module == need.module) {
                    needs.push(need);
                }
            }
        }
    }

    /// `module`, which `device` needs. The kernel tells the state of those only that are not built in
    /// (`Documentation/ABI/testing/sysfs-module`).
    fn need(&self, module: String, device: &str) -> Need {
        let state = self.root.join("sys/module").join(&module).join("initstate");
        Need {
            built_in: !state.exists(),
            ..Need::of(&module, device)
        }
    }

    /// What the device is made of, if it is not a disk, or a part of one, that any kernel with the right
    /// drivers finds by itself.
    #[must_use]
    pub fn made_of(&self) -> Option<&'static str> {
        let devices = self.root.join("sys/devices");
        let place = self.folder.strip_prefix(&devices).unwrap_or(&self.folder);
        let over_network = |folder: &Path| {
            folder.starts_with(devices.join("virtual")) || folder.starts_with(devices.join("rbd"))
        };
        if place.starts_with("virtual/nvme-subsystem") {
            let here: Vec<PathBuf> = self.folder.ancestors().flat_map(controllers).collect();
            let far = !here.is_empty() && here.iter().all(|folder| over_network(folder));
            return far.then_some(NETWORK);
        }
        if let Ok(block) = place.strip_prefix("virtual/block") {
            let name = name_of(block.iter().next().map_or(block, Path::new));
            let known = MADE_OF.iter().find(|(start, _)| name.starts_with(start));
            return Some(known.map_or("made of other devices", |(_, what)| *what));
        }
        let session = |folder: &Path| folder.join("iscsi_session").exists();
        (over_network(&self.folder) || self.folder.ancestors().any(session)).then_some(NETWORK)
    }
}

/// The last part of a path.
fn name_of(path: &Path) -> String {
    path.file_name()
        .map_or(String::new(), |name| name.to_string_lossy().into_owned())
}

/// The name of what a link leads to in the end.
fn target(link: &Path) -> Option<String> {
    link.canonicalize().ok().map(|path| name_of(&path))
}

/// Where the links in a folder lead to whose names `count`.
fn links(folder: &Path, count: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let names = volumes::names_in(folder).into_iter();
    names
        .filter(|name| count(name))
        .map(|name| folder.join(name))
        .filter(|link| fs::symlink_metadata(link).is_ok_and(|link| link.is_symlink()))
        .filter_map(|link| link.canonicalize().ok())
        .collect()
}

/// The controllers over which an NVMe subsystem is seen, if that is what is in `folder`
/// (`nvme_init_subsystem` in `drivers/nvme/host/core.c`).
fn controllers(folder: &Path) -> Vec<PathBuf> {
    let is_one = name_of(folder).starts_with("nvme-subsys");
    links(folder, |name| is_one && name.starts_with("nvme"))
}

#[cfg(test)]
mod tests;
