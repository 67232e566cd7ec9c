//! Judges what the boots of a machine said, and what they left on its disk.

use std::borrow::Borrow;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::course::Course;
use crate::disk;
use crate::run::Run;
use crate::settings::Secret;
use crate::transcript::Transcript;

/// The most memory that a process in B or D may hold, in KiB. What it needs must not grow with the
/// machine.
const PEAK_MEMORY_LIMIT: u64 = 16 << 10;

/// What it takes besides where a passphrase is asked for, in KiB.
const ARGON2: u64 = 32 << 10;

/// Reports of the guest's that must say the same before and after.
pub(crate) const UNCHANGED: [&str; 3] = ["boot-id", "memory", "tmpfs"];

/// Fails unless all is well with `boots`, which `run` led to, and with the file system on `disk`.
pub(crate) fn judge(run: &Run, boots: &[Transcript], disk: &Path) -> Result<()> {
    let rounds = match run.scenario.course {
        Course::Loop | Course::Forged | Course::InPlace | Course::Bounce | Course::Attempts => {
            run.settings.loops as usize
        }
        Course::Alone(_)
        | Course::Spoilt(_)
        | Course::Save
        | Course::Play(_)
        | Course::SaveThen(_)
        | Course::Breakdown(..) => 0,
        Course::SaveFails(..) | Course::Stale | Course::StalePaging => 1,
    };
    // The machine that was interrupted is another one.
    let of_one = match run.scenario.course {
        Course::Stale => boots.get(2..).unwrap_or_default(),
        _ => boots,
    };
    for thing in UNCHANGED {
        is_unchanged(of_one, thing, rounds)?;
    }
    if let Course::Loop | Course::Forged | Course::InPlace = run.scenario.course {
        let passphrase = match run.settings.secret {
            Some(Secret::Passphrase) => ARGON2,
            _ => 0,
        };
        needed_little_memory(boots, rounds, PEAK_MEMORY_LIMIT + passphrase)?;
    }
    disk::check_ext4(disk)?;
    has_its_files(boots, disk)?;
    (run.scenario.judge)(boots)
}

/// All that the guest reported about `key`, over all boots.
fn values<'a>(boots: &'a [impl Borrow<Transcript>], key: &str) -> Vec<&'a str> {
    boots
        .iter()
        .flat_map(|boot| boot.borrow().values(key))
        .collect()
}

/// Fails unless A said at least `rounds` times what it holds of `thing`, and always the same.
pub(crate) fn is_unchanged(
    boots: &[impl Borrow<Transcript>],
    thing: &str,
    rounds: usize,
) -> Result<()> {
    let before = values(boots, &format!("before.{thing}"));
    let after = values(boots, &format!("after.{thing}"));
    ensure!(
        before.len() >= rounds && after.len() >= rounds,
        "A was asked about its {thing} {} times before and {} times after {rounds} jumps",
        before.len(),
        after.len()
    );
    if let Some(first) = before.first()
        && let Some(other) = before.iter().chain(&after).find(|value| *value != first)
    {
        bail!("{thing} of A was {first:?} and then {other:?}");
    }
    Ok(())
}

/// Fails unless B and D, in each of `rounds`, told how much memory they took, and that was little.
fn needed_little_memory(boots: &[Transcript], rounds: usize, limit: u64) -> Result<()> {
    let peaks: Vec<u64> = boots.iter().flat_map(Transcript::peak_memory).collect();
    ensure!(
        peaks.len() == 2 * rounds,
        "{} times a peak resident memory was told, where B and D of {rounds} rounds have to",
        peaks.len()
    );
    for peak in peaks {
        ensure!(
            peak < limit,
            "peak resident memory of {peak} KiB, where less than {limit} KiB are allowed"
        );
    }
    Ok(())
}

/// Fails unless `disk` has the files that A says it wrote.
fn has_its_files(boots: &[Transcript], disk: &Path) -> Result<()> {
    for file in values(boots, "file") {
        let (path, crc32) = file.split_once(' ').context("no checksum for a file")?;
        let crc32 = u32::from_str_radix(crc32, 16).context("a checksum that is none")?;
        disk::check_file(disk, path, crc32)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boots(consoles: &[&[&str]]) -> Vec<Transcript> {
        consoles.iter().map(|lines| Transcript::of(lines)).collect()
    }

    #[test]
    fn content_has_to_be_the_same_in_every_boot() {
        let same = boots(&[
            &["lab: before.memory=1 MiB"],
            &["lab: after.memory=1 MiB", "lab: before.memory=1 MiB"],
            &["lab: after.memory=1 MiB"],
        ]);
        is_unchanged(&same, "memory", 2).unwrap();
        // It has to be told in each round, and other things are no substitute.
        assert!(is_unchanged(&same, "memory", 3).is_err());
        assert!(is_unchanged(&same, "boot-id", 1).is_err());
        assert!(is_unchanged(&same, "boot-id", 0).is_ok());

        let other = boots(&[&["lab: before.memory=1 MiB"], &["lab: after.memory=2 MiB"]]);
        assert!(is_unchanged(&other, "memory", 1).is_err());
    }

    #[test]
    fn memory_of_both_b_and_d_counts() {
        let line = |kib: u64| format!("kjump: saved, peak resident memory {kib} KiB");
        let judged = |first: &[&str], second: &[&str]| {
            needed_little_memory(&boots(&[first, second]), 1, PEAK_MEMORY_LIMIT).is_ok()
        };
        let (little, much) = (line(2000), line(PEAK_MEMORY_LIMIT));
        assert!(judged(&[&little], &[&little]));
        assert!(!judged(&[&little], &[&much]));
        assert!(!judged(&[&much], &[&little]));
        assert!(!judged(&[&little], &[]));
        assert!(!judged(&[], &[]));
    }

    #[test]
    fn files_are_looked_for_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        disk::create_ext4(&disk, 16).unwrap();
        assert!(has_its_files(&boots(&[&["nothing"]]), &disk).is_ok());
        assert!(has_its_files(&boots(&[&["lab: file=/file-1 0badcafe"]]), &disk).is_err());
        assert!(has_its_files(&boots(&[&["lab: file=/file-1"]]), &disk).is_err());
        assert!(has_its_files(&boots(&[&["lab: file=/file-1 crc"]]), &disk).is_err());
    }
}
