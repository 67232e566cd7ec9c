//! In kernel D: restore, and jump.

use std::path::Path;

use anyhow::{Result, ensure};
use kjump::memory::image::ImageId;
use kjump::restore::DevMem;
use kjump::{Restoration, open_memory};

use crate::cli;
use crate::patience;
use crate::report::{self, Meter, say, size};

/// `kjump restore`
pub(crate) fn run(restore: &cli::Restore) -> Result<()> {
    let restoration = open(&restore.image, restore.force_again)?;
    if !restore.dry_run {
        return self::restore(restoration, &restore.target);
    }
    let summary = restoration.check(open_memory(&restore.target)?.as_ref())?;
    say!(
        "{} can be restored to {}; nothing was written",
        size(summary.total()),
        restore.target.display()
    );
    Ok(())
}

/// Restores the image with this id, and jumps into it.
pub(crate) fn restore_by_id(image: &Path, id: ImageId, again: bool) -> Result<()> {
    let restoration = open(image, again)?;
    let found = restoration.identity().id;
    ensure!(
        found == id,
        "{} holds the image {found}, and {id} was to be restored: is the device another one here?",
        image.display()
    );
    restore(restoration, Path::new(DevMem::PATH))
}

/// Opens an image, or one that was resumed already if that is asked for.
fn open(image: &Path, again: bool) -> Result<Restoration> {
    Ok(if again {
        Restoration::open_again(image)?
    } else {
        Restoration::open(image)?
    })
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
    patience::end();
    match restored.jump_back()? {}
}
