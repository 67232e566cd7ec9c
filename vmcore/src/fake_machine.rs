//! A small machine with a kernel's page tables and map of pages in its memory, for tests.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::{Memory, MemoryError, PAGE_SIZE, PageClass, PhysAddr, PhysRange, RangeMap, VmcoreInfo};

/// Memory of which pages that were never written are zero.
#[derive(Debug, Default)]
pub(crate) struct FakeMemory {
    pub(crate) contents: RangeMap<PageClass>,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Memory for FakeMemory {
    fn contents(&self) -> &RangeMap<PageClass> {
        &self.contents
    }

    fn read(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), MemoryError> {
        let (mut at, mut left) = (addr.get(), buf);
        while !left.is_empty() {
            let addr = PhysAddr::new(at);
            let entry = match self.contents.get(addr) {
                None | Some((_, PageClass::Free)) => return Err(MemoryError::Absent { addr }),
                Some((entry, _)) => entry,
            };
            let within = (at % PAGE_SIZE) as usize;
            let there = (PAGE_SIZE - at % PAGE_SIZE).min(entry.end().get() - at);
            let part = left.len().min(there as usize);
            let (now, later) = left.split_at_mut(part);
            match self.pages.get(&(at / PAGE_SIZE)) {
                Some(page) => now.copy_from_slice(&page[within..within + part]),
                None => now.fill(0),
            }
            at += part as u64;
            left = later;
        }
        Ok(())
    }
}

impl FakeMemory {
    pub(crate) fn write(&mut self, addr: u64, bytes: &[u8]) {
        for (at, byte) in (addr..).zip(bytes) {
            let page = self.pages.entry(at / PAGE_SIZE);
            page.or_insert_with(|| vec![0; PAGE_SIZE as usize])[(at % PAGE_SIZE) as usize] = *byte;
        }
    }

    pub(crate) fn long(&self, addr: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(PhysAddr::new(addr), &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn is_zero(&self, pfn: u64) -> bool {
        let page = self.pages.get(&pfn);
        page.is_none_or(|page| page.iter().all(|byte| *byte == 0))
    }

    /// Pages that were written.
    pub(crate) fn written(&self) -> Vec<u64> {
        self.pages.keys().copied().collect()
    }
}

/// How the machine's kernel is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) levels: u32,
    pub(crate) extreme: bool,
    /// Page types as since 6.12, and the name that 7.3 has for `compound_head`.
    pub(crate) new_types: bool,
    pub(crate) encryption: bool,
    pub(crate) entry_size: u64,
    pub(crate) slide: u64,
}

pub(crate) fn kinds() -> impl Strategy<Value = Kind> {
    (
        4..=5_u32,
        any::<[bool; 3]>(),
        prop::sample::select(vec![56, 64, 80]),
        0..64_u64,
    )
        .prop_map(
            |(levels, [extreme, new_types, encryption], entry_size, slide)| Kind {
                levels,
                extreme,
                new_types,
                encryption,
                entry_size,
                slide,
            },
        )
}

/// What stands at some page.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Block {
    Free(u32),
    /// What is there belongs to the block, but it says it is of another size, or is not at a multiple of it.
    FalseFree(u64),
    /// A free block's entry, but somebody holds it.
    HeldFree,
    Used,
    Anonymous,
    Large(u32),
    Slab,
}

pub(crate) fn blocks() -> impl Strategy<Value = Vec<(Block, u8)>> {
    let block = prop_oneof![
        (0..=10_u32).prop_map(Block::Free),
        (0..64_u64).prop_map(Block::FalseFree),
        Just(Block::HeldFree),
        Just(Block::Used),
        Just(Block::Anonymous),
        (1..=9_u32).prop_map(Block::Large),
        Just(Block::Slab),
    ];
    prop::collection::vec((block, any::<u8>()), 0..120)
}

pub(crate) const SECTION: u64 = 16 << 20;
const SECTION_PAGES: u64 = SECTION / PAGE_SIZE;
const IMAGE: u64 = 0x20_0000;
const RELEASE: &str = "7.3.0-test";
/// Two nodes with holes in and between them.
pub(crate) const RAM: [(u64, u64); 4] = [
    (0x1000, 0x9_f000),
    (0x10_0000, 0x300_0000),
    (0x800_0000, 0x8a0_1000),
    (0x8a8_0000, 0x940_0000),
];

/// The machine and what must be found out of it.
pub(crate) struct Machine {
    pub(crate) memory: FakeMemory,
    pub(crate) info: VmcoreInfo,
    pub(crate) kind: Kind,
    pub(crate) page_offset: u64,
    vmemmap: u64,
    map_at: BTreeMap<u64, u64>,
    next: u64,
    free: Vec<(u64, u64)>,
    text: String,
    root: u64,
}

impl Machine {
    pub(crate) fn new(kind: Kind, blocks: &[(Block, u8)]) -> Self {
        let mut memory = FakeMemory::default();
        for (start, end) in RAM {
            let range = PhysRange::new(start, end).unwrap();
            memory.contents.insert(range, PageClass::Data).unwrap();
        }
        let top = if kind.levels == 5 {
            0xff11_0000_0000_0000
        } else {
            0xffff_8880_0000_0000
        };
        let page_offset: u64 = top + (kind.slide << 30);
        let mut machine = Self {
            memory,
            info: VmcoreInfo::default(),
            kind,
            page_offset,
            vmemmap: page_offset + (1 << 41),
            map_at: BTreeMap::new(),
            next: IMAGE + 0x20_0000,
            free: Vec::new(),
            text: String::new(),
            root: IMAGE + 0x4000,
        };
        machine.build();
        machine.place(blocks);
        machine.info = VmcoreInfo::parse(machine.text.as_bytes());
        machine
    }

