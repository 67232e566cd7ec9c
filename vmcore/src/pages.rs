//! What a kernel used each page of its memory for, by its own map of pages.
//!
//! Linux keeps a `struct page` for each page of memory. With `CONFIG_SPARSEMEM`, the only model that
//! x86_64 has, these lie in an array for each *section* of memory (128 MiB), and `mem_section` knows where
//! (`include/linux/mmzone.h`). Where everything lies is told by VMCOREINFO (`kernel/vmcore_info.c`); what
//! it does not tell is not guessed.
//!
//! What is free must never be claimed of a page that is in use. So all that is known of the map is
//! checked, and a page that contradicts itself is not free.

mod layout;
mod window;

use layout::Layout;
use window::Window;

use crate::{
    AddressSpace, InfoError, Memory, MemoryError, PAGE_SIZE, PhysAddr, PhysRange, TranslateError,
    VmcoreInfo,
};

/// What a page was used for.
///
/// Only what VMCOREINFO tells is told apart; page tables and reserved pages, for instance, are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PageUse {
    /// Nothing: it was on a list of free pages, or memory that the kernel had not accepted from its
    /// hypervisor yet.
    Free,
    /// Memory of processes that is in no file.
    Anonymous,
    /// Contents of files, or of swap.
    Cache,
    /// Contents of files with which the file system keeps something of its own, such as where on the disk
    /// they belong.
    CachePrivate,
    /// Small objects of the kernel.
    Slab,
    /// A huge page of hugetlbfs (kernels from 6.9 on).
    Hugetlb,
    /// Memory that was given back to the hypervisor, by a balloon for instance.
    Offline,
    /// Memory that is broken.
    Poisoned,
    /// Anything else, or nothing is known of the page.
    Other,
}

/// The map of pages of a kernel whose memory was saved.
///
/// A clone has the same meaning; each thread should have its own.
#[derive(Debug)]
pub struct PageMap<'m, M: Memory + ?Sized> {
    space: AddressSpace<'m, M>,
    layout: Layout,
}

impl<M: Memory + ?Sized> Clone for PageMap<'_, M> {
    fn clone(&self) -> Self {
        Self {
            space: self.space.clone(),
            layout: self.layout.clone(),
        }
    }
}

impl<'m, M: Memory + ?Sized> PageMap<'m, M> {
    /// The map of the kernel that `info` speaks of, in `memory` as that kernel saw it.
    ///
    /// The map is believed if the kernel's own memory is in it, and not free.
    ///
    /// # Errors
    ///
    /// [`PagesError`]: `info` lacks something or makes no sense, or it is not of this memory.
    pub fn open(memory: &'m M, info: &VmcoreInfo) -> Result<Self, PagesError> {
        let layout = Layout::new(info)?;
        let space = AddressSpace::open(memory, info)?;
        let map = Self { space, layout };
        // AddressSpace::open has read the first two of these, so both VMCOREINFO and the memory have them.
        let own = [
            info.symbol("init_uts_ns")?,
            info.symbol("swapper_pg_dir")
                .or_else(|_| info.symbol("init_top_pgt"))?,
            map.layout.mem_section,
        ];
        for virt in own {
            let addr = map.space.translate(virt)?.phys;
            if map
                .section(addr.get() >> map.layout.section_shift)?
                .is_none()
            {
                return Err(PagesError::NoSection { addr });
            }
            if map.use_of(addr)? == PageUse::Free {
                return Err(PagesError::OwnFree { addr });
            }
        }
        Ok(map)
    }

