//! Virtual addresses of a kernel whose memory was saved: its page tables, read from that memory.
//!
//! x86_64 only, as described in the Intel SDM, volume 3, "4-level paging and 5-level paging".

use std::sync::{Mutex, PoisonError};

use crate::{InfoError, Memory, MemoryError, PAGE_SIZE, PhysAddr, PhysRange, VmcoreInfo};

/// Where the kernel's image is mapped before randomisation: `__START_KERNEL_map` of
/// `arch/x86/include/asm/page_64_types.h`.
const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// Entries in a page table, 8 bytes each.
const ENTRIES: u64 = 512;
/// A table entry that maps or leads somewhere.
const PRESENT: u64 = 1 << 0;
/// An entry above the last level that maps a large page.
const LARGE: u64 = 1 << 7;
/// The bits of an entry that are a physical address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// What a large page has at bit 12, which is not part of its address: `_PAGE_PAT_LARGE`.
const PAT_LARGE: u64 = 1 << 12;

/// How many tables are searched for the direct map at most; the search of a sound kernel needs 5.
const SEARCHED_TABLES: u32 = 4096;
/// How many ranges of memory are tried in a direct map that was found.
const TRIED_RANGES: usize = 64;

/// The kernel's view of its memory: the address space `init_mm`, which has the kernel's image, the direct
/// map of all memory and `vmemmap` in it, and no process.
///
/// Nothing is known of the memory but what its VMCOREINFO says. [`open`](Self::open) makes sure that both
/// belong together.
#[derive(Debug)]
pub struct AddressSpace<'m, M: Memory + ?Sized> {
    memory: &'m M,
    root: PhysAddr,
    levels: u32,
    /// The bit by which the processor knows encrypted memory, in every entry that maps some.
    encryption: u64,
    /// The table of each level that was used last, the one with the 4 KiB pages first.
    cache: Mutex<[Option<Table>; 5]>,
}

/// A page table that was read.
#[derive(Debug)]
struct Table {
    at: PhysAddr,
    bytes: Box<[u8]>,
}

/// Where a virtual address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The physical address.
    pub phys: PhysAddr,
    /// How many bytes from there on are in the same page of 4 KiB, 2 MiB or 1 GiB; never 0.
    pub len: u64,
}

/// The addresses with a clone have the same meaning; its cache is its own, so that threads do not wait
/// for each other.
impl<M: Memory + ?Sized> Clone for AddressSpace<'_, M> {
    fn clone(&self) -> Self {
        Self {
            cache: Mutex::default(),
            ..*self
        }
    }
}

impl<'m, M: Memory + ?Sized> AddressSpace<'m, M> {
    /// The address space of the kernel that `info` speaks of, in `memory` as that kernel saw it.
    ///
    /// The page tables are believed if they map themselves where they are, and if the release in the
    /// kernel's memory is the one in `info`.
    ///
    /// # Errors
    ///
    /// [`TranslateError`]: `info` lacks something, or the tables are not those of this kernel.
    pub fn open(memory: &'m M, info: &VmcoreInfo) -> Result<Self, TranslateError> {
        let top = info
            .symbol("swapper_pg_dir")
            .or_else(|_| info.symbol("init_top_pgt"))?;
        let phys_base = info.number("phys_base")?;
        // `__phys_addr_symbol()` of arch/x86/include/asm/page_64.h. Addresses in VMCOREINFO are those
        // of the kernel that runs, so KERNELOFFSET is in them; phys_base may be negative.
        let root = top
            .checked_sub(START_KERNEL_MAP)
            .and_then(|offset| offset.checked_add_signed(phys_base))
            .filter(|root| root % PAGE_SIZE == 0 && root & !ADDRESS == 0)
            .ok_or(TranslateError::Root { top, phys_base })?;
        let levels = match info.number("pgtable_l5_enabled") {
            Ok(0) | Err(InfoError::Missing { .. }) => 4,
            Ok(_) => 5,
            Err(error) => return Err(error.into()),
        };
        let encryption = match info.number("sme_mask") {
            Ok(mask) => mask.cast_unsigned(),
            Err(InfoError::Missing { .. }) => 0,
            Err(error) => return Err(error.into()),
        };
        if encryption & !ADDRESS != 0 || encryption.count_ones() > 1 {
            return Err(TranslateError::Encryption { mask: encryption });
        }
        let space = Self {
            memory,
            root: PhysAddr::new(root),
            levels,
            encryption,
            cache: Mutex::default(),
        };
        let found = space.translate(top)?.phys;
        if found != space.root {
            return Err(TranslateError::NotItself {
                root: space.root,
                found,
            });
        }
        space.check_release(info)?;
        Ok(space)
    }

