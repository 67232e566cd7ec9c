use proptest::prelude::*;

use super::*;
use crate::elf::{Core, CoreHeaders, Load};

const PAGES: u64 = 64;
/// The machine gives away these pages.
const GIVEN: std::ops::Range<u64> = 8..20;
/// The page that it jumps from, and the pages of the list.
const JUMP: u64 = 40;
const LISTS: [u64; 3] = [41, 42, 43];

fn page(number: u64) -> PhysAddr {
    PhysAddr::new(number * PAGE_SIZE)
}

fn range(first: u64, end: u64) -> PhysRange {
    PhysRange::new(first * PAGE_SIZE, end * PAGE_SIZE).unwrap()
}

/// A machine that jumped, page by page: what is in each, and which pages went where.
struct Jumped {
    bytes: Vec<u8>,
    sources: Vec<u64>,
}

/// The machine whose pages were full of their number, after it swapped the pages that it gave away with
/// `sources`; `at` is where the page it jumped from has the head of the list.
fn jumped(sources: Vec<u64>, at: usize) -> Jumped {
    let mut bytes: Vec<u8> = (0..PAGES)
        .flat_map(|number| [number as u8; PAGE_SIZE as usize])
        .collect();
    for (to, from) in GIVEN.zip(&sources) {
        let start = (from * PAGE_SIZE) as usize;
        bytes[start..][..PAGE_SIZE as usize].fill(to as u8);
    }
    let mut put = |page: u64, word: usize, value: u64| {
        let start = page as usize * PAGE_SIZE as usize + word * 8;
        bytes[start..start + 8].copy_from_slice(&value.to_le_bytes());
    };
    put(JUMP, at, page(LISTS[0]).get() | INDIRECTION);
    let mut words = vec![page(GIVEN.start).get() | DESTINATION];
    for (number, from) in sources.iter().enumerate() {
        if number == 5 {
            words.push(page(GIVEN.start + 5).get() | DESTINATION);
        }
        words.push(page(*from).get() | SOURCE);
    }
    words.push(DONE);
    let parts: Vec<&[u64]> = words.chunks(6).collect();
    for (list, part) in parts.iter().enumerate() {
        for (word, value) in part.iter().enumerate() {
            put(LISTS[list], word, *value);
        }
        if list + 1 < parts.len() {
            put(
                LISTS[list],
                part.len(),
                page(LISTS[list + 1]).get() | INDIRECTION,
            );
        }
    }
    Jumped { bytes, sources }
}

/// All pages but those that were given away, as a kernel after the jump sees them.
fn core(jumped: &Jumped) -> Core<Vec<u8>> {
    let mut headers = CoreHeaders::new();
    for part in [range(0, GIVEN.start), range(GIVEN.end, PAGES)] {
        headers.load(Load {
            memory: part,
            offset: PAGE_SIZE + part.start().get(),
            file_size: part.len(),
            virt: 0,
        });
    }
    let mut file = headers.encode();
    file.resize(PAGE_SIZE as usize, 0);
    file.extend(&jumped.bytes);
    Core::open(file).unwrap()
}

fn find(core: &Core<Vec<u8>>) -> Result<Swap, SwapError> {
    let low = RangeMap::from_unsorted(vec![(range(GIVEN.start, GIVEN.start + 2), ())]).unwrap();
    let window = range(GIVEN.start + 2, GIVEN.end);
    Swap::find(core, PhysAddr::new(page(JUMP).get() + 0x12d), window, &low)
}

/// Twelve different pages that are free for the taking.
fn sources() -> impl Strategy<Value = Vec<u64>> {
    let free: Vec<u64> = (0..8).chain(20..40).chain(44..64).collect();
    Just(free)
        .prop_shuffle()
        .prop_map(|free| free[..12].to_vec())
}

proptest! {
    /// As seen, every page holds its own number, but those that were taken, which are not there.
    #[test]
    fn the_machine_is_seen_as_it_was(sources in sources(), at in 0..512usize) {
        let jumped = jumped(sources, at);
        let core = core(&jumped);
        let swap = find(&core).unwrap();
        let seen = View::seen(&core, &swap);
        for number in (0..PAGES).filter(|number| !(JUMP..44).contains(number)) {
            let mut bytes = [0; PAGE_SIZE as usize];
            let read = seen.read(page(number), &mut bytes);
            let taken = jumped.sources.contains(&number);
            prop_assert_eq!(read.is_err(), taken, "page {}", number);
            prop_assert_eq!(seen.contents().covers(range(number, number + 1)), !taken);
            if !taken {
                prop_assert_eq!(bytes, [number as u8; PAGE_SIZE as usize]);
            }
        }
        // Across pages, in pieces.
        for part in seen.contents().ranges() {
            let mut bytes = vec![0; part.len() as usize];
            seen.read(part.start(), &mut bytes).unwrap();
            let mut pieces = Vec::new();
            seen.for_each_piece(part, &mut |piece| {
                pieces.extend_from_slice(piece);
                std::ops::ControlFlow::Continue(())
            }).unwrap();
            prop_assert!(bytes == pieces);
        }
        // And back again it is what it is.
        let raw = View::raw(&seen, &swap);
        prop_assert_eq!(raw.contents(), core.contents());
        for number in (0..PAGES).filter(|number| !GIVEN.contains(number)) {
            let (mut there, mut here) = ([0; PAGE_SIZE as usize], [1; PAGE_SIZE as usize]);
            core.read(page(number), &mut there).unwrap();
            raw.read(page(number), &mut here).unwrap();
            prop_assert_eq!(there, here);
        }
    }

    /// A list that is not quite right is not believed: a page missing, twice, or out of the window.
    #[test]
    fn a_wrong_list_is_not_believed(sources in sources(), wrong in 0..4, which in 0..12usize) {
        let mut sources = sources;
        match wrong {
            0 => { sources.remove(which); }
            1 => sources[which] = sources[(which + 1) % 12],
            2 => sources.push(63),
            _ => sources[which] = GIVEN.start + (which as u64 + 1) % 12,
        }
        let jumped = jumped(sources, 3);
        let found = find(&core(&jumped));
        // One page more is only one too many if it was none of the others.
        prop_assert!(matches!(found, Err(SwapError::NoList { .. })), "{found:?}");
    }

    /// Any bytes are no list, or one.
    #[test]
    fn any_words_end(words in prop::collection::vec((0..PAGES, prop::sample::select(vec![0, 1, 2, 4, 8, 3])), 512 * 4)) {
        let mut jumped = jumped((20..32).collect(), 0);
        for (at, (number, flag)) in words.into_iter().enumerate() {
            let start = (JUMP * PAGE_SIZE) as usize + at * 8;
            let word = page(number).get() | flag;
            jumped.bytes[start..start + 8].copy_from_slice(&word.to_le_bytes());
        }
        let _ = find(&core(&jumped));
    }
}

#[test]
fn a_page_may_stay_where_it_is() {
    let mut sources: Vec<u64> = (20..32).collect();
    sources[4] = GIVEN.start + 4;
    let jumped = jumped(sources, 100);
    assert!(find(&core(&jumped)).is_ok());
}
