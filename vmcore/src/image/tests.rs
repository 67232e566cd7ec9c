use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::wire::{Writer, seal};
use super::*;
use crate::elf::{Core, CoreHeaders, Load};
use crate::{
    LeaveOut, Memory as _, MemoryKind, PAGE_SIZE, PageClass, Phases, PhysAddr, PhysRange, RangeMap,
    ReadFile, Saved as Machine, SavedFile, Written,
};

const PAGE: usize = PAGE_SIZE as usize;
/// Where the machine's memory begins, in pages.
const FIRST: u64 = 256;

fn range(start: u64, end: u64) -> PhysRange {
    PhysRange::new(start, end).unwrap()
}

fn volume(device: &str, state: VolumeState) -> Volume {
    Volume {
        device: device.into(),
        used: "mounted at /".into(),
        kind: "ext4".into(),
        uuid: "0d1f1b06-6c4a-4a3b-a0a1-1f0a5c7a1234".into(),
        size: 1 << 30,
        mapping: None,
        state,
    }
}

fn mapping() -> Mapping {
    let component = |device: &str| Component {
        device: device.into(),
        kind: "lvm".into(),
        uuid: "ZBW5qW-dXF2-0bGw-ZCad-2RlV-phwu-1c1RFt".into(),
        size: 1 << 30,
    };
    let stripe = |component| Stripe {
        component,
        start: 1 << 20,
    };
    let components = vec![component("/dev/vda2"), component("/dev/vdb")];
    let striped = Segment {
        len: 512 << 20,
        chunk: 64 << 10,
        stripes: vec![stripe(0), stripe(1)],
    };
    let linear = Segment::linear(512 << 20, 1, 512 << 20);
    Mapping::new(components, vec![striped, linear]).unwrap()
}

fn identity(pages: u64) -> Identity {
    let mut low = RangeMap::new();
    low.insert(range(0x1000, 0x9f000), ()).unwrap();
    let mut memory = RangeMap::new();
    for (range, kind) in [
        (range(0x1000, 0x9f000), MemoryKind::Ram),
        (
            range(FIRST * PAGE_SIZE, (FIRST + pages) * PAGE_SIZE),
            MemoryKind::Ram,
        ),
        (range(0x4000_0000, 0x4400_0000), MemoryKind::Ram),
        (range(0xfee0_0000, 0xfee0_1000), MemoryKind::Custom(12)),
    ] {
        memory.insert(range, kind).unwrap();
    }
    Identity {
        id: ImageId(*b"0123456789abcdef"),
        release: "6.12.1-test".into(),
        build_id: vec![0xde, 0xad],
        paging: Paging::FiveLevel,
        window: range(0x4000_0000, 0x4400_0000),
        low,
        memory,
        free_fill: Some(0xaa),
        uptime: 90_061,
        platform: Platform {
            product: "Some Machine".into(),
            features: "fpu sse".into(),
            time: 1_700_000_000,
            ..Platform::default()
        },
        volumes: vec![
            volume("/dev/vda1", VolumeState::Pending),
            volume("/dev/vda2", VolumeState::Exempt),
            Volume {
                mapping: Some(mapping()),
                ..volume("/dev/dm-0", VolumeState::Pending)
            },
            volume(
                "/dev/vda3",
                VolumeState::Known {
                    digest: Digest([7; 32]),
                    written: 1_700_000_001,
                },
            ),
        ],
    }
}

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    /// Nothing that can be compressed.
    Noise,
    /// The same all over.
    Text,
    Zero,
    /// It was not saved.
    Absent,
}

fn page() -> impl Strategy<Value = Page> {
    prop_oneof![
        Just(Page::Noise),
        Just(Page::Text),
        Just(Page::Zero),
        Just(Page::Absent)
    ]
}

/// Runs of pages.
fn pages() -> impl Strategy<Value = Vec<Page>> {
    let run = (page(), prop_oneof![1..4_usize, 1..400_usize]);
    prop::collection::vec(run, 1..12).prop_map(|runs| {
        let runs = runs.into_iter();
        runs.flat_map(|(page, count)| vec![page; count]).collect()
    })
}

fn bytes_of(page: Page, number: u64) -> Vec<u8> {
    match page {
        Page::Zero | Page::Absent => vec![0; PAGE],
        Page::Text => vec![number as u8 | 1; PAGE],
        Page::Noise => {
            let mut state = number + 1;
            (0..PAGE)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                })
                .collect()
        }
    }
}

