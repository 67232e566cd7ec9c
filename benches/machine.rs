//! Made-up machines of any size, as sparse cores.
//!
//! Each has what the map of pages is read by: page tables with the direct map in pages of 1 GiB and
//! `vmemmap` in pages of 2 MiB, `mem_section` with `CONFIG_SPARSEMEM_EXTREME`, `struct page`s of 64 bytes,
//! and VMCOREINFO. Of each 128 MiB of memory, 124 MiB are free blocks of order 10. Of the 4 MiB that are not
//! free, 2 MiB are the section's own map and 2 MiB are data, most of which is zero. What is zero takes no
//! room in the file, so that a machine of 1 TiB takes about 1.3 GiB.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vmcore::elf::{CoreHeaders, Load, encode_note};
use vmcore::{Counts, PAGE_SIZE, PhysRange, VmcoreInfo};

const GIB: u64 = 1 << 30;
const LARGE: u64 = 2 << 20;
const SECTION: u64 = 128 << 20;
/// How much memory a free block of order 10 is.
const BLOCK: u64 = 4 << 20;
/// What the kernel has at the beginning of memory, which is not free.
const OWN: u64 = 16 << 20;
/// SIZE(page).
const ENTRY: u64 = 64;
/// SIZE(mem_section).
const SECTION_ENTRY: u64 = 32;
/// How many pages of a section's data are not zero.
const FULL_PAGES: u64 = 8;

/// Where memory begins in the file.
const FILE_OFFSET: u64 = 1 << 20;
/// Where the kernel's image lies, and is mapped.
const IMAGE: u64 = LARGE;
const IMAGE_VIRT: u64 = 0xffff_ffff_8100_0000;
const UTS: u64 = 0x1000;
const TOP_TABLE: u64 = 0x4000;
const ROOTS: u64 = 4 << 20;
const FIRST_TABLE: u64 = 5 << 20;
const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
const VMEMMAP: u64 = 0xffff_ea00_0000_0000;
const RELEASE: &str = "6.12.0-made-up";

/// The bits of a page table's entry that are set in all of them, and in those of large pages.
const TABLE_ENTRY: u64 = 0x63;
const LARGE_ENTRY: u64 = 0xe3;

/// Writes the core of a machine of `gib` GiB of memory to `file`, and tells what must be found in it.
///
/// # Errors
///
/// That of the writing.
pub(crate) fn write(file: &File, gib: u64) -> io::Result<Counts> {
    let size = gib * GIB;
    let memory = Memory(file);
    let note = encode_note(VmcoreInfo::NOTE_NAME, 0, vmcoreinfo().as_bytes());
    let mut headers = CoreHeaders::new();
    headers.notes(4096, note.len() as u64);
    for (start, end) in ram(size) {
        headers.load(Load {
            memory: PhysRange::new(start, end).ok_or(io::ErrorKind::InvalidInput)?,
            offset: FILE_OFFSET + start,
            file_size: end - start,
            virt: DIRECT_MAP + start,
        });
    }
    file.write_all_at(&headers.encode(), 0)?;
    file.write_all_at(&note, 4096)?;
    file.set_len(FILE_OFFSET + size)?;

    let mut data_pages = kernel(memory)?;
    data_pages += page_tables(memory, size)?;
    data_pages += sections(memory, size)?;
    data_pages += blocks(memory, size)?;

    let all: u64 = ram(size).iter().map(|(start, end)| end - start).sum();
    let free = size - size / SECTION * BLOCK - OWN;
    let data = data_pages * PAGE_SIZE;
    Ok(Counts {
        total: all,
        data,
        zero: all - data - free,
        free,
    })
}

/// The memory of a machine with `size` bytes of it.
fn ram(size: u64) -> [(u64, u64); 2] {
    [(0x1000, 0x9_f000), (0x10_0000, size)]
}

/// Writes to memory by its physical address.
#[derive(Clone, Copy)]
struct Memory<'a>(&'a File);

impl Memory<'_> {
    fn write(self, addr: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, FILE_OFFSET + addr)
    }

    fn long(self, addr: u64, value: u64) -> io::Result<()> {
        self.write(addr, &value.to_le_bytes())
    }
}

/// The kernel's name. Like the others, this tells how many pages are no longer zero.
fn kernel(memory: Memory<'_>) -> io::Result<u64> {
    // `struct new_utsname` has fields of 65 bytes: sysname, nodename, release, …
    let mut name = [0; 390];
    name[..5].copy_from_slice(b"Linux");
    name[65..72].copy_from_slice(b"made-up");
    name[130..130 + RELEASE.len()].copy_from_slice(RELEASE.as_bytes());
    memory.write(IMAGE + UTS + 8, &name)?;
    Ok(1)
}

