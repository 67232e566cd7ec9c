//! What is on a volume, wherever its bytes are.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use vmcore::ReadAt;
use vmcore::image::{Component, Mapping, Volume};

use super::names::{device_of, names_in};
use crate::DeviceReader;
use crate::filesystem::{self, FileSystem};

/// What is on the device at `path`, which is known to be of `kind` if that says something, and its size.
///
/// It is read past the page cache, which does not hear of what is written through mapped devices.
pub(super) fn look(path: &Path, kind: &str) -> io::Result<(FileSystem, u64)> {
    let device = DeviceReader::open(path)?;
    Ok((filesystem::recognise_as(&device, kind)?, device.size()))
}

/// The bytes of a volume.
#[derive(Debug)]
pub(super) struct Contents {
    /// The devices that they are on, as they are called here.
    pub(super) paths: Vec<PathBuf>,
    devices: Vec<DeviceReader>,
    mapping: Option<Mapping>,
}

impl Contents {
    /// Finds the devices that have the contents of `volume`, whatever their names are now. They may appear
    /// until `limit`.
    pub(super) fn find(volume: &Volume, limit: Instant) -> io::Result<Self> {
        let paths = match &volume.mapping {
            None => vec![find(&component(volume), limit)?],
            Some(mapping) => mapping
                .components()
                .iter()
                .map(|component| find(component, limit))
                .collect::<io::Result<_>>()?,
        };
        let devices = paths.iter().map(|path| DeviceReader::open(path));
        Ok(Self {
            devices: devices.collect::<io::Result<_>>()?,
            paths,
            mapping: volume.mapping.clone(),
        })
    }

    /// Where the bytes are, in words.
    pub(super) fn place(&self) -> String {
        let paths: Vec<String> = self
            .paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        paths.join(" and ")
    }

    /// Has all that was written to the devices go to stable storage.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.paths
            .iter()
            .try_for_each(|path| File::open(path)?.sync_all())
    }

    /// Whether some of the bytes are those of `other`, a volume here.
    pub(super) fn overlap(&self, other: &Volume) -> bool {
        let is_at = |path: &Path, device: &str| path == Path::new(device);
        match (&self.mapping, &other.mapping) {
            (None, None) => self.paths.iter().any(|path| is_at(path, &other.device)),
            (Some(ours), Some(theirs)) => ours.ranges().any(|(component, range)| {
                theirs.ranges().any(|(other, there)| {
                    is_at(&self.paths[component], &theirs.components()[other].device)
                        && range.start < there.end
                        && there.start < range.end
                })
            }),
            _ => false,
        }
    }
}

impl ReadAt for Contents {
    fn size(&self) -> u64 {
        match &self.mapping {
            Some(mapping) => mapping.size(),
            None => self.devices.first().map_or(0, ReadAt::size),
        }
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let Some(mapping) = &self.mapping else {
            let device = self.devices.first().ok_or(io::ErrorKind::UnexpectedEof)?;
            return device.read_exact_at(buf, offset);
        };
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let (stripe, len) = mapping.locate(at).ok_or(io::ErrorKind::UnexpectedEof)?;
            let len = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            let device = self.devices.get(stripe.component);
            let device = device.ok_or(io::ErrorKind::UnexpectedEof)?;
            device.read_exact_at(now, stripe.start)?;
            at = at.saturating_add(len as u64);
            rest = later;
        }
        Ok(())
    }
}

/// A volume that is a device of its own.
fn component(volume: &Volume) -> Component {
    Component {
        device: volume.device.clone(),
        kind: volume.kind.clone(),
        uuid: volume.uuid.clone(),
        size: volume.size,
    }
}

/// Finds the device that has the contents of `wanted`.
fn find(wanted: &Component, limit: Instant) -> io::Result<PathBuf> {
    loop {
        match find_now(wanted) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < limit => {
                thread::sleep(Duration::from_millis(50));
            }
            found => return found,
        }
    }
}

fn find_now(wanted: &Component) -> io::Result<PathBuf> {
    let holds = |path: &Path| {
        look(path, &wanted.kind).is_ok_and(|(found, size)| {
            found.kind == wanted.kind && found.uuid == wanted.uuid && size == wanted.size
        })
    };
    let there = PathBuf::from(&wanted.device);
    let mut devices = Vec::new();
    if wanted.uuid.is_empty() {
        // Then its name is all that there is to know it by.
        devices.extend(Some(there).filter(|path| holds(path)));
    } else {
        devices.extend(
            names_in(Path::new("/sys/class/block"))
                .iter()
                .map(|name| PathBuf::from(device_of(name)))
                .filter(|path| holds(path)),
        );
    }
    match devices.as_slice() {
        [device] => Ok(device.clone()),
        [] => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("no device has it now; it was {}", wanted.device),
        )),
        [one, other, ..] => Err(io::Error::other(format!(
            "both {} and {} have it; take one of them away",
            one.display(),
            other.display()
        ))),
    }
}

#[cfg(test)]
mod tests;
