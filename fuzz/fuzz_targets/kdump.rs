//! kdump-compressed files: pages are what was put in, or are refused.
#![no_main]

use std::collections::BTreeMap;
use std::io::Write as _;

use arbitrary::Arbitrary;
use kjump_fuzz::spec::NoteSpec;
use kjump_fuzz::{Damage, bounded, memory};
use libfuzzer_sys::fuzz_target;
use vmcore::kdump::{Codec, Dump};
use vmcore::{Memory, PAGE_SIZE, PhysAddr};

const PAGE: usize = PAGE_SIZE as usize;

/// Pages by their number, with what they hold if that is known.
type Pages = BTreeMap<u64, Option<Vec<u8>>>;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Built(DumpSpec),
    Raw(&'a [u8]),
}

#[derive(Arbitrary, Debug)]
struct DumpSpec {
    version: u8,
    pages: Vec<(u16, PageSpec)>,
    notes: Vec<NoteSpec>,
    /// How many page frames there are beyond the last page.
    more: u16,
    /// How many pages there was room for.
    room: Option<u8>,
    /// Fields of the headers: where, and what is written there.
    fields: Vec<(Field, u64)>,
    damage: Damage,
}

#[derive(Arbitrary, Clone, Debug)]
enum PageSpec {
    Zero,
    Zlib(Vec<u8>),
    Lzo(Vec<u8>),
    Snappy(Vec<u8>),
    Zstd(Vec<u8>),
    Stored(Vec<u8>),
    /// Any bytes with any flags.
    Any(Vec<u8>, u8),
    /// A descriptor that says anything.
    Descriptor(u64, u32, u32),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Field {
    Version,
    Status,
    BlockSize,
    SubBlocks,
    BitmapBlocks,
    OldPages,
    Split,
    InfoAt,
    InfoSize,
    NotesAt,
    NotesSize,
    Pages,
}

impl Field {
    /// Where it is, and how many bytes it has.
    fn place(self) -> (usize, usize) {
        match self {
            Self::Version => (8, 4),
            Self::Status => (424, 4),
            Self::BlockSize => (428, 4),
            Self::SubBlocks => (432, 4),
            Self::BitmapBlocks => (436, 4),
            Self::OldPages => (440, 4),
            Self::Split => (PAGE + 12, 4),
            Self::InfoAt => (PAGE + 32, 8),
            Self::InfoSize => (PAGE + 40, 8),
            Self::NotesAt => (PAGE + 48, 8),
            Self::NotesSize => (PAGE + 56, 8),
            Self::Pages => (PAGE + 96, 8),
        }
    }
}

/// A page that begins with these bytes.
fn page(bytes: &[u8]) -> Vec<u8> {
    let mut page = bytes.to_vec();
    page.resize(PAGE, 0x11);
    page
}

impl PageSpec {
    /// The descriptor's offset (none if the data is written), size and flags; the data; the page.
    fn build(&self) -> (Option<u64>, u32, u32, Vec<u8>, Option<Vec<u8>>) {
        let packed = |bytes: &[u8], codec: Codec| {
            let page = page(bytes);
            let (data, flag) = match codec {
                Codec::Zlib => {
                    let level = flate2::Compression::fast();
                    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), level);
                    zlib.write_all(&page).expect("to memory");
                    (zlib.finish().expect("to memory"), 1)
                }
                Codec::Lzo => (lzokay::compress::compress(&page).expect("a page"), 2),
                Codec::Snappy => {
                    let mut encoder = snap::raw::Encoder::new();
                    (encoder.compress_vec(&page).expect("a page"), 4)
                }
                Codec::Zstd => (zstd::bulk::compress(&page, 1).expect("to memory"), 0x20),
            };
            if data.len() < PAGE {
                (None, data.len() as u32, flag, data, Some(page))
            } else {
                (None, PAGE as u32, 0, page.clone(), Some(page))
            }
        };
        match self {
            Self::Zero => (None, PAGE as u32, 0, vec![0; PAGE], Some(vec![0; PAGE])),
            Self::Zlib(bytes) => packed(bytes, Codec::Zlib),
            Self::Lzo(bytes) => packed(bytes, Codec::Lzo),
            Self::Snappy(bytes) => packed(bytes, Codec::Snappy),
            Self::Zstd(bytes) => packed(bytes, Codec::Zstd),
            Self::Stored(bytes) => {
                let page = page(&bytes[..bytes.len().min(PAGE)]);
                (None, PAGE as u32, 0, page.clone(), Some(page))
            }
            Self::Any(bytes, flags) => (
                None,
                bytes.len() as u32,
                (*flags).into(),
                bytes.clone(),
                None,
            ),
            Self::Descriptor(offset, size, flags) => {
                (Some(*offset), *size, *flags, Vec::new(), None)
            }
        }
    }
}

