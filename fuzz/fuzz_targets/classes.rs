//! A map of pages that may say anything: what is called free must be free by it, what is called zero
//! must be zero, and all memory has a class.
#![no_main]

use std::ops::ControlFlow;

use arbitrary::Arbitrary;
use kjump_fuzz::bounded;
use kjump_fuzz::machine::{BUDDY, DIRECT, Fake, MachineSpec};
use libfuzzer_sys::fuzz_target;
use vmcore::{
    Classifier, Memory, PAGE_SIZE, PageClass, PageMap, PageUse, PhysAddr, PhysRange, RangeMap,
    for_each_run,
};

#[derive(Arbitrary, Debug)]
struct Input {
    machine: MachineSpec,
    /// Where the pages are looked at.
    ranges: Vec<(u32, u32)>,
    /// Whether a second thread is started, which takes time.
    threads: bool,
}

const LIMIT: usize = 4 << 20;

/// Whether some free block of the plain map has page `pfn`.
fn is_free(memory: &Fake, pfn: u64) -> bool {
    (0..11).any(|order| {
        let head = pfn & !((1 << order) - 1);
        let at = (12 * PAGE_SIZE + head * 64) as usize;
        let Some(page) = memory.bytes.get(at..at + 64) else {
            return false;
        };
        let int = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().expect("4 bytes"));
        // A type of free memory that was not accepted counts as a block of the largest order.
        let unaccepted = int(48) == (-266_i32).cast_unsigned() && order == 10;
        page[8] & 1 == 0 && (unaccepted || int(48) == BUDDY && int(52) == 0 && int(40) == order)
    })
}

fuzz_target!(|input: Input| {
    let (memory, info) = input.machine.build();
    let opened = bounded(LIMIT, || PageMap::open(&memory, &info));
    let Ok(map) = opened else { return };
    let plain = input.machine.info.is_empty() && input.machine.words.is_empty();

    for (start, len) in input.ranges.iter().take(8) {
        let start = u64::from(*start % (16 << 20));
        let Some(range) = PhysRange::from_len(PhysAddr::new(start), u64::from(*len % (8 << 20)))
        else {
            continue;
        };
        let mut at = range.start();
        let mut free = None;
        let walked = bounded(LIMIT, || {
            map.uses(range, &mut |run, page_use| {
                assert_eq!(run.start(), at, "uses have no gaps");
                assert!(run.start() == range.start() || run.start().is_aligned(PAGE_SIZE));
                at = run.end();
                if page_use == PageUse::Free {
                    free = Some(run);
                }
            })
        });
        if walked.is_ok() {
            assert_eq!(at, range.end(), "uses are of all of the range");
        }
        if let (Some(run), true) = (free, plain) {
            for addr in [run.start().get(), run.end().get() - 1] {
                assert!(is_free(&memory, addr / PAGE_SIZE), "{addr:#x} is not free");
                let alone = map.use_of(PhysAddr::new(addr));
                assert!(
                    matches!(alone, Ok(PageUse::Free)),
                    "{addr:#x} alone: {alone:?}"
                );
            }
        }
    }

    let mut classes: RangeMap<PageClass> = RangeMap::new();
    let classifier = Classifier::new(&memory, &map);
    let done = bounded(LIMIT, || {
        classifier.for_each(1, None, &mut |range, pages| {
            for_each_run(range, pages, |run, class| {
                classes.insert(run, class).expect("every page once");
            });
            ControlFlow::Continue(())
        })
    });
    if done.is_err() {
        return;
    }
    let all = |map: &RangeMap<PageClass>| map.filter_map(|_| Some(()));
    assert_eq!(
        all(&classes),
        all(&memory.contents),
        "all memory has a class"
    );
    for (range, class) in classes.iter() {
        for page in range.pieces(1 << 20).flat_map(|piece| {
            let first = piece.start().get() / PAGE_SIZE;
            first..piece.end().get().div_ceil(PAGE_SIZE)
        }) {
            let page = PhysRange::from_len(PhysAddr::new(page * PAGE_SIZE), PAGE_SIZE)
                .and_then(|page| page.intersection(range))
                .expect("it is in the range");
            let mut bytes = vec![1; page.len() as usize];
            let read = memory.read(page.start(), &mut bytes);
            match class {
                PageClass::Zero => {
                    assert!(
                        read.is_ok() && bytes.iter().all(|&byte| byte == 0),
                        "{page} is not zero"
                    );
                }
                PageClass::Data => assert!(read.is_ok(), "{page} cannot be read"),
                PageClass::Free => {
                    let left_out = read.is_err() || {
                        let whole = page.start().align_down(PAGE_SIZE);
                        PhysRange::from_len(whole, PAGE_SIZE).is_some_and(|whole| {
                            memory
                                .contents
                                .overlapping(whole)
                                .any(|(_, class)| *class == PageClass::Free)
                        })
                    };
                    assert!(
                        left_out || !plain || is_free(&memory, page.start().get() / PAGE_SIZE),
                        "{page} is not free"
                    );
                }
            }
        }
    }
    if input.threads {
        let mut again: RangeMap<PageClass> = RangeMap::new();
        let done = classifier.for_each(2, None, &mut |range, pages| {
            for_each_run(range, pages, |run, class| {
                again.insert(run, class).expect("every page once");
            });
            ControlFlow::Continue(())
        });
        assert!(done.is_ok());
        assert_eq!(again, classes);
    }
    let _ = bounded(LIMIT, || {
        map.space()
            .page_offset()
            .is_ok_and(|at| DIRECT.contains(&at))
    });
});
