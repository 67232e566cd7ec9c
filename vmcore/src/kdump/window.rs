//! Small reads of a source, made into few large ones where they follow each other.

use std::io;

use crate::ReadAt;

/// A piece of a source that was read, perhaps with more than was asked for.
///
/// Reads that go on where the piece ends read twice as much each time; a jump starts small again.
#[derive(Debug)]
pub(super) struct Window {
    start: u64,
    bytes: Vec<u8>,
    ahead: u64,
    least: u64,
}

impl Window {
    /// The most that is read ahead.
    const MOST: u64 = 1 << 20;

    /// A window of nothing yet that reads at least `least` bytes.
    pub(super) fn new(least: u64) -> Self {
        Self {
            start: 0,
            bytes: Vec::new(),
            ahead: least,
            least,
        }
    }

    /// The `len` bytes of `source` at `at`. The caller bounds `len`.
    pub(super) fn fetch(&mut self, source: &impl ReadAt, at: u64, len: usize) -> io::Result<&[u8]> {
        let end = at
            .checked_add(len as u64)
            .filter(|end| *end <= source.size())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        // No overflow: the window was read from the source.
        let reached = self.start + self.bytes.len() as u64;
        if at < self.start || end > reached {
            let follows = self.start <= at && at <= reached && !self.bytes.is_empty();
            self.ahead = if follows {
                (self.ahead * 2).min(Self::MOST)
            } else {
                self.least
            };
            self.refill(source, at, len)?;
        }
        let skip = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        self.bytes
            .get(skip..)
            .and_then(|bytes| bytes.get(..len))
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn refill(&mut self, source: &impl ReadAt, at: u64, len: usize) -> io::Result<()> {
        let more = usize::try_from(self.ahead.min(source.size() - at)).unwrap_or(len);
        self.start = at;
        self.bytes.resize(more.max(len), 0);
        let mut filled = source.read_exact_at(&mut self.bytes, at);
        if filled.is_err() && more > len {
            // What follows may be what cannot be read.
            self.bytes.truncate(len);
            filled = source.read_exact_at(&mut self.bytes, at);
        }
        if filled.is_err() {
            self.bytes.clear();
        }
        filled
    }
}
