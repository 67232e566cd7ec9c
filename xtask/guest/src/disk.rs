//! An ext4 file system: a file half written, and one written past the page cache.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::content::{Content, PAGE_BYTES, PAGE_WORDS};
use crate::witness::Witness;
use crate::{console, machine, mapped, stacked};

/// Where the file system is mounted.
pub(crate) const MOUNT_POINT: &str = "/mnt";

/// Half of the size of the file that is half written, in pages.
const HALF: usize = 512;

/// Number of the file's first page; memory of processes has those from 0 on.
const FIRST: u64 = 2 << 40;

/// The disk with the ext4 file system, or what was set up of it.
pub(crate) fn data_disk() -> Result<String> {
    if mapped::is_set_up() {
        return Ok(mapped::DEVICE.to_owned());
    }
    machine::disks()?.into_iter().next().context("no disk")
}

/// The disk that the image goes to.
pub(crate) fn image_disk() -> Result<String> {
    machine::disks()?
        .into_iter()
        .nth(1)
        .context("no second disk")
}

/// A disk that is too small for any image.
pub(crate) fn small_disk() -> Result<String> {
    machine::disks()?
        .into_iter()
        .nth(2)
        .context("no third disk")
}

/// A disk that can be taken out, if there is one.
pub(crate) fn removable_disk() -> Result<String> {
    machine::disks()?
        .into_iter()
        .nth(3)
        .context("no disk that can be taken out")
}

/// An ext4 file system of this machine's.
pub(crate) struct Disk {
    /// A word for it.
    name: &'static str,
    device: String,
    /// Where it is mounted.
    point: String,
    /// Whether the lab sees what is on the disk; else it is checked here.
    is_seen: bool,
    content: Content,
    rounds: u64,
    half_written: Option<File>,
}

impl Disk {
    /// Mounts the file system that is on a disk.
    pub(crate) fn mount(seed: u64) -> Result<Self> {
        Self::mount_at(MOUNT_POINT, "disk", &data_disk()?, seed)
    }

    /// Mounts the file system `name` on `device`, which is made of disks.
    pub(crate) fn mount_stacked(name: &'static str, device: &str, seed: u64) -> Result<Self> {
        let point = stacked::mount_point(name);
        fs::create_dir_all(&point)?;
        let mut disk = Self::mount_at(&point, name, device, seed)?;
        disk.is_seen = false;
        Ok(disk)
    }

    fn mount_at(point: &str, name: &'static str, device: &str, seed: u64) -> Result<Self> {
        mount_ext4_at(device, point)?;
        Ok(Self {
            name,
            device: device.to_owned(),
            point: point.to_owned(),
            is_seen: true,
            content: Content::new(seed),
            rounds: 0,
            half_written: None,
        })
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("{}/file-{}", self.point, self.rounds))
    }

    fn half(&self, second: bool) -> Vec<u8> {
        let half = 2 * self.rounds + u64::from(second);
        self.content.bytes(FIRST + half * HALF as u64, HALF)
    }

    /// A page of the file that is written past the page cache.
    fn direct_page(&self) -> DirectPage {
        let mut page = DirectPage([0; PAGE_BYTES]);
        let bytes = self.content.bytes(FIRST - 1 - self.rounds % 16, 1);
        page.0.copy_from_slice(&bytes);
        page
    }

    fn open_direct(&self) -> Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(OFlag::O_DIRECT.bits())
            .open(format!("{}/direct", self.point))
            .context("opening a file with O_DIRECT")
    }
}

/// A page of bytes where O_DIRECT wants it: at a multiple of the disk's block size.
#[repr(align(4096))]
struct DirectPage([u8; PAGE_WORDS * 8]);

impl Witness for Disk {
    fn name(&self) -> &'static str {
        self.name
    }

    fn before(&mut self) -> Result<String> {
        self.rounds += 1;
        let path = self.path();
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        file.write_all_at(&self.half(false), 0)?;
        self.half_written = Some(file);
        self.open_direct()?
            .write_all_at(&self.direct_page().0, 0)
            .context("writing with O_DIRECT")?;
        Ok(format!("{} half written and not synced", path.display()))
    }

    fn verify(&mut self) -> Result<String> {
        let mut page = DirectPage([0; PAGE_BYTES]);
        self.open_direct()?
            .read_exact_at(&mut page.0, 0)
            .context("reading with O_DIRECT")?;
        ensure!(
            page.0 == self.direct_page().0,
            "what O_DIRECT wrote changed"
        );

        let path = self.path();
        let file = self
            .half_written
            .take()
            .context("no file is half written")?;
        let (first, second) = (self.half(false), self.half(true));
        file.write_all_at(&second, first.len() as u64)
            .context("writing the second half")?;
        file.sync_all().context("fsync")?;
        drop(file);
        // Once more from the disk itself.
        umount2(self.point.as_str(), MntFlags::empty()).context("unmounting the disk")?;
        machine::write("/proc/sys/vm/drop_caches", "3")?;
        if !self.is_seen {
            stacked::check(&self.device)?;
        }
        mount_ext4_at(&self.device, &self.point)?;
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        ensure!(
            bytes == [first, second].concat(),
            "{} changed",
            path.display()
        );
        let crc32 = crc32fast::hash(&bytes);
        if self.is_seen {
            console::report("file", &format!("/file-{} {crc32:08x}", self.rounds));
        }
        Ok(format!("{} finished, crc32 {crc32:08x}", path.display()))
    }

    fn spoil(&mut self) -> Result<()> {
        let file = self
            .half_written
            .as_ref()
            .context("no file is half written")?;
        Ok(file.write_all_at(b"spoilt", 0x1234)?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.half_written = None;
        if let Err(errno) = umount2(self.point.as_str(), MntFlags::empty()) {
            console::report("warning", &format!("unmounting {}: {errno}", self.name));
        }
    }
}

/// Mounts the ext4 file system on `device` where that of the disk is mounted.
pub(crate) fn mount_ext4(device: &str) -> Result<()> {
    mount_ext4_at(device, MOUNT_POINT)
}

pub(crate) fn mount_ext4_at(device: &str, point: &str) -> Result<()> {
    mount(
        Some(device),
        point,
        Some("ext4"),
        MsFlags::empty(),
        None::<&str>,
    )
    .with_context(|| format!("mounting {device}"))
}

/// Moves the first MiB of the device at `from` to that at `to`, so that it is no more where it was.
pub(crate) fn move_start(from: &str, to: &str) -> Result<()> {
    let mut start = vec![0; 1 << 20];
    File::open(from)
        .and_then(|device| device.read_exact_at(&mut start, 0))
        .with_context(|| format!("reading {from}"))?;
    OpenOptions::new()
        .write(true)
        .open(to)
        .and_then(|mut device| {
            device.write_all(&start)?;
            device.sync_all()
        })
        .with_context(|| format!("writing {to}"))?;
    wipe(from)
}

/// Makes the first MiB of the device at `path` zeros.
pub(crate) fn wipe(path: &str) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut device| {
            device.write_all(&vec![0; 1 << 20])?;
            device.sync_all()
        })
        .with_context(|| format!("wiping {path}"))
}
