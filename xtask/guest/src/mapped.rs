//! A device of the device mapper: A's file system is on it, in two pieces that lie on a disk the other way round.
//!
//! Structures and numbers are those of `include/uapi/linux/dm-ioctl.h`.
#![allow(unsafe_code, reason = "ioctl(2) takes a pointer")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, umount2};

use crate::disk::{self, MOUNT_POINT};
use crate::kjump::{self, KERNEL};
use crate::stale::refused;
use crate::{console, machine};

/// The device, when it is set up.
pub(crate) const DEVICE: &str = "/dev/dm-0";

/// The mapper's name for it.
const NAME: &str = "lab";

/// Size of `struct dm_ioctl`, and of a target with its words.
const HEADER: usize = 312;
const TARGET: usize = 40 + 64;
/// Numbers of requests.
const CREATE: u64 = 3;
const RESUME: u64 = 6;
const LOAD: u64 = 9;

/// Whether it is set up.
pub(crate) fn is_set_up() -> bool {
    machine::read("/sys/block/dm-0/dm/name").is_ok_and(|name| name.trim_end() == NAME)
}

/// Has the kernel put the device together.
pub(crate) fn set_up() -> Result<()> {
    let disk = machine::disks()?.into_iter().next().context("no disk")?;
    let numbers = fs::metadata(&disk)?.rdev();
    let (major, minor) = (libc::major(numbers), libc::minor(numbers));
    let mib = disk_size(&disk)? >> 20;
    // Behind the first MiB comes the second half.
    let half = (mib - 1) / 2 * 2048;
    let mut targets = Vec::new();
    for (start, on_disk) in [(0, 2048 + half), (half, 2048)] {
        let mut target = Vec::new();
        target.extend(start.to_ne_bytes());
        target.extend(half.to_ne_bytes());
        target.extend(0_u32.to_ne_bytes());
        target.extend((TARGET as u32).to_ne_bytes());
        target.extend(b"linear");
        target.resize(40, 0);
        target.extend(format!("{major}:{minor} {on_disk}").as_bytes());
        target.resize(TARGET, 0);
        targets.extend(target);
    }
    request(CREATE, 0, &[])?;
    request(LOAD, 2, &targets)?;
    request(RESUME, 0, &[])?;
    console::report(
        "mapped",
        &format!("{DEVICE} of {disk}, {half} sectors each"),
    );
    Ok(())
}

fn disk_size(disk: &str) -> Result<u64> {
    let mut file = File::open(disk).with_context(|| format!("opening {disk}"))?;
    Ok(io::Seek::seek(&mut file, io::SeekFrom::End(0))?)
}

/// Makes a request about the device.
fn request(number: u64, targets: u32, data: &[u8]) -> Result<()> {
    let path = "/dev/mapper/control";
    let control = OpenOptions::new().read(true).write(true).open(path)?;
    let mut bytes = vec![0; HEADER];
    bytes[0] = 4;
    bytes[12..16].copy_from_slice(&((HEADER + data.len()) as u32).to_ne_bytes());
    bytes[16..20].copy_from_slice(&(HEADER as u32).to_ne_bytes());
    bytes[20..24].copy_from_slice(&targets.to_ne_bytes());
    bytes[48..48 + NAME.len()].copy_from_slice(NAME.as_bytes());
    bytes.extend_from_slice(data);
    // `_IOWR(0xfd, number, struct dm_ioctl)`.
    let request = 3 << 30 | (HEADER as u64) << 16 | 0xfd << 8 | number;
    // SAFETY: the kernel reads and writes no more bytes than the buffer has, which is what it is told.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), request, bytes.as_mut_ptr()) };
    ensure!(
        result == 0,
        "request {number}: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

/// Sets A's device up and uses it, and sees that A is refused then, and not before. Nothing is dropped from caches
/// between.
pub(crate) fn stale() -> Result<()> {
    let image = disk::image_disk()?;
    let disk = disk::data_disk()?;
    let doctor = ["doctor", "--image", &image];
    let resume = ["resume", "--image", &image, "--kernel", KERNEL, "--dry-run"];
    kjump::run(&doctor)?;
    kjump::run(&resume)?;
    set_up()?;
    // Set up, and no more; and what lies below is in a cache.
    fs::read(&disk)?;
    kjump::run(&resume)?;

    disk::mount_ext4(DEVICE)?;
    refused("resume before anything of that machine's is mounted")?;
    umount2(MOUNT_POINT, MntFlags::empty())?;
    refused(&format!(
        "here on {disk} and mounted at {MOUNT_POINT} in the sleeping machine, was written to since"
    ))?;
    disk::mount_ext4(DEVICE)?;
    fs::write(format!("{MOUNT_POINT}/by-c"), "C was here")?;
    umount2(MOUNT_POINT, MntFlags::empty())?;
    refused(&format!("here on {disk} and mounted at"))?;

    // A byte of the metadata, as if a volume had changed.
    verdict("good")?;
    let metadata = OpenOptions::new().write(true).open(&disk)?;
    metadata.write_all_at(b"!", 5000)?;
    metadata.sync_all()?;
    verdict("obstacle")
}

/// Sees how what tells of the volumes on the disk is found.
fn verdict(expected: &str) -> Result<()> {
    let outcome = kjump::try_run(&["doctor", "--image", &disk::image_disk()?], 0)?;
    let mut lines = outcome.output.lines();
    let line = lines
        .find(|line| line.contains(" lvm "))
        .with_context(|| format!("nothing about lvm: {}", outcome.output))?;
    console::report("verdict-of.lvm", line);
    ensure!(line.starts_with(expected), "not {expected}: {line}");
    Ok(())
}
