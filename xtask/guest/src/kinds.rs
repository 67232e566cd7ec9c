//! File systems of all kinds, and swap: A has them in use, and C uses them one after the other.

use std::fs;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{console, disk, kjump, machine, swap};

/// The file systems, in the order of their disks. That of swap comes behind them.
const KINDS: [&str; 3] = ["xfs", "btrfs", "vfat"];
/// How many disks come before.
const FIRST: usize = 3;

/// The disk with this number among those here.
fn disk_of(number: usize) -> Result<String> {
    machine::disks()?
        .into_iter()
        .nth(FIRST + number)
        .context("a disk is missing")
}

fn mount_kind(kind: &str, number: usize) -> Result<String> {
    let point = format!("/tmp/{kind}");
    fs::create_dir_all(&point)?;
    let disk = disk_of(number)?;
    mount(
        Some(disk.as_str()),
        point.as_str(),
        Some(kind),
        MsFlags::empty(),
        None::<&str>,
    )
    .with_context(|| format!("mounting {kind} on {disk}"))?;
    Ok(point)
}

/// Mounts all of them, writes to each, and swaps on, as A does before it is saved.
pub(crate) fn use_all() -> Result<()> {
    for (number, kind) in KINDS.into_iter().enumerate() {
        let point = mount_kind(kind, number)?;
        fs::write(format!("{point}/by-a"), "A was here")?;
    }
    swap::on(&disk_of(KINDS.len())?)
}

/// Uses each of them, and sees that it is noticed then, and not before.
pub(crate) fn stale() -> Result<()> {
    let image = disk::image_disk()?;
    kjump::run(&[
        "resume",
        "--image",
        &image,
        "--kernel",
        kjump::KERNEL,
        "--dry-run",
    ])?;
    for (number, kind) in KINDS.into_iter().enumerate() {
        verdict(kind, true)?;
        let point = mount_kind(kind, number)?;
        umount2(point.as_str(), MntFlags::empty())?;
        // A mount alone leaves traces here: the log is recovered. The others write nothing then, and do no
        // harm.
        if kind == "xfs" {
            verdict(kind, false)?;
        }
        let point = mount_kind(kind, number)?;
        fs::write(format!("{point}/by-c"), "C was here")?;
        umount2(point.as_str(), MntFlags::empty())?;
        verdict(kind, false)?;
    }

    verdict("swap", true)?;
    let disk = disk_of(KINDS.len())?;
    swap::on(&disk)?;
    // More than there is.
    let bytes = machine::free_memory()? + (48 << 20);
    let much = vec![0x5a5a_5a5a_5a5a_5a5a_u64; usize::try_from(bytes / 8)?];
    console::report("swaps", &machine::read("/proc/swaps")?);
    ensure!(
        much.iter().all(|&word| word == 0x5a5a_5a5a_5a5a_5a5a),
        "memory changed"
    );
    drop(much);
    swap::off(&disk)?;
    verdict("swap", false)
}

/// Sees whether the doctor finds what `kind` is on as it was.
fn verdict(kind: &str, good: bool) -> Result<()> {
    machine::write("/proc/sys/vm/drop_caches", "3")?;
    let outcome = kjump::try_run(&["doctor", "--image", &disk::image_disk()?], 0)?;
    let line = outcome
        .output
        .lines()
        .find(|line| line.contains(&format!(" {kind} ")))
        .with_context(|| format!("nothing about {kind}: {}", outcome.output))?;
    console::report(&format!("verdict-of.{kind}"), line);
    ensure!(
        line.starts_with(if good { "good" } else { "obstacle" }),
        "{kind}, which was {}used: {line}",
        if good { "not " } else { "" }
    );
    Ok(())
}