fn page_tables(memory: Memory<'_>, size: u64) -> io::Result<u64> {
    let top = IMAGE + TOP_TABLE;
    let mut next = FIRST_TABLE + LARGE;
    let mut table = || {
        next += PAGE_SIZE;
        next - PAGE_SIZE
    };
    // The image: one page of 2 MiB.
    let (upper, middle) = (table(), table());
    memory.long(top + index(IMAGE_VIRT, 4) * 8, upper | TABLE_ENTRY)?;
    memory.long(upper + index(IMAGE_VIRT, 3) * 8, middle | TABLE_ENTRY)?;
    memory.long(middle + index(IMAGE_VIRT, 2) * 8, IMAGE | LARGE_ENTRY)?;
    let mut upper = 0;
    for phys in (0..size).step_by(GIB as usize) {
        let virt = DIRECT_MAP + phys;
        if index(virt, 3) == 0 || upper == 0 {
            upper = table();
            memory.long(top + index(virt, 4) * 8, upper | TABLE_ENTRY)?;
        }
        memory.long(upper + index(virt, 3) * 8, phys | LARGE_ENTRY)?;
    }
    let upper = table();
    memory.long(top + index(VMEMMAP, 4) * 8, upper | TABLE_ENTRY)?;
    let mut middle = 0;
    for number in 0..size / SECTION {
        let virt = VMEMMAP + number * LARGE;
        if index(virt, 2) == 0 {
            middle = table();
            memory.long(upper + index(virt, 3) * 8, middle | TABLE_ENTRY)?;
        }
        memory.long(middle + index(virt, 2) * 8, map_of(number) | LARGE_ENTRY)?;
    }
    // All tables, and the one in the image.
    Ok((table() - FIRST_TABLE - LARGE) / PAGE_SIZE + 1)
}

/// The index of `virt` in a page table of `level`.
fn index(virt: u64, level: u32) -> u64 {
    virt >> (12 + 9 * (level - 1)) & 511
}

/// Where the map of section `number` is: in its last 2 MiB.
fn map_of(number: u64) -> u64 {
    (number + 1) * SECTION - LARGE
}

fn sections(memory: Memory<'_>, size: u64) -> io::Result<u64> {
    let per_page = PAGE_SIZE / SECTION_ENTRY;
    let count = size / SECTION;
    for root in 0..count.div_ceil(per_page) {
        let page = FIRST_TABLE + root * PAGE_SIZE;
        memory.long(ROOTS + root * 8, DIRECT_MAP + page)?;
        for nth in 0..per_page.min(count - root * per_page) {
            memory.long(page + nth * SECTION_ENTRY, VMEMMAP | 0xf)?;
        }
    }
    Ok(1 + count.div_ceil(per_page))
}

fn blocks(memory: Memory<'_>, size: u64) -> io::Result<u64> {
    // `_mapcount` says "free", `private` is the order, `_refcount` is 0.
    let mut head = [0; ENTRY as usize];
    head[40..48].copy_from_slice(&10_u64.to_le_bytes());
    head[48..52].copy_from_slice(&0xf000_0000_u32.to_le_bytes());
    let mut data = 0;
    for number in 0..size / SECTION {
        let section = number * SECTION;
        for at in (0..SECTION - BLOCK).step_by(BLOCK as usize) {
            if section + at >= OWN {
                memory.write(map_of(number) + at / PAGE_SIZE * ENTRY, &head)?;
                data += 1;
            }
        }
        for nth in 0..FULL_PAGES {
            // Some follow each other, others do not.
            let page = section + SECTION - BLOCK + (nth * nth + number % 64) * PAGE_SIZE;
            memory.write(page, &[0x5a; PAGE_SIZE as usize])?;
            data += 1;
        }
    }
    Ok(data)
}

/// What the kernel tells of itself.
fn vmcoreinfo() -> String {
    format!(
        "OSRELEASE={RELEASE}\nPAGESIZE=4096\nSYMBOL(init_uts_ns)={:x}\nOFFSET(uts_namespace.name)=8\n\
         SYMBOL(swapper_pg_dir)={:x}\nNUMBER(phys_base)={}\nNUMBER(pgtable_l5_enabled)=0\n\
         NUMBER(sme_mask)=0\nSYMBOL(mem_section)={:x}\nLENGTH(mem_section)={}\n\
         SIZE(mem_section)={SECTION_ENTRY}\nOFFSET(mem_section.section_mem_map)=0\n\
         NUMBER(SECTION_SIZE_BITS)=27\nNUMBER(MAX_PHYSMEM_BITS)=46\nSIZE(page)={ENTRY}\n\
         OFFSET(page.flags)=0\nOFFSET(page._refcount)=52\nOFFSET(page.mapping)=24\n\
         OFFSET(page._mapcount)=48\nOFFSET(page.private)=40\nOFFSET(page.compound_head)=8\n\
         LENGTH(zone.free_area)=11\nNUMBER(PG_lru)=5\nNUMBER(PG_swapcache)=10\nNUMBER(PG_swapbacked)=17\n\
         NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-268435456\nNUMBER(PAGE_SLAB_MAPCOUNT_VALUE)=-184549376\n",
        IMAGE_VIRT + UTS,
        IMAGE_VIRT + TOP_TABLE,
        IMAGE.cast_signed() - (IMAGE_VIRT - 0xffff_ffff_8000_0000).cast_signed(),
        DIRECT_MAP + ROOTS,
        (1_u64 << (46 - 27)) / (PAGE_SIZE / SECTION_ENTRY),
    )
}
