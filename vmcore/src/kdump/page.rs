//! Descriptors of pages, and the pages themselves.

use std::io;

use byteorder::{ByteOrder, LE};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::bulk::Decompressor as ZstdDecompressor;

use super::Codec;
use crate::PAGE_SIZE;

/// A page of memory.
pub(super) type Page = [u8; PAGE_SIZE as usize];

/// What `struct page_desc` says of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Where the data of the page lie in the file.
    pub(super) offset: u64,
    /// How many bytes they have.
    pub(super) size: u32,
    /// `DUMP_DH_COMPRESSED_*`
    flags: u32,
}

impl Descriptor {
    /// Size of `struct page_desc`.
    pub(super) const SIZE: usize = 24;

    /// Reads a descriptor from [`SIZE`](Self::SIZE) bytes.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        Self {
            offset: LE::read_u64(bytes),
            size: LE::read_u32(&bytes[8..]),
            flags: LE::read_u32(&bytes[12..]),
        }
    }

    /// Where the data end.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.size.into())
    }

    /// How the page is compressed, if it is; checks the size, too. makedumpfile compresses only pages
    /// that become smaller by it.
    pub(super) fn codec(&self) -> Result<Option<Codec>, PageError> {
        let codec = Codec::of_flags(self.flags).ok_or(PageError::Flags { flags: self.flags })?;
        let size = u64::from(self.size);
        let possible = match codec {
            None => size == PAGE_SIZE,
            Some(_) => size > 0 && size <= PAGE_SIZE,
        };
        if possible {
            Ok(codec)
        } else {
            Err(PageError::Size { size: self.size })
        }
    }
}

/// Why a page of a dump cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum PageError {
    #[error("the page has flags {flags:#x}, which name no known compression")]
    Flags { flags: u32 },
    #[error("the page has {size} bytes in the dump, which cannot be right")]
    Size { size: u32 },
    #[error("the dump is truncated: the page ends at {end:#x}, the file at {size:#x}")]
    Truncated { end: u64, size: u64 },
    #[error("the page does not decompress: {why} ({codec:?}, {size} bytes at {offset:#x})")]
    Damaged {
        codec: Codec,
        size: u32,
        offset: u64,
        why: String,
    },
}

impl From<PageError> for io::Error {
    fn from(error: PageError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Decompresses pages. What can be used again for the next page is kept.
pub(super) struct Decompressor {
    zlib: Decompress,
    snappy: snap::raw::Decoder,
    zstd: Option<ZstdDecompressor<'static>>,
}

impl Decompressor {
    pub(super) fn new() -> Self {
        Self {
            zlib: Decompress::new(true),
            snappy: snap::raw::Decoder::new(),
            zstd: None,
        }
    }

    /// Decompresses `bytes`, which are one page, into `page`; else says why that fails.
    pub(super) fn page(
        &mut self,
        codec: Codec,
        bytes: &[u8],
        page: &mut Page,
    ) -> Result<(), String> {
        let len = match codec {
            Codec::Zlib => self.zlib(bytes, page)?,
            Codec::Lzo => {
                lzokay::decompress::decompress(bytes, page).map_err(|error| error.to_string())?
            }
            Codec::Snappy => {
                let len = snap::raw::decompress_len(bytes).map_err(|error| error.to_string())?;
                if len > page.len() {
                    return Err(format!("it has {len} bytes"));
                }
                self.snappy
                    .decompress(bytes, page)
                    .map_err(|error| error.to_string())?
            }
            // A frame that goes to a buffer as a whole needs no window.
            Codec::Zstd => self
                .zstd()
                .and_then(|zstd| zstd.decompress_to_buffer(bytes, page.as_mut_slice()))
                .map_err(|error| error.to_string())?,
        };
        if len == page.len() {
            Ok(())
        } else {
            Err(format!("it has {len} bytes"))
        }
    }

    fn zstd(&mut self) -> io::Result<&mut ZstdDecompressor<'static>> {
        if self.zstd.is_none() {
            self.zstd = Some(ZstdDecompressor::new()?);
        }
        self.zstd
            .as_mut()
            .ok_or_else(|| io::ErrorKind::Other.into())
    }

    /// Returns how many bytes the page has.
    fn zlib(&mut self, bytes: &[u8], page: &mut Page) -> Result<usize, String> {
        self.zlib.reset(true);
        let status = self
            .zlib
            .decompress(bytes, page, FlushDecompress::Finish)
            .map_err(|error| error.to_string())?;
        if status == Status::StreamEnd {
            Ok(usize::try_from(self.zlib.total_out()).unwrap_or(usize::MAX))
        } else {
            Err("its data end early, or it is longer than a page".into())
        }
    }
}
