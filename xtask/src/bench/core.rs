//! The core that tools are compared on: all memory of a machine of the lab, made once and kept.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use vmcore::SavedFile;

use super::place::Place;
use super::round_trip::{Bed, Guest, Hibernated, Way, is_emulators_fault};
use super::{Bench, say};
use crate::{analysis, check};

/// Version of what this module makes: to be raised whenever it makes another core, or kjump's notes in it
/// change.
const RECIPE: u32 = 2;

/// The machine: of 2 GiB, about 700 MiB are random and 500 MiB compress.
const GUEST: Guest = Guest {
    memory: 2048,
    cpus: 2,
    // Once, and nobody waits for it often.
    parallel: false,
    fill: 61,
    compressible: 42,
};

/// How often QEMU may fail.
const ATTEMPTS: usize = 3;

/// The core's file. It has all pages, free ones and those of zeros too, as `/proc/vmcore` has them, and the
/// notes by which an image can be made of it.
pub(crate) fn lab_core(bench: &Bench<'_>) -> Result<PathBuf> {
    let of_recipe = |recipe| bench.lab.cache().join(format!("bench-core-{recipe}"));
    let kept = of_recipe(RECIPE);
    if kept.exists() {
        return Ok(kept);
    }
    for old in (1..RECIPE).map(of_recipe) {
        // Most of them are not there.
        let _ = fs::remove_file(old);
    }
    say!("making the core, once: a machine of {} MiB", GUEST.memory);
    let place = Place::choose(
        bench.arguments.folder.as_deref(),
        2 * GUEST.disk(),
        u64::from(GUEST.memory),
    )?;
    let bed = bench.bed(&place);
    let hibernated = save(&bed)?;
    let file = SavedFile::open(analysis::source(&hibernated.disk)?).context("opening the image")?;
    let new = bench
        .lab
        .cache()
        .join(format!("bench-core-new-{}", std::process::id()));
    check::write_whole_core(&file.machine, &new)
        .and_then(|_| fs::rename(&new, &kept).context("keeping the core"))
        .inspect_err(|_| {
            // It may not be there.
            let _ = fs::remove_file(&new);
        })?;
    Ok(kept)
}

fn save<'a>(bed: &'a Bed<'a>) -> Result<Hibernated<'a>> {
    let mut attempts = 1;
    loop {
        match bed.hibernate(GUEST, &Way::KjumpWhole) {
            Err(error) if attempts < ATTEMPTS && is_emulators_fault(&error) => attempts += 1,
            result => return result.context("saving the machine that the core is of"),
        }
    }
}
