//! What a machine uses: the devices that are mounted for writing, and swap.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use vmcore::image::Volume;

use super::names::{name_of, names_in};
use super::stack::{Stack, Tables, hidden};
use crate::Error;

/// The volumes that the machine with this root uses, whose mapped devices are asked for in `tables`.
pub(super) fn volumes(root: &Path, tables: &Tables) -> Result<Vec<Volume>, Error> {
    // By the names of the devices, so that each is there once.
    let mut uses: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut add = |name: String, used: String| {
        let of_device = uses.entry(name).or_default();
        if !of_device.contains(&used) {
            of_device.push(used);
        }
    };
    let mut elsewhere = Vec::new();
    for mount in mounts(root)? {
        let used = format!("mounted at {}", mount.point);
        if mount.kind == "zfs" {
            elsewhere.push((hidden(mount.source, "zfs"), vec![used]));
            continue;
        }
        for name in mount.devices(root)? {
            add(name, used.clone());
        }
    }
    for path in swaps(root) {
        if let Some(name) = name_of(root, &path) {
            add(name, "swap".to_owned());
        }
    }
    let stack = Stack { root, tables };
    let below = uses.into_iter().flat_map(|(name, used)| {
        let volumes = stack.volumes(&name).into_iter();
        volumes.map(move |volume| (volume, used.clone()))
    });
    // What several volumes have below them is there once too.
    let mut volumes: Vec<(Volume, Vec<String>)> = Vec::new();
    for (volume, used) in below.chain(elsewhere) {
        match volumes.iter_mut().find(|(there, _)| *there == volume) {
            Some((_, there)) => there.extend(used),
            None => volumes.push((volume, used)),
        }
    }
    let named = |(volume, used)| Volume {
        used: in_words(used),
        ..volume
    };
    Ok(volumes.into_iter().map(named).collect())
}

/// The first three uses, each once, and how many more there are.
fn in_words(mut used: Vec<String>) -> String {
    let mut seen = Vec::new();
    used.retain(|one| {
        let is_new = !seen.contains(one);
        seen.push(one.clone());
        is_new
    });
    if used.len() > 3 {
        let more = used.split_off(3).len();
        used.push(format!("{more} more"));
    }
    used.join(", ")
}

/// A mount of a file system that may be written to.
pub(super) struct Mount {
    /// Where it is mounted.
    point: String,
    /// The device's numbers; those of file systems that have none of their own begin with 0.
    numbers: String,
    /// What was mounted.
    source: String,
    /// The kind of the file system.
    kind: String,
}

impl Mount {
    /// A line of `mountinfo` (proc_pid_mountinfo(5)); `None` for what cannot be written to.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mount: Vec<&str> = mount.split(' ').collect();
        let system: Vec<&str> = system.split(' ').collect();
        // A bind mount may be read-only where the file system is not.
        let writable = system.get(2)?.split(',').any(|option| option == "rw");
        writable.then_some(Self {
            point: unescape(mount.get(4)?),
            numbers: (*mount.get(2)?).to_owned(),
            source: unescape(system.get(1)?),
            kind: (*system.first()?).to_owned(),
        })
    }

    /// The names of the block devices that it is on.
    fn devices(&self, root: &Path) -> Result<Vec<String>, Error> {
        if !self.numbers.starts_with("0:") {
            let links = root.join("sys/dev/block");
            return match fs::read_link(links.join(&self.numbers)) {
                Ok(target) => {
                    let name = target.file_name().map(|name| name.to_string_lossy());
                    Ok(name.into_iter().map(Cow::into_owned).collect())
                }
                // One that was taken away is no matter, but none at all must not be the answer.
                Err(source) if !links.exists() => Err(Error::read(&links)(source)),
                Err(_) => Ok(Vec::new()),
            };
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
        Ok(names)
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

/// A path as it is, from one with blanks and the like as three octal digits behind a backslash
/// (`mangle` in `fs/proc_namespace.c`).
pub(super) fn unescape(text: &str) -> String {
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