/// A machine whose memory has these pages.
fn machine(pages: &[Page]) -> Machine<Core<Vec<u8>>> {
    let mut headers = CoreHeaders::new();
    let runs: Vec<&[Page]> = pages
        .chunk_by(|a, b| (*a == Page::Absent) == (*b == Page::Absent))
        .collect();
    let stored = runs.iter().filter(|run| run[0] != Page::Absent).count();
    let mut offset = CoreHeaders::size_of(stored);
    let mut data = Vec::new();
    let mut first = FIRST;
    for run in runs {
        let len = run.len() as u64;
        if run[0] != Page::Absent {
            headers.load(Load {
                memory: range(first * PAGE_SIZE, (first + len) * PAGE_SIZE),
                offset,
                file_size: len * PAGE_SIZE,
                virt: 0xffff_8880_0000_0000 + first * PAGE_SIZE,
            });
            offset += len * PAGE_SIZE;
            for (number, page) in (first..).zip(run) {
                data.extend(bytes_of(*page, number));
            }
        }
        first += len;
    }
    let jump = Jump {
        back: PhysAddr::new(0x1234_5678),
        layout: Layout::Raw,
    };
    let core = Core::open([headers.encode(), data].concat()).unwrap();
    let identity = identity(pages.len() as u64);
    Machine::of_core(core, Some(identity), Some(jump))
}

fn save(
    pages: &[Page],
    sink: &impl Sink,
    options: Options<'_>,
) -> Result<Written, crate::WriteError> {
    let mut last = 0;
    let written =
        machine(pages).write_image(sink, options, LeaveOut::Free, &mut phases, &mut |at| {
            assert!(at.done >= last && at.done <= at.total);
            last = at.done;
        })?;
    assert_eq!(last, pages.len() as u64 * PAGE_SIZE);
    Ok(written)
}

fn phases() -> Phases {
    let mut phases = Phases::new();
    phases.push("save", std::time::Duration::from_secs(3));
    phases
}

fn options(codec: Codec, threads: usize) -> Options<'static> {
    Options {
        codec,
        threads,
        seal: None,
    }
}

const CODECS: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd(1)];

fn image_of(pages: &[Page]) -> Vec<u8> {
    let sink = Mutex::new(Vec::new());
    save(pages, &sink, options(Codec::Lz4, 2)).unwrap();
    sink.into_inner().unwrap()
}

fn stream_of(pages: &[Page]) -> Vec<u8> {
    let mut bytes = Vec::new();
    save(pages, &Stream::new(&mut bytes), options(Codec::Lz4, 2)).unwrap();
    bytes
}

/// Some of everything, in three chunks.
fn some_pages() -> Vec<Page> {
    let runs = [
        (Page::Text, 300),
        (Page::Zero, 3),
        (Page::Absent, 2),
        (Page::Noise, 20),
    ];
    let runs = runs.into_iter();
    runs.flat_map(|(page, count)| vec![page; count]).collect()
}

/// All memory of an image, in order, as those who restore read it.
fn read_all(image: &Image<impl ReadAt>) -> Result<RangeMap<PageClass>, ImageError> {
    let mut map = RangeMap::new();
    let mut reader = image.reader();
    for entry in image.index()? {
        let entry = entry?;
        let mut data = vec![0; entry.chunk.data_len() as usize];
        // In several places, as those that are restored most often are.
        let (one, two) = data.split_at_mut(entry.chunk.data_len() as usize / PAGE / 2 * PAGE);
        reader.read(&entry, &mut [one, two])?;
        for (range, class) in entry.chunk.iter() {
            map.insert(range, class).unwrap();
        }
    }
    Ok(map)
}

use crate::ReadAt;

