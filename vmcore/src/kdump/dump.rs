//! Reading a kdump-compressed file.

use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::bitmap::Bitmap;
use super::header::{Header, Layout, read_headers};
use super::page::{Decompressor, Descriptor, Page, PageError};
use super::window::Window;
use super::{DumpError, check_end, read};
use crate::elf::{Note, Notes};
use crate::{
    Memory, MemoryError, PAGE_SIZE, PageClass, PhysAddr, PhysRange, RangeMap, ReadAt, VmcoreInfo,
};

/// A kdump-compressed file: pages of memory, each compressed by itself.
///
/// All memory that the dump holds is [`PageClass::Data`]. What makedumpfile left out is not there; the
/// format does not say why a page is missing.
///
/// Reads from more than one thread wait for each other.
pub struct Dump<S> {
    source: S,
    header: Header,
    contents: RangeMap<PageClass>,
    bitmap: Bitmap,
    /// Where the table of descriptors begins.
    descriptors: u64,
    /// How many pages were written; fewer than the bitmap has if the dump is incomplete.
    written: u64,
    vmcoreinfo: Option<VmcoreInfo>,
    notes: Vec<u8>,
    state: Mutex<State>,
}

/// What is kept between reads.
struct State {
    bitmap: Window,
    descriptors: Window,
    data: Window,
    decompressor: Decompressor,
    /// Pages of which a part was read, each in the place that its number says.
    cache: Vec<Option<(u64, Box<Page>)>>,
    /// The descriptor of a page of zeros. makedumpfile stores one such page for all of them.
    zero: Option<Descriptor>,
}

/// How many pages are kept.
const CACHE: usize = 256;
/// How many of the last descriptors are looked at to see whether the file has the data of them all.
const LAST: u64 = 4096;

impl<S: ReadAt> Dump<S> {
    /// Reads the headers, the notes and the bitmap of the dump in `source`.
    ///
    /// # Errors
    ///
    /// [`DumpError`] if it is no kdump-compressed file of an x86_64 machine, if it is one part of a
    /// split dump, if its headers are damaged, or if it is truncated: if the table of descriptors, or the
    /// data of the last pages, are not all there. A dump that says that it is incomplete is read as far
    /// as it goes.
    pub fn open(source: S) -> Result<Self, DumpError> {
        let (header, layout) = read_headers(&source)?;
        let (bitmap, contents) = Bitmap::scan(&source, layout.bitmap, header.max_pfn)?;
        let (vmcoreinfo, notes) = read_notes(&source, &layout)?;
        let mut dump = Self {
            written: bitmap.count(),
            descriptors: layout.descriptors,
            source,
            header,
            contents,
            bitmap,
            vmcoreinfo,
            notes,
            state: Mutex::new(State {
                bitmap: Window::new(4 << 10),
                descriptors: Window::new(4 << 10),
                data: Window::new(8 << 10),
                decompressor: Decompressor::new(),
                cache: Vec::new(),
                zero: None,
            }),
        };
        if dump.header.incomplete {
            dump.cut_to_written()?;
        } else {
            dump.check_complete()?;
        }
        Ok(dump)
    }

    /// Where the bytes come from.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// What the headers say: the kernel, what was left out, how it is compressed.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many pages the bitmap says are in the dump. If the dump is incomplete, fewer can be read:
    /// those of [`contents`](Memory::contents).
    pub fn pages(&self) -> u64 {
        self.bitmap.count()
    }

