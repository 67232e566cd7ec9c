//! In kernel D: restore, and jump.

use std::path::Path;

use anyhow::{Result, ensure};
use kjump::memory::image::ImageId;
use kjump::{Restoration, memory_device, open_memory};

use crate::cli;
use crate::report::{self, Meter, say, size};

/// `kjump restore`
pub(crate) fn run(restore: &cli::Restore) -> Result<()> {
    let restoration = Restoration::open(&restore.image)?;
    let target = restore.target.as_deref().unwrap_or_else(|| memory_device());
    if !restore.dry_run {
        return self::restore(restoration, target);
    }
    let summary = restoration.check(open_memory(target)?.as_ref())?;
    say!(
        "{} can be restored to {}; nothing was written",
        size(summary.total()),
        target.display()
    );
    Ok(())
}

/// Restores the image with this id, and jumps into it.
pub(crate) fn restore_by_id(image: &Path, id: ImageId) -> Result<()> {
    let restoration = Restoration::open(image)?;
    let found = restoration.identity().id;
    ensure!(
        found == id,
        "{} holds the image {found}, and {id} was to be restored: is the device another one here?",
        image.display()
    );
    restore(restoration, memory_device())
}

/// Restores an image to `target`, and jumps into it if that is memory.
fn restore(restoration: Restoration, target: &Path) -> Result<()> {
    let memory = open_memory(target)?;
    let release = &restoration.identity().release;
    say!("restoring {release} to {}", target.display());
    let is_memory = memory.is_memory();
    if is_memory && !restoration.is_image() {
        say!("this is a core, which nobody marks as resumed: never restore it a second time");
    }
    let mut meter = Meter::new("restoring");
    let restored = restoration.restore(memory, &mut |at| meter.update(at))?;
    meter.finish("restored");
    if !is_memory {
        return Ok(());
    }
    say!("memory restored");
    say!("jumping back");
    report::drain();
    match restored.jump_back()? {}
}
