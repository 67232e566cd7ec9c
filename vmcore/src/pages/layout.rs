//! Where a kernel keeps what it knows of its pages, and how it writes that, as VMCOREINFO tells.

use super::{PageUse, PagesError};
use crate::{InfoError, PAGE_SIZE, VmcoreInfo};

/// The flags in `mem_section.section_mem_map` of a section whose map can be used: `SECTION_MARKED_PRESENT`,
/// `SECTION_HAS_MEM_MAP` and `SECTION_IS_ONLINE` (`include/linux/mmzone.h`). The map of a section that is
/// not online may hold anything.
const USABLE: u64 = 0b111;
/// All flags, of which there are 5 or 6, are in these bits. The pointer that shares the word with them has
/// none there: a section's map begins at a page, and is a whole number of pages long.
const SECTION_FLAGS: u64 = PAGE_SIZE - 1;
/// The most sizes of free blocks. x86_64 has 11 of them (`MAX_PAGE_ORDER` in `include/linux/mmzone.h`); by
/// far larger ones would make it slow to look for where a block begins.
const MAX_ORDERS: u64 = 14;
/// `FOLIO_MAPPING_ANON`, once `PAGE_MAPPING_ANON` (`include/linux/page-flags.h`).
const MAPPING_ANON: u64 = 1;
/// What tells a part of a large page from its first page, in `compound_head` (in newer kernels,
/// `compound_info`).
const TAIL: u64 = 1;

/// All that VMCOREINFO says of the map of pages.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Where the array of sections, or of pointers to arrays of them, begins.
    pub(super) mem_section: u64,
    /// The size of a section is this power of two.
    pub(super) section_shift: u32,
    /// SIZE(page).
    pub(super) page_size: u64,
    sections: u64,
    section_size: u64,
    section_mem_map: u64,
    /// `CONFIG_SPARSEMEM_EXTREME`: how many sections each pointer of `mem_section` is for.
    per_root: Option<u64>,
    /// How many sizes of free blocks there are: 1, 2, 4, … pages.
    orders: u64,
    flags: usize,
    mapcount: usize,
    refcount: usize,
    private: usize,
    mapping: usize,
    compound: Option<usize>,
    buddy: u32,
    unaccepted: Option<u32>,
    offline: Option<u32>,
    slab: Option<u32>,
    hugetlb: Option<u32>,
    slab_flag: u64,
    lru_flag: u64,
    swap_cache_flags: u64,
    private_flag: u64,
    poison_flag: u64,
}

/// Where the entry of a section is.
pub(super) enum Place {
    /// `section_mem_map` is at this address.
    Direct(u64),
    /// It is `within` bytes behind what the pointer at `root` points to, if that is not null.
    ByRoot { root: u64, within: u64 },
}

