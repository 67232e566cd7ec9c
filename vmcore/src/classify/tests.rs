use proptest::prelude::*;

use super::*;
use crate::VmcoreInfo;

/// The classes of all of `memory`, whose kernel told `info` of itself.
fn classify<M: Memory + Sync>(
    memory: &M,
    info: &VmcoreInfo,
    threads: usize,
) -> Result<RangeMap<PageClass>, PagesError> {
    let pages = PageMap::open(memory, info)?;
    Classifier::new(memory, &pages).classes(threads)
}
use crate::fake_machine::{Block, FakeMemory, Kind, Machine, RAM, SECTION, blocks, kinds};
use crate::{AddressSpace, InfoError, TranslateError};

const PLAIN: Kind = Kind {
    levels: 4,
    extreme: true,
    new_types: true,
    encryption: false,
    entry_size: 64,
    slide: 1,
};

/// The class of each page, by number, of all that is handed out; order and bounds are checked.
fn collect(
    classifier: &Classifier<'_, '_, FakeMemory>,
    threads: usize,
    range: Option<PhysRange>,
) -> Vec<(u64, PageClass)> {
    let mut all = Vec::new();
    let mut reached = 0;
    classifier
        .for_each(threads, range, &mut |chunk, classes| {
            assert!(chunk.start().get() >= reached && chunk.len() <= CHUNK);
            reached = chunk.end().get();
            let first = chunk.start().get() / PAGE_SIZE;
            assert_eq!(
                classes.len() as u64,
                chunk.end().get().div_ceil(PAGE_SIZE) - first
            );
            all.extend((first..).zip(classes.iter().copied()));
            ControlFlow::Continue(())
        })
        .unwrap();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn classes_come_out_as_planned(
        kind in kinds(),
        blocks in blocks(),
        threads in 0..4_usize,
        from in 0..0x9500_u64,
        len in 1..0x9500_u64,
    ) {
        let machine = Machine::new(kind, &blocks);
        let pages = PageMap::open(&machine.memory, &machine.info).unwrap();
        prop_assert_eq!(pages.space().page_offset().unwrap(), machine.page_offset);
        prop_assert_eq!(pages.section_size(), SECTION);
        let classifier = Classifier::new(&machine.memory, &pages);
        let expected: Vec<_> = RAM
            .iter()
            .flat_map(|(start, end)| start / PAGE_SIZE..end / PAGE_SIZE)
            .map(|pfn| (pfn, machine.class(pfn)))
            .collect();
        prop_assert!(collect(&classifier, threads, None) == expected);
        let part = PhysRange::new(from * PAGE_SIZE, (from + len) * PAGE_SIZE);
        let within: Vec<_> = expected
            .iter()
            .copied()
            .filter(|(pfn, _)| (from..from + len).contains(pfn))
            .collect();
        prop_assert!(collect(&classifier, threads, part) == within);

        let map = classify(&machine.memory, &machine.info, threads).unwrap();
        let counts: Counts = map.iter().map(|(range, class)| (range, *class)).collect();
        let count = |wanted| expected.iter().filter(|(_, class)| *class == wanted).count() as u64 * PAGE_SIZE;
        prop_assert_eq!(counts, Counts {
            total: expected.len() as u64 * PAGE_SIZE,
            data: count(PageClass::Data),
            zero: count(PageClass::Zero),
            free: count(PageClass::Free),
        });
    }

    /// Whatever stands in memory, it is classified or refused, and not for long.
    #[test]
    fn any_memory_is_read_or_refused(
        kind in kinds(),
        at in prop::collection::vec((any::<prop::sample::Index>(), 0..4096_u64, any::<u64>()), 1..40),
    ) {
        let mut machine = Machine::new(kind, &[(Block::Free(9), 1), (Block::Large(5), 2)]);
        let written = machine.memory.written();
        for (page, offset, value) in at {
            machine.memory.write(page.get(&written) * PAGE_SIZE + offset / 8 * 8, &value.to_le_bytes());
        }
        if let Ok(map) = classify(&machine.memory, &machine.info, 2) {
            prop_assert_eq!(map.bytes(), machine.memory.contents.bytes());
        }
        if let Ok(space) = AddressSpace::open(&machine.memory, &machine.info) {
            let _ = space.page_offset();
        }
    }

    /// Tables that lead back to themselves end all the same.
    #[test]
    fn any_tables_are_read_or_refused(levels in 4..=5_u32, entries in prop::collection::vec((0..512_u64, any::<u16>()), 1..300)) {
        let mut machine = Machine::new(Kind { levels, ..PLAIN }, &[]);
        let root = machine.root();
        for (index, bits) in entries {
            let flags = u64::from(bits & 0xff) | 1;
            machine.memory.write(root + index * 8, &(root | flags).to_le_bytes());
        }
        if let Ok(space) = AddressSpace::open(&machine.memory, &machine.info) {
            let _ = space.page_offset();
        }
        let _ = classify(&machine.memory, &machine.info, 1);
    }

    #[test]
    fn any_vmcoreinfo_is_used_or_refused(line in any::<prop::sample::Index>(), value in prop_oneof!["-?[0-9]{1,20}", "[0-9a-f]{1,16}", ".{0,9}"]) {
        let machine = Machine::new(PLAIN, &[(Block::Free(9), 1)]);
        let keys: Vec<String> = machine.info.iter().map(|(key, _)| key.to_owned()).collect();
        let info = machine.info_with(line.get(&keys[..]).as_str(), Some(&value));
        if let Ok(map) = classify(&machine.memory, &info, 1) {
            prop_assert_eq!(map.bytes(), machine.memory.contents.bytes());
        }
    }

    #[test]
    fn zero_is_what_has_no_other_byte(len in 0..5000_usize, at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = vec![0; len];
        prop_assert!(is_zero(&bytes));
        if len > 0 {
            bytes[at.index(len)] = byte;
            prop_assert_eq!(is_zero(&bytes), byte == 0);
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    let machine = Machine::new(PLAIN, &[]);
    for key in [
        "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)",
        "SYMBOL(mem_section)",
        "NUMBER(SECTION_SIZE_BITS)",
        "OFFSET(page._mapcount)",
        "LENGTH(zone.free_area)",
        "OSRELEASE",
        "NUMBER(phys_base)",
    ] {
        let error = classify(&machine.memory, &machine.info_with(key, None), 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the kernel's VMCOREINFO has no {key}")
        );
        assert!(matches!(
            error,
            PagesError::Info(InfoError::Missing { .. })
                | PagesError::Translate(TranslateError::Info(InfoError::Missing { .. }))
        ));
    }
}

#[test]
fn memory_of_another_kernel_is_refused() {
    let machine = Machine::new(PLAIN, &[]);
    let other = machine.info_with("OSRELEASE", Some("6.1.0"));
    let error = classify(&machine.memory, &other, 1).unwrap_err();
    assert!(matches!(
        error,
        PagesError::Translate(TranslateError::OtherKernel { .. })
    ));
    let moved = machine.info_with("NUMBER(phys_base)", Some("0"));
    assert!(classify(&machine.memory, &moved, 1).is_err());
}

#[test]
fn a_map_that_calls_the_kernel_free_is_refused() {
    let mut machine = Machine::new(PLAIN, &[]);
    let own = 0x20_1000 / PAGE_SIZE;
    machine.entry(own, 48, &0xf000_0000_u32.to_le_bytes());
    machine.entry(own, 52, &[0; 4]);
    let error = classify(&machine.memory, &machine.info, 1).unwrap_err();
    assert!(matches!(error, PagesError::OwnFree { .. }));
}

/// A part of a large page says nothing of itself; behind a free block, it is not a part of that.
#[test]
fn a_part_of_no_large_page_is_not_free() {
    let mut machine = Machine::new(PLAIN, &[(Block::Free(1), 0)]);
    let first = 0x100_0000 / PAGE_SIZE;
    machine.entry(first + 2, 8, &1_u64.to_le_bytes());
    machine.memory.write((first + 2) * PAGE_SIZE, &[1]);
    let map = classify(&machine.memory, &machine.info, 1).unwrap();
    let class = |pfn| {
        map.get(PhysAddr::new(pfn * PAGE_SIZE))
            .map(|(_, class)| *class)
    };
    assert_eq!(class(first + 1), Some(PageClass::Free));
    assert_eq!(class(first + 2), Some(PageClass::Data));
}

#[test]
fn large_pages_are_followed_and_bad_entries_named() {
    let mut machine = Machine::new(PLAIN, &[]);
    let virt = machine.page_offset + (1 << 42);
    machine.map(virt, 0x4000_0000, 3);
    machine.map(virt + (1 << 30), 0x4000_2000, 3);
    let space = AddressSpace::open(&machine.memory, &machine.info).unwrap();
    let mapping = space.translate(virt + 0x1234_5678).unwrap();
    assert_eq!(mapping.phys, PhysAddr::new(0x5234_5678));
    assert_eq!(mapping.len, (1 << 30) - 0x1234_5678);
    assert!(matches!(
        space.translate(virt + (1 << 30)),
        Err(TranslateError::Reserved { level: 3, .. })
    ));
    assert!(matches!(
        space.translate(virt + (2 << 30)),
        Err(TranslateError::NotMapped { level: 3, .. })
    ));
    assert!(matches!(
        space.translate(0x8000_0000_0000),
        Err(TranslateError::NotCanonical { levels: 4, .. })
    ));
    let mut byte = [0; 2];
    assert!(space.read(u64::MAX, &mut byte).is_err());
}

#[test]
fn what_the_memory_itself_says_counts() {
    let mut memory = FakeMemory::default();
    let parts = [
        (0x1000, 0x2800, PageClass::Data),
        (0x2800, 0x4000, PageClass::Zero),
        (0x4000, 0x5800, PageClass::Free),
        (0x5800, 0x7000, PageClass::Data),
    ];
    for (start, end, class) in parts {
        let range = PhysRange::new(start, end).unwrap();
        memory.contents.insert(range, class).unwrap();
    }
    memory.write(0x27ff, &[1]);
    // Not read, since its class says that it is zero.
    memory.write(0x3000, &[1]);
    memory.write(0x6fff, &[1]);
    let classes = collect(&Classifier::without_pages(&memory), 1, None);
    let expected = [
        (1, PageClass::Zero),
        (2, PageClass::Data),
        (3, PageClass::Zero),
        (4, PageClass::Free),
        (5, PageClass::Free),
        (6, PageClass::Data),
    ];
    assert_eq!(classes, expected);
}

#[test]
fn a_break_ends_the_work() {
    let machine = Machine::new(PLAIN, &[]);
    let pages = PageMap::open(&machine.memory, &machine.info).unwrap();
    let mut calls = 0;
    Classifier::new(&machine.memory, &pages)
        .for_each(3, None, &mut |_, _| {
            calls += 1;
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(calls, 1);
}
