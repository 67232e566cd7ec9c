use proptest::prelude::*;

use super::*;
use crate::elf::CoreHeaders;

fn range(start: u64, end: u64) -> PhysRange {
    PhysRange::new(start, end).unwrap()
}

/// A core of pages, each filled with the low byte of its page number, with holes between some.
fn core_of(runs: &[(u64, u64)]) -> Vec<u8> {
    let mut headers = CoreHeaders::new();
    let mut offset = 64 + 56 * runs.len() as u64;
    let mut data = Vec::new();
    for &(first, pages) in runs {
        headers.load(Load {
            memory: range(first * 4096, (first + pages) * 4096),
            offset,
            file_size: pages * 4096,
            virt: 0,
        });
        offset += pages * 4096;
        for page in first..first + pages {
            data.resize(data.len() + 4096, page as u8);
        }
    }
    [headers.encode(), data].concat()
}

/// Runs of pages that do not overlap, in any order.
fn runs() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0..4u64, 1..4u64), 1..8)
        .prop_map(|gaps| {
            let mut at = 0;
            gaps.into_iter()
                .map(|(gap, pages)| {
                    let first = at + gap;
                    at = first + pages;
                    (first, pages)
                })
                .collect()
        })
        .prop_shuffle()
}

proptest! {
    #[test]
    fn memory_reads_back(runs in runs()) {
        let core = Core::open(core_of(&runs)).unwrap();
        prop_assert!(core.loads().is_sorted_by_key(|load| load.memory));
        for page in 0..40 {
            let mut byte = [0; 4096];
            let read = core.read(PhysAddr::new(page * 4096), &mut byte);
            if runs.iter().any(|&(first, pages)| (first..first + pages).contains(&page)) {
                prop_assert!(read.is_ok());
                prop_assert_eq!(byte, [page as u8; 4096]);
            } else {
                let missing = matches!(read, Err(MemoryError::Absent { .. }));
                prop_assert!(missing);
            }
        }
    }

    #[test]
    fn a_truncated_core_is_refused(runs in runs(), cut in 1..8000usize) {
        let mut bytes = core_of(&runs);
        bytes.truncate(bytes.len().saturating_sub(cut));
        prop_assert!(Core::open(bytes).is_err());
    }

    #[test]
    fn damaged_headers_never_panic(runs in runs(), at in 0..600usize, value in any::<u8>()) {
        let mut bytes = core_of(&runs);
        let headers = 64 + 56 * runs.len();
        bytes[at % headers] = value;
        if let Ok(core) = Core::open(bytes) {
            let _ = core.read(PhysAddr::new(0x1000), &mut [0; 4096]);
            prop_assert!(core.loads().windows(2).all(|pair| pair[0].memory.end() <= pair[1].memory.start()));
        }
    }
}

#[test]
fn other_files_are_refused_by_name() {
    let core = core_of(&[(1, 1)]);
    let with = |at: usize, value: u8| {
        let mut bytes = core.clone();
        bytes[at] = value;
        Core::open(bytes).map(|_| ())
    };
    assert!(matches!(with(0, 0), Err(CoreError::NotElf { .. })));
    assert!(matches!(with(4, 1), Err(CoreError::Elf32)));
    assert!(matches!(with(5, 2), Err(CoreError::BigEndian)));
    assert!(matches!(with(16, 2), Err(CoreError::NotCore { kind: 2 })));
    assert!(matches!(with(54, 55), Err(CoreError::Malformed { .. })));
    assert!(matches!(
        Core::open(b"\x7fELF".to_vec()),
        Err(CoreError::Truncated { .. })
    ));
}

#[test]
fn overlapping_segments_are_refused() {
    assert!(matches!(
        Core::open(core_of(&[(1, 3), (3, 1)])),
        Err(CoreError::Overlap(_))
    ));
}

#[test]
fn the_image_of_the_kernel_may_be_there_twice() {
    let image = 0xffff_ffff_8100_0000;
    let with = |first: u64, pages: u64, virt| {
        let mut headers = CoreHeaders::new();
        let load = |memory, offset, virt| Load {
            memory,
            offset,
            file_size: memory.len(),
            virt,
        };
        headers
            .load(load(
                range(first * 4096, (first + pages) * 4096),
                4096,
                virt,
            ))
            .load(load(
                range(0x10_0000, 0x10_8000),
                4096,
                0xffff_8880_0010_0000,
            ));
        let mut file = headers.encode();
        file.resize(9 * 4096, 7);
        Core::open(file).map(|core| core.loads().len())
    };
    assert_eq!(with(0x102, 3, image).unwrap(), 1);
    // Beside the other segment it is memory of its own.
    assert_eq!(with(0x110, 3, image).unwrap(), 2);
    for (first, pages, virt) in [(0x106, 3, image), (0x102, 3, 0xffff_8880_0010_2000)] {
        assert!(matches!(
            with(first, pages, virt),
            Err(CoreError::Overlap(_))
        ));
    }
}

#[test]
fn the_number_of_segments_may_be_in_section_0() {
    let mut bytes = core_of(&[(1, 2)]);
    let section = bytes.len() as u64;
    bytes.extend([0; 64]);
    bytes[section as usize + 44..][..4].copy_from_slice(&1u32.to_le_bytes());
    bytes[40..48].copy_from_slice(&section.to_le_bytes());
    bytes[56..58].copy_from_slice(&PN_XNUM.to_le_bytes());
    assert_eq!(Core::open(bytes.clone()).unwrap().loads().len(), 1);
    // A count that the file cannot hold is refused before anything of that size is allocated.
    bytes[section as usize + 44..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        Core::open(bytes),
        Err(CoreError::Truncated { .. })
    ));
}

#[test]
fn bytes_that_the_file_lacks_are_zero() {
    let mut headers = CoreHeaders::new();
    headers.load(Load {
        memory: range(0x1000, 0x3000),
        offset: 120,
        file_size: 8,
        virt: 0,
    });
    let core = Core::open([headers.encode(), vec![9; 8]].concat()).unwrap();
    let mut bytes = [1; 8];
    core.read(PhysAddr::new(0x1004), &mut bytes).unwrap();
    assert_eq!(bytes, [9, 9, 9, 9, 0, 0, 0, 0]);
}