impl Layout {
    pub(super) fn new(info: &VmcoreInfo) -> Result<Self, PagesError> {
        let bad = |key, value: u64| PagesError::Layout {
            key,
            value: value.into(),
        };
        if let Some(size) = info.get("PAGESIZE")
            && size != "4096"
        {
            return Err(bad("PAGESIZE", size.parse().unwrap_or(0)));
        }
        let section_shift = bits(
            info,
            "SECTION_SIZE_BITS",
            "NUMBER(SECTION_SIZE_BITS)",
            22..=40,
        )?;
        let memory_shift = bits(
            info,
            "MAX_PHYSMEM_BITS",
            "NUMBER(MAX_PHYSMEM_BITS)",
            section_shift + 1..=52,
        )?;
        let sections = 1_u64 << (memory_shift - section_shift);
        let section_size = info.size("mem_section")?;
        let section_mem_map = info.offset("mem_section.section_mem_map")?;
        if !(8..=1024).contains(&section_size) {
            return Err(bad("SIZE(mem_section)", section_size));
        }
        if section_mem_map > section_size - 8 {
            return Err(bad("OFFSET(mem_section.section_mem_map)", section_mem_map));
        }
        // With CONFIG_SPARSEMEM_EXTREME, a page of sections hangs from each pointer; else, mem_section is
        // the array of all sections.
        let in_page = PAGE_SIZE / section_size;
        let per_root = match info.length("mem_section")? {
            roots if roots == sections.div_ceil(in_page) => Some(in_page),
            roots if roots == sections => None,
            roots => return Err(bad("LENGTH(mem_section)", roots)),
        };
        let page_size = info.size("page")?;
        if !(32..=1024).contains(&page_size) {
            return Err(bad("SIZE(page)", page_size));
        }
        let orders = info.length("zone.free_area")?;
        // As the kernel itself demands: a block lies in one section.
        let fits = u64::from(section_shift - PAGE_SIZE.ilog2()) + 1;
        if !(1..=fits.min(MAX_ORDERS)).contains(&orders) {
            return Err(bad("LENGTH(zone.free_area)", orders));
        }
        let field = |name: &str, key, size: u64| -> Result<usize, PagesError> {
            let at = info.offset(name)?;
            if at > page_size - size {
                return Err(bad(key, at));
            }
            Ok(usize::try_from(at).unwrap_or(usize::MAX))
        };
        let compound = match field("page.compound_head", "OFFSET(page.compound_head)", 8) {
            Err(PagesError::Info(InfoError::Missing { .. })) => {
                field("page.compound_info", "OFFSET(page.compound_info)", 8)
            }
            found => found,
        };
        let swap_backed = flag(info, "PG_swapbacked")?;
        let swap_cache = flag(info, "PG_swapcache")?;
        Ok(Self {
            mem_section: info.symbol("mem_section")?,
            section_shift,
            page_size,
            sections,
            section_size,
            section_mem_map,
            per_root,
            orders,
            flags: field("page.flags", "OFFSET(page.flags)", 8)?,
            mapcount: field("page._mapcount", "OFFSET(page._mapcount)", 4)?,
            refcount: field("page._refcount", "OFFSET(page._refcount)", 4)?,
            private: field("page.private", "OFFSET(page.private)", 8)?,
            mapping: field("page.mapping", "OFFSET(page.mapping)", 8)?,
            compound: optional(compound)?,
            buddy: page_type(info, "PAGE_BUDDY_MAPCOUNT_VALUE")?,
            unaccepted: optional(page_type(info, "PAGE_UNACCEPTED_MAPCOUNT_VALUE"))?,
            offline: optional(page_type(info, "PAGE_OFFLINE_MAPCOUNT_VALUE"))?,
            slab: optional(page_type(info, "PAGE_SLAB_MAPCOUNT_VALUE"))?,
            hugetlb: optional(page_type(info, "PAGE_HUGETLB_MAPCOUNT_VALUE"))?,
            slab_flag: flag(info, "PG_slab")?,
            lru_flag: flag(info, "PG_lru")?,
            // The bit of PG_swapcache means something else in pages that swap does not back.
            swap_cache_flags: if swap_cache != 0 {
                swap_cache | swap_backed
            } else {
                0
            },
            private_flag: flag(info, "PG_private")?,
            poison_flag: flag(info, "PG_hwpoison")?,
        })
    }

    /// How many pages the largest free block has.
    pub(super) fn largest_block(&self) -> u64 {
        1 << (self.orders - 1)
    }

    /// Where the entry of section `number` is; none if there is no such section.
    pub(super) fn section(&self, number: u64) -> Option<Place> {
        if number >= self.sections {
            return None;
        }
        Some(match self.per_root {
            Some(per_root) => Place::ByRoot {
                root: self.mem_section.checked_add(number / per_root * 8)?,
                within: number % per_root * self.section_size + self.section_mem_map,
            },
            None => Place::Direct(
                self.mem_section
                    .checked_add(number * self.section_size)?
                    .checked_add(self.section_mem_map)?,
            ),
        })
    }

    /// Where the first `struct page` of section `number` is, by its `section_mem_map`: that is where the
    /// page with number 0 would be (`sparse_encode_mem_map()` of `mm/sparse.c`), and flags.
    pub(super) fn first_page(&self, number: u64, section_mem_map: u64) -> Option<u64> {
        let pages = number << (self.section_shift - PAGE_SIZE.ilog2());
        (section_mem_map & USABLE == USABLE).then(|| {
            (section_mem_map & !SECTION_FLAGS).wrapping_add(pages.wrapping_mul(self.page_size))
        })
    }