    fn page(&mut self) -> u64 {
        let at = self.next;
        self.next += PAGE_SIZE;
        assert!(self.next < 0x100_0000);
        at
    }

    /// Maps one page; `level` is that of its entry.
    pub(crate) fn map(&mut self, virt: u64, phys: u64, level: u32) {
        let encryption = if self.kind.encryption { 1 << 47 } else { 0 };
        let mut table = self.root;
        for at in (level + 1..=self.kind.levels).rev() {
            let entry = table + (virt >> (12 + 9 * (at - 1)) & 511) * 8;
            let old = self.memory.long(entry);
            table = if old & 1 == 0 {
                let new = self.page();
                self.memory
                    .write(entry, &(new | 0x63 | encryption).to_le_bytes());
                new
            } else {
                old & 0x7fff_ffff_f000
            };
        }
        let entry = table + (virt >> (12 + 9 * (level - 1)) & 511) * 8;
        let large = if level > 1 { 0x80 } else { 0 };
        let value = phys | large | 0x163 | 1 << 63 | encryption;
        self.memory.write(entry, &value.to_le_bytes());
    }

    fn build(&mut self) {
        let image = 0xffff_ffff_8000_0000 + (self.kind.slide + 8) * 0x20_0000;
        self.map(image, IMAGE, 2);
        for (start, end) in RAM {
            for phys in (start & !0x1f_ffff..end).step_by(0x20_0000) {
                self.map(self.page_offset + phys, phys, 2);
            }
        }
        let mut name = [0; 390];
        name[..5].copy_from_slice(b"Linux");
        name[65..69].copy_from_slice(b"node");
        name[130..130 + RELEASE.len()].copy_from_slice(RELEASE.as_bytes());
        self.memory.write(IMAGE + 0x1008, &name);

        let per_root = if self.kind.extreme { 128 } else { 1 };
        let roots = 4096 / per_root;
        let sections = self.next;
        self.next += if self.kind.extreme { 4096 } else { 4096 * 32 };
        for (start, end) in RAM {
            for number in start / SECTION..=(end - 1) / SECTION {
                if !self.map_at.contains_key(&number) {
                    self.section(sections, number);
                }
            }
        }
        let kind = self.kind;
        let lines = [
            format!(
                "OSRELEASE={RELEASE}\nPAGESIZE=4096\nSYMBOL(init_uts_ns)={:x}",
                image + 0x1000
            ),
            format!(
                "OFFSET(uts_namespace.name)=8\nSYMBOL(swapper_pg_dir)={:x}",
                image + 0x4000
            ),
            format!(
                "NUMBER(phys_base)={}",
                IMAGE
                    .wrapping_sub(image - 0xffff_ffff_8000_0000)
                    .cast_signed()
            ),
            format!("NUMBER(pgtable_l5_enabled)={}", kind.levels - 4),
            format!(
                "NUMBER(sme_mask)={}",
                if kind.encryption { 1_u64 << 47 } else { 0 }
            ),
            format!("SYMBOL(mem_section)={:x}", self.page_offset + sections),
            format!("LENGTH(mem_section)={roots}\nSIZE(mem_section)=32"),
            "OFFSET(mem_section.section_mem_map)=0\nNUMBER(SECTION_SIZE_BITS)=24".to_owned(),
            format!(
                "NUMBER(MAX_PHYSMEM_BITS)=36\nSIZE(page)={}",
                kind.entry_size
            ),
            "OFFSET(page.flags)=0\nOFFSET(page._refcount)=52\nOFFSET(page.mapping)=24".to_owned(),
            "OFFSET(page._mapcount)=48\nOFFSET(page.private)=40".to_owned(),
            "LENGTH(zone.free_area)=11\nNUMBER(PG_lru)=5\nNUMBER(PG_swapcache)=10".to_owned(),
            "NUMBER(PG_swapbacked)=17".to_owned(),
            if kind.new_types {
                "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-268435456\nOFFSET(page.compound_info)=8\n\
                 NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)=-184549376"
                    .to_owned()
            } else {
                "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129\nOFFSET(page.compound_head)=8\n\
                 NUMBER(PG_slab)=9"
                    .to_owned()
            },
        ];
        self.text = lines.join("\n");
    }

