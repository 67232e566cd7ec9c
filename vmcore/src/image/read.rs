//! Reading an image.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::commit::{self, State};
use super::{HEADER_SIZE, Header, Identity, ImageError, Saved, Stage, commit_offset, size_for};
use crate::elf::Core;
use crate::{Part, ReadAt};

/// A valid image: complete, committed, and not resumed before.
#[derive(Debug)]
pub struct Image<S> {
    source: S,
    identity: Identity,
    saved: Saved,
    attempts: u32,
}

impl<S: ReadAt> Image<S> {
    /// Opens the image in `source` and checks all that can be checked without reading the core.
    ///
    /// # Errors
    ///
    /// [`ImageError`] that says why this is no image, or none that may be resumed.
    pub fn open(source: S) -> Result<Self, ImageError> {
        let (image, resumable) = Self::examine(source)?;
        resumable.map(|()| image)
    }

    /// As [`open`](Self::open), for those who only look: an image whose core was written, in whole or in
    /// part, and whether it may be resumed.
    ///
    /// # Errors
    ///
    /// [`ImageError`] that says why there is no image.
    pub fn examine(source: S) -> Result<(Self, Result<(), ImageError>), ImageError> {
        let Header { identity, stage } = Header::read(&source)?;
        let saved = match stage {
            Stage::Saved(saved) => saved,
            Stage::Prepared => return Err(ImageError::Prepared),
            Stage::Failed(reason) => return Err(ImageError::Failed { reason }),
        };
        let expected = size_for(saved.core_size).ok_or(ImageError::Malformed {
            what: "the size of the core",
        })?;
        if source.size() < expected {
            return Err(ImageError::Truncated {
                expected,
                size: source.size(),
            });
        }
        let (attempts, resumable) = match commit::read(&source, identity.id, saved.core_size) {
            Ok(State::Committed { attempts }) => (attempts, Ok(())),
            Ok(State::Resumed) => (0, Err(ImageError::Resumed)),
            Ok(State::Discarded) => (0, Err(ImageError::Discarded)),
            Err(error) => (0, Err(error)),
        };
        let image = Self {
            source,
            identity,
            saved,
            attempts,
        };
        Ok((image, resumable))
    }

    /// Whose memory it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What was saved.
    pub fn saved(&self) -> Saved {
        self.saved
    }

    /// How often somebody set out to resume it, and the machine did not go on.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The core in the image.
    ///
    /// # Errors
    ///
    /// [`ImageError::Core`] if its headers are damaged.
    pub fn core(&self) -> Result<Core<Part<&S>>, ImageError> {
        let part = Part::new(&self.source, HEADER_SIZE, self.saved.core_size).ok_or(
            ImageError::Truncated {
                expected: self.saved.core_size,
                size: self.source.size(),
            },
        )?;
        Ok(Core::open(part)?)
    }

    /// The core alone, which keeps the source.
    ///
    /// # Errors
    ///
    /// As [`core`](Self::core).
    pub fn into_core(self) -> Result<Core<Part<S>>, ImageError> {
        let expected = self.saved.core_size;
        let size = self.source.size();
        let part = Part::new(self.source, HEADER_SIZE, expected)
            .ok_or(ImageError::Truncated { expected, size })?;
        Ok(Core::open(part)?)
    }

    /// Writes to `target`, which must hold this image, that the machine went on from it. When this
    /// returns, that is on stable storage, and the image will never be opened again.
    ///
    /// # Errors
    ///
    /// If the record could not be brought to stable storage; the image may then be valid or not.
    pub fn mark_resumed(&self, target: &File) -> io::Result<()> {
        self.mark(target, State::Resumed)
    }

    /// Writes to `target`, which must hold this image, that somebody sets out to resume it once more. When
    /// this returns, that is on stable storage.
    ///
    /// # Errors
    ///
    /// As [`mark_resumed`](Self::mark_resumed).
    pub fn mark_attempt(&self, target: &File) -> io::Result<()> {
        let attempts = self.attempts.saturating_add(1);
        self.mark(target, State::Committed { attempts })
    }

    /// Takes back that the machine went on, since it did not.
    ///
    /// # Errors
    ///
    /// As [`mark_resumed`](Self::mark_resumed).
    pub fn unmark_resumed(&self, target: &File) -> io::Result<()> {
        let attempts = self.attempts;
        self.mark(target, State::Committed { attempts })
    }

    /// Writes to `target`, which must hold this image, that it is given up. When this returns, that is on
    /// stable storage, and the image will never be opened again.
    ///
    /// # Errors
    ///
    /// As [`mark_resumed`](Self::mark_resumed).
    pub fn discard(&self, target: &File) -> io::Result<()> {
        self.mark(target, State::Discarded)
    }

    fn mark(&self, target: &File, state: State) -> io::Result<()> {
        let offset = commit_offset(self.saved.core_size)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let record = commit::encode(self.identity.id, self.saved.core_size, state);
        target.write_all_at(&record, offset)?;
        target.sync_data()
    }
}
