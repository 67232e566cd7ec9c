//! Chunks: what an image holds of some memory.

use super::wire::{Reader, Writer};
use super::{CodecKind, ImageError};
use crate::{PAGE_SIZE, PageClass, PhysAddr, PhysRange};

/// The most pages of data in a chunk: 1 MiB of them.
pub(super) const CHUNK_PAGES: u64 = 256;

/// The most runs of a chunk: so many fit into the block of a record.
pub(super) const MAX_RUNS: usize = 1000;

/// How many bits of a run tell its length, in pages.
const LENGTH_BITS: u32 = 30;

/// Neighbouring pages of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) class: PageClass,
    /// How many; at least one.
    pub(super) pages: u64,
}

/// Runs that follow each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs(Vec<Run>);

impl Runs {
    /// Adds pages; what is of the same class as the last run becomes one with it.
    pub(super) fn push(&mut self, class: PageClass, pages: u64) {
        const LONGEST: u64 = (1 << LENGTH_BITS) - 1;
        let mut left = pages;
        if let Some(last) = self.0.last_mut()
            && last.class == class
        {
            let more = left.min(LONGEST - last.pages);
            last.pages += more;
            left -= more;
        }
        while left > 0 {
            let pages = left.min(LONGEST);
            self.0.push(Run { class, pages });
            left -= pages;
        }
    }

    /// Adds all of `more`.
    pub(super) fn append(&mut self, more: &Self) {
        for run in &more.0 {
            self.push(run.class, run.pages);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Run> {
        self.0.iter().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// How many pages there are of this class.
    pub(super) fn pages(&self, class: PageClass) -> u64 {
        self.iter()
            .filter(|run| run.class == class)
            .map(|run| run.pages)
            .sum()
    }

    /// How many pages there are.
    pub(super) fn all_pages(&self) -> u64 {
        self.iter().map(|run| run.pages).sum()
    }
}

/// What an image holds of some memory: which of its pages are data, and how these are stored.
///
/// The data of a chunk is its pages of [`PageClass::Data`], one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    range: PhysRange,
    runs: Runs,
    codec: CodecKind,
}

impl Chunk {
    /// A chunk of the memory from `start` on; `None` if that is none.
    pub(super) fn new(start: PhysAddr, runs: Runs, codec: CodecKind) -> Option<Self> {
        let len = runs.all_pages().checked_mul(PAGE_SIZE)?;
        let range = PhysRange::from_len(start, len)?;
        Some(Self { range, runs, codec })
    }

    /// How its data is stored.
    #[must_use]
    pub fn codec(&self) -> CodecKind {
        self.codec
    }

    /// The memory that it is about.
    #[must_use]
    pub fn range(&self) -> PhysRange {
        self.range
    }

    /// Its memory by class, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (PhysRange, PageClass)> {
        let mut at = self.range.start();
        self.runs.iter().filter_map(move |run| {
            let range = PhysRange::from_len(at, run.pages * PAGE_SIZE)?;
            at = range.end();
            Some((range, run.class))
        })
    }

    /// How many bytes of data it has; [`Image::CHUNK_SIZE`](super::Image::CHUNK_SIZE) at most.
    #[must_use]
    pub fn data_len(&self) -> u64 {
        self.runs.pages(PageClass::Data) * PAGE_SIZE
    }

    pub(super) fn runs(&self) -> &Runs {
        &self.runs
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        to.u64(self.range.start().get());
        to.u32(self.codec.number());
        // No truncation: `MAX_RUNS` at most.
        to.u32(self.runs.len() as u32);
        for run in self.runs.iter() {
            let class = match run.class {
                PageClass::Data => 0,
                PageClass::Zero => 1,
                PageClass::Free => 2,
            };
            // No truncation: a run has at most 30 bits of pages.
            to.u32(class << LENGTH_BITS | run.pages as u32);
        }
    }

    /// Takes a chunk apart whose stored data has `stored` bytes.
    pub(super) fn decode(from: &mut Reader<'_>, stored: u64) -> Result<Self, ImageError> {
        Self::parse(from, stored).ok_or(ImageError::Malformed {
            what: "the description of a piece of memory",
        })
    }

    fn parse(from: &mut Reader<'_>, stored: u64) -> Option<Self> {
        let start = PhysAddr::new(from.u64()?);
        let codec = CodecKind::from_number(from.u32()?)?;
        let count = usize::try_from(from.u32()?).ok()?;
        if count == 0 || count > MAX_RUNS || !start.is_aligned(PAGE_SIZE) {
            return None;
        }
        let mut runs = Runs::default();
        for _ in 0..count {
            let word = from.u32()?;
            let class = match word >> LENGTH_BITS {
                0 => PageClass::Data,
                1 => PageClass::Zero,
                2 => PageClass::Free,
                _ => return None,
            };
            let pages = u64::from(word & ((1 << LENGTH_BITS) - 1));
            if pages == 0 {
                return None;
            }
            runs.push(class, pages);
        }
        let chunk = Self::new(start, runs, codec)?;
        let data = chunk.data_len();
        let plausible = match codec {
            CodecKind::None => stored == data,
            CodecKind::Lz4 | CodecKind::Zstd => 0 < stored && stored < data,
        };
        (data <= CHUNK_PAGES * PAGE_SIZE && plausible).then_some(chunk)
    }
}
