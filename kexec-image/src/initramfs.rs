//! Initramfs archives: cpio in the "newc" format, and gzip around it.

use std::collections::BTreeSet;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::PlanError;

/// What a device node stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A character device.
    Character,
    /// A block device.
    Block,
}

// File types in `c_mode`, as in `stat(2)`.
const DIRECTORY: u32 = 0o040_000;
const CHARACTER: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An initramfs that is being put together: a cpio archive in the "newc" format, as in the kernel's
/// `Documentation/driver-api/early-userspace/buffer-format.rst`.
///
/// Directories come before what lies in them; those that were not named are made on the way, so that
/// the kernel's unpacker finds them.
///
/// ```
/// use kexec_image::initramfs::{Archive, gzip};
///
/// let mut archive = Archive::new();
/// archive.file("init", 0o755, b"#!/bin/sh\n")?;
/// archive.file("etc/motd", 0o644, b"hello\n")?;
/// let cpio = archive.finish();
/// assert!(cpio.starts_with(b"070701"));
/// assert!(gzip(&cpio).starts_with(&[0x1f, 0x8b]));
/// # Ok::<(), kexec_image::PlanError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    paths: BTreeSet<String>,
}

impl Archive {
    /// An archive of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory with the permission bits `mode`.
    ///
    /// # Errors
    ///
    /// [`PlanError::Archive`] if the path is empty, has an empty, `.` or `..` component, a zero byte,
    /// or is in the archive already. The same holds for the other methods.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<&mut Self, PlanError> {
        self.entry(path, DIRECTORY | mode & 0o7777, b"", (0, 0))
    }

    /// Adds a file with the permission bits `mode`.
    ///
    /// # Errors
    ///
    /// As [`directory`](Self::directory), and if the file has 4 GiB or more.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<&mut Self, PlanError> {
        self.entry(path, FILE | mode & 0o7777, content, (0, 0))
    }

    /// Adds a symbolic link that leads to `target`.
    ///
    /// # Errors
    ///
    /// As [`directory`](Self::directory).
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<&mut Self, PlanError> {
        self.entry(path, SYMLINK | 0o777, target.as_bytes(), (0, 0))
    }

    /// Adds a device node.
    ///
    /// # Errors
    ///
    /// As [`directory`](Self::directory).
    pub fn device(
        &mut self,
        path: &str,
        mode: u32,
        kind: DeviceKind,
        major: u32,
        minor: u32,
    ) -> Result<&mut Self, PlanError> {
        let kind = match kind {
            DeviceKind::Character => CHARACTER,
            DeviceKind::Block => BLOCK,
        };
        self.entry(path, kind | mode & 0o7777, b"", (major, minor))
    }

    /// The archive as bytes. Several archives, one behind the other, make one initramfs.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.header(TRAILER, 0, 0, (0, 0));
        self.bytes
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        content: &[u8],
        device: (u32, u32),
    ) -> Result<&mut Self, PlanError> {
        let refused = |why| PlanError::Archive {
            path: path.to_owned(),
            why,
        };
        let path = path.strip_prefix('/').unwrap_or(path);
        if path.contains('\0') || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(refused("the path is not a plain one"));
        }
        if path == TRAILER {
            return Err(refused("that name ends an archive"));
        }
        if self.paths.contains(path) {
            return Err(refused("it is in the archive already"));
        }
        let size = u32::try_from(content.len()).map_err(|_| refused("it has 4 GiB or more"))?;
        if let Some((parent, _)) = path.rsplit_once('/')
            && !self.paths.contains(parent)
        {
            self.directory(parent, 0o755)?;
        }
        self.header(path, mode, size, device);
        self.bytes.extend_from_slice(content);
        self.pad();
        self.paths.insert(path.to_owned());
        Ok(self)
    }

    fn header(&mut self, path: &str, mode: u32, size: u32, (major, minor): (u32, u32)) {
        let inode = self.paths.len() + 1;
        let links = 1 + u32::from(mode & DIRECTORY == DIRECTORY);
        let name_size = path.len() + 1;
        // Magic, inode, mode, uid, gid, links, mtime, size, device of the file (major and minor),
        // device that the node stands for (major and minor), size of the name, checksum (unused).
        let header = format!(
            "070701{inode:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{size:08x}{:08x}{:08x}{major:08x}{minor:08x}{name_size:08x}{:08x}",
            0, 0, 0, 0, 0, 0
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    /// Names and contents end at multiples of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// `bytes`, compressed with gzip, which every kernel with `CONFIG_RD_GZIP` unpacks.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.unwrap_or_else(|error| unreachable!("writing to memory failed: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// What `cpio` makes of an archive: an implementation that is not ours.
    fn listed(archive: &[u8]) -> String {
        let mut cpio = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cpio runs (apt-get install cpio)");
        cpio.stdin.take().unwrap().write_all(archive).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn cpio_reads_it() {
        let mut archive = Archive::new();
        archive.file("/bin/sh", 0o755, b"abcde").unwrap();
        archive.symlink("init", "bin/sh").unwrap();
        archive
            .device("dev/console", 0o600, DeviceKind::Character, 5, 1)
            .unwrap();
        let listed = listed(&archive.finish());
        let lines: Vec<Vec<&str>> = listed
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let seen: Vec<_> = lines
            .iter()
            .map(|words| (words[0], *words.last().unwrap()))
            .collect();
        assert_eq!(
            seen,
            [
                ("drwxr-xr-x", "bin"),
                ("-rwxr-xr-x", "bin/sh"),
                ("lrwxrwxrwx", "bin/sh"),
                ("drwxr-xr-x", "dev"),
                ("crw-------", "dev/console"),
            ]
        );
        assert_eq!(lines[1][4], "5");
        assert_eq!(&lines[4][4..6], ["5,", "1"]);
    }

    #[test]
    fn paths_that_an_unpacker_could_misread_are_refused() {
        for path in ["", "/", "a//b", "../a", "a/./b", "a\0b", "TRAILER!!!"] {
            assert!(Archive::new().file(path, 0o644, b"").is_err(), "{path:?}");
        }
        let mut archive = Archive::new();
        archive.file("a", 0o644, b"").unwrap();
        assert!(archive.file("/a", 0o644, b"").is_err());
    }
}