    /// The memory that this is a view of.
    #[must_use]
    pub fn memory(&self) -> &'m M {
        self.memory
    }

    /// How many levels the page tables have, 4 or 5.
    #[must_use]
    pub fn levels(&self) -> u32 {
        self.levels
    }

    /// Makes sure that the kernel's own name is where VMCOREINFO says: `init_uts_ns.name` is a
    /// `struct new_utsname` (`include/uapi/linux/utsname.h`), fields of 65 bytes, of which the first is
    /// `sysname` and the third `release`.
    fn check_release(&self, info: &VmcoreInfo) -> Result<(), TranslateError> {
        const FIELD: usize = 65;
        let name = info
            .symbol("init_uts_ns")?
            .checked_add(info.offset("uts_namespace.name")?)
            .ok_or(TranslateError::End)?;
        let expected = info.os_release().ok_or_else(|| InfoError::Missing {
            key: "OSRELEASE".to_owned(),
        })?;
        let mut bytes = [0; 3 * FIELD];
        self.read(name, &mut bytes)?;
        let field = |index: usize| {
            let field = &bytes[index * FIELD..(index + 1) * FIELD];
            field.split(|&byte| byte == 0).next().unwrap_or(field)
        };
        if field(0) == b"Linux" && field(2) == expected.as_bytes() {
            Ok(())
        } else {
            Err(TranslateError::OtherKernel {
                expected: expected.to_owned(),
                found: format!("{} {}", field(0).escape_ascii(), field(2).escape_ascii()),
            })
        }
    }

    /// Where `virt` leads.
    ///
    /// # Errors
    ///
    /// [`TranslateError`] if `virt` is no address of this processor, is not mapped, or if the tables
    /// cannot be read or make no sense.
    pub fn translate(&self, virt: u64) -> Result<Mapping, TranslateError> {
        if !self.is_canonical(virt) {
            return Err(TranslateError::NotCanonical {
                virt,
                levels: self.levels,
            });
        }
        let mut table = self.root;
        for level in (1..=self.levels).rev() {
            let index = virt >> level_shift(level) & (ENTRIES - 1);
            match self.entry(table, level, index)? {
                Entry::Absent => return Err(TranslateError::NotMapped { virt, level }),
                Entry::Table(below) => table = below,
                Entry::Page(page) => {
                    let size = 1 << level_shift(level);
                    let within = virt & (size - 1);
                    return Ok(Mapping {
                        phys: PhysAddr::new(page.get() | within),
                        len: size - within,
                    });
                }
                Entry::Reserved(entry) => {
                    return Err(TranslateError::Reserved { virt, level, entry });
                }
            }
        }
        // The last level has no tables below it.
        Err(TranslateError::NotMapped { virt, level: 1 })
    }

    /// Fills `buf` with the memory from `virt` on, across pages.
    ///
    /// # Errors
    ///
    /// [`TranslateError`] as of [`translate`](Self::translate), or that of reading the memory.
    pub fn read(&self, virt: u64, buf: &mut [u8]) -> Result<(), TranslateError> {
        let mut virt = virt;
        let mut left = buf;
        while !left.is_empty() {
            let Mapping { phys, len } = self.translate(virt)?;
            let part = left.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            let (now, later) = left.split_at_mut(part);
            self.memory.read(phys, now)?;
            left = later;
            if !left.is_empty() {
                virt = virt.checked_add(len).ok_or(TranslateError::End)?;
            }
        }
        Ok(())
    }

    /// Where the direct map of all physical memory begins, `PAGE_OFFSET`: there, memory at physical
    /// address `p` has the virtual address `page_offset + p`.
    ///
    /// It is the first thing that is mapped in the kernel's half of the address space
    /// (`Documentation/arch/x86/x86_64/mm.rst`), and begins at a multiple of 1 GiB even if it is
    /// randomised (`arch/x86/mm/kaslr.c`). What is found is tried with memory from all over the machine;
    /// pages that the kernel took out of its direct map say nothing.
    ///
    /// # Errors
    ///
    /// [`TranslateError::NoDirectMap`] if nothing fits, or that of reading the tables.
    pub fn page_offset(&self) -> Result<u64, TranslateError> {
        let half = ENTRIES / 2;
        let mut budget = SEARCHED_TABLES;
        let (virt, phys) = self
            .first_page(self.root, self.levels, half, &mut budget)?
            .ok_or(TranslateError::NoDirectMap)?;
        // The bits above those that the tables translate are ones in the kernel's half.
        let virt = virt | u64::MAX << (level_shift(self.levels) + 9);
        let base = virt
            .checked_sub(phys.get())
            .filter(|base| base % (1 << 30) == 0 && base >> 63 == 1)
            .ok_or(TranslateError::NoDirectMap)?;
        let mut agreed = false;
        let ranges = self.memory.contents();
        let step = ranges.len().div_ceil(TRIED_RANGES).max(1);
        for range in ranges.ranges().step_by(step) {
            for addr in [range.start(), last(range)] {
                let Some(virt) = base.checked_add(addr.get()) else {
                    return Err(TranslateError::NoDirectMap);
                };
                match self.translate(virt) {
                    Ok(mapping) if mapping.phys == addr => agreed = true,
                    Err(TranslateError::NotMapped { .. }) => {}
                    Ok(_)
                    | Err(TranslateError::NotCanonical { .. } | TranslateError::Reserved { .. }) => {
                        return Err(TranslateError::NoDirectMap);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        if agreed {
            Ok(base)
        } else {
            Err(TranslateError::NoDirectMap)
        }
    }

    /// The lowest address that `table` maps from its entry `from` on, and where that leads.
    fn first_page(
        &self,
        table: PhysAddr,
        level: u32,
        from: u64,
        budget: &mut u32,
    ) -> Result<Option<(u64, PhysAddr)>, TranslateError> {
        *budget = budget.checked_sub(1).ok_or(TranslateError::NoDirectMap)?;
        for index in from..ENTRIES {
            let virt = index << level_shift(level);
            match self.entry(table, level, index)? {
                Entry::Absent => {}
                Entry::Page(page) => return Ok(Some((virt, page))),
                Entry::Table(below) => {
                    if let Some((low, page)) = self.first_page(below, level - 1, 0, budget)? {
                        return Ok(Some((virt | low, page)));
                    }
                }
                Entry::Reserved(entry) => {
                    return Err(TranslateError::Reserved { virt, level, entry });
                }
            }
        }
        Ok(None)
    }

    /// Whether all bits of `virt` above those that are translated are like the highest of these.
    fn is_canonical(&self, virt: u64) -> bool {
        let unused = 64 - (level_shift(self.levels) + 9);
        (virt << unused).cast_signed() >> unused == virt.cast_signed()
    }

    /// Entry `index` of the table of level `level` at `table`.
    fn entry(&self, table: PhysAddr, level: u32, index: u64) -> Result<Entry, TranslateError> {
        let at = usize::try_from(index * 8).unwrap_or(usize::MAX);
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = cache.get_mut(level as usize - 1) else {
            return Ok(Entry::Absent);
        };
        let cached = match slot {
            Some(cached) if cached.at == table => cached,
            slot => {
                let mut bytes = slot.take().map_or_else(
                    || vec![0; PAGE_SIZE as usize].into_boxed_slice(),
                    |old| old.bytes,
                );
                self.memory.read(table, &mut bytes)?;
                slot.insert(Table { at: table, bytes })
            }
        };
        let entry = cached.bytes[at..]
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Ok(self.decode(entry, level))
    }

    /// What an entry of a table of level `level` says.
    fn decode(&self, entry: u64, level: u32) -> Entry {
        if entry & PRESENT == 0 {
            return Entry::Absent;
        }
        let address = entry & ADDRESS & !self.encryption;
        if level == 1 {
            return Entry::Page(PhysAddr::new(address));
        }
        if entry & LARGE == 0 {
            return Entry::Table(PhysAddr::new(address));
        }
        // Pages of 512 GiB and more do not exist; the bits below the address of a large page are 0.
        let address = address & !PAT_LARGE;
        if level > 3 || address & ((1 << level_shift(level)) - 1) != 0 {
            return Entry::Reserved(entry);
        }
        Entry::Page(PhysAddr::new(address))
    }
}

/// An entry of a page table.
enum Entry {
    Absent,
    Table(PhysAddr),
    Page(PhysAddr),
    Reserved(u64),
}

/// The lowest bit of a virtual address that selects an entry in tables of `level`, from 1 to 5.
const fn level_shift(level: u32) -> u32 {
    12 + 9 * (level - 1)
}

/// The first address of the last page of `range`.
fn last(range: PhysRange) -> PhysAddr {
    PhysAddr::new(range.end().get() - 1)
        .align_down(PAGE_SIZE)
        .max(range.start())
}

/// Why a virtual address leads nowhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TranslateError {
    /// VMCOREINFO lacks something.
    #[error(transparent)]
    Info(#[from] InfoError),
    /// The tables, or what they lead to, cannot be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// VMCOREINFO puts the top-level table where no memory can be.
    #[error(
        "the kernel's page tables cannot be at {top:#x} if its image was moved by {phys_base:#x} bytes"
    )]
    Root {
        /// The virtual address of the table.
        top: u64,
        /// NUMBER(phys_base).
        phys_base: i64,
    },
    /// NUMBER(sme_mask) is not a bit of a physical address.
    #[error(
        "the kernel's VMCOREINFO has the memory encryption mask {mask:#x}, which is not one bit of an address"
    )]
    Encryption {
        /// The mask.
        mask: u64,
    },
    /// The page tables do not map themselves where they are.
    #[error("the kernel's page tables are at {root}, but map themselves at {found}")]
    NotItself {
        /// Where they are by VMCOREINFO.
        root: PhysAddr,
        /// Where they say they are.
        found: PhysAddr,
    },
    /// The memory is not that of the kernel that VMCOREINFO is of.
    #[error(
        "the memory should be that of Linux {expected}, but there is {found:?} where its name should be"
    )]
    OtherKernel {
        /// OSRELEASE.
        expected: String,
        /// What was found.
        found: String,
    },
    /// No processor has such an address.
    #[error("{virt:#x} is not an address with page tables of {levels} levels")]
    NotCanonical {
        /// The address.
        virt: u64,
        /// How many levels the page tables have.
        levels: u32,
    },
    /// Nothing is mapped there.
    #[error("nothing is mapped at {virt:#x}, by the page table of level {level}")]
    NotMapped {
        /// The address.
        virt: u64,
        /// The level of the table whose entry is not present; 1 is the last.
        level: u32,
    },
    /// An entry has bits that must not be there.
    #[error(
        "the page table of level {level} has the entry {entry:#x} for {virt:#x}, with bits that must be 0"
    )]
    Reserved {
        /// The address.
        virt: u64,
        /// The level of the table; 1 is the last.
        level: u32,
        /// The entry.
        entry: u64,
    },
    /// What is to be read would go on behind the last address.
    #[error("what is to be read reaches beyond the end of the address space")]
    End,
    /// The direct map of all memory was not found.
    #[error("the kernel's direct map of all memory was not found in its page tables")]
    NoDirectMap,
}
