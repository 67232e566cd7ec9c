//! What a parser holds at once is bounded by the size of what it reads, whatever that claims to be.
//!
//! Each of these files is small and claims to be huge. A parser that believes it asks for far more than
//! the bound; one that asks for a GiB is stopped by the allocator.
#![allow(clippy::unwrap_used, reason = "a test whose helper fails has failed")]

mod counting;

use std::sync::Mutex;

use proptest::prelude::*;
use vmcore::elf::{Core, CoreHeaders, Load, Notes, direct_map_base, encode_note};
use vmcore::image::{
    self, Codec, Header, Identity, Image, ImageId, ImageMemory, ImageStream, Jump, Layout, Options,
    Paging, Platform,
};
use vmcore::kdump::{Dump, Flattened};
use vmcore::{
    IoMem, LeaveOut, Memory, MemoryKind, PAGE_SIZE, PageMap, Phases, PhysAddr, PhysRange, RangeMap,
    ReadAt, Saved, Swap, VmcoreInfo,
};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// What a parser may hold beside what depends on the size of its input.
const FIXED: usize = 16 << 10;

/// Runs `parse`, which reads `bytes` bytes, and asserts that it held at most `times` times as much.
fn bounded<T>(bytes: usize, times: usize, parse: impl FnOnce() -> T) -> T {
    let (result, peak) = counting::peak(parse);
    let most = FIXED + times * bytes;
    assert!(
        peak <= most,
        "{peak} bytes were held for {bytes} bytes of input; {most} are allowed"
    );
    result
}

fn range(start: u64, end: u64) -> PhysRange {
    PhysRange::new(start, end).unwrap()
}

/// The headers of a core with section 0 behind them, whose count of program headers is said there.
fn extended(count: u32, more: usize) -> Vec<u8> {
    let mut bytes = CoreHeaders::new().encode();
    let section = bytes.len() as u64;
    bytes[40..48].copy_from_slice(&section.to_le_bytes());
    bytes[56..58].copy_from_slice(&0xffffu16.to_le_bytes());
    bytes.extend([0; 64]);
    bytes[section as usize + 44..][..4].copy_from_slice(&count.to_le_bytes());
    bytes.extend(vec![0; more]);
    bytes
}

#[test]
fn the_allocator_counts() {
    let (held, peak) = counting::peak(|| {
        drop(vec![0u8; 1 << 20]);
        vec![1u8; 1 << 10]
    });
    assert_eq!((held.len(), peak), (1 << 10, 1 << 20));
    let (_, peak) = counting::peak(|| Vec::<u8>::new().try_reserve(1 << 40).is_err());
    assert_eq!(peak, 1 << 40);
}

#[test]
fn a_core_of_four_billion_segments() {
    for count in [u32::MAX, 1 << 31, 1 << 20, 1000] {
        let file = extended(count, 100);
        assert!(bounded(file.len(), 8, || Core::open(file.as_slice())).is_err());
        assert!(bounded(file.len(), 8, || direct_map_base(&file)).is_err());
    }
}

#[test]
fn a_core_of_many_real_segments() {
    let mut headers = CoreHeaders::new();
    for page in 0..20_000 {
        headers.load(Load {
            memory: range(page * 8192, page * 8192 + 4096),
            offset: 0,
            file_size: 1,
            virt: 0,
        });
    }
    let file = headers.encode();
    let core = bounded(file.len(), 8, || Core::open(file.as_slice())).unwrap();
    assert_eq!(core.loads().len(), 20_000);
}

#[test]
fn a_core_whose_segments_are_larger_than_any_machine() {
    let mut headers = CoreHeaders::new();
    headers.load(Load {
        memory: range(0, 1 << 52),
        offset: 0,
        file_size: 64,
        virt: 0,
    });
    let file = headers.encode();
    let core = bounded(file.len(), 8, || Core::open(file.as_slice())).unwrap();
    bounded(file.len(), 8, || {
        let mut pieces = 0;
        core.for_each_piece(range(0, 1 << 52), &mut |_| {
            pieces += 1;
            if pieces == 100 {
                std::ops::ControlFlow::Break(())
            } else {
                std::ops::ControlFlow::Continue(())
            }
        })
    })
    .unwrap();

    for (end, file_size) in [
        (u64::MAX, u64::MAX),
        (1 << 52, 1 << 52),
        ((1 << 52) + 1, 64),
    ] {
        let mut headers = CoreHeaders::new();
        headers.load(Load {
            memory: range(0, end),
            offset: 0,
            file_size,
            virt: 0,
        });
        let file = headers.encode();
        assert!(bounded(file.len(), 8, || Core::open(file.as_slice())).is_err());
    }
}

