//! Writing an image.

use std::fs::File;
use std::io::{self, Write};

use super::{
    COMMIT_SIZE, HEADER_SIZE, Header, Identity, ImageError, Saved, Stage,
    commit::{self, State},
};
use crate::elf::{CoreWriteError, CoreWriter};
use crate::{Memory, PhysAddr, Progress};

/// Where an image is written: bytes in order, and a way to know that they are on stable storage.
pub trait Sink: Write {
    /// Returns when all that was written is on stable storage.
    ///
    /// # Errors
    ///
    /// If it cannot be brought there; then it must be taken as lost.
    fn sync(&mut self) -> io::Result<()>;
}

impl Sink for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Sink for Vec<u8> {
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why an image could not be written.
fn failed(what: &'static str) -> impl Fn(io::Error) -> ImageError {
    move |source| ImageError::Write { what, source }
}

/// Writes a header alone: the target now belongs to `identity`, and what was there before is no more.
///
/// # Errors
///
/// [`ImageError::Write`], or [`ImageError::Malformed`] if the memory map is too long for a header.
pub fn prepare(identity: &Identity, sink: &mut impl Sink) -> Result<(), ImageError> {
    write_header(identity, Stage::Prepared, sink)
}

/// Writes a header that says why nothing was saved, for the machine to read when it goes on.
///
/// # Errors
///
/// As [`prepare`].
pub fn record_failure(
    identity: &Identity,
    reason: &str,
    sink: &mut impl Sink,
) -> Result<(), ImageError> {
    write_header(identity, Stage::Failed(reason.to_owned()), sink)
}

fn write_header(identity: &Identity, stage: Stage, sink: &mut impl Sink) -> Result<(), ImageError> {
    let header = Header {
        identity: identity.clone(),
        stage,
    };
    let bytes = header.encode()?;
    sink.write_all(&bytes)
        .and_then(|()| sink.sync())
        .map_err(failed("the header of the image"))
}

/// Writes a whole image: the header, the core of `memory`, and, when that is on stable storage, the
/// commit record. The bytes go from the memory to the sink without a copy in between, if the memory is
/// mapped. `sink` must stand at the beginning of the target.
///
/// # Errors
///
/// [`ImageError::Write`] or [`ImageError::Memory`]; the image then is not valid, and never was.
pub fn write(
    identity: &Identity,
    jump_back: PhysAddr,
    core: &CoreWriter,
    memory: &(impl Memory + ?Sized),
    sink: &mut impl Sink,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ImageError> {
    let core_size = core.size();
    write_header(
        identity,
        Stage::Saved(Saved {
            jump_back,
            core_size,
        }),
        sink,
    )?;
    core.write(memory, sink, progress)
        .map_err(|error| match error {
            CoreWriteError::Memory(source) => ImageError::Memory(source),
            CoreWriteError::Write(source) => failed("the core")(source),
        })?;

    let padding = core_size.next_multiple_of(COMMIT_SIZE) - core_size;
    sink.write_all(&[0; COMMIT_SIZE as usize][..padding as usize])
        .and_then(|()| sink.sync())
        .map_err(failed("the core"))?;
    sink.write_all(&commit::encode(
        identity.id,
        core_size,
        State::Committed { attempts: 0 },
    ))
    .and_then(|()| sink.sync())
    .map_err(failed("the commit record"))
}

const _: () = assert!(HEADER_SIZE.is_multiple_of(COMMIT_SIZE));