/// Checks that `memory` is that of `pages`.
fn check_memory(memory: &dyn crate::Memory, pages: &[Page]) -> Result<(), TestCaseError> {
    for (number, page) in (FIRST..).zip(pages) {
        let at = PhysAddr::new(number * PAGE_SIZE);
        let class = memory.contents().get(at).map(|(_, class)| *class);
        let expected = match page {
            Page::Noise | Page::Text => PageClass::Data,
            Page::Zero => PageClass::Zero,
            Page::Absent => PageClass::Free,
        };
        prop_assert_eq!(class, Some(expected), "page {}", number);
        let mut bytes = [9; PAGE];
        match page {
            Page::Absent => prop_assert!(memory.read(at, &mut bytes).is_err()),
            _ => {
                memory.read(at, &mut bytes).unwrap();
                prop_assert!(bytes[..] == bytes_of(*page, number), "page {}", number);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is saved, by however many threads, to a device or a pipe, reads back in every way.
    #[test]
    fn an_image_reads_back(pages in pages(), codec in 0..3_usize, threads in 1..5_usize, piped in any::<bool>()) {
        let options = options(CODECS[codec], threads);
        let (bytes, written) = if piped {
            let mut bytes = Vec::new();
            let written = save(&pages, &Stream::new(&mut bytes), options).unwrap();
            (bytes, written)
        } else {
            let sink = Mutex::new(Vec::new());
            let written = save(&pages, &sink, options).unwrap();
            (sink.into_inner().unwrap(), written)
        };
        prop_assert!(bytes.len() as u64 <= largest_size(pages.len() as u64 * PAGE_SIZE));
        let image = Image::open(bytes.as_slice()).unwrap();
        let count = |of: &[Page]| pages.iter().filter(|page| of.contains(page)).count() as u64;
        let totals = image.totals();
        prop_assert_eq!(totals, written.totals);
        prop_assert_eq!(totals.data, count(&[Page::Noise, Page::Text]));
        prop_assert_eq!(totals.zero, count(&[Page::Zero]));
        prop_assert_eq!(totals.free, count(&[Page::Absent]));
        prop_assert_eq!(image.size(), bytes.len() as u64);
        prop_assert_eq!(image.phases(), &phases());
        prop_assert_eq!(image.identity(), &identity(pages.len() as u64));
        prop_assert_eq!(image.saved().jump_back, Some(PhysAddr::new(0x1234_5678)));
        prop_assert_eq!(image.saved().in_order, piped);
        if count(&[Page::Absent]) < pages.len() as u64 {
            prop_assert_eq!(image.direct_map(), Some(0xffff_8880_0000_0000));
        }
        let stored = image.index().unwrap().map(|entry| entry.unwrap().stored()).sum::<u64>();
        prop_assert_eq!(totals.stored, stored);
        let map = read_all(&image).unwrap();
        let memory = ImageMemory::open(image).unwrap();
        prop_assert_eq!(memory.contents(), &map);
        check_memory(&memory, &pages)?;

        let mut stream = ImageStream::open(bytes.as_slice()).unwrap();
        let mut again = RangeMap::new();
        while let Some(mut chunk) = stream.next_chunk().unwrap() {
            let mut data = vec![0; chunk.chunk.data_len() as usize];
            chunk.read(&mut [&mut data]).unwrap();
            let mut data = data.as_slice();
            for (range, class) in chunk.chunk.iter() {
                again.insert(range, class).unwrap();
                if class == PageClass::Data {
                    let (now, rest) = data.split_at(range.len() as usize);
                    let mut expected = vec![0; now.len()];
                    memory.read(range.start(), &mut expected).unwrap();
                    prop_assert!(now == expected);
                    data = rest;
                }
            }
        }
        prop_assert_eq!(again, map);
        prop_assert_eq!(stream.totals(), Some(totals));
    }

    /// An image of an image is the same machine.
    #[test]
    fn an_image_of_an_image_is_the_same(pages in pages(), codec in 0..3_usize) {
        let file = SavedFile::open(image_of(&pages)).unwrap();
        let sink = Mutex::new(Vec::new());
        file.machine.write_image(
            &sink, options(CODECS[codec], 2), LeaveOut::Free, &mut Phases::new, &mut |_| {},
        ).unwrap();
        let image = Image::open(sink.into_inner().unwrap()).unwrap();
        prop_assert_eq!(image.totals().free, file.stored.unwrap().totals.free);
        check_memory(&ImageMemory::open(image).unwrap(), &pages)?;
    }

    /// Whichever byte changes, and however, it is found before the memory is taken for whole.
    #[test]
    fn any_damage_is_noticed(at in any::<prop::sample::Index>(), by in 1..=255_u8, piped in any::<bool>()) {
        let mut bytes = if piped { stream_of(&some_pages()) } else { image_of(&some_pages()) };
        let at = at.index(bytes.len());
        bytes[at] ^= by;
        let said = (COMMIT_OFFSET + 48) as usize..RECORDS_OFFSET as usize;
        let read = Image::open(bytes.as_slice()).and_then(|image| read_all(&image));
        // Behind what the commit record says, or would say, nothing is said.
        let of_no_meaning = said.contains(&at);
        prop_assert_eq!(read.is_err(), !of_no_meaning, "byte {} of {}", at, bytes.len());
        prop_assert_eq!(read_stream(&bytes).is_err(), !of_no_meaning);
    }

    #[test]
    fn what_is_cut_short_is_never_valid(cut in any::<prop::sample::Index>(), piped in any::<bool>()) {
        let mut bytes = if piped { stream_of(&some_pages()) } else { image_of(&some_pages()) };
        let whole = bytes.len();
        bytes.truncate(cut.index(whole));
        prop_assert!(read_stream(&bytes).is_err());
        prop_assert!(Image::open(bytes.as_slice()).is_err());
        // As on a device that is larger than the image, with what was there before behind it.
        bytes.resize(whole, 0xff);
        let read = Image::open(bytes.as_slice()).and_then(|image| read_all(&image));
        prop_assert!(read.is_err());
    }

    /// A device that fails at any write leaves nothing that is taken for an image.
    #[test]
    fn what_could_not_be_written_is_never_valid(fails_at in 0..12_usize, threads in 1..4_usize, piped in any::<bool>()) {
        let sink = Failing { left: AtomicUsize::new(fails_at), written: Mutex::new(Vec::new()), piped };
        let result = save(&some_pages(), &sink, options(Codec::Lz4, threads));
        let bytes = sink.written.into_inner().unwrap();
        let opened = Image::open(bytes.as_slice());
        prop_assert_eq!(result.is_ok(), opened.is_ok());
        let failed = matches!(result, Err(crate::WriteError::Image(ImageError::Write { .. })));
        prop_assert!(result.is_ok() || failed);
        // It takes fewer writes than that.
        prop_assert!(fails_at < 11 || result.is_ok());
    }

    #[test]
    fn any_header_is_refused_or_read(junk in prop::collection::vec(any::<u8>(), 0..400)) {
        // With a right checksum, so that what stands before it is looked at.
        let mut block = Writer::default();
        block.raw(b"KJUMPIMG");
        block.u32(header::VERSION);
        block.raw(&junk);
        let _ = Header::read(&seal(block, HEADER_SIZE).unwrap());
    }

    /// Lies with right checksums do no harm, wherever they stand.
    #[test]
    fn lies_do_no_harm(record in any::<prop::sample::Index>(), at in 0..200_usize, lie in any::<[u8; 4]>()) {
        let mut bytes = image_of(&some_pages());
        let mut places = Vec::new();
        let mut offset = RECORDS_OFFSET;
        while let Ok(record) = record::Record::read(&bytes, identity(1).id, offset, None, &protection::Protection::Checksums) {
            places.push(offset);
            offset = record.next(offset).unwrap();
        }
        let offset = places[record.index(places.len())];
        let mut record = record::Record::read(&bytes, identity(1).id, offset, None, &protection::Protection::Checksums).unwrap();
        let payload = offset as usize + record::BLOCK as usize;
        let len = record::Record::padded(record.payload) as usize;
        if at < record.body.len() {
            for (byte, lie) in record.body[at..].iter_mut().zip(lie) {
                *byte ^= lie;
            }
        } else if at < len {
            for (byte, lie) in bytes[payload + at..].iter_mut().zip(lie) {
                *byte ^= lie;
            }
            record.check = protection::Protection::Checksums.payload(&mut bytes[payload..payload + len], offset);
        }
        let block = record.encode(identity(1).id, offset, &protection::Protection::Checksums);
        bytes[offset as usize..payload].copy_from_slice(&block);
        if let Ok(image) = Image::open(bytes.as_slice()) {
            let _ = read_all(&image);
            let _ = ImageMemory::open(image).map(|memory| memory.read(PhysAddr::new(FIRST * PAGE_SIZE), &mut [0; 8192]));
        }
        let _ = read_stream(&bytes);
    }
}

fn read_stream(bytes: &[u8]) -> Result<(), ImageError> {
    let mut stream = ImageStream::open(bytes)?;
    while let Some(mut chunk) = stream.next_chunk()? {
        let mut data = vec![0; chunk.chunk.data_len() as usize];
        chunk.read(&mut [&mut data])?;
    }
    Ok(())
}

/// A sink that fails after so many writes, and that syncs only what was written before.
struct Failing {
    left: AtomicUsize,
    written: Mutex<Vec<u8>>,
    piped: bool,
}

impl Sink for Failing {
    fn can_seek(&self) -> bool {
        !self.piped
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let left = |left: usize| left.checked_sub(1);
        match self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left)
        {
            Ok(_) => self.written.write_at(bytes, offset),
            Err(_) => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Each chunk says where it belongs.
#[test]
fn chunks_do_not_change_places() {
    let mut image = image_of(&[Page::Noise; 600]);
    let second = RECORDS_OFFSET as usize + 2 * PAGE + (PAGE + 256 * PAGE);
    let first = RECORDS_OFFSET as usize + 2 * PAGE - PAGE;
    let (one, two) = image.split_at_mut(second - PAGE);
    one[first..first + PAGE].swap_with_slice(&mut two[..PAGE]);
    let image = Image::open(image).unwrap();
    assert!(matches!(
        read_all(&image),
        Err(ImageError::Foreign { .. } | ImageError::Damaged { .. })
    ));
}

#[test]
fn many_parts_of_an_index_are_one() {
    // Every other page is zero, so that there are as many runs as can be.
    let pages: Vec<Page> = (0..80_000)
        .map(|number| [Page::Text, Page::Zero][number % 2])
        .collect();
    let image = Image::open(image_of(&pages)).unwrap();
    let parts = image.index().unwrap();
    assert!(format!("{}", image.totals().chunks[1]).len() > 2);
    assert_eq!(
        parts
            .map(|entry| entry.unwrap().chunk.data_len())
            .sum::<u64>(),
        40_000 * PAGE_SIZE
    );
    assert_eq!(read_all(&image).unwrap().len(), 80_000);
}

#[test]
fn a_machine_that_is_entered_nowhere_is_no_image() {
    let nowhere = Jump {
        back: PhysAddr::new(0),
        layout: Layout::Raw,
    };
    let core = Core::open(CoreHeaders::new().encode()).unwrap();
    let sink = Mutex::new(Vec::new());
    let written = Machine::of_core(core, Some(identity(1)), Some(nowhere)).write_image(
        &sink,
        options(Codec::Lz4, 1),
        LeaveOut::Free,
        &mut phases,
        &mut |_| {},
    );
    assert!(matches!(written, Err(crate::WriteError::NoJump)));
    assert_eq!(sink.into_inner().unwrap(), []);
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    // At an odd place in every character but the first, whatever a blob's greatest length is.
    let reason = format!("x{}", "é".repeat(5000));
    let failed = Mutex::new(Vec::new());
    record_failure(&identity(1), &reason, &failed).unwrap();
    match Header::read(&failed.into_inner().unwrap()).unwrap().stage {
        Stage::Failed(read) => assert!(reason.starts_with(&read) && read.len() > 4000),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_identity_that_no_header_holds_is_none() {
    let mut long = identity(1);
    for page in 0..5000 {
        let range = range((1 << 40) + page * 8192, (1 << 40) + page * 8192 + 4096);
        long.memory.insert(range, MemoryKind::Ram).unwrap();
    }
    assert_eq!(Identity::from_notes(&long.to_note()), None);
}

/// What is saved is whole pages, whatever the machine says.
#[test]
fn a_window_that_ends_anywhere_leaves_whole_pages() {
    let mut torn = identity(8);
    torn.window = range(FIRST * PAGE_SIZE + 0x1080, FIRST * PAGE_SIZE + 0x2345);
    let saved = torn.saved_memory();
    assert!(
        saved
            .ranges()
            .all(|range| range.start().is_aligned(PAGE_SIZE) && range.end().is_aligned(PAGE_SIZE))
    );
    assert!(!saved.covers(range(
        FIRST * PAGE_SIZE + 0x1000,
        FIRST * PAGE_SIZE + 0x2000
    )));
    assert!(saved.covers(range(FIRST * PAGE_SIZE, FIRST * PAGE_SIZE + 0x1000)));
}

mod fate;
mod sealed;
