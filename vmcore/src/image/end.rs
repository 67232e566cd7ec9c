//! The end of an image: what all of it is.

use super::chunk::Runs;
use super::wire::{Reader, Writer};
use super::{CodecKind, ImageError};
use crate::{PAGE_SIZE, PageClass, Phases};

/// What there is in an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Pages of data.
    pub data: u64,
    /// Pages of zeros.
    pub zero: u64,
    /// Pages that were left out because they were free.
    pub free: u64,
    /// Chunks with data, by how they are stored: in the order of [`CodecKind::ALL`].
    pub chunks: [u64; 3],
    /// Bytes of data as they are stored.
    pub stored: u64,
}

impl Totals {
    /// How many bytes of memory the image tells of.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.data
            .saturating_add(self.zero)
            .saturating_add(self.free)
            .saturating_mul(PAGE_SIZE)
    }

    /// How many bytes of data there are.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.data.saturating_mul(PAGE_SIZE)
    }

    /// How many chunks with data are stored this way.
    #[must_use]
    pub fn chunks_by(&self, codec: CodecKind) -> u64 {
        let all = CodecKind::ALL.into_iter().zip(self.chunks);
        all.filter(|(kind, _)| *kind == codec)
            .map(|(_, count)| count)
            .sum()
    }

    /// Counts the pages of a chunk.
    pub(super) fn count(&mut self, runs: &Runs) {
        self.data = self.data.saturating_add(runs.pages(PageClass::Data));
        self.zero = self.zero.saturating_add(runs.pages(PageClass::Zero));
        self.free = self.free.saturating_add(runs.pages(PageClass::Free));
    }

    /// Counts a chunk whose data takes `stored` bytes.
    pub(super) fn count_chunk(&mut self, codec: CodecKind, stored: u64) {
        if stored == 0 {
            return;
        }
        self.stored = self.stored.saturating_add(stored);
        let all = self.chunks.iter_mut().zip(CodecKind::ALL);
        for (count, _) in all.filter(|(_, kind)| *kind == codec) {
            *count += 1;
        }
    }
}

/// What the record at the end says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    /// Where the last part of the index is; 0 if there is none.
    pub(super) index: u64,
    /// Whether all that was free is left out, so that no data is.
    pub(super) without_free: bool,
    pub(super) totals: Totals,
    /// How long everything took.
    pub(super) phases: Phases,
}

impl End {
    /// The body and the payload of the record.
    pub(super) fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        let mut body = Writer::default();
        body.u64(self.index);
        body.u32(self.without_free.into());
        let Totals {
            data,
            zero,
            free,
            chunks,
            stored,
        } = self.totals;
        for number in [data, zero, free, stored].into_iter().chain(chunks) {
            body.u64(number);
        }
        (body.bytes, self.phases.encode())
    }

    pub(super) fn decode(body: &[u8], payload: &[u8]) -> Result<Self, ImageError> {
        Self::parse(&mut Reader::new(body), payload)
            .ok_or(ImageError::Malformed { what: "the end" })
    }

    fn parse(body: &mut Reader<'_>, payload: &[u8]) -> Option<Self> {
        let index = body.u64()?;
        let without_free = match body.u32()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let (data, zero, free, stored) = (body.u64()?, body.u64()?, body.u64()?, body.u64()?);
        let chunks = [body.u64()?, body.u64()?, body.u64()?];
        Some(Self {
            index,
            without_free,
            totals: Totals {
                data,
                zero,
                free,
                chunks,
                stored,
            },
            phases: Phases::decode(payload)?,
        })
    }
}