impl DumpSpec {
    /// The file; and its pages, with what they hold if that is known. None if it is spoilt.
    fn build(&self) -> (Vec<u8>, Option<Pages>) {
        let version = u32::from(self.version % 6) + 1;
        let pages: BTreeMap<u64, &PageSpec> = self
            .pages
            .iter()
            .take(64)
            .map(|(pfn, page)| (u64::from(*pfn) % 0x4000, page))
            .collect();
        let last = pages.keys().next_back().map_or(0, |last| last + 1);
        let max_pfn = last + u64::from(self.more % 0x1000);
        let half = (max_pfn.div_ceil(8) as usize).next_multiple_of(PAGE);
        let notes: Vec<u8> = self.notes.iter().flat_map(NoteSpec::encode).collect();
        let sub = (104 + notes.len()).next_multiple_of(PAGE);
        let put = |file: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            file[at..at + bytes.len()].copy_from_slice(bytes);
        };

        let mut file = vec![0; PAGE + sub];
        put(&mut file, 0, b"KDUMP   ");
        put(&mut file, 8, &version.to_le_bytes());
        put(&mut file, 12 + 4 * 65, b"x86_64");
        let status = if self.room.is_some() { 8_u32 } else { 0 };
        put(&mut file, 424, &status.to_le_bytes());
        put(&mut file, 428, &4096_u32.to_le_bytes());
        put(&mut file, 432, &(sub as u32 / 4096).to_le_bytes());
        put(&mut file, 436, &(2 * half as u32 / 4096).to_le_bytes());
        put(&mut file, 440, &(max_pfn as u32).to_le_bytes());
        put(&mut file, PAGE + 48, &(PAGE as u64 + 104).to_le_bytes());
        put(&mut file, PAGE + 56, &(notes.len() as u64).to_le_bytes());
        put(&mut file, PAGE + 96, &max_pfn.to_le_bytes());
        put(&mut file, PAGE + 104, &notes);

        let mut bitmap = vec![0; half];
        for pfn in pages.keys() {
            bitmap[(pfn / 8) as usize] |= 1 << (pfn % 8);
        }
        file.extend_from_slice(&bitmap);
        file.extend_from_slice(&bitmap);
        let table = file.len();
        file.resize(table + 24 * pages.len(), 0);
        let mut known = BTreeMap::new();
        let mut spoilt = false;
        let room = self.room.map_or(usize::MAX, usize::from);
        for (rank, (pfn, page)) in pages.iter().enumerate().take(room) {
            let (offset, size, flags, data, holds) = page.build();
            spoilt |= holds.is_none();
            let at = table + 24 * rank;
            let offset = offset.unwrap_or(file.len() as u64);
            put(&mut file, at, &offset.to_le_bytes());
            put(&mut file, at + 8, &size.to_le_bytes());
            put(&mut file, at + 12, &flags.to_le_bytes());
            file.extend_from_slice(&data);
            known.insert(*pfn, holds);
        }
        for (field, value) in &self.fields {
            let (at, len) = field.place();
            put(&mut file, at, &value.to_le_bytes()[..len]);
        }
        spoilt |= !self.fields.is_empty() || !self.damage.is_none();
        self.damage.apply(&mut file);
        (file, (!spoilt).then_some(known))
    }
}

fuzz_target!(|input: Input<'_>| {
    let (file, known) = match input {
        Input::Built(spec) => spec.build(),
        Input::Raw(file) => (file.to_vec(), None),
    };
    // The windows and the decoders have sizes of their own.
    let limit = (16 << 20) + 400 * file.len();
    let opened = bounded(limit, || Dump::open(file.as_slice()));
    let dump = match opened {
        Ok(dump) => dump,
        Err(error) => {
            assert!(known.is_none(), "{error}");
            return;
        }
    };
    assert!(dump.contents().bytes() / PAGE_SIZE <= dump.pages());
    bounded(limit, || memory::check(&dump, known.is_some()));
    let _ = bounded(limit, || dump.vmcoreinfo());
    assert!(dump.notes().count() <= file.len());
    // Pages in an order of their own: what is kept between reads must not matter.
    let pages: Vec<u64> = dump
        .contents()
        .ranges()
        .take(20)
        .flat_map(|range| range.start().get() / PAGE_SIZE..range.end().get() / PAGE_SIZE)
        .take(100)
        .collect();
    let read = |pfn: u64, skip: usize, len: usize| {
        let mut bytes = vec![0xa5; len];
        let at = PhysAddr::new(pfn * PAGE_SIZE + skip as u64);
        dump.read(at, &mut bytes).ok().map(|()| bytes)
    };
    for pfn in pages.iter().rev() {
        let part = read(*pfn, 100, 50);
        let whole = read(*pfn, 0, PAGE);
        let again = read(*pfn, 4000, 96);
        assert_eq!(part.is_some(), whole.is_some());
        if let (Some(part), Some(whole), Some(again)) = (part, &whole, again) {
            assert!(part == whole[100..150] && again == whole[4000..]);
        }
        if let Some(known) = &known {
            let holds = known.get(pfn).expect("it was put in");
            assert!(&whole == holds, "page {pfn:#x} is something else");
        }
    }
    if let Some(known) = &known {
        assert_eq!(dump.contents().bytes() / PAGE_SIZE, known.len() as u64);
    }
});
