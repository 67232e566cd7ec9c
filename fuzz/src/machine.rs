//! A machine of 64 pages with a kernel that keeps page tables and a map of pages, for the fuzzer to spoil.

use std::ops::ControlFlow;

use arbitrary::Arbitrary;
use vmcore::{
    Memory, MemoryError, PAGE_SIZE, PageClass, PhysAddr, PhysRange, RangeMap, VmcoreInfo,
};

/// How many pages the machine has.
pub const PAGES: usize = 64;
/// Where the kernel's image is mapped: to physical address 0.
pub const IMAGE: u64 = 0xffff_ffff_8000_0000;
/// Where all memory is mapped, with 4 levels of tables and with 5.
pub const DIRECT: [u64; 2] = [0xffff_8000_0000_0000, 0xff00_0000_0000_0000];
/// How many `struct page`s there are, of 64 bytes each, from page 12 on.
pub const STRUCT_PAGES: usize = 1024;
/// What `_mapcount` is in a free page.
pub const BUDDY: u32 = 0xffff_ff7f;

const TOP: usize = 1;
const NAME: usize = 9;
const ROOTS: usize = 10;
const SECTIONS: usize = 11;
const MAP: usize = 12;

/// Memory in an array, of the classes that its maker says.
#[derive(Clone, Debug)]
pub struct Fake {
    /// The bytes, from address 0 on.
    pub bytes: Vec<u8>,
    /// Which of them there are.
    pub contents: RangeMap<PageClass>,
}

impl Fake {
    /// Memory of this many pages of zeros, of which all are there.
    #[must_use]
    pub fn new(pages: usize) -> Self {
        let mut contents = RangeMap::new();
        let bytes = vec![0; pages * PAGE_SIZE as usize];
        if let Some(range) = PhysRange::new(0, bytes.len() as u64) {
            contents.replace(range, PageClass::Data);
        }
        Self { bytes, contents }
    }

    /// Writes word `index` of page `page`.
    pub fn put(&mut self, page: usize, index: usize, word: u64) {
        let at = (page * 512 + index % 512) * 8 % self.bytes.len();
        self.bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
}

impl Memory for Fake {
    fn contents(&self) -> &RangeMap<PageClass> {
        &self.contents
    }

    fn read(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), MemoryError> {
        let mut at = addr.get();
        let mut rest = buf;
        while !rest.is_empty() {
            let absent = MemoryError::Absent {
                addr: PhysAddr::new(at),
            };
            let Some((range, class)) = self.contents.get(PhysAddr::new(at)) else {
                return Err(absent);
            };
            let here = (range.end().get() - at).min(rest.len() as u64) as usize;
            let (now, later) = rest.split_at_mut(here);
            match class {
                PageClass::Data => now.copy_from_slice(&self.bytes[at as usize..][..here]),
                PageClass::Zero => now.fill(0),
                PageClass::Free => return Err(absent),
            }
            at += here as u64;
            rest = later;
        }
        Ok(())
    }

