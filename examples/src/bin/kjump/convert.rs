//! A saved machine in another format.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use kjump::memory::image::Layout;
use kjump::memory::{ReadFile, SavedFile};

use crate::report::{self, Meter, say};

/// `kjump convert`
pub(crate) fn run(input: &Path, output: &Path) -> Result<()> {
    let file = open(input)?;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let classes = file
        .machine
        .classify(threads)
        .with_context(|| format!("cannot look through the pages of {}", input.display()))?;
    let (memory, core) = file
        .machine
        .core(Layout::Seen, &classes)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    if output == Path::new("-") {
        let mut output = io::stdout().lock();
        core.write(&memory, &mut output, &mut |_| {})?;
        return Ok(output.flush()?);
    }
    if let Some(reason) = &classes.unknown {
        say!("free pages are written too, since they cannot be told from others: {reason}");
    }
    let counts = classes.counts();
    say!(
        "left out {} that were free, {} of zeros",
        report::size(counts.free),
        report::size(counts.zero)
    );
    let mut target = File::create_new(output)
        .with_context(|| format!("cannot make the file {}", output.display()))?;
    let mut meter = Meter::new("writing");
    core.write(&memory, &mut target, &mut |at| meter.update(at))
        .and_then(|()| {
            target
                .sync_all()
                .map_err(kjump::memory::elf::CoreWriteError::Write)
        })
        .with_context(|| format!("cannot write {}", output.display()))?;
    meter.finish("wrote");
    Ok(())
}

/// Opens a file that holds a machine, whatever its format.
pub(crate) fn open(path: &Path) -> Result<SavedFile> {
    let source = File::open(path)
        .and_then(ReadFile::new)
        .with_context(|| format!("cannot read {}", path.display()))?;
    SavedFile::open(source).with_context(|| format!("cannot use {}", path.display()))
}
