//! The devices that a machine had mounted for writing or swapped on, and whether they were used while it
//! slept.
//!
//! The machine itself says [which they are](in_use), and of what is made of other devices, where its bytes are
//! on them (`stack`): other kernels have not put that together. The kernel that saves the machine looks at them
//! when it stands still (`record`), and whoever resumes it looks again (`check`).

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vmcore::image::{Mapping, Volume, VolumeState};

use crate::filesystem::{self, FileSystem};
use crate::{Error, Moment, device_mapper};

mod contents;
#[cfg(test)]
mod fake_devices;
mod in_use;
mod names;
mod stack;

use contents::Contents;
pub(crate) use names::names_in;

/// How long a device may take to appear after a boot.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The devices that are mounted for writing, in any mount namespace, or swapped on.
///
/// What is made of other devices says where its bytes are on disks and partitions, and where these tell something
/// of their own they are there too: LVM's metadata, for one. A device that is encrypted with dm-crypt stands for
/// what it is made of, and an array of md for its members. Loop devices are left out, for they are files in a
/// file system that counts itself, and so are devices in memory.
///
/// # Errors
///
/// [`Error::Read`] if `/proc` or `/sys` is not mounted.
pub fn in_use() -> Result<Vec<Volume>, Error> {
    in_use_at(Path::new("/"))
}

pub(crate) fn in_use_at(root: &Path) -> Result<Vec<Volume>, Error> {
    in_use::volumes(root, &device_mapper::table)
}

/// Makes the volumes on these devices such that nobody looks at them: whoever hibernates the machine
/// answers for it that they are not used before it is resumed.
///
/// # Errors
///
/// [`Error::NoVolume`] if one of `devices` is not in use.
pub fn exempt(volumes: &mut [Volume], devices: &[PathBuf]) -> Result<(), Error> {
    for device in devices {
        let path = device.canonicalize().unwrap_or_else(|_| device.clone());
        let volume = volumes
            .iter_mut()
            .find(|volume| Path::new(&volume.device) == path)
            .ok_or_else(|| Error::NoVolume {
                device: device.clone(),
            })?;
        volume.state = VolumeState::Exempt;
    }
    Ok(())
}

/// Checks that all volumes that are in use `now` are among those that are `known`.
pub(crate) fn check_known(now: &[Volume], known: &[Volume]) -> Result<(), Error> {
    let is_known = |volume: &Volume| {
        known.iter().any(|known| {
            let same = Volume {
                used: known.used.clone(),
                state: known.state,
                ..volume.clone()
            };
            *known == same
        })
    };
    match now.iter().find(|volume| !is_known(volume)) {
        Some(new) => Err(Error::NewVolume {
            device: new.device.clone(),
            used: new.used.clone(),
        }),
        None => Ok(()),
    }
}

/// Checks that other kernels will be able to look at all of `volumes`.
pub(crate) fn check_visible(volumes: &[Volume]) -> Result<(), Error> {
    volumes
        .iter()
        .filter(|volume| volume.state == VolumeState::Pending)
        .try_for_each(is_visible)
}

/// Checks that other kernels will be able to look at `volume`.
pub(crate) fn is_visible(volume: &Volume) -> Result<(), Error> {
    match stack::why_hidden(&volume.kind) {
        Some(why) => Err(Error::HiddenVolume {
            device: volume.device.clone(),
            used: volume.used.clone(),
            why,
        }),
        None => Ok(()),
    }
}

/// What of a volume is looked at, and where, in words.
pub(crate) fn describe(volume: &Volume) -> String {
    let seen = filesystem::looked_at(&volume.kind);
    let place = match &volume.mapping {
        None => volume.device.clone(),
        Some(mapping) => {
            let below: Vec<&str> = mapping
                .components()
                .iter()
                .map(|component| component.device.as_str())
                .collect();
            let (pieces, below) = (mapping.pieces(), below.join(" and "));
            let plural = if pieces == 1 { "" } else { "s" };
            format!("{}, {pieces} piece{plural} of {below}", volume.device)
        }
    };
    format!("{} ({}) on {place}: {seen}", name(volume), volume.used)
}

