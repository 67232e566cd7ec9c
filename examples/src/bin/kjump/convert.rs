//! A saved machine in another format.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, bail};
use kjump::memory::elf::CoreWriteError;
use kjump::memory::image::{self, Header, ImageError, Layout, Seal, Sink, Stream};
use kjump::memory::{DumpLevel, LeaveOut, ReadFile, SavedFile};
use kjump::{DeviceSink, Progress};

use crate::cli::{Convert, SaveFormat};
use crate::report::{self, say};
use crate::save::{self, How};

/// `kjump convert`
pub(crate) fn run(convert: &Convert) -> Result<()> {
    let (input, output) = (&convert.input, &convert.output);
    let is_sealed = image_header(input).is_some_and(|header| header.sealing().is_some());
    let to_write = convert.format == SaveFormat::Kjump;
    let read = match is_sealed {
        true => convert.key.to_read(input)?,
        false => None,
    };
    let file = open(input, read.as_ref())?;
    let packing = convert.packing;
    let seal = match (to_write, file.machine.identity()) {
        (true, Some(identity)) => convert.key.seal_for(identity.id)?,
        _ => None,
    };
    let how = How::new(
        convert.format,
        packing.codec,
        packing.threads,
        convert.keep_free,
        seal.as_ref(),
    );
    let is_stream = output == Path::new("-");
    let stale = stale(&file);
    match how.format {
        SaveFormat::Kjump if is_stream => {
            if let Some(reason) = stale {
                bail!(
                    "{reason}; nor must it be where it is written to now, and only in a file can that be said: give \
                     the name of one, or make it a core (--format elf)"
                );
            }
            write_image(&file, &Stream::new(io::stdout()), how, &mut |_| {})
        }
        SaveFormat::Kjump => {
            create(output)?;
            let sink = DeviceSink::open(output)
                .with_context(|| format!("cannot write {}", output.display()))?;
            let mut meter = report::meter("writing");
            let written = write_image(&file, &sink, how, &mut |at| meter.update(at));
            if written.is_err() {
                // It is no image, and was made here.
                let _ = std::fs::remove_file(output);
            }
            written.with_context(|| format!("cannot write {}", output.display()))?;
            meter.finish("wrote");
            if let Some(reason) = stale {
                give_up(output).with_context(|| format!("cannot mark {}", output.display()))?;
                say!("it can be looked at and not resumed: {reason}");
            }
            Ok(())
        }
        SaveFormat::Elf => write_core(&file, convert, how.leave_out, is_stream),
    }
}

/// Why the machine in `file` must not be resumed, though it jumped: what was marked as resumed, or given up,
/// stays so in any copy.
fn stale(file: &SavedFile) -> Option<&ImageError> {
    file.machine.jump()?;
    file.resumable.as_ref()?.as_ref().err()
}

/// Gives up the image in the file at `path`.
fn give_up(path: &Path) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    Ok(image::discard(&ReadFile::new(file.try_clone()?)?, &file)?)
}

/// Writes the machine in `file` as an image.
fn write_image(
    file: &SavedFile,
    sink: &impl Sink,
    how: How<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let phases = file.stored.as_ref().map(|stored| stored.phases.clone());
    let phases = &mut || phases.clone().unwrap_or_default();
    // A machine that never jumped panicked: it is not to go on.
    let leave_out = match (file.machine.jump(), how.leave_out) {
        (None, LeaveOut::Free) => LeaveOut::Dump(DumpLevel::FREE),
        (None, _) => LeaveOut::Dump(DumpLevel::NOTHING),
        (Some(_), leave_out) => leave_out,
    };
    let written = file
        .machine
        .write_image(sink, how.options, leave_out, phases, progress)?;
    if sink.can_seek() {
        save::tell(&written);
    }
    Ok(())
}

/// Writes the machine in `file` as a core.
fn write_core(
    file: &SavedFile,
    convert: &Convert,
    leave_out: LeaveOut,
    is_stream: bool,
) -> Result<()> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let classes = file.machine.classify(threads).with_context(|| {
        format!(
            "cannot look through the pages of {}",
            convert.input.display()
        )
    })?;
    let classes = match leave_out {
        LeaveOut::Nothing => classes.keep_free(),
        LeaveOut::Free | LeaveOut::Dump(_) => classes,
    };
    let (memory, core) = file
        .machine
        .core(Layout::Seen, &classes)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    if is_stream {
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
    let mut target = create(&convert.output)?;
    let mut meter = report::meter("writing");
    core.write(&memory, &mut target, &mut |at| meter.update(at))
        .and_then(|()| target.sync_all().map_err(CoreWriteError::Write))
        .with_context(|| format!("cannot write {}", convert.output.display()))?;
    meter.finish("wrote");
    Ok(())
}

/// A new file.
fn create(path: &Path) -> Result<File> {
    File::create_new(path).with_context(|| format!("cannot make the file {}", path.display()))
}

/// Opens a file that holds a machine, whatever its format.
pub(crate) fn open(path: &Path, seal: Option<&Seal>) -> Result<SavedFile> {
    let source = File::open(path)
        .and_then(ReadFile::new)
        .with_context(|| format!("cannot read {}", path.display()))?;
    SavedFile::open_with(source, seal.map(|seal| &seal.key))
        .with_context(|| format!("cannot use {}", path.display()))
}

/// The header of an image, if `path` is one.
fn image_header(path: &Path) -> Option<Header> {
    let source = File::open(path).and_then(ReadFile::new).ok()?;
    Header::read(&source).ok()
}
