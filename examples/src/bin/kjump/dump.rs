//! In kernel B after a panic: save what is of interest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use kjump::Crashed;
use kjump::memory::DumpLevel;

use crate::cli::SaveFormat;
use crate::report::{self, say};

/// What is left out unless something else is asked for: what holds nothing.
const USUAL: &str = "17";

/// `kjump save` of a machine that panicked.
pub(crate) fn run(path: &Path, format: SaveFormat, level: Option<DumpLevel>) -> Result<()> {
    if format != SaveFormat::Elf {
        bail!(
            "this machine panicked and cannot be resumed from an image; save it as a core, with --format elf"
        );
    }
    let level = match level {
        Some(level) => level,
        None => USUAL.parse()?,
    };
    let crashed = Crashed::find()?;
    let classes = crashed.classify(level)?;
    if path == Path::new("-") {
        let mut output = io::stdout().lock();
        return Ok(crashed.write_core(path, &mut output, &classes, &mut |_| {})?);
    }
    let release = crashed
        .release()
        .unwrap_or("a kernel that does not say which");
    say!(
        "{} panicked; saving it to {}",
        report::plain(release),
        path.display()
    );
    if let Some(reason) = &classes.unknown {
        say!("all pages but those of zeros are saved, since they cannot be told apart: {reason}");
    }
    let counts = classes.counts();
    say!(
        "dump level {level} leaves out {}, and {} of zeros",
        report::size(counts.free),
        report::size(counts.zero)
    );
    let is_device = path
        .metadata()
        .is_ok_and(|metadata| metadata.file_type().is_block_device());
    if is_device {
        bail!(
            "a core would be lost on the device {}; save it to a file",
            path.display()
        );
    }
    let mut file = File::create_new(path)
        .with_context(|| format!("cannot make the file {}", path.display()))?;
    let mut meter = report::meter("saving");
    crashed.write_core(path, &mut file, &classes, &mut |at| meter.update(at))?;
    file.sync_all()
        .with_context(|| format!("cannot write {}", path.display()))?;
    meter.finish("saved");
    Ok(())
}
