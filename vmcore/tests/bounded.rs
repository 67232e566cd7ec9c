//! What a parser holds at once is bounded by the size of what it reads, whatever that claims to be.
//!
//! Each of these files is small and claims to be huge. A parser that believes it asks for far more than
//! the bound; one that asks for a GiB is stopped by the allocator.
#![allow(clippy::unwrap_used, reason = "a test whose helper fails has failed")]

mod counting;

use proptest::prelude::*;
use vmcore::elf::{Core, CoreHeaders, Load, Notes, direct_map_base, encode_note};
use vmcore::image::{self, Header, Identity, Image, ImageId, Paging};
use vmcore::{IoMem, Memory, MemoryKind, PhysAddr, PhysRange, RangeMap, VmcoreInfo};

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
        memory: range(0, u64::MAX),
        offset: 0,
        file_size: 64,
        virt: 0,
    });
    let file = headers.encode();
    let core = bounded(file.len(), 8, || Core::open(file.as_slice())).unwrap();
    bounded(file.len(), 8, || {
        let mut pieces = 0;
        core.for_each_piece(range(0, u64::MAX), &mut |_| {
            pieces += 1;
            if pieces == 100 {
                std::ops::ControlFlow::Break(())
            } else {
                std::ops::ControlFlow::Continue(())
            }
        })
    })
    .unwrap();

    let mut headers = CoreHeaders::new();
    headers.load(Load {
        memory: range(0, u64::MAX),
        offset: 0,
        file_size: u64::MAX,
        virt: 0,
    });
    let file = headers.encode();
    assert!(bounded(file.len(), 8, || Core::open(file.as_slice())).is_err());
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
    }
}

/// The header of an image of which a number of 64 bits at `at` is `value`, with a right checksum.
fn header_with(at: usize, value: u64) -> Vec<u8> {
    let mut file = Vec::new();
    image::write(
        &identity(),
        PhysAddr::new(0),
        &CoreHeaders::new().encode(),
        &mut file,
        &mut |_| {},
    )
    .unwrap();
    file[at..at + 8].copy_from_slice(&value.to_le_bytes());
    let body = image::HEADER_SIZE as usize - 4;
    let checksum = crc32fast::hash(&file[..body]);
    file[body..body + 4].copy_from_slice(&checksum.to_le_bytes());
    file
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
            if let Ok((image, _)) = Image::examine(file.as_slice()) {
                let _ = image.core();
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
            let _ = Identity::from_core(&core);
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