    /// The ELF notes that the machine saved; none in dumps of version 3 and below.
    pub fn notes(&self) -> impl Iterator<Item = Note<'_>> {
        Notes::new(&self.notes)
    }

    /// The first note of this owner and kind.
    pub fn note(&self, name: &str, kind: u32) -> Option<Note<'_>> {
        self.notes()
            .find(|note| note.name == name.as_bytes() && note.kind == kind)
    }

    /// What the saved kernel told of itself, if the dump has it.
    pub fn vmcoreinfo(&self) -> Option<VmcoreInfo> {
        self.vmcoreinfo.clone()
    }

    /// The state between reads. A thread that panicked left windows and pages that are whole or empty.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offset of the descriptor of page number `rank`. No overflow: there are at most 2^40 pages.
    fn descriptor_at(&self, rank: u64) -> u64 {
        self.descriptors + rank * Descriptor::SIZE as u64
    }

    /// Checks that the file has all descriptors, and the data of the last of them.
    fn check_complete(&self) -> Result<(), DumpError> {
        let size = self.source.size();
        let count = self.bitmap.count();
        let table = count * Descriptor::SIZE as u64;
        check_end("the table of pages", self.descriptors, table, size)?;
        let first = count.saturating_sub(LAST);
        let table = read(
            &self.source,
            "the table of pages",
            self.descriptor_at(first),
            (count - first) * Descriptor::SIZE as u64,
        )?;
        let end = table
            .chunks_exact(Descriptor::SIZE)
            .map(|bytes| Descriptor::parse(bytes).end())
            .max()
            .unwrap_or(0);
        check_end("the last page", end, 0, size)
    }

    /// Finds out how many pages were written before there was no more room, and takes the others out
    /// of the contents. Pages are written in order, and descriptors that were not are zero.
    fn cut_to_written(&mut self) -> Result<(), DumpError> {
        let size = self.source.size();
        let (mut low, mut high) = (0, self.bitmap.count());
        while low < high {
            let middle = low + (high - low) / 2;
            let offset = self.descriptor_at(middle);
            let mut bytes = [0; Descriptor::SIZE];
            let there = offset < size.saturating_sub(Descriptor::SIZE as u64 - 1);
            if there {
                self.source
                    .read_exact_at(&mut bytes, offset)
                    .map_err(|source| DumpError::Read { offset, source })?;
            }
            let descriptor = Descriptor::parse(&bytes);
            if descriptor.offset != 0 && descriptor.end() <= size {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.written = low;
        let mut left = low * PAGE_SIZE;
        let cut = self.contents.ranges().find_map(|range| {
            if left < range.len() {
                return Some(range.start().get() + left);
            }
            left -= range.len();
            None
        });
        let end = self.contents.ranges().next_back().map(PhysRange::end);
        if let (Some(cut), Some(end)) = (cut, end)
            && let Some(missing) = PhysRange::new(cut, end.get())
        {
            self.contents.remove(missing);
        }
        Ok(())
    }

    /// Fills `page` with page number `pfn`; `false` if the dump does not have it.
    fn load(&self, state: &mut State, pfn: u64, page: &mut Page) -> io::Result<bool> {
        let Some(rank) = self.bitmap.rank(&self.source, &mut state.bitmap, pfn)? else {
            return Ok(false);
        };
        if rank >= self.written {
            return Ok(false);
        }
        let bytes =
            state
                .descriptors
                .fetch(&self.source, self.descriptor_at(rank), Descriptor::SIZE)?;
        let descriptor = Descriptor::parse(bytes);
        if state.zero == Some(descriptor) {
            page.fill(0);
            return Ok(true);
        }
        let codec = descriptor.codec()?;
        let (end, size) = (descriptor.end(), self.source.size());
        if end > size {
            return Err(PageError::Truncated { end, size }.into());
        }
        // No truncation: it is no more than a page.
        let len = descriptor.size as usize;
        let bytes = state.data.fetch(&self.source, descriptor.offset, len)?;
        match codec {
            None => page.copy_from_slice(bytes),
            Some(codec) => {
                let decompressed = state.decompressor.page(codec, bytes, page);
                decompressed.map_err(|why| PageError::Damaged {
                    codec,
                    size: descriptor.size,
                    offset: descriptor.offset,
                    why,
                })?;
            }
        }
        if page.iter().all(|byte| *byte == 0) {
            state.zero = Some(descriptor);
        }
        Ok(true)
    }

    /// Copies a part of page number `pfn`, from byte `skip` on, and keeps the page unless all of it was
    /// asked for; `false` if the dump does not have it.
    fn copy(&self, state: &mut State, pfn: u64, skip: usize, part: &mut [u8]) -> io::Result<bool> {
        let place = usize::try_from(pfn % CACHE as u64).unwrap_or(0);
        if let Some(Some((kept, page))) = state.cache.get(place)
            && *kept == pfn
        {
            part.copy_from_slice(&page[skip..skip + part.len()]);
            return Ok(true);
        }
        if let Ok(page) = <&mut Page>::try_from(&mut *part) {
            return self.load(state, pfn, page);
        }
        let mut page = Box::new([0; PAGE_SIZE as usize]);
        if !self.load(state, pfn, &mut page)? {
            return Ok(false);
        }
        part.copy_from_slice(&page[skip..skip + part.len()]);
        state.cache.resize_with(CACHE, || None);
        state.cache[place] = Some((pfn, page));
        Ok(true)
    }
}

impl<S: ReadAt> Memory for Dump<S> {
    fn contents(&self) -> &RangeMap<PageClass> {
        &self.contents
    }

    fn read(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), MemoryError> {
        let mut state = self.state();
        let mut at = addr;
        let mut rest = buf;
        while !rest.is_empty() {
            // No truncation: it is less than a page.
            let skip = (at.get() % PAGE_SIZE) as usize;
            let len = rest.len().min(PAGE_SIZE as usize - skip);
            let (part, later) = rest.split_at_mut(len);
            match self.copy(&mut state, at.get() / PAGE_SIZE, skip, part) {
                Ok(true) => {}
                Ok(false) => return Err(MemoryError::Absent { addr: at }),
                Err(source) => return Err(MemoryError::Read { addr: at, source }),
            }
            // No overflow: a dump has no page at the end of the address space.
            at = PhysAddr::new(at.get() + len as u64);
            rest = later;
        }
        Ok(())
    }
}

impl<S> fmt::Debug for Dump<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dump")
            .field("header", &self.header)
            .field("pages", &self.bitmap.count())
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

/// Reads VMCOREINFO and the notes. Older versions of the format have VMCOREINFO by itself; where it is
/// only among the notes, it is taken from there.
fn read_notes(
    source: &impl ReadAt,
    layout: &Layout,
) -> Result<(Option<VmcoreInfo>, Vec<u8>), DumpError> {
    let (offset, size) = layout.notes;
    let notes = read(source, "the notes", offset, size)?;
    let (offset, size) = layout.vmcoreinfo;
    let vmcoreinfo = if offset != 0 && size != 0 {
        let text = read(source, "VMCOREINFO", offset, size)?;
        Some(VmcoreInfo::parse(&text))
    } else {
        Notes::new(&notes)
            .find(|note| note.name == VmcoreInfo::NOTE_NAME.as_bytes())
            .map(|note| VmcoreInfo::parse(note.desc))
    };
    Ok((vmcoreinfo, notes))
}
