//! In kernel D: restore, and jump.

use std::path::Path;

use anyhow::Result;
use kjump::{Memory, Restoration};

use crate::cli;
use crate::report::{Meter, say, size};

/// `kjump restore`
pub(crate) fn run(restore: &cli::Restore) -> Result<()> {
    self::restore(&restore.image, &restore.target, restore.dry_run)
}

/// Restores an image to `target`, and jumps into it if that is memory.
pub(crate) fn restore(image: &Path, target: &Path, dry_run: bool) -> Result<()> {
    let restoration = Restoration::open(image)?;
    let memory = Memory::open(target)?;
    if dry_run {
        let summary = restoration.check(&memory)?;
        let bytes = size(summary.data + summary.zeros);
        say!("{bytes} can be restored to {}; nothing was written", target.display());
        return Ok(());
    }
    say!("restoring {} to {}", restoration.image().identity().release, target.display());
    let is_file = matches!(memory, Memory::File(_));
    let mut meter = Meter::new("restoring");
    let restored = restoration.restore(memory, &mut |at| meter.update(at))?;
    meter.finish("restored");
    if is_file {
        return Ok(());
    }
    say!("memory restored");
    say!("jumping back");
    match restored.jump_back()? {}
}
