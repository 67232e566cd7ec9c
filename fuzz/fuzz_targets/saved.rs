//! A file of any format that says it holds a machine: both views of it, its classes, and the core that
//! is made of it.
#![no_main]

use arbitrary::Arbitrary;
use kjump_fuzz::machine::{DIRECT, IMAGE, MachineSpec, PAGES, Word};
use kjump_fuzz::{Damage, bounded, memory};
use libfuzzer_sys::fuzz_target;
use vmcore::elf::{Core, CoreHeaders, Load, encode_note};
use vmcore::image::{Identity, ImageId, Jump, Layout, Paging, Platform};
use vmcore::{Memory, MemoryKind, PAGE_SIZE, PageClass, PhysAddr, PhysRange, RangeMap, SavedFile};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Raw(&'a [u8]),
    Machine(MachineSpec, Option<JumpSpec>, Damage),
}

#[derive(Arbitrary, Debug)]
struct JumpSpec {
    /// How many pages of the window there are, from page 40 on.
    window: u8,
    seen: bool,
    /// Words of the list, which is in page 33.
    list: Vec<Word>,
}

/// The machine as a core, whose window is what it swapped with its last pages.
fn build(spec: &MachineSpec, jump: Option<&JumpSpec>) -> Vec<u8> {
    let (mut memory, info) = spec.build();
    let text: String = info
        .iter()
        .map(|(key, value)| format!("{key}={value}\n"))
        .collect();
    let mut notes = encode_note("VMCOREINFO", 0, text.as_bytes());
    if let Some(jump) = jump {
        let count = usize::from(jump.window % 8) + 1;
        let page = |number: usize| number as u64 * PAGE_SIZE;
        let window = PhysRange::new(page(40), page(40 + count)).expect("not empty");
        let mut all = RangeMap::new();
        all.replace(
            PhysRange::new(0, page(PAGES)).expect("not empty"),
            MemoryKind::Ram,
        );
        notes.extend(
            Identity {
                id: ImageId([7; 16]),
                release: "6.12".to_owned(),
                build_id: Vec::new(),
                paging: if spec.five {
                    Paging::FiveLevel
                } else {
                    Paging::FourLevel
                },
                window,
                low: RangeMap::new(),
                memory: all,
                free_fill: None,
                uptime: 60,
                platform: Platform::default(),
                volumes: Vec::new(),
            }
            .to_note(),
        );
        let layout = if jump.seen { Layout::Seen } else { Layout::Raw };
        let back = PhysAddr::new(page(32) + 16);
        notes.extend(Jump { back, layout }.to_note());
        memory.put(32, 5, page(33) | 2);
        memory.put(33, 0, page(40) | 1);
        for number in 0..count {
            memory.put(33, 1 + number, page(50 + number) | 8);
        }
        memory.put(33, 1 + count, 4);
        for (index, word) in jump.list.iter().enumerate() {
            memory.put(33, index, word.get());
        }
    }
    let mut headers = CoreHeaders::new();
    let ranges: Vec<_> = memory
        .contents
        .iter()
        .filter(|(_, class)| **class != PageClass::Free)
        .collect();
    let at = CoreHeaders::size_of(ranges.len() + 1);
    headers.notes(at, notes.len() as u64);
    let data = at + notes.len() as u64;
    for (range, class) in ranges {
        headers.load(Load {
            memory: range,
            offset: data + range.start().get(),
            file_size: if *class == PageClass::Zero {
                0
            } else {
                range.len()
            },
            virt: DIRECT[usize::from(spec.five)] + range.start().get(),
        });
    }
    [headers.encode(), notes, memory.bytes].concat()
}

fuzz_target!(|input: Input<'_>| {
    let mut sound = false;
    let file = match input {
        Input::Raw(file) => file.to_vec(),
        Input::Machine(spec, jump, damage) => {
            let mut file = build(&spec, jump.as_ref());
            sound = spec.is_sound()
                && damage.is_none()
                && jump.is_none_or(|jump| jump.list.is_empty())
                && spec.pages.is_empty();
            damage.apply(&mut file);
            file
        }
    };
    let limit = (16 << 20) + 100 * file.len();
    let opened = bounded(limit, || SavedFile::open(file));
    let Ok(file) = opened else {
        assert!(!sound, "{opened:?}");
        return;
    };
    let machine = file.machine;
    assert_eq!(IMAGE >> 63, 1);
    assert!(!sound || machine.raw().is_ok() && machine.seen().is_ok());
    for view in [machine.raw(), machine.seen()].into_iter().flatten() {
        memory::check(&view, false);
    }
    // What is said to be there takes time to look at, whether the file has it or not.
    if machine.memory().contents().bytes() > 64 << 20 {
        return;
    }
    let Ok(classes) = bounded(limit, || machine.classify(1)) else {
        return;
    };
    memory::check_order(&classes.raw);
    memory::check_order(&classes.seen);
    assert!(!sound || classes.unknown.is_none(), "{:?}", classes.unknown);
    for layout in [Layout::Raw, Layout::Seen] {
        let Ok((view, writer)) = machine.core(layout, &classes) else {
            continue;
        };
        let mut core = Vec::new();
        if writer.write(&view, &mut core, &mut |_| {}).is_err() {
            continue;
        }
        assert_eq!(core.len() as u64, writer.size());
        let core = Core::open(core).expect("it was just written");
        let wanted = match layout {
            Layout::Raw => &classes.raw,
            Layout::Seen => &classes.seen,
        };
        let kept = wanted.filter_map(|class| (*class != PageClass::Free).then_some(()));
        // Gaps may be filled, but nothing is lost; what is there is what was seen.
        for range in kept.ranges() {
            assert!(core.contents().covers(range), "{range} was lost");
            for piece in range.pieces(1 << 16).take(8) {
                let (mut was, mut is) = (vec![1; 4096], vec![2; 4096]);
                let len = piece.len().min(4096) as usize;
                let read = view.read(piece.start(), &mut was[..len]);
                let again = core.read(piece.start(), &mut is[..len]);
                assert!(read.is_ok() && again.is_ok());
                assert_eq!(was[..len], is[..len]);
            }
        }
    }
});
