//! In kernel B: save, or jump back.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kjump::memory::image::{Codec, Options, Seal, Stream};
use kjump::memory::{Classes, Counts, LeaveOut, Phases, Written};
use kjump::{CommandLine, ImageTarget, Sleeper, find_image, machine, threads_for};

use crate::cli::{self, SaveFormat};
use crate::patience;
use crate::report::{self, say};
use crate::role::Role;

/// What is saved, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How<'a> {
    pub(crate) format: SaveFormat,
    pub(crate) options: Options<'a>,
    pub(crate) leave_out: LeaveOut,
}

impl<'a> How<'a> {
    /// With this codec, and as many threads as are asked for, or as there are CPUs and memory for.
    pub(crate) fn new(
        format: SaveFormat,
        codec: Codec,
        threads: Option<usize>,
        keep_free: bool,
        seal: Option<&'a Seal>,
    ) -> Self {
        Self {
            format,
            options: Options {
                codec,
                threads: threads.unwrap_or_else(|| threads_for(codec)),
                seal,
            },
            leave_out: if keep_free {
                LeaveOut::Nothing
            } else {
                LeaveOut::Free
            },
        }
    }
}

/// `kjump save`
pub(crate) fn run(save: &cli::Save) -> Result<()> {
    let packing = save.packing;
    let sleeper = Sleeper::find()?;
    let seal = save.key.seal_for(sleeper.identity().id)?;
    if seal.is_some() && save.format == SaveFormat::Elf {
        bail!("only images are encrypted, and a core would not be");
    }
    let how = How::new(
        save.format,
        packing.codec,
        packing.threads,
        save.keep_free,
        seal.as_ref(),
    );
    self::save(&sleeper, &save.image, how, &mut Phases::new)
}

/// Saves the machine to a device that it prepared, to a new file, or to standard output.
///
/// `phases` is asked how long everything took, when all memory is written.
pub(crate) fn save(
    sleeper: &Sleeper,
    image: &Path,
    how: How<'_>,
    phases: &mut dyn FnMut() -> Phases,
) -> Result<()> {
    if image == Path::new("-") {
        // Standard output is the image, so nothing else is said there.
        return match how.format {
            SaveFormat::Kjump => {
                let sink = Stream::new(io::stdout());
                sleeper.write(
                    image,
                    &sink,
                    how.options,
                    how.leave_out,
                    phases,
                    &mut |_| {},
                )?;
                Ok(())
            }
            SaveFormat::Elf => {
                let classes = classify(sleeper, how.leave_out)?;
                Ok(sleeper.write_core(image, &mut io::stdout().lock(), &classes, &mut |_| {})?)
            }
        };
    }
    say!(
        "saving {} to {}",
        sleeper.identity().release,
        image.display()
    );
    let mut meter = report::meter("saving");
    let progress = &mut |at| meter.update(at);
    match (how.format, is_device(image)?) {
        (SaveFormat::Kjump, true) => {
            let written = sleeper.save(image, how.options, how.leave_out, phases, progress)?;
            tell(&written);
        }
        (SaveFormat::Kjump, false) => {
            let written = sleeper.write(
                image,
                &create(image)?,
                how.options,
                how.leave_out,
                phases,
                progress,
            )?;
            tell(&written);
        }
        (SaveFormat::Elf, true) => bail!(
            "a core is no image, and would be lost on the device {}; save it to a file",
            image.display()
        ),
        (SaveFormat::Elf, false) => {
            let classes = classify(sleeper, how.leave_out)?;
            tell_unknown(classes.unknown.as_deref());
            tell_left_out(classes.counts());
            let mut file = create(image)?;
            sleeper.write_core(image, &mut file, &classes, progress)?;
            file.sync_all()
                .with_context(|| format!("cannot write {}", image.display()))?;
        }
    }
    meter.finish("saved");
    if how.format == SaveFormat::Kjump {
        say!("image committed");
    }
    Ok(())
}

/// Whether `image` is a device; if not, it is to be a new file. A device that is gone by now must not become a file: that
/// would be in this kernel's memory, and gone with it.
fn is_device(image: &Path) -> Result<bool> {
    match image.metadata() {
        Ok(metadata) => Ok(metadata.file_type().is_block_device()),
        Err(error) if image.starts_with("/dev") => {
            Err(error).with_context(|| format!("there is no device {}", image.display()))
        }
        Err(_) => Ok(false),
    }
}

/// A new file.
fn create(path: &Path) -> Result<File> {
    File::create_new(path).with_context(|| format!("cannot make the file {}", path.display()))
}

/// What the pages of the machine are for, as far as it matters.
fn classify(sleeper: &Sleeper, leave_out: LeaveOut) -> Result<Classes> {
    let classes = sleeper.classify()?;
    Ok(match leave_out {
        LeaveOut::Nothing => classes.keep_free(),
        LeaveOut::Free | LeaveOut::Dump(_) => classes,
    })
}

/// Says what was written.
pub(crate) fn tell(written: &Written) {
    tell_unknown(written.unknown.as_deref());
    let totals = &written.totals;
    let page = kjump::memory::PAGE_SIZE;
    tell_left_out(Counts {
        total: totals.bytes(),
        data: totals.data_bytes(),
        zero: totals.zero.saturating_mul(page),
        free: totals.free.saturating_mul(page),
    });
    say!("{}", report::stored(totals));
    tell_protection(written.protection);
}

/// Says how long checksums took, or encryption.
pub(crate) fn tell_protection(took: Duration) {
    say!(
        "checksums or encryption took {:.3} s, of all threads together",
        took.as_secs_f64()
    );
}

fn tell_unknown(reason: Option<&(dyn std::error::Error + Send + Sync)>) {
    if let Some(reason) = reason {
        say!("free pages are saved too, since they cannot be told from others: {reason}");
    }
}

fn tell_left_out(counts: Counts) {
    say!(
        "left out {} that were free, {} of zeros",
        report::size(counts.free),
        report::size(counts.zero),
    );
}

/// `kjump back`
pub(crate) fn back() -> Result<Infallible> {
    let sleeper = Sleeper::find()?;
    // That the machine goes on counts for more, and it looks for itself.
    if let Err(error) = give_up_image(&sleeper) {
        report::error(&error);
    }
    jump_back(&sleeper)
}

/// Lets the machine go on.
pub(crate) fn jump_back(sleeper: &Sleeper) -> Result<Infallible> {
    say!("jumping back");
    report::drain();
    patience::end();
    Ok(sleeper.jump_back()?)
}

/// An image of the machine that somebody has saved already would bring it back to where it is now, over all that it
/// does from here on.
fn give_up_image(sleeper: &Sleeper) -> Result<()> {
    let line = machine::command_line()?;
    let Some(path) = CommandLine::value(&line, Role::IMAGE_KEY) else {
        return Ok(());
    };
    let id = sleeper.identity().id;
    let Ok(path) = find_image(Path::new(path), id) else {
        return Ok(());
    };
    if ImageTarget::give_up(&path, sleeper.identity())? {
        say!("the image {id} on {} is given up", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_gone_is_no_new_file() {
        assert!(is_device(Path::new("/dev/none-of-them")).is_err());
        assert!(!is_device(Path::new("/nonexistent")).unwrap());
        assert!(!is_device(Path::new("/dev/null")).unwrap());
    }
}
