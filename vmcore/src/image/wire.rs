//! Numbers, strings and ranges as bytes.

use byteorder::{ByteOrder, LE};

use super::checksum::checksum;
use crate::PhysRange;

/// Bytes that are being put together.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A text as a [`blob`](Self::blob), cut between two characters if it is too long.
    pub(super) fn string(&mut self, text: &str) {
        let mut cut = text.len().min(Reader::MAX_BLOB as usize);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        self.blob(&text.as_bytes()[..cut]);
    }

    /// A length of 32 bits and so many bytes. What is longer than [`Reader::MAX_BLOB`] is cut.
    pub(super) fn blob(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(Reader::MAX_BLOB as usize)];
        // No truncation: it is `MAX_BLOB` at most.
        self.u32(bytes.len() as u32);
        self.raw(bytes);
    }

    pub(super) fn range(&mut self, range: PhysRange) {
        self.u64(range.start().get());
        self.u64(range.end().get());
    }
}

/// Fills `writer` up with zeros to a block of `size` bytes whose last eight are the checksum of all
/// before; `None` if there is no room for that.
pub(super) fn seal(writer: Writer, size: u64) -> Option<Vec<u8>> {
    let mut block = writer.bytes;
    let room = usize::try_from(size).ok()?.checked_sub(8)?;
    if block.len() > room {
        return None;
    }
    block.resize(room, 0);
    block.extend(checksum(&block).to_le_bytes());
    Some(block)
}

/// What stands before the checksum of a sealed block; `None` if the checksum is wrong.
pub(super) fn unseal(block: &[u8]) -> Option<&[u8]> {
    let (bytes, sum) = block.split_last_chunk::<8>()?;
    (checksum(bytes) == u64::from_le_bytes(*sum)).then_some(bytes)
}

/// Bytes that are being taken apart. What is not there or cannot be is `None`.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The longest blob that is written or read.
    const MAX_BLOB: u32 = 4096;

    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn raw(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.raw(N)?.try_into().ok()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.raw(4).map(LE::read_u32)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.raw(8).map(LE::read_u64)
    }

    pub(super) fn blob(&mut self) -> Option<&'a [u8]> {
        let len = self.u32().filter(|&len| len <= Self::MAX_BLOB)?;
        self.raw(usize::try_from(len).ok()?)
    }

    pub(super) fn string(&mut self) -> Option<String> {
        String::from_utf8(self.blob()?.to_vec()).ok()
    }

    pub(super) fn range(&mut self) -> Option<PhysRange> {
        PhysRange::new(self.u64()?, self.u64()?)
    }
}
