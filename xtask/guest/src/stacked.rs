//! File systems on LUKS, LVM and RAID: set up, opened and changed by the tools that people do that with.
//!
//! There is no udev in these machines. The tools are told so, and make their device files themselves.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, umount2};

use crate::disk::{self, Disk};
use crate::kjump::{self, KERNEL};
use crate::{console, machine, stale};

/// How many disks come before those that are put together.
const FIRST: usize = 3;

/// The file systems, and what each is on.
const SYSTEMS: [(&str, &str); 6] = [
    ("luks", "/dev/mapper/luks"),
    ("luks-lvm", "/dev/mapper/secret-linear"),
    ("linear", "/dev/mapper/group-linear"),
    ("striped", "/dev/mapper/group-striped"),
    ("raid1", "/dev/md1"),
    ("raid5-lvm", "/dev/mapper/array-linear"),
];

/// What encrypted devices are opened with.
const KEY: &str = "/tmp/luks-key";

/// LVM asks nobody but the devices themselves.
const LVM_CONFIG: &str = "devices { use_devicesfile=0 obtain_device_list_from_udev=0 external_device_info_source=\"none\" } \
     activation { udev_sync=0 udev_rules=0 monitoring=0 } backup { backup=0 archive=0 }";

/// Where the file system of this name is mounted.
pub(crate) fn mount_point(name: &str) -> String {
    format!("/tmp/{name}")
}

/// The disks, by what they are for.
struct Disks {
    luks: String,
    luks_lvm: String,
    lvm: [String; 2],
    raid1: [String; 2],
    raid5: [String; 3],
}

impl Disks {
    fn find() -> Result<Self> {
        let mut disks = machine::disks()?.into_iter().skip(FIRST);
        let mut next = || disks.next().context("a disk is missing");
        Ok(Self {
            luks: next()?,
            luks_lvm: next()?,
            lvm: [next()?, next()?],
            raid1: [next()?, next()?],
            raid5: [next()?, next()?, next()?],
        })
    }
}

/// Sets all of it up, makes the file systems and mounts them, as A does before it is saved.
pub(crate) fn set_up(seed: u64) -> Result<Vec<Disk>> {
    prepare()?;
    let disks = Disks::find()?;
    luks_format("luks2", &disks.luks)?;
    luks_open(&disks.luks, "luks")?;

    luks_format("luks1", &disks.luks_lvm)?;
    luks_open(&disks.luks_lvm, "pv")?;
    make_group("secret", &["/dev/mapper/pv"])?;
    lvm(&["lvcreate", "-y", "-n", "linear", "-l", "24", "secret"])?;

    // Of two pieces on two disks, with other things between.
    let [one, other] = &disks.lvm;
    make_group("group", &[one, other])?;
    lvm(&["lvcreate", "-y", "-n", "linear", "-l", "8", "group", one])?;
    lvm(&[
        "lvcreate", "-y", "-n", "striped", "-i", "2", "-l", "16", "group",
    ])?;
    lvm(&["lvextend", "-l", "+8", "group/linear", other])?;

    let [one, other] = &disks.raid1;
    let mirror = ["--level=1", "--raid-devices=2", "--bitmap=internal"];
    make_array("/dev/md1", &mirror, &[one, other])?;
    let [one, two, three] = &disks.raid5;
    // Whose superblocks are at the end.
    let parity = ["--level=5", "--raid-devices=3", "--metadata=1.0"];
    make_array("/dev/md5", &parity, &[one, two, three])?;
    make_group("array", &["/dev/md5"])?;
    lvm(&["lvcreate", "-y", "-n", "linear", "-l", "32", "array"])?;

    let mut mounted = Vec::new();
    for ((name, device), number) in SYSTEMS.into_iter().zip(1..) {
        run("mkfs.ext4", &["-q", device])?;
        mounted.push(Disk::mount_stacked(
            name,
            device,
            seed.wrapping_add(number),
        )?);
    }
    Ok(mounted)
}

/// Fails unless the file system on `device`, which is not mounted, is sound.
pub(crate) fn check(device: &str) -> Result<()> {
    run("e2fsck", &["-f", "-n", device])
}

/// Opens what A has set up and uses it, one after the other, and sees which uses are noticed, and where.
pub(crate) fn stale() -> Result<()> {
    prepare()?;
    let image = disk::image_disk()?;
    kjump::run(&["resume", "--image", &image, "--kernel", KERNEL, "--dry-run"])?;
    let disks = Disks::find()?;
    let mut used = Used::default();

    luks_open(&disks.luks, "luks")?;
    used.are_found()?;
    used.add("luks2", &[&disks.luks]);
    use_system("luks")?;
    used.are_found()?;
    // The doctor tells the rest, where others come first.
    stale::refused(&format!(
        "here on {} and mounted at /tmp/luks in the sleeping machine, was written to since",
        disks.luks
    ))?;

    luks_open(&disks.luks_lvm, "pv")?;
    lvm(&["vgchange", "-ay", "secret"])?;
    used.are_found()?;
    used.add("luks1", &[&disks.luks_lvm]);
    used.add("encrypted", &[&disks.luks_lvm]);
    use_system("luks-lvm")?;
    used.are_found()?;

    let [one, other] = &disks.lvm;
    lvm(&["vgchange", "-ay", "group"])?;
    used.are_found()?;
    for name in ["striped", "linear"] {
        use_system(name)?;
        used.add("ext4", &[one, other]);
        used.are_found()?;
    }
    lvm(&["lvcreate", "-y", "-n", "more", "-l", "2", "group", one])?;
    used.add("lvm", &[one]);
    used.add("lvm", &[other]);
    used.are_found()?;

    let [one, other] = &disks.raid1;
    let assemble = ["--assemble", "--readonly", "/dev/md1", one, other];
    run("mdadm", &assemble)?;
    used.are_found()?;
    run("mdadm", &["--readwrite", "/dev/md1"])?;
    use_system("raid1")?;
    used.add("md", &[one]);
    used.add("md", &[other]);
    used.are_found()?;

    let [one, two, three] = &disks.raid5;
    let assemble = ["--assemble", "--readonly", "/dev/md5", one, two, three];
    run("mdadm", &assemble)?;
    lvm(&["vgchange", "-ay", "array"])?;
    used.are_found()?;
    run("mdadm", &["--readwrite", "/dev/md5"])?;
    use_system("raid5-lvm")?;
    for disk in [one, two, three] {
        used.add("md", &[disk]);
    }
    used.are_found()
}

