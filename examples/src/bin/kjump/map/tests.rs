//! Tests of the map and of both ways to draw it.

use std::time::{Duration, Instant};

use kjump::memory::image::{ImageId, Paging, Platform};
use proptest::prelude::*;

use super::svg::Svg;
use super::text::{Colours, Text};
use super::*;

fn range(start: u64, end: u64) -> PhysRange {
    PhysRange::new(start, end).unwrap()
}

/// A map of classes made from steps upwards: a gap, a length, a class.
fn pages(steps: &[(u64, u64, u8)]) -> RangeMap<PageClass> {
    let mut map = RangeMap::new();
    let mut at = 0;
    for (gap, len, class) in steps {
        let class = [PageClass::Data, PageClass::Zero, PageClass::Free][usize::from(class % 3)];
        let start = at + gap;
        at = start + len;
        map.replace(range(start, at), class);
    }
    map
}

fn subject<'a>(
    pages: &'a RangeMap<PageClass>,
    nothing: &'a RangeMap<()>,
    identity: Option<&'a Identity>,
) -> Subject<'a> {
    Subject {
        release: Some("6.12.0"),
        pages: Some(pages),
        ranges: nothing,
        identity,
        kernel: None,
    }
}

fn identity(window: PhysRange, low: RangeMap<()>, memory: RangeMap<MemoryKind>) -> Identity {
    Identity {
        id: ImageId([1; 16]),
        release: "6.12.0".to_owned(),
        build_id: Vec::new(),
        paging: Paging::FourLevel,
        window,
        low,
        memory,
        free_fill: None,
        uptime: 90_061,
        platform: Platform::default(),
        volumes: Vec::new(),
    }
}

/// A gap, a length, a class: of pages, or of any size up to addresses of 52 bits.
fn steps() -> impl Strategy<Value = Vec<(u64, u64, u8)>> {
    let length = prop_oneof![1..0x20_0000u64, (12..46u32).prop_map(|shift| 1 << shift)];
    let gap = prop_oneof![Just(0), length.clone()];
    prop::collection::vec((gap, length, 0..3u8), 0..30)
}

fn bytes_of(map: &RangeMap<PageClass>, wanted: PageClass) -> u64 {
    map.iter()
        .filter(|(_, class)| **class == wanted)
        .map(|(range, _)| range.len())
        .sum()
}

/// What the documents must be, whatever the map is.
fn check_documents(map: &Map) {
    let svg = Svg(map).to_string();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.len() < 1 << 20, "{} bytes", svg.len());
    for (colours, width) in [
        (Colours::None, 0),
        (Colours::Palette, 80),
        (Colours::True, 1 << 40),
    ] {
        let text = Text {
            map,
            width,
            colours,
        }
        .to_string();
        assert!(text.len() < 1 << 20, "{} bytes", text.len());
        assert!(colours != Colours::None || text.is_ascii());
    }
}

