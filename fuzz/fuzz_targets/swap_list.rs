//! A list of swapped pages: what is taken for one swaps exactly the memory that was given away, and both
//! views of the memory have the bytes where they belong.
#![no_main]

use std::collections::HashSet;

use arbitrary::Arbitrary;
use kjump_fuzz::machine::{Fake, Word};
use kjump_fuzz::{Number, bounded, memory};
use libfuzzer_sys::fuzz_target;
use vmcore::{Memory, PAGE_SIZE, PageClass, PhysAddr, PhysRange, RangeMap, Swap, View};

/// A start and a length.
type Span = (Number, Number);

#[derive(Arbitrary, Debug)]
struct Input {
    /// How many pages of the window there are, and how many of low memory.
    window: u8,
    low: u8,
    /// Where the pages that they change places with come from.
    shuffle: u8,
    /// Which word of the page is the head.
    head: u16,
    /// How many pairs a page of the list has at most.
    short: u16,
    /// What is written over it all.
    words: Vec<(u8, u16, Word)>,
    holes: Vec<(u8, bool)>,
    /// The window and low memory, if they are something else.
    other: Option<(Span, Option<Span>)>,
}

const PAGES: usize = 128;
const ENTRY: usize = 120;
const LIST: usize = 112;

fuzz_target!(|input: Input| {
    let mut raw = Fake::new(PAGES);
    for page in 0..PAGES {
        for index in 0..4 {
            raw.put(page, index, (page as u64 + 1) << 16);
        }
    }
    let address = |page: usize| page as u64 * PAGE_SIZE;
    // Low memory from page 1 on, the window from page 20 on; what they change places with is from
    // page 60 on.
    let (low, window) = (
        usize::from(input.low % 8),
        1 + usize::from(input.window % 32),
    );
    let mut words = vec![];
    let mut free = 60..LIST;
    for (first, count) in [(1, low), (20, window)] {
        words.push(address(first) | 1);
        for page in first..first + count {
            // Some change places with themselves.
            let source = if (page + usize::from(input.shuffle)) % 7 == 0 {
                page
            } else {
                free.next().expect("there are enough")
            };
            words.push(address(source) | 8);
        }
    }
    words.push(4);
    let per_page = usize::from(input.short).clamp(8, 511);
    let chunks: Vec<_> = words.chunks(per_page).collect();
    for (nth, chunk) in chunks.iter().enumerate() {
        let page = LIST + nth;
        for (index, word) in chunk.iter().enumerate() {
            raw.put(page, index, *word);
        }
        if nth + 1 < chunks.len() {
            raw.put(page, chunk.len(), address(page + 1) | 2);
        }
    }
    raw.put(ENTRY, usize::from(input.head), address(LIST) | 2);
    for (page, index, word) in &input.words {
        let word = match word {
            Word::Table { page, flags } => {
                (u64::from(*page) * PAGE_SIZE) | [1, 2, 4, 8, 0][usize::from(*flags) % 5]
            }
            other => other.get(),
        };
        raw.put(usize::from(*page) % PAGES, usize::from(*index), word);
    }
    for (page, free) in &input.holes {
        let at = address(usize::from(*page) % PAGES);
        let Some(range) = PhysRange::from_len(PhysAddr::new(at), PAGE_SIZE) else {
            continue;
        };
        if *free {
            raw.contents.replace(range, PageClass::Free);
        } else {
            raw.contents.remove(range);
        }
    }
    let mut given = RangeMap::new();
    let mut window = PhysRange::new(address(20), address(20 + window)).expect("not empty");
    let mut lows = RangeMap::new();
    if let Some(range) = PhysRange::new(address(1), address(1 + low)) {
        lows.replace(range, ());
    }
    if let Some(((start, len), low)) = input.other {
        let range =
            |start: Number, len: Number| PhysRange::from_len(PhysAddr::new(start.get()), len.get());
        let Some(other) = range(start, len) else {
            return;
        };
        window = other;
        if let Some((start, len)) = low {
            lows = RangeMap::new();
            if let Some(range) = range(start, len) {
                lows.replace(range, ());
            }
        }
    }
    for range in lows.ranges() {
        given.replace(range, ());
    }
    given.replace(window, ());

    let entry = PhysAddr::new(address(ENTRY) + 0x123);
    let found = bounded(1 << 20, || Swap::find(&raw, entry, window, &lows));
    let sound = input.words.is_empty() && input.holes.is_empty() && input.other.is_none();
    let Ok(swap) = found else {
        assert!(!sound, "{:?}", found.err());
        return;
    };

    let map = |ranges: &mut dyn Iterator<Item = PhysRange>| {
        let mut map = RangeMap::new();
        for range in ranges {
            map.insert(range, ()).expect("no page twice");
        }
        map
    };
    assert_eq!(
        map(&mut swap.given()),
        given,
        "what was given is what is swapped"
    );
    let taken = map(&mut swap.taken());
    assert_eq!(taken.bytes(), given.bytes());

    // Every byte of the window is seen where it was, and is raw where it is.
    let seen = View::seen(&raw, &swap);
    memory::check(&seen, false);
    let back = View::raw(&seen, &swap);
    memory::check(&back, false);
    let mut sources = HashSet::new();
    for page in 0..PAGES {
        let addr = PhysAddr::new(address(page));
        let (mut here, mut now) = ([0; 4096], [0; 4096]);
        if given.get(addr).is_some() {
            if seen.read(addr, &mut here).is_ok() {
                assert!(
                    sources.insert(here[..8].to_vec()) || !sound,
                    "a page was seen twice"
                );
            }
        } else if taken.get(addr).is_some() {
            assert!(
                seen.read(addr, &mut here).is_err(),
                "where the window waits is not seen"
            );
            // Back and forth, it is what it was.
            if let (Ok(()), Ok(())) = (raw.read(addr, &mut now), back.read(addr, &mut here)) {
                assert_eq!(here, now);
            }
        } else if raw.read(addr, &mut now).is_ok() {
            seen.read(addr, &mut here).expect("it did not move");
            assert_eq!(here, now);
        }
    }
});