/// Mounts the file system of this name, which A is refused for, and writes to it.
fn use_system(name: &str) -> Result<()> {
    let mut systems = SYSTEMS.into_iter();
    let (_, device) = systems
        .find(|(there, _)| *there == name)
        .with_context(|| format!("there is no {name}"))?;
    let point = mount_point(name);
    fs::create_dir_all(&point)?;
    disk::mount_ext4_at(device, &point)?;
    fs::write(format!("{point}/by-c"), "C was here")?;
    let output = doctor()?;
    let mounted =
        format!("is mounted at {point} here, and the sleeping machine has it mounted too");
    ensure!(output.contains(&mounted), "not {mounted:?}: {output}");
    umount2(point.as_str(), MntFlags::empty())?;
    Ok(())
}

/// What the doctor says of the image.
fn doctor() -> Result<String> {
    let arguments = ["doctor", "--image", &disk::image_disk()?];
    Ok(kjump::try_run(&arguments, 0)?.output)
}

/// What was used of what the sleeping machine has: kinds of volumes, and the disks that each is on.
#[derive(Default)]
struct Used(Vec<String>);

impl Used {
    fn add(&mut self, kind: &str, disks: &[&str]) {
        self.0.push(format!("{kind} on {}", disks.join(" and ")));
    }

    /// Sees that the doctor finds just these, and that A is refused for want of none.
    fn are_found(&self) -> Result<()> {
        let output = doctor()?;
        let obstacles = output.lines().filter(|line| line.starts_with("obstacle"));
        let mut found: Vec<String> = obstacles
            .map(|line| volume(line).with_context(|| format!("another obstacle: {line}")))
            .collect::<Result<_>>()?;
        let mut expected = self.0.clone();
        found.sort();
        expected.sort();
        console::report("used", &found.join(", "));
        ensure!(found == expected, "not {}: {output}", expected.join(", "));
        Ok(())
    }
}

/// What the doctor says that was written to, in a line of its own: `KIND UUID, here on DISKS and mounted at …`.
fn volume(line: &str) -> Option<String> {
    let (name, place) = line.split_once(", here on ")?;
    let (place, _) = place.split_once(" and mounted at ")?;
    let kind = name.rsplit_once(": ")?.1.split(' ').next()?;
    Some(format!("{kind} on {place}"))
}

/// Makes what the tools want to find.
fn prepare() -> Result<()> {
    fs::create_dir_all("/run/lock")?;
    fs::write(KEY, "not a secret")?;
    Ok(())
}

fn luks_format(kind: &str, disk: &str) -> Result<()> {
    let kind = format!("--type={kind}");
    let cheap = ["--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"];
    let arguments = [
        &["luksFormat", "--batch-mode", &kind][..],
        &cheap,
        &[disk, KEY],
    ]
    .concat();
    run("cryptsetup", &arguments)
}

fn luks_open(disk: &str, name: &str) -> Result<()> {
    run("cryptsetup", &["open", "--key-file", KEY, disk, name])
}

/// Makes a group of volumes, in extents of 1 MiB.
fn make_group(name: &str, devices: &[&str]) -> Result<()> {
    lvm(&[&["pvcreate", "-y"], devices].concat())?;
    lvm(&[&["vgcreate", "-s", "1m", name], devices].concat())
}

/// Makes an array, and waits until all of it is as it has to be.
fn make_array(array: &str, how: &[&str], disks: &[&str]) -> Result<()> {
    run(
        "mdadm",
        &[&["--create", "--run", array], how, disks].concat(),
    )?;
    // It fails where nothing is to be waited for.
    let _ = run("mdadm", &["--wait", array]);
    Ok(())
}

fn lvm(arguments: &[&str]) -> Result<()> {
    let (command, rest) = arguments.split_first().context("no command")?;
    run("lvm", &[&[*command, "--config", LVM_CONFIG], rest].concat())
}

/// Runs one of the tools. What it says is told if it fails.
fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(format!("/bin/{program}"))
        .args(arguments)
        .env("DM_DISABLE_UDEV", "1")
        .env("MDADM_NO_UDEV", "1")
        .env("LVM_SUPPRESS_FD_WARNINGS", "1")
        .output()
        .with_context(|| format!("running {program}"))?;
    let text = [output.stdout, output.stderr].concat();
    ensure!(
        output.status.success(),
        "{program} {} failed: {}: {}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&text).trim_end()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_was_used_is_read() {
        let line = "obstacle  ext4 5-6: ext4 5-6, here on /dev/vdf and /dev/vdg and mounted at /tmp/linear in the \
                    sleeping machine, was written to since";
        assert_eq!(
            volume(line).as_deref(),
            Some("ext4 on /dev/vdf and /dev/vdg")
        );
        assert_eq!(volume("obstacle  ext4 5-6: it is not there"), None);
    }
}