    fn for_each_piece(
        &self,
        range: PhysRange,
        each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), MemoryError> {
        // Pieces of odd lengths, as a file may have them.
        let mut buf = [0; 2500];
        for piece in range.pieces(buf.len() as u64) {
            let part = &mut buf[..piece.len() as usize];
            self.read(piece.start(), part)?;
            if each(part).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// What the fuzzer does to the machine.
#[derive(Arbitrary, Clone, Debug)]
pub struct MachineSpec {
    /// Whether its tables have 5 levels.
    pub five: bool,
    /// What the first `struct page`s are.
    pub pages: Vec<PageSpec>,
    /// Pages of other classes, and parts of pages.
    pub classes: Vec<(u8, u8, Option<ClassSpec>)>,
    /// Words that are written over what is there.
    pub words: Vec<(u8, u16, Word)>,
    /// What VMCOREINFO says otherwise.
    pub info: Vec<(Key, Value)>,
}

/// What a `struct page` says.
#[derive(Arbitrary, Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum PageSpec {
    Used,
    Free(u8),
    Tail,
    Flags(u16),
    Mapcount(i32),
    Any([u64; 8]),
}

/// A class of memory.
#[derive(Arbitrary, Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ClassSpec {
    Data,
    Zero,
    Free,
}

/// A word in memory.
#[derive(Arbitrary, Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Word {
    Zero,
    Any(u64),
    Table { page: u8, flags: u16 },
    Virtual { page: u8, within: u16 },
    One(u8),
}

impl Word {
    /// The word.
    #[must_use]
    pub fn get(self) -> u64 {
        match self {
            Self::Zero => 0,
            Self::Any(word) => word,
            Self::Table { page, flags } => {
                (u64::from(page) * PAGE_SIZE) | u64::from(flags & 0xfff) | 1
            }
            Self::Virtual { page, within } => {
                IMAGE + u64::from(page) * PAGE_SIZE + u64::from(within % 4096)
            }
            Self::One(bit) => 1 << (bit % 64),
        }
    }
}

/// A value of VMCOREINFO.
#[derive(Arbitrary, Clone, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Value {
    None,
    Decimal(i8),
    Power(u8),
    Signed(i64),
    Unsigned(u64),
    Hexadecimal(u64),
    Virtual(u8, u16),
    Text(String),
}

macro_rules! keys {
    ($($name:ident $key:literal $value:literal,)*) => {
        /// A key of VMCOREINFO.
        #[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the names say it")]
        pub enum Key { $($name,)* }

        /// All keys, their names, and what a sound machine says.
        const KEYS: &[(Key, &str, &str)] = &[$((Key::$name, $key, $value),)*];
    };
}

keys! {
    Release "OSRELEASE" "6.12",
    PageSize "PAGESIZE" "4096",
    PhysBase "NUMBER(phys_base)" "0",
    Top "SYMBOL(swapper_pg_dir)" "ffffffff80001000",
    Five "NUMBER(pgtable_l5_enabled)" "0",
    Sme "NUMBER(sme_mask)" "0",
    Uts "SYMBOL(init_uts_ns)" "ffffffff80009000",
    UtsName "OFFSET(uts_namespace.name)" "0",
    Section "SYMBOL(mem_section)" "ffffffff8000a000",
    Sections "LENGTH(mem_section)" "1",
    SectionSize "SIZE(mem_section)" "16",
    SectionMap "OFFSET(mem_section.section_mem_map)" "0",
    SectionBits "NUMBER(SECTION_SIZE_BITS)" "22",
    MemoryBits "NUMBER(MAX_PHYSMEM_BITS)" "23",
    Page "SIZE(page)" "64",
    Orders "LENGTH(zone.free_area)" "11",
    Flags "OFFSET(page.flags)" "0",
    Compound "OFFSET(page.compound_head)" "8",
    Mapping "OFFSET(page.mapping)" "24",
    Private "OFFSET(page.private)" "40",
    Mapcount "OFFSET(page._mapcount)" "48",
    Refcount "OFFSET(page._refcount)" "52",
    Buddy "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)" "-129",
    Offline "NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)" "-257",
    Slab "NUMBER(PG_slab)" "7",
    Lru "NUMBER(PG_lru)" "4",
    SwapCache "NUMBER(PG_swapcache)" "10",
    SwapBacked "NUMBER(PG_swapbacked)" "19",
    Poison "NUMBER(PG_hwpoison)" "22",
    Unaccepted "NUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)" "-266",
    SlabType "NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)" "-184549376",
    Hugetlb "NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)" "-167772160",
}