#[test]
fn a_core_whose_notes_are_huge_or_are_counted_again_and_again() {
    for size in [u64::MAX, 1 << 60, 63 << 20, 4096] {
        let mut headers = CoreHeaders::new();
        headers.notes(0, size);
        let file = headers.encode();
        assert!(bounded(file.len(), 8, || Core::open(file.as_slice())).is_err());
    }
    // A thousand segments of notes, each of which is all of the file.
    let mut headers = CoreHeaders::new();
    let size = 64 + 1000 * 56;
    for _ in 0..1000 {
        headers.notes(0, size);
    }
    let file = headers.encode();
    assert_eq!(file.len() as u64, size);
    assert!(bounded(file.len(), 8, || Core::open(file.as_slice())).is_err());
}

#[test]
fn notes_of_four_gib() {
    for (name, desc) in [
        (u32::MAX, 0),
        (4, u32::MAX),
        (u32::MAX, u32::MAX),
        (1, u32::MAX - 3),
    ] {
        let mut segment = Vec::new();
        for word in [name, desc, 1] {
            segment.extend_from_slice(&u32::to_le_bytes(word));
        }
        segment.extend([b'x'; 20]);
        assert_eq!(counting::peak(|| Notes::new(&segment).count()), (0, 0));
    }
}

#[test]
fn vmcoreinfo_of_many_short_lines() {
    let text: String = (0..50_000u32).map(|key| format!("{key:x}=\n")).collect();
    let info = bounded(text.len(), 64, || VmcoreInfo::parse(text.as_bytes()));
    assert_eq!(info.iter().count(), 50_000);
}

#[test]
fn iomem_of_many_short_lines() {
    let text = "0-1 : \n".repeat(20_000);
    let iomem = bounded(text.len(), 32, || IoMem::parse(&text)).unwrap();
    assert_eq!(iomem.entries().len(), 20_000);
    bounded(text.len(), 32, || iomem.memory());
    // An error holds one line of the text at most.
    let text = "x".repeat(100_000);
    assert!(bounded(text.len(), 2, || IoMem::parse(&text)).is_err());
}

fn identity() -> Identity {
    let mut memory = RangeMap::new();
    memory
        .insert(range(0x1000, 0x4000_0000), MemoryKind::Ram)
        .unwrap();
    Identity {
        id: ImageId([1; 16]),
        release: String::new(),
        build_id: Vec::new(),
        paging: Paging::FourLevel,
        window: range(0x400_0000, 0xa00_0000),
        low: RangeMap::new(),
        memory,
        free_fill: None,
        uptime: 90_061,
        platform: Platform::default(),
        volumes: Vec::new(),
    }
}

/// An image of a machine without memory.
fn image() -> Vec<u8> {
    let memory = Core::open(CoreHeaders::new().encode()).unwrap();
    let jump = Jump {
        back: PhysAddr::new(0x1000),
        layout: Layout::Raw,
    };
    let options = Options {
        codec: Codec::None,
        threads: 1,
        seal: None,
    };
    let sink = Mutex::new(Vec::new());
    Saved::of_core(memory, Some(identity()), Some(jump))
        .write_image(
            &sink,
            options,
            LeaveOut::Free,
            &mut Phases::new,
            &mut |_| {},
        )
        .unwrap();
    sink.into_inner().unwrap()
}