/// Looks at what is on `volumes`, whose machine stands still, and puts that on record.
///
/// # Errors
///
/// [`Error::UnreadVolume`] if one cannot be found or read.
pub(crate) fn record(volumes: &mut [Volume]) -> Result<(), Error> {
    let limit = Instant::now() + PATIENCE;
    for volume in volumes {
        if volume.state != VolumeState::Pending {
            continue;
        }
        let see = |volume: &Volume| {
            let contents = Contents::find(volume, limit)?;
            // What others wrote may be in the cache of the disk only, and lost with the power.
            contents.sync()?;
            let found = filesystem::recognise_as(&contents, &volume.kind)?;
            if found.kind != volume.kind || found.uuid != volume.uuid {
                let (kind, uuid, place) = (found.kind, &found.uuid, contents.place());
                return Err(io::Error::other(format!("on {place} is {kind} {uuid}")));
            }
            state(&found, &contents)
        };
        volume.state = see(volume).map_err(unread(volume))?;
    }
    Ok(())
}

/// Checks that nobody used `volume` since the machine whose image is in `image` stood still, and tells
/// where it is. `here` are the volumes that the running kernel uses itself. The device may take `patience`
/// to appear.
///
/// # Errors
///
/// [`Error::UsedVolume`], [`Error::MountedVolume`], or [`Error::UnreadVolume`] if it cannot be looked at.
pub(crate) fn check(
    volume: &Volume,
    here: &[Volume],
    image: &Path,
    patience: Duration,
) -> Result<String, Error> {
    let limit = Instant::now() + patience;
    let unread = unread(volume);
    let (digest, written) = match volume.state {
        VolumeState::Exempt => return Ok("not looked at, as it was asked for".to_owned()),
        VolumeState::Known { digest, written } => (digest, written),
        VolumeState::Pending => {
            let source = io::Error::other("the saving kernel did not look at it");
            return Err(unread(source));
        }
    };
    let contents = Contents::find(volume, limit).map_err(&unread)?;
    let place = contents.place();
    let is_mounted = |other: &&Volume| contents.overlap(other) && !is_below(other, here);
    if let Some(mounted) = here.iter().find(is_mounted) {
        return Err(Error::MountedVolume {
            volume: name(volume),
            place,
            used: mounted.used.clone(),
        });
    }
    let found = filesystem::recognise_as(&contents, &volume.kind).map_err(&unread)?;
    match state(&found, &contents).map_err(unread)? {
        VolumeState::Known {
            digest: now,
            written: since,
        } if now != digest => Err(Error::UsedVolume {
            volume: name(volume),
            place,
            used: volume.used.clone(),
            since: (since > written).then_some(Moment(since)),
            image: image.to_owned(),
        }),
        _ => Ok(format!("as it was, on {place}")),
    }
}

/// Whether `volume` is there only since another one of `volumes` has bytes on it.
fn is_below(volume: &Volume, volumes: &[Volume]) -> bool {
    volumes
        .iter()
        .filter_map(|other| other.mapping.as_ref())
        .flat_map(Mapping::components)
        .any(|component| component.device == volume.device)
}

/// For `map_err`: `volume` cannot be looked at.
fn unread(volume: &Volume) -> impl Fn(io::Error) -> Error + use<> {
    let (volume, used) = (name(volume), volume.used.clone());
    move |source| Error::UnreadVolume {
        volume: volume.clone(),
        used: used.clone(),
        source,
    }
}

/// What was found on a volume, as it goes on record.
fn state(found: &FileSystem, contents: &Contents) -> io::Result<VolumeState> {
    Ok(VolumeState::Known {
        digest: found.digest(contents)?,
        written: found.written.unwrap_or(0),
    })
}

/// The devices that have the contents of `volume` now, if all are there.
pub(crate) fn whereabouts(volume: &Volume) -> Option<Vec<PathBuf>> {
    let contents = Contents::find(volume, Instant::now());
    contents.ok().map(|contents| contents.paths)
}

/// What people call a volume.
pub(crate) fn name(volume: &Volume) -> String {
    if volume.uuid.is_empty() {
        format!("{} on {}", volume.kind, volume.device)
    } else {
        format!("{} {}", volume.kind, volume.uuid)
    }
}

#[cfg(test)]
mod tests;
