//! Memory at an address that direct I/O takes.

/// What direct I/O wants addresses, offsets and lengths to be multiples of, in bytes; block devices take
/// this or less (open(2), "`O_DIRECT`").
pub const BLOCK: usize = 4096;

/// Bytes that begin at a multiple of [`BLOCK`].
///
/// ```
/// let buffer = vmcore::BlockBuffer::new(8192);
/// assert_eq!(buffer.get().len(), 8192);
/// assert_eq!(buffer.get().as_ptr().align_offset(vmcore::BLOCK), 0);
/// ```
#[derive(Debug)]
pub struct BlockBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl BlockBuffer {
    /// A buffer of `len` bytes, all zero.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len.saturating_add(BLOCK)];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Self { bytes, start, len }
    }

    /// The bytes.
    #[must_use]
    pub fn get(&self) -> &[u8] {
        &self.bytes[self.start..][..self.len]
    }

    /// The bytes, to be changed.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }
}
