//! Where disks of machines and the outputs of tools lie while they are compared: both on the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::runs_folder;

/// Memory as a file system, where Linux systems have one.
const TMPFS: &str = "/dev/shm";

/// A folder that is gone with this value.
pub(crate) struct Place {
    folder: TempDir,
    /// Type of its file system, as the kernel names it.
    pub(crate) kind: String,
}

impl Place {
    /// A folder in `asked`; without that, in memory if `files` MiB of files fit there and `memory` MiB are
    /// left for a machine, and below `target` otherwise.
    pub(crate) fn choose(asked: Option<&Path>, files: u64, memory: u64) -> Result<Self> {
        let parent = match asked {
            Some(asked) => asked.to_owned(),
            None if fits_in_memory(files, memory) => PathBuf::from(TMPFS),
            None => runs_folder(),
        };
        fs::create_dir_all(&parent).with_context(|| format!("creating {}", parent.display()))?;
        let (kind, free) = (kind_of(&parent)?, free(&parent)?);
        if free < files {
            bail!(
                "{} MiB are free in {}, and {files} MiB may be needed: choose another folder with --folder",
                free,
                parent.display()
            );
        }
        let folder = tempfile::Builder::new()
            .prefix("kjump-bench-")
            .tempdir_in(&parent)
            .with_context(|| format!("creating a folder in {}", parent.display()))?;
        Ok(Self { folder, kind })
    }

    /// A file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn fits_in_memory(files: u64, memory: u64) -> bool {
    let room = || -> Option<u64> {
        let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
        let in_memory = kind_of(Path::new(TMPFS)).ok()? == "tmpfs";
        in_memory.then(|| available(&meminfo))?
    };
    // Some is left for whatever else the machine does.
    room().is_some_and(|room| (files + memory).saturating_mul(5) / 4 <= room)
        && free(Path::new(TMPFS)).is_ok_and(|free| files <= free)
}

/// The memory that programs can still take, in MiB, as `/proc/meminfo` tells it.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib >> 10)
}

/// What is free for files in `folder`, in MiB.
fn free(folder: &Path) -> Result<u64> {
    let output = Command::new("df")
        .args(["-k", "--output=avail"])
        .arg(folder)
        .output()
        .context("starting df (from the package coreutils)")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let kib = text
        .lines()
        .last()
        .and_then(|line| line.trim().parse::<u64>().ok());
    let kib = kib.with_context(|| format!("df tells no number for {}", folder.display()))?;
    Ok(kib >> 10)
}

/// Type of the file system that `folder` is on.
fn kind_of(folder: &Path) -> Result<String> {
    let folder =
        fs::canonicalize(folder).with_context(|| format!("no folder {}", folder.display()))?;
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    kind_in(&mounts, &folder)
        .map(str::to_owned)
        .with_context(|| format!("no file system is mounted at {}", folder.display()))
}

/// The same by a list of mounts (proc_pid_mountinfo(5)): the last of the deepest counts.
fn kind_in<'a>(mounts: &'a str, folder: &Path) -> Option<&'a str> {
    let kinds = mounts.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let point = Path::new(mount.split(' ').nth(4)?);
        let depth = folder
            .starts_with(point)
            .then(|| point.components().count())?;
        Some((depth, kind.split(' ').next()?))
    });
    kinds.max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_is_the_one() {
        let mounts = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                      30 22 0:26 / /dev rw - devtmpfs devtmpfs rw\n\
                      31 30 0:27 / /dev/shm rw - ramfs old rw\n\
                      32 30 0:28 / /dev/shm rw shared:2 master:3 - tmpfs tmpfs rw\n";
        let kind = |folder| kind_in(mounts, Path::new(folder));
        assert_eq!(kind("/dev/shm"), Some("tmpfs"));
        assert_eq!(kind("/dev/shmem"), Some("devtmpfs"));
        assert_eq!(kind("/root/target"), Some("ext4"));
        assert_eq!(kind_in("", Path::new("/")), None);
        assert_eq!(kind_in("32 30 - tmpfs\nnonsense\n", Path::new("/")), None);
    }

    #[test]
    fn available_memory_is_in_kib() {
        let meminfo = "MemTotal: 1 kB\nMemAvailable:    2097152 kB\n";
        assert_eq!(available(meminfo), Some(2048));
        assert_eq!(available("MemAvailable: much kB\n"), None);
    }

    #[test]
    fn a_place_is_gone_with_its_value() {
        let parent = tempfile::tempdir().unwrap();
        let place = Place::choose(Some(parent.path()), 0, 0).unwrap();
        fs::write(place.path("file"), "text").unwrap();
        assert!(!place.kind.is_empty());
        let path = place.path("file");
        drop(place);
        assert!(!path.exists());
        assert!(Place::choose(Some(parent.path()), u64::MAX, 0).is_err());
    }
}
