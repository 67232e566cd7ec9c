//! In kernel B: save, or jump back.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kjump::memory::Classes;
use kjump::memory::image::Sink;
use kjump::{Progress, Sleeper};

use crate::cli::SaveFormat;
use crate::report::{self, Meter, say};

/// `kjump save`
pub(crate) fn run(image: &Path, format: SaveFormat, keep_free: bool) -> Result<()> {
    save(&Sleeper::find()?, image, format, keep_free)
}

/// Saves the machine to a device that it prepared, to a new file, or to standard output.
pub(crate) fn save(
    sleeper: &Sleeper,
    image: &Path,
    format: SaveFormat,
    keep_free: bool,
) -> Result<()> {
    if image == Path::new("-") {
        // Standard output is the image, so nothing else is said there.
        let classes = classify(sleeper, keep_free)?;
        let mut output = StandardOutput(io::stdout().lock());
        return write(sleeper, image, &mut output, format, &classes, &mut |_| {});
    }
    say!(
        "saving {} to {}",
        sleeper.identity().release,
        image.display()
    );
    let started = Instant::now();
    let classes = classify(sleeper, keep_free)?;
    let counts = classes.counts();
    if let Some(reason) = &classes.unknown {
        say!("free pages are saved too, since they cannot be told from others: {reason}");
    }
    say!(
        "left out {} that were free, {} of zeros (found in {:.1} s)",
        report::size(counts.free),
        report::size(counts.zero),
        started.elapsed().as_secs_f64()
    );
    let mut meter = Meter::new("saving");
    let progress = &mut |at| meter.update(at);
    let is_device = image
        .metadata()
        .is_ok_and(|metadata| metadata.file_type().is_block_device());
    if is_device && format == SaveFormat::Kjump {
        sleeper.save(image, &classes, progress)?;
    } else {
        if is_device {
            bail!(
                "a core is no image, and would be lost on the device {}; save it to a file",
                image.display()
            );
        }
        let mut file = File::create_new(image)
            .with_context(|| format!("cannot make the file {}", image.display()))?;
        write(sleeper, image, &mut file, format, &classes, progress)?;
    }
    meter.finish("saved");
    if format == SaveFormat::Kjump {
        say!("image committed");
    }
    Ok(())
}

/// What the pages of the machine are for, as far as it matters.
fn classify(sleeper: &Sleeper, keep_free: bool) -> Result<Classes> {
    let classes = sleeper.classify()?;
    Ok(if keep_free {
        classes.keep_free()
    } else {
        classes
    })
}

/// Writes what is saved to `sink`, in the format that is asked for.
fn write(
    sleeper: &Sleeper,
    path: &Path,
    sink: &mut impl Sink,
    format: SaveFormat,
    classes: &Classes,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    match format {
        SaveFormat::Kjump => sleeper.write(path, sink, classes, progress)?,
        SaveFormat::Elf => sleeper.write_core(path, sink, classes, progress)?,
    }
    Ok(())
}

/// Standard output, which is a pipe or a file.
pub(crate) struct StandardOutput(pub(crate) io::StdoutLock<'static>);

impl Write for StandardOutput {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Sink for StandardOutput {
    /// Whoever reads the pipe answers for what happens behind it.
    fn sync(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// `kjump back`
pub(crate) fn back() -> Result<Infallible> {
    let sleeper = Sleeper::find()?;
    say!("jumping back");
    report::drain();
    Ok(sleeper.jump_back()?)
}
