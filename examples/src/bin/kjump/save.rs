//! In kernel B: save, or jump back.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::{Context, Result};
use kjump::Sleeper;
use kjump::memory::image::Sink;

use crate::report::{self, Meter, say};

/// `kjump save`
pub(crate) fn run(image: &Path) -> Result<()> {
    save(&Sleeper::find()?, image)
}

/// Saves the machine to a device that it prepared, to a new file, or to standard output.
pub(crate) fn save(sleeper: &Sleeper, image: &Path) -> Result<()> {
    if image == Path::new("-") {
        // Standard output is the image, so nothing else is said there.
        sleeper.write(image, &mut StandardOutput(io::stdout().lock()), &mut |_| {})?;
        return Ok(());
    }
    say!(
        "saving {} to {}",
        sleeper.identity().release,
        image.display()
    );
    let mut meter = Meter::new("saving");
    let progress = &mut |at| meter.update(at);
    if image
        .metadata()
        .is_ok_and(|metadata| metadata.file_type().is_block_device())
    {
        sleeper.save(image, progress)?;
    } else {
        let mut file = File::create_new(image)
            .with_context(|| format!("cannot make the file {}", image.display()))?;
        sleeper.write(image, &mut file, progress)?;
    }
    meter.finish("saved");
    say!("image committed");
    Ok(())
}

/// Standard output, which is a pipe or a file.
struct StandardOutput(io::StdoutLock<'static>);

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