proptest! {
    #[test]
    fn cells_hold_every_byte_once(steps in steps(), columns in 0..8u32, max_rows in 0..100usize) {
        let pages = pages(&steps);
        let nothing = RangeMap::new();
        let map = Map::new(&subject(&pages, &nothing, None));
        for (kind, class) in [
            (Kind::Data, PageClass::Data),
            (Kind::Zero, PageClass::Zero),
            (Kind::Free, PageClass::Free),
        ] {
            prop_assert_eq!(map.totals[kind as usize], bytes_of(&pages, class));
        }
        let grid = map.grid(1 << columns, max_rows);
        prop_assert!(grid.rows.len() <= max_rows.max(2));
        let mut sums = [0; Kind::COUNT];
        for pair in grid.rows.windows(2) {
            let follows = pair[1].start - pair[0].start == grid.row_size();
            prop_assert!(pair[0].start < pair[1].start);
            prop_assert_eq!(follows, pair[1].gap.is_none());
        }
        for row in &grid.rows {
            prop_assert!(row.cells.iter().any(|cell| cell.iter().any(|bytes| *bytes > 0)));
            for (at, cell) in row.cells.iter().enumerate() {
                let start = row.start + at as u64 * grid.cell_size();
                let here = range(start, start + grid.cell_size());
                let mut expected = [0; Kind::COUNT];
                for (range, class) in pages.overlapping(here) {
                    expected[Kind::from(*class) as usize] += range.intersection(here).unwrap().len();
                }
                prop_assert_eq!(*cell, expected);
                for (sum, bytes) in sums.iter_mut().zip(cell) {
                    *sum += bytes;
                }
            }
        }
        prop_assert_eq!(sums, map.totals);
        check_documents(&map);
    }

    /// Each address has what the first of the layers gives it.
    #[test]
    fn layers_hide_what_is_below(
        top in prop::collection::vec((0..3u64, 1..4u64, 0..3u8), 0..8),
        low in prop::collection::vec((0..3u64, 1..4u64), 0..8),
        memory in prop::collection::vec((0..3u64, 1..4u64, 1..4u32), 0..8),
        window in (0..40u64, 1..20u64),
    ) {
        let pages = pages(&top);
        let window = range(window.0, window.0 + window.1);
        let (mut low_map, mut memory_map) = (RangeMap::new(), RangeMap::new());
        let mut at = 0;
        for (gap, len) in low {
            low_map.insert(range(at + gap, at + gap + len), ()).unwrap();
            at += gap + len;
        }
        let mut at = 0;
        for (gap, len, kind) in memory {
            memory_map.insert(range(at + gap, at + gap + len), MemoryKind::from_e820(kind)).unwrap();
            at += gap + len;
        }
        let identity = identity(window, low_map, memory_map);
        let nothing = RangeMap::new();
        let map = Map::new(&subject(&pages, &nothing, Some(&identity)));
        for pair in map.spans.windows(2) {
            prop_assert!(pair[0].0.end() <= pair[1].0.start());
        }
        for addr in (0..80).map(kjump::PhysAddr::new) {
            let aside = window.contains(addr) || identity.low.get(addr).is_some();
            let expected = match (pages.get(addr), identity.memory.get(addr)) {
                (Some((_, class)), _) => Some(Kind::from(*class)),
                _ if aside => Some(Kind::Aside),
                (_, Some((_, MemoryKind::Ram))) => Some(Kind::Missing),
                (_, Some(_)) => Some(Kind::Reserved),
                _ => None,
            };
            let span = map.spans.iter().find(|(range, _)| range.contains(addr));
            prop_assert_eq!(span.map(|(_, kind)| *kind), expected);
        }
        check_documents(&map);
    }

    #[test]
    fn any_vmcoreinfo_is_refused_or_read(text in "((NUMBER\\(phys_base\\)|SYMBOL\\(_stext\\)|SYMBOL\\(b\\))=-?[f0-9]{0,19}\n){0,4}") {
        let _ = kernel_image(&VmcoreInfo::parse(text.as_bytes()));
    }

    /// No text from a file makes markup, or speaks to a terminal.
    #[test]
    fn text_stays_text(release in "\\PC{0,10}([<>&\"'\\x00-\\x1f\\x7f-\\u{9f}]|\\PC){0,80}") {
        let nothing = RangeMap::new();
        let pages = pages(&[(0, 4096, 0)]);
        let mut subject = subject(&pages, &nothing, None);
        subject.release = Some(&release);
        let map = Map::new(&subject);
        let svg = Svg(&map).to_string();
        prop_assert_eq!(svg.matches('<').count(), svg.matches('>').count());
        prop_assert!(svg.chars().all(|char| char == '\n' || !char.is_control()));
        subject.release = None;
        let usual = Svg(&Map::new(&subject)).to_string();
        prop_assert_eq!(svg.matches('<').count(), usual.matches('<').count());
        let text = Text { map: &map, width: 80, colours: Colours::None }.to_string();
        prop_assert!(text.chars().all(|char| char == '\n' || !char.is_control()));
    }
}

#[test]
fn a_million_ranges_take_bounded_time_and_space() {
    for stride in [0x2000, 1 << 32] {
        let mut pages = RangeMap::new();
        for index in 0..1_000_000 {
            let class = if index % 2 == 0 {
                PageClass::Data
            } else {
                PageClass::Free
            };
            let start = index * stride;
            pages.insert(range(start, start + 0x1000), class).unwrap();
        }
        let nothing = RangeMap::new();
        let begin = Instant::now();
        let map = Map::new(&subject(&pages, &nothing, None));
        assert!(Svg(&map).to_string().len() < 1 << 20);
        assert!(begin.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn the_whole_address_space_can_be_drawn() {
    let mut pages = RangeMap::new();
    pages.insert(range(0, u64::MAX), PageClass::Data).unwrap();
    let nothing = RangeMap::new();
    let map = Map::new(&subject(&pages, &nothing, None));
    check_documents(&map);
    let grid = map.grid(64, 96);
    let sum: u64 = grid
        .rows
        .iter()
        .flat_map(|row| &row.cells)
        .map(|cell| cell[0])
        .sum();
    assert_eq!(sum, u64::MAX);
}

#[test]
fn reserved_memory_far_away_takes_no_rows() {
    let pages = pages(&[(0x1000, 64 << 20, 0)]);
    let mut memory = RangeMap::new();
    memory
        .insert(range(0xf_0000, 0x10_0000), MemoryKind::Reserved)
        .unwrap();
    memory
        .insert(range(64 << 20, 128 << 20), MemoryKind::Ram)
        .unwrap();
    memory
        .insert(range(0xfd_0000_0000, 0x100_0000_0000), MemoryKind::Reserved)
        .unwrap();
    let identity = identity(range(0x10_0000, 0x20_0000), RangeMap::new(), memory);
    let nothing = RangeMap::new();
    let map = Map::new(&subject(&pages, &nothing, Some(&identity)));
    let grid = map.grid(64, 96);
    assert!(grid.rows.last().unwrap().start < 128 << 20);
    let text = Text {
        map: &map,
        width: 80,
        colours: Colours::None,
    }
    .to_string();
    assert!(text.contains("12.0 GiB  beside memory only"), "{text}");
    assert!(text.contains("not in the file"), "{text}");
}

#[test]
fn the_kernel_lies_where_its_symbols_say() {
    let info = VmcoreInfo::parse(
        b"NUMBER(phys_base)=-16777216\nSYMBOL(_stext)=ffffffff82000000\n\
          SYMBOL(init_top_pgt)=ffffffff83a10000\nSYMBOL(mem_map)=ffff888000000000\n",
    );
    assert_eq!(kernel_image(&info), Some(range(0x100_0000, 0x2a1_1000)));
    assert_eq!(kernel_image(&VmcoreInfo::default()), None);
}
