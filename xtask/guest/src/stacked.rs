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
const SYSTEMS: [(&str, &str); 7] = [
    ("luks", "/dev/mapper/luks"),
    ("luks-lvm", "/dev/mapper/secret-linear"),
    ("linear", "/dev/mapper/group-linear"),
    ("striped", "/dev/mapper/group-striped"),
    ("lvm-luks", "/dev/mapper/inner"),
    ("raid1", "/dev/md1"),
    ("raid5-lvm", "/dev/mapper/array-linear"),
];

/// What encrypted devices are opened with.
const KEY: &str = "/tmp/luks-key";

/// LVM asks nobody but the devices themselves.
const LVM_CONFIG: &str = "devices { use_devicesfile=0 obtain_device_list_from_udev=0 \
     external_device_info_source=\"none\" } \
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
    luks_format(&["--type=luks2"], &disks.luks)?;
    luks_open(&disks.luks, "luks")?;

    luks_format(&["--type=luks1"], &disks.luks_lvm)?;
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
    // More than is left on either disk, and with headers that are smaller than usual.
    lvm(&["lvcreate", "-y", "-n", "outer", "-l", "24", "group"])?;
    let small = ["--luks2-metadata-size=16k", "--luks2-keyslots-size=256k"];
    let outer = "/dev/mapper/group-outer";
    luks_format(&[&["--type=luks2"][..], &small].concat(), outer)?;
    luks_open(outer, "inner")?;

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
        // What is left to do later, a thread of the kernel does, and that must not write when the disks have stopped.
        let all = "lazy_itable_init=0,lazy_journal_init=0";
        run("mkfs.ext4", &["-q", "-E", all, device])?;
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

/// Opens what A has set up, and uses one after the other, and sees which uses are noticed, and where.
pub(crate) fn stale() -> Result<()> {
    prepare()?;
    let image = disk::image_disk()?;
    let disks = Disks::find()?;
    let mut used = Used::default();
    open(&disks)?;
    used.are_found()?;
    kjump::run(&["resume", "--image", &image, "--kernel", KERNEL, "--dry-run"])?;

    use_system("luks")?;
    used.add("luks2", &["luks"], &[&disks.luks]);
    used.are_found()?;
    // The doctor tells the rest, where others come first.
    stale::refused(&format!(
        "here on {} and mounted at /tmp/luks in the sleeping machine, was written to since",
        disks.luks
    ))?;

    use_system("luks-lvm")?;
    used.add("luks1", &["luks-lvm"], &[&disks.luks_lvm]);
    used.add("encrypted", &["luks-lvm"], &[&disks.luks_lvm]);
    used.are_found()?;

    let [one, other] = &disks.lvm;
    for (name, kind) in [
        ("striped", "ext4"),
        ("linear", "ext4"),
        ("lvm-luks", "luks2"),
    ] {
        use_system(name)?;
        used.add(kind, &[name], &[one, other]);
        used.are_found()?;
    }
    lvm(&["lvcreate", "-y", "-n", "more", "-l", "2", "group"])?;
    for disk in [one, other] {
        used.add("lvm", &["linear", "striped", "lvm-luks"], &[disk]);
    }
    used.are_found()?;

    for (array, name, members) in [
        ("/dev/md1", "raid1", &disks.raid1[..]),
        ("/dev/md5", "raid5-lvm", &disks.raid5),
    ] {
        run("mdadm", &["--readwrite", array])?;
        use_system(name)?;
        for disk in members {
            used.add("md", &[name], &[disk]);
        }
        used.are_found()?;
    }

    // Mounted, which counts before all else.
    for (name, device) in SYSTEMS {
        disk::mount_ext4_at(device, &mount_point(name))?;
    }
    let output = doctor()?;
    for (name, _) in SYSTEMS {
        let point = mount_point(name);
        let mounted =
            format!("mounted at {point} here, and the sleeping machine has it mounted too");
        ensure!(output.contains(&mounted), "not {mounted:?}: {output}");
        umount2(point.as_str(), MntFlags::empty())?;
    }
    Ok(())
}

/// Opens all that A has set up, and writes to none of it.
fn open(disks: &Disks) -> Result<()> {
    luks_open(&disks.luks, "luks")?;
    luks_open(&disks.luks_lvm, "pv")?;
    for (array, members) in [("/dev/md1", &disks.raid1[..]), ("/dev/md5", &disks.raid5)] {
        let mut arguments = vec!["--assemble", "--readonly", array];
        arguments.extend(members.iter().map(String::as_str));
        run("mdadm", &arguments)?;
    }
    lvm(&["vgchange", "-ay", "secret", "group", "array"])?;
    luks_open("/dev/mapper/group-outer", "inner")
}

/// Mounts the file system of this name, and writes to it.
fn use_system(name: &str) -> Result<()> {
    let mut systems = SYSTEMS.into_iter();
    let (_, device) = systems
        .find(|(there, _)| *there == name)
        .with_context(|| format!("there is no {name}"))?;
    let point = mount_point(name);
    fs::create_dir_all(&point)?;
    disk::mount_ext4_at(device, &point)?;
    fs::write(format!("{point}/by-c"), "C was here")?;
    Ok(umount2(point.as_str(), MntFlags::empty())?)
}

/// What the doctor says of the image.
fn doctor() -> Result<String> {
    let arguments = ["doctor", "--image", &disk::image_disk()?];
    Ok(kjump::try_run(&arguments, 0)?.output)
}

/// What was used of what the sleeping machine has: kinds of volumes, the file systems that each is for, and the
/// disks that it is on.
#[derive(Default)]
struct Used(Vec<String>);

impl Used {
    fn add(&mut self, kind: &str, systems: &[&str], disks: &[&str]) {
        let points: Vec<String> = systems
            .iter()
            .map(|name| format!("mounted at {}", mount_point(name)))
            .collect();
        let (points, disks) = (points.join(", "), disks.join(" and "));
        self.0.push(format!("{kind} on {disks} and {points}"));
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

/// What the doctor says that was written to, in a line of its own: `KIND UUID, here on DISKS and mounted at … in
/// the sleeping machine, …`.
fn volume(line: &str) -> Option<String> {
    let (name, place) = line.split_once(", here on ")?;
    let (place, _) = place.split_once(" in the sleeping machine, was written to since")?;
    let kind = name.rsplit_once(": ")?.1.split(' ').next()?;
    Some(format!("{kind} on {place}"))
}

/// Makes what the tools want to find.
fn prepare() -> Result<()> {
    fs::create_dir_all("/run/lock")?;
    fs::write(KEY, "not a secret")?;
    Ok(())
}

fn luks_format(how: &[&str], device: &str) -> Result<()> {
    let cheap = ["--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"];
    let format = ["luksFormat", "--batch-mode"];
    let arguments = [&format[..], how, &cheap, &[device, KEY]].concat();
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
            Some("ext4 on /dev/vdf and /dev/vdg and mounted at /tmp/linear")
        );
        assert_eq!(volume("obstacle  ext4 5-6: it is not there"), None);
    }
}