    /// Makes the map of section `number`, with all pages in use.
    fn section(&mut self, sections: u64, number: u64) {
        let size = self.kind.entry_size;
        let virt = self.vmemmap + number * SECTION_PAGES * size;
        let bytes = SECTION_PAGES * size;
        let phys = self.next;
        self.next += bytes;
        for at in (0..bytes).step_by(4096) {
            // Backwards, so that neighbours in the map are none in memory.
            self.map(virt + at, phys + (bytes - 4096 - at), 1);
        }
        self.map_at.insert(number, phys);
        let entry = if self.kind.extreme {
            let root = sections + number / 128 * 8;
            if self.memory.long(root) == 0 {
                let page = self.page();
                let virt = self.page_offset + page;
                self.memory.write(root, &virt.to_le_bytes());
            }
            self.memory.long(root) - self.page_offset + number % 128 * 32
        } else {
            sections + number * 32
        };
        self.memory
            .write(entry, &(self.vmemmap | 0xf).to_le_bytes());
        for pfn in number * SECTION_PAGES..(number + 1) * SECTION_PAGES {
            self.entry(pfn, 48, &u32::MAX.to_le_bytes());
            self.entry(pfn, 52, &1_u32.to_le_bytes());
        }
    }

    /// Writes a field of the `struct page` of `pfn`.
    pub(crate) fn entry(&mut self, pfn: u64, field: u64, bytes: &[u8]) {
        let size = self.kind.entry_size;
        let map = self.map_at[&(pfn / SECTION_PAGES)];
        for (at, byte) in (pfn % SECTION_PAGES * size + field..).zip(bytes) {
            let page = SECTION_PAGES * size - 4096 - at / 4096 * 4096;
            self.memory.write(map + page + at % 4096, &[*byte]);
        }
    }

    fn place(&mut self, blocks: &[(Block, u8)]) {
        let buddy: u32 = if self.kind.new_types {
            0xf000_0000
        } else {
            0xffff_ff7f
        };
        // Behind all that the kernel itself has, and over the hole to the other node.
        let mut pfn = 0x100_0000 / PAGE_SIZE;
        for (block, content) in blocks {
            let size = match block {
                Block::Free(order) | Block::Large(order) => 1 << order,
                _ => 1,
            };
            pfn = pfn.next_multiple_of(size);
            if pfn + size > 0x300_0000 / PAGE_SIZE && pfn < 0x800_0000 / PAGE_SIZE {
                pfn = 0x800_0000 / PAGE_SIZE;
            }
            if pfn + size > 0x940_0000 / PAGE_SIZE {
                break;
            }
            match *block {
                Block::Free(order) => {
                    self.head(pfn, buddy, order.into(), 0);
                    self.free.push((pfn, pfn + size));
                }
                Block::FalseFree(mut order) => {
                    // Orders that would be right here are made wrong.
                    if order < 11 && pfn.is_multiple_of(1 << order) {
                        order += 11;
                    }
                    self.head(pfn, buddy, order, 0);
                }
                Block::HeldFree => self.head(pfn, buddy, 0, 1),
                Block::Used => {}
                Block::Anonymous => self.entry(pfn, 24, &0x1001_u64.to_le_bytes()),
                Block::Large(_) => {
                    for tail in pfn + 1..pfn + size {
                        // What a part of a large page has in its other fields means nothing.
                        self.head(tail, buddy, 0, 0);
                        self.entry(tail, 8, &(self.vmemmap + 1).to_le_bytes());
                    }
                }
                Block::Slab if self.kind.new_types => {
                    self.entry(pfn, 48, &0xf500_0007_u32.to_le_bytes());
                }
                Block::Slab => {
                    self.head(pfn, buddy, 0, 0);
                    self.entry(pfn, 0, &(1_u64 << 9).to_le_bytes());
                }
            }
            for page in (pfn..pfn + size).filter(|page| page % 5 < 2) {
                let at = u64::from(*content) * 16 + page % 16;
                self.memory.write(page * PAGE_SIZE + at, &[content % 3]);
            }
            pfn += size;
        }
    }

    fn head(&mut self, pfn: u64, mapcount: u32, private: u64, refcount: u32) {
        self.entry(pfn, 48, &mapcount.to_le_bytes());
        self.entry(pfn, 52, &refcount.to_le_bytes());
        self.entry(pfn, 40, &private.to_le_bytes());
    }

    /// The class that the page `pfn` must have.
    pub(crate) fn class(&self, pfn: u64) -> PageClass {
        if self
            .free
            .iter()
            .any(|(from, to)| (*from..*to).contains(&pfn))
        {
            PageClass::Free
        } else if self.memory.is_zero(pfn) {
            PageClass::Zero
        } else {
            PageClass::Data
        }
    }

    /// What VMCOREINFO would be with `key` changed.
    pub(crate) fn info_with(&self, key: &str, value: Option<&str>) -> VmcoreInfo {
        let mut lines: Vec<String> = self
            .text
            .lines()
            .filter(|line| line.split_once('=').is_none_or(|(found, _)| found != key))
            .map(str::to_owned)
            .collect();
        lines.extend(value.map(|value| format!("{key}={value}")));
        VmcoreInfo::parse(lines.join("\n").as_bytes())
    }

    /// Where the top-level page table is.
    pub(crate) fn root(&self) -> u64 {
        self.root
    }
}
