//! In kernel B after a panic: save what is of interest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use kjump::memory::Phases;
use kjump::memory::image::{Sink, Stream};
use kjump::{Crashed, Progress};

use crate::cli::{self, SaveFormat};
use crate::report::{self, say};
use crate::save::{self, How};

/// What is left out unless something else is asked for: what holds nothing.
const USUAL: &str = "17";

/// `kjump save` of a machine that panicked.
pub(crate) fn run(save: &cli::Save) -> Result<()> {
    let path = save.image.as_path();
    let level = match save.dump_level {
        Some(level) => level,
        None => USUAL.parse()?,
    };
    let crashed = Crashed::find()?;
    let is_stream = path == Path::new("-");
    if !is_stream {
        let release = crashed
            .release()
            .unwrap_or("a kernel that does not say which");
        say!(
            "{} panicked; saving it to {}",
            report::plain(release),
            path.display()
        );
        let is_device = path
            .metadata()
            .is_ok_and(|metadata| metadata.file_type().is_block_device());
        if is_device {
            bail!(
                "a dump would be lost on the device {}; save it to a file",
                path.display()
            );
        }
    }
    if save.format == SaveFormat::Kjump {
        let Some(identity) = crashed.identity() else {
            bail!(
                "this machine does not tell what it is, since its kernel for panics was loaded by another tool; \
                 save it as a core, with --format elf"
            );
        };
        let seal = save.key.seal_for(identity.id)?;
        let packing = save.packing;
        let how = How::new(
            save.format,
            packing.codec,
            packing.threads,
            false,
            seal.as_ref(),
        );
        let write = |sink: &dyn Sink, progress: &mut dyn FnMut(Progress)| {
            crashed.write(path, &sink, how.options, level, &mut Phases::new, progress)
        };
        if is_stream {
            write(&Stream::new(io::stdout()), &mut |_| {})?;
            return Ok(());
        }
        let file = create(path)?;
        let mut meter = report::meter("saving");
        let written = write(&file, &mut |at| meter.update(at))?;
        meter.finish("saved");
        save::tell(&written);
        return Ok(());
    }
    let classes = crashed.classify(level)?;
    if is_stream {
        let mut output = io::stdout().lock();
        return Ok(crashed.write_core(path, &mut output, &classes, &mut |_| {})?);
    }
    if let Some(reason) = &classes.unknown {
        say!("all pages but those of zeros are saved, since they cannot be told apart: {reason}");
    }
    let counts = classes.counts();
    say!(
        "dump level {level} leaves out {}, and {} of zeros",
        report::size(counts.free),
        report::size(counts.zero)
    );
    let mut file = create(path)?;
    let mut meter = report::meter("saving");
    crashed.write_core(path, &mut file, &classes, &mut |at| meter.update(at))?;
    file.sync_all()
        .with_context(|| format!("cannot write {}", path.display()))?;
    meter.finish("saved");
    Ok(())
}

/// A new file.
fn create(path: &Path) -> Result<File> {
    File::create_new(path).with_context(|| format!("cannot make the file {}", path.display()))
}