    /// What page number `pfn` is used for by its `struct page`, and for how many pages this is true;
    /// none if it is a part of a large page but not its first.
    pub(super) fn decode(&self, page: &[u8], pfn: u64) -> Option<(PageUse, u64)> {
        let compound = self.compound.map_or(0, |at| long(page, at));
        if compound & TAIL != 0 {
            return None;
        }
        let flags = long(page, self.flags);
        let mapcount = int(page, self.mapcount);
        let of_type = |wanted: Option<u32>| wanted.is_some_and(|wanted| is_type(mapcount, wanted));
        let slab = flags & self.slab_flag != 0 || of_type(self.slab);
        let page_use = if mapcount == self.buddy && !slab {
            // `page_is_buddy()` of mm/page_alloc.c, `buddy_order()` of mm/internal.h. The block's own
            // address is a multiple of its size; what is not so is not free.
            if let Some(count) = self.block(long(page, self.private), pfn)
                && int(page, self.refcount) == 0
            {
                return Some((PageUse::Free, count));
            }
            PageUse::Other
        } else if Some(mapcount) == self.unaccepted {
            // `__free_unaccepted()` of mm/page_alloc.c: these are blocks of the largest size.
            if let Some(count) = self.block(self.orders - 1, pfn) {
                return Some((PageUse::Free, count));
            }
            PageUse::Other
        } else if flags & self.poison_flag != 0 {
            PageUse::Poisoned
        } else if slab {
            PageUse::Slab
        } else if of_type(self.offline) {
            PageUse::Offline
        } else if of_type(self.hugetlb) {
            PageUse::Hugetlb
        } else if mapcount.cast_signed() < -1 {
            // Another type: `mapping` of these is something else.
            PageUse::Other
        } else if long(page, self.mapping) & MAPPING_ANON != 0 {
            PageUse::Anonymous
        } else if flags & self.lru_flag != 0
            || (self.swap_cache_flags != 0
                && flags & self.swap_cache_flags == self.swap_cache_flags)
        {
            if flags & self.private_flag != 0 {
                PageUse::CachePrivate
            } else {
                PageUse::Cache
            }
        } else {
            PageUse::Other
        };
        Some((page_use, 1))
    }

    /// How many pages a block of `order` has, if a block of that order can begin at page `pfn`.
    fn block(&self, order: u64, pfn: u64) -> Option<u64> {
        let count = (order < self.orders).then(|| 1 << order)?;
        pfn.is_multiple_of(count).then_some(count)
    }
}

/// Whether `mapcount` says that a page is of type `wanted`. Since 6.11 the type is in the highest 8 bits,
/// and the others may hold something; before, types are bits that are off.
fn is_type(mapcount: u32, wanted: u32) -> bool {
    const TYPE: u32 = 0xff00_0000;
    if wanted & !TYPE == 0 {
        mapcount & TYPE == wanted
    } else {
        mapcount == wanted
    }
}

/// A power of two that VMCOREINFO gives.
fn bits(
    info: &VmcoreInfo,
    name: &str,
    key: &'static str,
    allowed: std::ops::RangeInclusive<u32>,
) -> Result<u32, PagesError> {
    let value = info.number(name)?;
    u32::try_from(value)
        .ok()
        .filter(|bits| allowed.contains(bits))
        .ok_or(PagesError::Layout {
            key,
            value: value.into(),
        })
}

/// A value of `_mapcount`, which is an `int` but printed as `long`. Some compilers take it for unsigned.
fn page_type(info: &VmcoreInfo, name: &str) -> Result<u32, PagesError> {
    let value = info.number(name)?;
    i32::try_from(value)
        .map(i32::cast_unsigned)
        .or_else(|_| u32::try_from(value))
        .map_err(|_| PagesError::Layout {
            key: "a NUMBER of a page type",
            value: value.into(),
        })
}

/// The flag whose number VMCOREINFO gives, or 0 if it does not.
fn flag(info: &VmcoreInfo, name: &str) -> Result<u64, PagesError> {
    let Some(number) = optional(info.number(name).map_err(PagesError::from))? else {
        return Ok(0);
    };
    u32::try_from(number)
        .ok()
        .and_then(|number| 1_u64.checked_shl(number))
        .ok_or(PagesError::Layout {
            key: "the NUMBER of a page flag",
            value: number.into(),
        })
}

/// What is there, or none if VMCOREINFO says nothing of it.
fn optional<T>(value: Result<T, PagesError>) -> Result<Option<T>, PagesError> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(PagesError::Info(InfoError::Missing { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The 8 bytes at `at`, or 0 behind the end.
fn long(page: &[u8], at: usize) -> u64 {
    page.get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The 4 bytes at `at`, or 0 behind the end.
fn int(page: &[u8], at: usize) -> u32 {
    page.get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