impl MachineSpec {
    /// The machine's memory, and what its kernel says of itself.
    #[must_use]
    pub fn build(&self) -> (Fake, VmcoreInfo) {
        let mut memory = Fake::new(PAGES);
        let entry = |page: usize| (page as u64 * PAGE_SIZE) | 0x63;
        if self.five {
            memory.put(TOP, 511, entry(7));
            memory.put(7, 511, entry(2));
            memory.put(TOP, 256, entry(8));
            memory.put(8, 0, entry(5));
        } else {
            memory.put(TOP, 511, entry(2));
            memory.put(TOP, 256, entry(5));
        }
        memory.put(2, 510, entry(3));
        memory.put(3, 0, entry(4));
        memory.put(5, 0, entry(6));
        memory.put(6, 0, entry(4));
        for page in 0..PAGES {
            memory.put(4, page, entry(page));
        }
        let name = NAME * PAGE_SIZE as usize;
        memory.bytes[name..][..5].copy_from_slice(b"Linux");
        memory.bytes[name + 130..][..4].copy_from_slice(b"6.12");
        memory.put(ROOTS, 0, IMAGE + SECTIONS as u64 * PAGE_SIZE);
        memory.put(SECTIONS, 0, (IMAGE + MAP as u64 * PAGE_SIZE) | 7);
        for pfn in 0..STRUCT_PAGES {
            let spec = self.pages.get(pfn).copied().unwrap_or(PageSpec::Used);
            let mut page = [0x4000, 0, 0, 0, 0, 0, 0x1_ffff_ffff, 0];
            match spec {
                PageSpec::Used => {}
                PageSpec::Free(order) => {
                    page[5] = u64::from(order % 16);
                    page[6] = BUDDY.into();
                }
                PageSpec::Tail => page[1] = 1,
                PageSpec::Flags(flags) => page[0] = u64::from(flags) << 3,
                PageSpec::Mapcount(count) => page[6] = u64::from(count.cast_unsigned()),
                PageSpec::Any(words) => page = words,
            }
            for (index, word) in page.into_iter().enumerate() {
                memory.put(MAP + pfn / 64, pfn % 64 * 8 + index, word);
            }
        }
        for (page, index, word) in &self.words {
            memory.put(usize::from(*page) % PAGES, usize::from(*index), word.get());
        }
        for (page, cut, class) in &self.classes {
            let start = u64::from(*page) % PAGES as u64 * PAGE_SIZE;
            // Multiples of 256 bytes, and a whole page at most.
            let end = start + (u64::from(*cut) % 16 + 1) * 256;
            let Some(range) = PhysRange::new(start, end) else {
                continue;
            };
            match class {
                None => memory.contents.remove(range),
                Some(class) => memory.contents.replace(
                    range,
                    match class {
                        ClassSpec::Data => PageClass::Data,
                        ClassSpec::Zero => PageClass::Zero,
                        ClassSpec::Free => PageClass::Free,
                    },
                ),
            }
        }
        (memory, self.info())
    }

    fn info(&self) -> VmcoreInfo {
        let mut text = String::new();
        for (key, name, value) in KEYS {
            let own = self.info.iter().rev().find(|(other, _)| other == key);
            let value = match own {
                None if *key == Key::Five => u8::from(self.five).to_string(),
                None => (*value).to_owned(),
                Some((_, Value::None)) => continue,
                Some((_, Value::Decimal(n))) => n.to_string(),
                Some((_, Value::Power(n))) => (1_u64 << (n % 64)).to_string(),
                Some((_, Value::Signed(n))) => n.to_string(),
                Some((_, Value::Unsigned(n))) => n.to_string(),
                Some((_, Value::Hexadecimal(n))) => format!("{n:x}"),
                Some((_, Value::Virtual(page, within))) => {
                    let within = u64::from(within % 4096);
                    format!("{:x}", IMAGE + u64::from(*page) * PAGE_SIZE + within)
                }
                Some((_, Value::Text(text))) => text.clone(),
            };
            text.push_str(name);
            text.push('=');
            text.push_str(&value);
            text.push('\n');
        }
        VmcoreInfo::parse(text.as_bytes())
    }

    /// Whether nothing is spoilt.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.words.is_empty() && self.info.is_empty() && self.classes.is_empty()
    }
}
