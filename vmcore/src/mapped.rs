//! A file whose bytes are handed out from mappings of it, a few MiB at a time.
#![allow(
    unsafe_code,
    reason = "a mapping is only sound while nobody shrinks or changes the file, which its maker promises"
)]

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::{Advice, MmapOptions};

use crate::source::{ReadAt, ReadFile};

/// A file or device that is read through mappings of a few MiB, so that neither its size nor the size
/// of the address space matters.
///
/// `/proc/vmcore` wants to be read this way: its `read(2)` maps and unmaps old memory page by page
/// inside the kernel (`copy_oldmem_page` in `arch/x86/kernel/crash_dump_64.c`).
#[derive(Debug)]
pub struct MappedFile {
    file: ReadFile,
}

impl MappedFile {
    /// Bytes mapped at a time. All of them may count as resident while they are in use.
    const PIECE: u64 = 4 << 20;

    /// Mappings start at multiples of this.
    const ALIGN: u64 = crate::PAGE_SIZE;

    /// A mapped view of `file`.
    ///
    /// # Safety
    ///
    /// While the bytes of this source are in use, nobody may change them or make the file shorter.
    /// `/proc/vmcore` keeps that promise by itself: the memory behind it belongs to a kernel that
    /// stands still.
    ///
    /// # Errors
    ///
    /// If the size of the file cannot be found out.
    pub unsafe fn new(file: File) -> io::Result<Self> {
        Ok(Self {
            file: ReadFile::new(file)?,
        })
    }
}

impl ReadAt for MappedFile {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn is_mapped(&self) -> bool {
        true
    }

    fn for_each_piece(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if range.end > self.size() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut at = range.start;
        while at < range.end {
            // Mappings start at page boundaries, so the first bytes of one may be of no interest.
            let start = at - at % Self::ALIGN;
            let end = range.end.min(start + Self::PIECE);
            let len = usize::try_from(end - start).map_err(io::Error::other)?;
            let skip = usize::try_from(at - start).map_err(io::Error::other)?;
            // SAFETY: the file reaches to `range.end` at least, as checked above, and the maker of this
            // source promised that it neither shrinks nor changes while its bytes are in use.
            let map = unsafe {
                MmapOptions::new()
                    .offset(start)
                    .len(len)
                    .map(self.file.file())?
            };
            // Only advice: a mapping of device memory takes none, and works as well without.
            let _ = map.advise(Advice::Sequential);
            each(&map[skip..])?;
            at = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn pieces_of_a_mapped_file_are_its_bytes() {
        let bytes: Vec<u8> = (0..9 << 20).map(|i: u32| (i / 7) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        // SAFETY: nobody else knows of this file.
        let mapped = unsafe { MappedFile::new(file).unwrap() };
        for range in [0..9 << 20, 1..2, 4095..4097, 123..(5 << 20) + 7, 77..77] {
            let mut seen = Vec::new();
            mapped
                .for_each_piece(range.clone(), &mut |piece| {
                    seen.extend_from_slice(piece);
                    Ok(())
                })
                .unwrap();
            assert!(seen == bytes[range.start as usize..range.end as usize]);
        }
        assert!(
            mapped
                .for_each_piece(0..(9 << 20) + 1, &mut |_| Ok(()))
                .is_err()
        );
    }
}
