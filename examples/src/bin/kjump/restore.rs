//! In kernel D: restore, and jump.

use std::path::Path;

use anyhow::{Result, ensure};
use kjump::memory::image::ImageId;
use kjump::{Restoration, Verify, memory_device, open_memory, take_seal};

use crate::cli;
use crate::key;
use crate::patience;
use crate::report::{self, say, size};
use crate::save;
use crate::stopwatch::Stopwatch;

/// `kjump restore`
pub(crate) fn run(restore: &cli::Restore) -> Result<()> {
    let seal = restore.key.to_read(&restore.image)?;
    let restoration = Restoration::open_with(&restore.image, seal.as_ref(), restore.force_again)?;
    drop(seal);
    let target = restore.target.as_deref().unwrap_or_else(|| memory_device());
    if !restore.dry_run {
        return self::restore(restoration, target, restore.verification.verify, None);
    }
    if restore.verification.verify == Verify::Full {
        verify(&restoration)?;
    }
    let summary = restoration.check(open_memory(target)?.as_ref())?;
    say!(
        "{} can be restored to {}; nothing was written",
        size(summary.total()),
        target.display()
    );
    Ok(())
}

/// Opens the image with this id, or one that was resumed already if that is asked for.
///
/// If no key was handed on, and it takes a passphrase, that is asked for.
pub(crate) fn open_by_id(image: &Path, id: ImageId, again: bool) -> Result<Restoration> {
    let seal = match take_seal()? {
        Some(seal) => Some(seal),
        None => key::ask_for(image)?,
    };
    let restoration = Restoration::open_with(image, seal.as_ref(), again)?;
    drop(seal);
    let found = restoration.identity().id;
    ensure!(
        found == id,
        "{} holds the image {found}, and {id} was to be restored: is the device another one here?",
        image.display()
    );
    Ok(restoration)
}

/// Restores an image to memory, and jumps into it.
pub(crate) fn restore_memory(
    restoration: Restoration,
    verify: Verify,
    stopwatch: Stopwatch,
) -> Result<()> {
    restore(restoration, memory_device(), verify, Some(stopwatch))
}

/// Restores an image to `target`, and jumps into it if that is memory.
fn restore(
    restoration: Restoration,
    target: &Path,
    verify: Verify,
    stopwatch: Option<Stopwatch>,
) -> Result<()> {
    let memory = open_memory(target)?;
    let release = &restoration.identity().release;
    say!("restoring {release} to {}", target.display());
    let is_memory = memory.is_memory();
    if is_memory && !restoration.is_image() {
        say!("this is a core, which nobody marks as resumed: never restore it a second time");
    }
    if verify == Verify::Full {
        self::verify(&restoration)?;
    }
    let mut meter = report::meter("restoring");
    let restored = restoration.restore(memory, &mut |at| meter.update(at))?;
    meter.finish("restored");
    if !is_memory {
        return Ok(());
    }
    say!("memory restored");
    save::tell_protection(restored.protection_took());
    if let Some(mut stopwatch) = stopwatch {
        stopwatch.lap("restore");
        stopwatch.report();
    }
    say!("jumping back");
    report::drain();
    patience::end();
    match restored.jump_back()? {}
}

/// Checks all of the image.
fn verify(restoration: &Restoration) -> Result<()> {
    let mut meter = report::meter("verifying");
    restoration.verify(&mut |at| meter.update(at))?;
    meter.finish("verified");
    Ok(())
}
