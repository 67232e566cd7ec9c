//! The devices that a machine had mounted for writing or swapped on, and whether they were used while it
//! slept.
//!
//! The machine itself says [which they are](in_use). The kernel that saves it looks at them when the
//! machine stands still (`record`), and whoever resumes it looks again (`check`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use vmcore::image::{Volume, VolumeState};
use vmcore::{ReadAt as _, ReadFile};

use crate::filesystem::{self, FileSystem};
use crate::{Error, Moment};

/// The kind of a volume that other kernels cannot read, since it is made of other devices.
const STACKED: &str = "stacked";

/// How long a device may take to appear after a boot.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The devices that are mounted for writing, in any mount namespace, or swapped on.
///
/// A device that is encrypted with dm-crypt stands for what it is made of. Loop devices are left out, for
/// they are files in a file system that counts itself, and so are devices in memory.
///
/// # Errors
///
/// [`Error::Read`] if `/proc` or `/sys` is not mounted.
pub fn in_use() -> Result<Vec<Volume>, Error> {
    in_use_at(Path::new("/"))
}

pub(crate) fn in_use_at(root: &Path) -> Result<Vec<Volume>, Error> {
    // By the names of the devices, so that each is there once.
    let mut uses: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut add = |name: String, used: String| {
        let of_device = uses.entry(name).or_default();
        if !of_device.contains(&used) {
            of_device.push(used);
        }
    };
    for mount in mounts(root)? {
        for name in mount.devices(root) {
            add(name, format!("mounted at {}", mount.point));
        }
    }
    for path in swaps(root) {
        if let Some(name) = name_of(root, &path) {
            add(name, "swap".to_owned());
        }
    }
    let mut volumes = Vec::new();
    for (name, mut used) in uses {
        if used.len() > 3 {
            let more = used.split_off(3).len();
            used.push(format!("{more} more"));
        }
        let used = used.join(", ");
        for volume in below(root, &name, &used, 0) {
            if !volumes.contains(&volume) {
                volumes.push(volume);
            }
        }
    }
    Ok(volumes)
}

/// The volumes that the block device of this name is, or is made of.
fn below(root: &Path, name: &str, used: &str, depth: u32) -> Vec<Volume> {
    // Nothing is stacked so high; but links in /sys are not ours to trust.
    const DEEPEST: u32 = 8;
    let sysfs = root.join("sys/class/block").join(name);
    if ["loop", "zram", "ram"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
    {
        return Vec::new();
    }
    let slaves = names_in(&sysfs.join("slaves"));
    let crypt =
        fs::read_to_string(sysfs.join("dm/uuid")).is_ok_and(|uuid| uuid.starts_with("CRYPT-"));
    if crypt && depth < DEEPEST {
        return slaves
            .iter()
            .flat_map(|slave| below(root, slave, used, depth + 1))
            .collect();
    }
    let device = device_of(name);
    let (kind, uuid, size) = if slaves.is_empty() {
        match look(&root.join(device.trim_start_matches('/'))) {
            Ok((found, size)) => (found.kind, found.uuid, size),
            Err(_) => (STACKED, String::new(), 0),
        }
    } else {
        (STACKED, String::new(), 0)
    };
    vec![Volume {
        device,
        used: used.to_owned(),
        kind: kind.to_owned(),
        uuid,
        size,
        state: VolumeState::Pending,
    }]
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

/// Checks that other kernels will be able to look at all of `volumes`.
pub(crate) fn check_visible(volumes: &[Volume]) -> Result<(), Error> {
    match volumes
        .iter()
        .find(|volume| volume.kind == STACKED && volume.state == VolumeState::Pending)
    {
        Some(volume) => Err(Error::HiddenVolume {
            device: volume.device.clone(),
            used: volume.used.clone(),
        }),
        None => Ok(()),
    }
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
        let unread = |volume: &Volume, source| Error::UnreadVolume {
            volume: name(volume),
            used: volume.used.clone(),
            source,
        };
        let seen = find(volume, limit)
            .and_then(|path| {
                // What others wrote may be in the cache of the disk only, and lost with the power.
                File::open(&path)?.sync_all()?;
                see(&path)
            })
            .map_err(|source| unread(volume, source))?;
        volume.state = seen;
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
    let unread = |source| Error::UnreadVolume {
        volume: name(volume),
        used: volume.used.clone(),
        source,
    };
    let (digest, written) = match volume.state {
        VolumeState::Exempt => return Ok("not looked at, as it was asked for".to_owned()),
        VolumeState::Known { digest, written } => (digest, written),
        VolumeState::Pending => {
            let source = io::Error::other("the saving kernel did not look at it");
            return Err(unread(source));
        }
    };
    let path = find(volume, limit).map_err(unread)?;
    if let Some(mounted) = here.iter().find(|here| Path::new(&here.device) == path) {
        return Err(Error::MountedVolume {
            volume: name(volume),
            path,
            used: mounted.used.clone(),
        });
    }
    match see(&path).map_err(unread)? {
        VolumeState::Known {
            digest: now,
            written: since,
        } if now != digest => Err(Error::UsedVolume {
            volume: name(volume),
            path,
            used: volume.used.clone(),
            since: (since > written).then_some(Moment(since)),
            image: image.to_owned(),
        }),
        _ => Ok(format!("as it was, on {}", path.display())),
    }
}

/// What people call a volume.
pub(crate) fn name(volume: &Volume) -> String {
    if volume.uuid.is_empty() {
        format!("{} on {}", volume.kind, volume.device)
    } else {
        format!("{} {}", volume.kind, volume.uuid)
    }
}

/// What is on the device at `path`, as it goes on record.
fn see(path: &Path) -> io::Result<VolumeState> {
    let device = ReadFile::new(File::open(path)?)?;
    let found = filesystem::recognise(&device)?;
    Ok(VolumeState::Known {
        digest: found.digest(&device)?,
        written: found.written.unwrap_or(0),
    })
}

/// What is on the device at `path`, and its size.
fn look(path: &Path) -> io::Result<(FileSystem, u64)> {
    let device = ReadFile::new(File::open(path)?)?;
    Ok((filesystem::recognise(&device)?, device.size()))
}

/// Where the contents of `volume` are now, if one device has them.
pub(crate) fn whereabouts(volume: &Volume) -> Option<PathBuf> {
    find_now(volume).ok()
}

/// Finds the device that has the contents of `volume`, whatever its name is now. It may appear until
/// `limit`.
fn find(volume: &Volume, limit: Instant) -> io::Result<PathBuf> {
    loop {
        match find_now(volume) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < limit => {
                thread::sleep(Duration::from_millis(50));
            }
            found => return found,
        }
    }
}

fn find_now(volume: &Volume) -> io::Result<PathBuf> {
    let holds = |path: &Path| {
        look(path).is_ok_and(|(found, size)| {
            found.kind == volume.kind && found.uuid == volume.uuid && size == volume.size
        })
    };
    let there = PathBuf::from(&volume.device);
    let mut devices = Vec::new();
    if volume.uuid.is_empty() {
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
            format!("no device has it now; it was {}", volume.device),
        )),
        [one, other, ..] => Err(io::Error::other(format!(
            "both {} and {} have it; take one of them away",
            one.display(),
            other.display()
        ))),
    }
}