/// The checksum of everything in an image, as `docs/format.md` has it.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(4096)
        .fold(0x6b6a_756d_7069_6d67, |sum: u64, block| {
            (sum.rotate_left(23) ^ rapidhash::v3::rapidhash_v3(block))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
}

/// An image in whose header a number of 64 bits at `at` is `value`, with a right checksum.
fn header_with(at: usize, value: u64) -> Vec<u8> {
    let mut file = image();
    file[at..at + 8].copy_from_slice(&value.to_le_bytes());
    let body = image::HEADER_SIZE as usize - 8;
    let sum = checksum(&file[..body]);
    file[body..body + 8].copy_from_slice(&sum.to_le_bytes());
    file
}

/// An image in whose record `number` a number of 64 bits at `at` of the body is `value`, with a right
/// checksum.
fn record_with(number: usize, at: usize, value: u64) -> Vec<u8> {
    let mut file = image();
    let mut block = 64 << 10;
    for _ in 0..number {
        let payload = u64::from_le_bytes(file[block + 40..block + 48].try_into().unwrap());
        let next = block + 4096 + (payload as usize).next_multiple_of(4096);
        if next >= file.len() {
            break;
        }
        block = next;
    }
    file[block + at..block + at + 8].copy_from_slice(&value.to_le_bytes());
    let sum = checksum(&file[block..block + 4080]);
    file[block + 4080..block + 4088].copy_from_slice(&sum.to_le_bytes());
    file
}

/// Payloads that could be there, but are not.
#[test]
fn an_image_whose_payloads_are_as_long_as_can_be() {
    for number in 0..8 {
        let file = record_with(number, 40, 1 << 20);
        bounded(file.len(), 8, || {
            if let Ok((image, _)) = Image::examine(file.as_slice()) {
                let _ = image.index().map(Iterator::count);
            }
            if let Ok(mut stream) = ImageStream::open(file.as_slice()) {
                while let Ok(Some(_)) = stream.next_chunk() {}
            }
        });
    }
}

/// A flattened file with these records.
fn flattened(records: &[(u64, &[u8])]) -> Vec<u8> {
    let mut file = b"makedumpfile\0\0\0\0".to_vec();
    for word in [1_u64, 1] {
        file.extend(word.to_be_bytes());
    }
    file.resize(4096, 0);
    for (at, bytes) in records {
        file.extend(at.to_be_bytes());
        file.extend((bytes.len() as u64).to_be_bytes());
        file.extend_from_slice(bytes);
    }
    file.extend([0xff; 16]);
    file
}

#[test]
fn a_flattened_file_of_a_few_bytes_far_away() {
    for far in [1 << 22, 1 << 29, 1 << 40, i64::MAX as u64 - 1] {
        let file = flattened(&[(far, b"x")]);
        assert!(bounded(file.len(), 16, || Flattened::open(file.as_slice())).is_err());
    }
    // Small pieces one on the other are many parts.
    let records: Vec<(u64, &[u8])> = (0..1000).map(|at| (at, &b"123456789"[..])).collect();
    let file = flattened(&records);
    let opened = bounded(file.len(), 16, || Flattened::open(file.as_slice())).unwrap();
    assert_eq!(opened.size(), 1008);
}

#[test]
fn a_core_in_a_flattened_file_that_has_no_room_for_it() {
    let core = extended(u32::MAX, 0);
    let half = extended((900 << 20) / 56, 0);
    for core in [core, half] {
        let file = flattened(&[(0, &core), (1 << 20, b"end")]);
        let opened = Flattened::open(file.as_slice()).unwrap();
        let size = opened.size() as usize;
        assert!(bounded(size, 8, || Core::open(opened)).is_err());
        let file = flattened(&[(0, &core), (1 << 30, b"end")]);
        assert!(Flattened::open(file.as_slice()).is_err());
    }
}

/// The windows and decoders of a dump have sizes of their own.
const DUMP: usize = 12 << 20;

#[test]
fn a_dump_of_more_pages_than_fit_into_the_file() {
    let page = PAGE_SIZE as usize;
    for (field, size) in [(436, 4), (432, 4), (440, 4), (page + 96, 8), (page + 56, 8)] {
        for value in [u64::MAX, u64::MAX >> 1, 1 << 31, 1 << 24, 4096] {
            let mut file = vec![0; 4 * page];
            file[..8].copy_from_slice(b"KDUMP   ");
            for (at, number) in [(8, 6_u32), (428, 4096), (432, 1), (436, 2)] {
                file[at..at + 4].copy_from_slice(&number.to_le_bytes());
            }
            file[page + 96] = 10;
            file[page + 48] = 8;
            assert!(Dump::open(file.as_slice()).is_ok());
            file[field..field + size].copy_from_slice(&value.to_le_bytes()[..size]);
            let (opened, peak) = counting::peak(|| Dump::open(file.as_slice()).is_ok());
            assert!(peak < DUMP, "{peak} bytes for {field} {value:#x}");
            // Notes of as many bytes are there, and so are the pages of one block of the bitmap.
            assert!(!opened || value == 4096 || field == 440);
        }
    }
}

/// A core of all memory below 1 MiB, whose words are `word(page, index)`.
fn machine(word: impl Fn(u64, u64) -> u64) -> Core<Vec<u8>> {
    let mut headers = CoreHeaders::new();
    headers.load(Load {
        memory: range(0, 1 << 20),
        offset: PAGE_SIZE,
        file_size: 1 << 20,
        virt: 0,
    });
    let mut file = headers.encode();
    file.resize(PAGE_SIZE as usize, 0);
    for page in 0..256 {
        for index in 0..512 {
            file.extend(word(page, index).to_le_bytes());
        }
    }
    Core::open(file).unwrap()
}

/// A list whose last word leads to its first page again would go on for as long as the window has
/// pages.
#[test]
fn a_swap_list_without_end() {
    for with_pairs in [true, false] {
        let core = machine(|page, index| match (page, index) {
            (1, 0) => 0x2000 | 2,
            (2, 0) => 0x10_0000 | 1,
            (2, 511) => 0x2000 | 2,
            (2, _) if with_pairs => index << 12 | 8,
            (2, _) => 0x10_0000 | 1,
            _ => 0,
        });
        let window = range(0x10_0000, 1 << 62);
        let found = bounded(1 << 20, 8, || {
            Swap::find(&core, PhysAddr::new(0x1000), window, &RangeMap::new())
        });
        assert!(found.is_err());
    }
}

/// Numbers that overflow, or make every look at a page a long one.
#[test]
fn a_map_of_pages_with_blocks_of_any_size() {
    let core = machine(|_, _| 0);
    for orders in [0, 15, 29, 64, u64::MAX - 10, u64::MAX] {
        let text = format!(
            "SYMBOL(mem_section)=ffffffff80000000\nLENGTH(mem_section)=4096\nSIZE(mem_section)=16\n\
             OFFSET(mem_section.section_mem_map)=0\nNUMBER(SECTION_SIZE_BITS)=40\n\
             NUMBER(MAX_PHYSMEM_BITS)=52\nSIZE(page)=64\nLENGTH(zone.free_area)={orders}\n"
        );
        let info = VmcoreInfo::parse(text.as_bytes());
        let error = PageMap::open(&core, &info).unwrap_err();
        assert!(
            error.to_string().contains("LENGTH(zone.free_area)"),
            "{error}"
        );
    }
}

proptest! {
    /// Every number of a header, with every kind of lie.
    #[test]
    fn an_image_whose_header_lies(
        at in 12..160usize,
        value in prop_oneof![Just(u64::MAX), Just(1 << 60), Just(1 << 32), Just(u64::MAX - 65_535), any::<u64>()],
    ) {
        let file = header_with(at, value);
        bounded(file.len(), 8, || {
            let _ = Header::read(&file);
            let _ = Image::examine(file.as_slice());
        });
    }

    /// The same for its records.
    #[test]
    fn an_image_whose_records_lie(
        number in 0..8usize,
        at in 8..140usize,
        value in prop_oneof![Just(u64::MAX), Just(1 << 60), Just(1 << 32), 0..70_000u64, any::<u64>()],
    ) {
        let file = record_with(number, at, value);
        bounded(file.len(), 8, || {
            if let Ok((image, _)) = Image::examine(file.as_slice()) {
                let _ = image.index().map(Iterator::count);
                let _ = ImageMemory::open(image);
            }
            if let Ok(mut stream) = ImageStream::open(file.as_slice()) {
                while let Ok(Some(_)) = stream.next_chunk() {}
            }
        });
    }

    /// An identity comes out of a core as well, where no checksum is before it.
    #[test]
    fn an_identity_that_lies(at in 0..100usize, value in any::<u64>()) {
        let mut note = identity().to_note();
        let at = 20 + at.min(note.len() - 28);
        note[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let mut headers = CoreHeaders::new();
        headers.notes(64 + 56, note.len() as u64);
        let file = [headers.encode(), note].concat();
        bounded(file.len(), 8, || {
            let core = Core::open(file.as_slice()).unwrap();
            let _ = Identity::from_notes(&core.encode_notes());
        });
    }

    /// Any damage to the headers of a core.
    #[test]
    fn a_core_whose_headers_lie(at in 0..64 + 3 * 56 - 8usize, value in any::<u64>(), kind in 0..8u32) {
        let note = encode_note("CORE", 1, &[0; 8]);
        let mut headers = CoreHeaders::new();
        headers.notes(64 + 3 * 56, note.len() as u64);
        headers.notes(0, 64);
        headers.load(Load { memory: range(0x1000, 0x2000), offset: 0, file_size: 64, virt: 0 });
        let mut file = [headers.encode(), note].concat();
        file[at..at + 8].copy_from_slice(&(value >> (8 * kind)).to_le_bytes());
        bounded(file.len(), 8, || {
            if let Ok(core) = Core::open(file.as_slice()) {
                let _ = core.vmcoreinfo();
                let _ = core.read(core.contents().ranges().next().map_or(PhysAddr::new(0), PhysRange::start), &mut [0; 64]);
            }
        });
    }
}
