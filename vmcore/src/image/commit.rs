//! The record behind the core that makes an image valid.

use super::wire::{Reader, Writer, seal, unseal};
use super::{COMMIT_SIZE, ImageError, ImageId, commit_offset};
use crate::ReadAt;

const MAGIC: &[u8; 8] = b"KJUMPEND";

/// What the commit record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// All of the core is on stable storage.
    Committed {
        /// How often somebody set out to resume it.
        attempts: u32,
    },
    /// The machine went on from this image.
    Resumed,
    /// Somebody gave it up.
    Discarded,
}

/// The record for the image `id` with a core of `core_size` bytes.
pub(super) fn encode(id: ImageId, core_size: u64, state: State) -> Vec<u8> {
    let mut record = Writer::default();
    record.raw(MAGIC);
    record.raw(&id.0);
    record.u64(core_size);
    let (number, attempts) = match state {
        State::Committed { attempts } => (1, attempts),
        State::Resumed => (2, 0),
        State::Discarded => (3, 0),
    };
    record.u32(number);
    record.u32(attempts);
    seal(record, COMMIT_SIZE).unwrap_or_default()
}

/// Reads the record for the image `id`. A record that is not this image's, or none, means that the
/// image was not committed.
pub(super) fn read(source: &impl ReadAt, id: ImageId, core_size: u64) -> Result<State, ImageError> {
    let offset = commit_offset(core_size).ok_or(ImageError::Malformed {
        what: "the size of the core",
    })?;
    let mut record = vec![0; COMMIT_SIZE as usize];
    source
        .read_exact_at(&mut record, offset)
        .map_err(|source| ImageError::Read {
            what: "the commit record of the image",
            source,
        })?;
    decode(&record, id, core_size).ok_or(ImageError::Uncommitted)
}

fn decode(record: &[u8], id: ImageId, core_size: u64) -> Option<State> {
    let mut reader = Reader::new(unseal(record)?);
    let magic: [u8; 8] = reader.array()?;
    let record_id = ImageId(reader.array()?);
    let record_core_size = reader.u64()?;
    let state = match (reader.u32()?, reader.u32()?) {
        (1, attempts) => State::Committed { attempts },
        (2, _) => State::Resumed,
        (3, _) => State::Discarded,
        _ => return None,
    };
    (&magic == MAGIC && record_id == id && record_core_size == core_size).then_some(state)
}