    /// The address space that the map is read by.
    #[must_use]
    pub fn space(&self) -> &AddressSpace<'m, M> {
        &self.space
    }

    /// How many bytes of memory one section of the map is for.
    #[must_use]
    pub fn section_size(&self) -> u64 {
        1 << self.layout.section_shift
    }

    /// What the page that `addr` lies in was used for.
    ///
    /// # Errors
    ///
    /// As [`uses`](Self::uses).
    pub fn use_of(&self, addr: PhysAddr) -> Result<PageUse, PagesError> {
        let mut found = PageUse::Other;
        if let Some(range) = PhysRange::from_len(addr, 1) {
            self.uses(range, &mut |_, page_use| found = page_use)?;
        }
        Ok(found)
    }

    /// Hands out what the pages of `range` were used for: ranges in ascending order that are all of
    /// `range` together, and that are cut only at borders of pages.
    ///
    /// A part of a large page has the use of the whole, if that part is not the first of `range`. Pages
    /// that the map has nothing of are [`PageUse::Other`]; so are those whose entry was not saved.
    ///
    /// # Errors
    ///
    /// [`PagesError`] if the map was saved but cannot be read.
    pub fn uses(
        &self,
        range: PhysRange,
        each: &mut dyn FnMut(PhysRange, PageUse),
    ) -> Result<(), PagesError> {
        let mut runs = Runs {
            range,
            pending: None,
            each,
        };
        let section_pages = self.section_size() / PAGE_SIZE;
        // A free block that reaches into the range begins at most one block below it, in the same section.
        let begin = (range.start().get() / PAGE_SIZE) & !(self.layout.largest_block() - 1);
        let end = range.end().get().div_ceil(PAGE_SIZE);
        let mut window = Window::new(self.layout.page_size);
        let mut large = PageUse::Other;
        let mut pfn = begin;
        while pfn < end {
            let number = pfn / section_pages;
            let section_end = (number + 1).saturating_mul(section_pages);
            let stop = end.min(section_end);
            let Some(pages) = self.section(number)? else {
                runs.add(pfn, stop - pfn, PageUse::Other);
                large = PageUse::Other;
                pfn = stop;
                continue;
            };
            while pfn < stop {
                let virt = pages.wrapping_add((pfn % section_pages) * self.layout.page_size);
                let (page_use, count) = match window.page(&self.space, virt, pfn, section_end)? {
                    Ok(page) => match self.layout.decode(page, pfn) {
                        Some((page_use, count)) => {
                            // No free block has parts: a part behind one is of a large page whose
                            // first part is not there.
                            large = match page_use {
                                PageUse::Free => PageUse::Other,
                                other => other,
                            };
                            (page_use, count)
                        }
                        // A part of a large page, whose first part came before.
                        None => (large, 1),
                    },
                    Err(missing) => {
                        large = PageUse::Other;
                        (PageUse::Other, missing)
                    }
                };
                runs.add(pfn, count, page_use);
                pfn = pfn.saturating_add(count);
            }
        }
        runs.finish();
        Ok(())
    }

    /// Where the `struct page`s of section `number` are, if it has any that are in use.
    fn section(&self, number: u64) -> Result<Option<u64>, PagesError> {
        let Some(place) = self.layout.section(number) else {
            return Ok(None);
        };
        let at = match place {
            layout::Place::Direct(at) => at,
            layout::Place::ByRoot { root, within } => {
                let root = self.number(root)?;
                if root == 0 {
                    return Ok(None);
                }
                root.checked_add(within).ok_or(TranslateError::End)?
            }
        };
        Ok(self.layout.first_page(number, self.number(at)?))
    }

    /// The 8 bytes at `virt`.
    fn number(&self, virt: u64) -> Result<u64, PagesError> {
        let mut bytes = [0; 8];
        self.space.read(virt, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Makes neighbours of one use one range, and cuts what is outside of the range that is asked for.
struct Runs<'a> {
    range: PhysRange,
    pending: Option<(PhysRange, PageUse)>,
    each: &'a mut dyn FnMut(PhysRange, PageUse),
}

impl Runs<'_> {
    fn add(&mut self, pfn: u64, count: u64, page_use: PageUse) {
        let start = pfn.saturating_mul(PAGE_SIZE);
        let end = pfn.saturating_add(count).saturating_mul(PAGE_SIZE);
        let Some(new) = PhysRange::new(start, end).and_then(|run| run.intersection(self.range))
        else {
            return;
        };
        self.pending = match self.pending {
            Some((run, of)) if of == page_use => {
                PhysRange::new(run.start().get(), new.end().get()).map(|run| (run, of))
            }
            _ => {
                self.finish();
                Some((new, page_use))
            }
        };
    }

    fn finish(&mut self) {
        if let Some((run, page_use)) = self.pending.take() {
            (self.each)(run, page_use);
        }
    }
}

/// Why it is not known what a kernel's pages were used for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PagesError {
    /// VMCOREINFO lacks something.
    #[error(transparent)]
    Info(#[from] InfoError),
    /// The kernel's address space is not known, or the map is not in it.
    #[error(transparent)]
    Translate(#[from] TranslateError),
    /// The memory cannot be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// VMCOREINFO says something that cannot be.
    #[error("the kernel's VMCOREINFO has {key}={value}, which cannot be or is not supported")]
    Layout {
        /// The key.
        key: &'static str,
        /// What it says.
        value: i128,
    },
    /// The map does not have the kernel's own memory.
    #[error("the kernel's map of pages has nothing of its own memory at {addr}")]
    NoSection {
        /// Where that memory is.
        addr: PhysAddr,
    },
    /// The map says of memory that is in use that it is free.
    #[error("the kernel's map of pages says that its own memory at {addr} is free")]
    OwnFree {
        /// Where that memory is.
        addr: PhysAddr,
    },
}