/// A mount of a file system that may be written to.
struct Mount {
    /// Where it is mounted.
    point: String,
    /// The device's numbers; those of file systems that have none of their own begin with 0.
    numbers: String,
    /// What was mounted.
    source: String,
}

impl Mount {
    /// A line of `mountinfo` (proc_pid_mountinfo(5)); `None` for what cannot be written to.
    fn parse(line: &str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mount: Vec<&str> = mount.split(' ').collect();
        let system: Vec<&str> = system.split(' ').collect();
        // A bind mount may be read-only where the file system is not.
        let writable = system.get(2)?.split(',').any(|option| option == "rw");
        writable.then_some(Self {
            point: unescape(mount.get(4)?),
            numbers: (*mount.get(2)?).to_owned(),
            source: unescape(system.get(1)?),
        })
    }

    /// The names of the block devices that it is on.
    fn devices(&self, root: &Path) -> Vec<String> {
        if !self.numbers.starts_with("0:") {
            let link = root.join("sys/dev/block").join(&self.numbers);
            return fs::read_link(link)
                .ok()
                .and_then(|target| Some(target.file_name()?.to_string_lossy().into_owned()))
                .into_iter()
                .collect();
        }
        // File systems over several devices have no number of a device, but the source tells one, or all
        // of them.
        let mut names: Vec<String> = self
            .source
            .split(':')
            .filter(|path| path.starts_with("/dev/"))
            .filter_map(|path| name_of(root, path))
            .collect();
        for system in names_in(&root.join("sys/fs/btrfs")) {
            let devices = names_in(&root.join("sys/fs/btrfs").join(system).join("devices"));
            if devices.iter().any(|device| names.contains(device)) {
                names = devices;
                break;
            }
        }
        names
    }
}

/// All mounts of file systems that may be written to, in all mount namespaces.
fn mounts(root: &Path) -> Result<Vec<Mount>, Error> {
    let proc = root.join("proc");
    let mut namespaces = Vec::new();
    let mut mounts = Vec::new();
    let mut any = false;
    let processes = fs::read_dir(&proc).map_err(Error::read(&proc))?.flatten();
    for process in processes {
        let is_process = process.file_name().to_string_lossy().parse::<u32>().is_ok();
        // A process may end while it is looked at.
        let namespace = fs::metadata(process.path().join("ns/mnt")).map(|file| file.ino());
        if !is_process || namespace.as_ref().is_ok_and(|id| namespaces.contains(id)) {
            continue;
        }
        if let Ok(text) = fs::read_to_string(process.path().join("mountinfo")) {
            any = true;
            mounts.extend(text.lines().filter_map(Mount::parse));
            namespaces.extend(namespace);
        }
    }
    if !any {
        let path = proc.join("self/mountinfo");
        return Err(Error::read(&path)(io::ErrorKind::NotFound.into()));
    }
    Ok(mounts)
}

/// The paths of the devices that are swapped on (proc_swaps(5)). A file is in a file system, which counts
/// itself.
fn swaps(root: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join("proc/swaps")).unwrap_or_default();
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let path = words.next()?;
            (words.next()? == "partition").then(|| unescape(path))
        })
        .collect()
}

/// The name that the kernel has for the block device at `path`, which may be a link.
fn name_of(root: &Path, path: &str) -> Option<String> {
    let inside = root.join(path.trim_start_matches('/'));
    let path = inside.canonicalize().unwrap_or(inside);
    let dev = root.join("dev");
    let dev = dev.canonicalize().unwrap_or(dev);
    let name = path.strip_prefix(dev).ok()?.to_string_lossy();
    Some(name.replace('/', "!"))
}

/// The path of the block device that the kernel has this name for. Where the path has a slash, sysfs has
/// an exclamation mark.
fn device_of(name: &str) -> String {
    format!("/dev/{}", name.replace('!', "/"))
}

/// The names in a folder, in order; none if it is not there.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A path as it is, from one with blanks and the like as three octal digits behind a backslash
/// (`mangle` in `fs/proc_namespace.c`).
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = (byte == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;
