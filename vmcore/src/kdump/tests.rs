mod flattened;
mod maker;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;

use proptest::prelude::*;

use self::flattened::flatten;
use self::maker::{Maker, maker, noise, pack, page, put32};
use super::*;

use crate::{Memory, MemoryError, PAGE_SIZE, PageClass, PhysAddr, PhysRange, RangeMap};

const PAGE: usize = PAGE_SIZE as usize;
const CODECS: [Option<Codec>; 5] = [
    None,
    Some(Codec::Zlib),
    Some(Codec::Lzo),
    Some(Codec::Snappy),
    Some(Codec::Zstd),
];
fn contents(pages: impl Iterator<Item = u64>) -> RangeMap<PageClass> {
    let mut map = RangeMap::new();
    for pfn in pages {
        let page = PhysRange::new(pfn * PAGE_SIZE, (pfn + 1) * PAGE_SIZE).unwrap();
        map.insert(page, PageClass::Data).unwrap();
    }
    map
}

/// Reads all that there is, whole and in parts, whatever comes of it.
fn read_all(bytes: Vec<u8>) {
    let Ok(dump) = Dump::open(bytes) else { return };
    let _ = dump.notes().count();
    let _ = dump.vmcoreinfo();
    let mut buf = vec![0; 3000];
    for range in dump.contents().ranges().take(20) {
        for piece in range.pieces(3000).take(100) {
            let len = usize::try_from(piece.len()).unwrap();
            let _ = dump.read(piece.start(), &mut buf[..len]);
        }
    }
}

/// Changes bytes, and cuts what is behind the last place.
fn mutate(
    mut bytes: Vec<u8>,
    changes: &[(prop::sample::Index, u8)],
    cut: Option<prop::sample::Index>,
) -> Vec<u8> {
    for (place, value) in changes {
        let at = place.index(bytes.len());
        bytes[at] = *value;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
    bytes
}
proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn memory_reads_back(maker in maker(), from in 0..9100 * PAGE_SIZE, len in 0..20_000usize) {
        let dump = Dump::open(maker.make()).unwrap();
        prop_assert_eq!(dump.contents(), &contents(maker.pages.keys().copied()));
        prop_assert_eq!(dump.pages(), maker.pages.len() as u64);
        prop_assert_eq!(dump.header().codec, maker.codec);
        prop_assert_eq!(dump.notes().count(), if maker.version < 4 { 0 } else { 2 });
        let release = dump.vmcoreinfo().and_then(|info| info.os_release().map(str::to_owned));
        prop_assert_eq!(release.is_some(), maker.version >= 3);
        for pfn in (0..maker.max_pfn + 3).filter(|pfn| pfn % 97 < 2 || maker.pages.range(pfn.saturating_sub(2)..=*pfn).next().is_some()) {
            let addr = PhysAddr::new(pfn * PAGE_SIZE);
            let mut bytes = vec![1; PAGE];
            match (dump.read(addr, &mut bytes), maker.pages.get(&pfn)) {
                (Ok(()), Some(page)) => prop_assert_eq!(&bytes, page),
                (Err(MemoryError::Absent { addr: at }), None) => prop_assert_eq!(at, addr),
                (read, _) => prop_assert!(false, "page {}: {:?}", pfn, read),
            }
        }
        // Any range: what is there up to the first address that is not.
        let byte = |at: u64| Some(maker.pages.get(&(at / PAGE_SIZE))?[(at % PAGE_SIZE) as usize]);
        for from in maker.pages.keys().map(|pfn| pfn * PAGE_SIZE + from % PAGE_SIZE).chain([from]) {
            let wanted: Vec<Option<u8>> = (from..from + len as u64).map(byte).collect();
            let mut bytes = vec![1; len];
            match dump.read(PhysAddr::new(from), &mut bytes) {
                Ok(()) => prop_assert_eq!(bytes.into_iter().map(Some).collect::<Vec<_>>(), wanted),
                Err(MemoryError::Absent { addr }) => {
                    let first = wanted.iter().position(Option::is_none).unwrap();
                    prop_assert_eq!(addr.get(), from + first as u64);
                }
                Err(error) => prop_assert!(false, "{:?}", error),
            }
        }
    }

    #[test]
    fn mutated_dumps_do_no_harm(
        maker in maker(),
        // Most in the headers, some anywhere.
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..30),
        headers in prop::collection::vec((prop_oneof![8..12usize, 400..464usize, PAGE..PAGE + 104], any::<u8>()), 0..3),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = mutate(maker.make(), &changes, cut);
        for (at, value) in headers {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        read_all(bytes);
    }

    #[test]
    fn damaged_pages_do_no_harm(
        codec in prop::sample::select(CODECS[1..].to_vec()),
        page in page(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in prop::option::of(any::<prop::sample::Index>()),
        other in prop::sample::select(CODECS[1..].to_vec()),
    ) {
        let mut decompressor = page::Decompressor::new();
        let whole = pack(codec.unwrap(), &page);
        let mut out = [0; PAGE];
        let _ = decompressor.page(codec.unwrap(), &mutate(whole.clone(), &changes, cut), &mut out);
        let _ = decompressor.page(other.unwrap(), &whole, &mut out);
        // What went before does not matter.
        prop_assert_eq!(decompressor.page(codec.unwrap(), &whole, &mut out), Ok(()));
        prop_assert_eq!(&out[..], &page);
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), blocks in 0..6usize) {
        prop_assert!(Dump::open(bytes.clone()).is_err());
        prop_assert!(Flattened::open(bytes.clone()).is_err());
        let mut dump = [b"KDUMP   ".to_vec(), bytes.clone()].concat();
        dump.resize(dump.len() + blocks * PAGE, 0);
        read_all(dump);
        let mut flat = flatten(&[]);
        flat.truncate(PAGE);
        flat.extend(&bytes);
        let _ = Flattened::open(flat);
        let mut decompressor = page::Decompressor::new();
        for codec in CODECS.into_iter().flatten() {
            let _ = decompressor.page(codec, &bytes, &mut [0; PAGE]);
        }
    }
}

/// Some pages that are all different, and that all codecs make smaller.
fn pages(pfns: impl IntoIterator<Item = u64>) -> BTreeMap<u64, Vec<u8>> {
    pfns.into_iter()
        .map(|pfn| (pfn, [&noise(pfn + 1, 20)[..PAGE / 2]; 2].concat()))
        .collect()
}

#[test]
fn the_header_tells_of_the_kernel() {
    let dump = Dump::open(Maker::new(pages(0..3)).make()).unwrap();
    assert_eq!(
        dump.header(),
        &Header {
            version: 6,
            nodename: "host".into(),
            release: "6.12.1".into(),
            build: "#1 SMP".into(),
            machine: "x86_64".into(),
            timestamp: 1_700_000_000,
            block_size: 4096,
            codec: Some(Codec::Zlib),
            incomplete: false,
            dump_level: 17,
            phys_base: 0x100_0000,
            max_pfn: 3,
        }
    );
    assert_eq!(dump.note("CORE", 1).unwrap().desc, [7; 300]);
}

/// The encoders above are from the same crates as the decoders. These pages were made by zlib 1.2.13,
/// LZO 2.10 (`lzo1x_1_compress`), snappy 1.1.9 and zstd 1.5.4, as makedumpfile calls them.
#[test]
fn pages_of_the_reference_encoders_are_read() {
    let page: Vec<u8> = (0..4096u32)
        .map(|at| if at & 1 == 1 { (at >> 9) * 37 } else { (at >> 8) % 3 } as u8)
        .collect();
    let packed = [
        (
            Codec::Zlib,
            "7801e5c1010100200803c16d64a10c652c6319cb90c5207f27b159ec697635bb873dc3aec3eec39ecbae\
             cbeec79ec7ae65f7b2a7d855ec1ffb7913ae",
        ),
        (
            Codec::Lzo,
            "02000000000020da1200010020dd0600022520dd0600002520dd0600014a20dd0600024a20dd0600006f\
             20dd0600016f20dd0600029420dd0600009420dd060001b920dd060002b920dd060000de20dd060001de\
             20dd0600020320dd0600000320cb04000f000300030003000300030003000300030003110000",
        ),
        (
            Codec::Snappy,
            "80200000fe0100fe0100fe0100fa01000001fe0200fe0200fe0200fa0200040225fe0200fe0200fe0200\
             f602000000fe0200fe0200fe0200fa020004014afe0200fe0200fe0200f602000002fe0200fe0200fe02\
             00fa020004006ffe0200fe0200fe0200f602000001fe0200fe0200fe0200fa0200040294fe0200fe0200\
             fe0200f602000000fe0200fe0200fe0200fa02000401b9fe0200fe0200fe0200f602000002fe0200fe02\
             00fe0200fa02000400defe0200fe0200fe0200f602000001fe0200fe0200fe0200fa0200040203fe0200\
             fe0200fe0200f602000000fe0200fe0200fe0200fa0200",
        ),
        (
            Codec::Zstd,
            "28b52ffd60000ff50100c0000001022500014a02006f0102940001b90200de0102030010042b7c20f600\
             f980ed41e303b107c8076c0f1a1f883d403e607bd0f840ec01f2736c0fda",
        ),
    ];
    let mut decompressor = page::Decompressor::new();
    for (codec, hex) in packed {
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        let mut out = [0; PAGE];
        assert_eq!(decompressor.page(codec, &bytes, &mut out), Ok(()));
        assert_eq!(&out[..], page, "{codec:?}");
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let file = Maker::new(pages(0..3)).make();
    let refusal = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        Dump::open(file).unwrap_err()
    };
    assert!(matches!(
        refusal(0, b"DISKDUMP"),
        DumpError::NotKdump { .. }
    ));
    assert!(matches!(
        refusal(0, b"makedumpfile\0\0\0\0"),
        DumpError::Flattened
    ));
    assert!(matches!(
        refusal(12 + 4 * 65, b"ppc64\0"),
        DumpError::OtherMachine { machine } if machine == "ppc64"
    ));
    assert!(matches!(
        refusal(8, &[7]),
        DumpError::Version { version: 7, .. }
    ));
    assert!(matches!(refusal(8, &[0]), DumpError::Version { .. }));
    assert!(matches!(
        refusal(429, &[0, 1]),
        DumpError::BlockSize { size: 0x1_0000 }
    ));
    assert!(matches!(
        refusal(PAGE + 12, &[1]),
        DumpError::Split { start: 0, end: 0 }
    ));
    assert!(matches!(refusal(424, &[3]), DumpError::Malformed { .. }));
    assert!(matches!(refusal(432, &[0]), DumpError::Malformed { .. }));
    assert!(matches!(refusal(436, &[1]), DumpError::Malformed { .. }));
    assert!(matches!(
        refusal(437, &[1]),
        DumpError::Truncated {
            what: "the bitmap",
            ..
        }
    ));
    // More page frames than the bitmap has bits, and more than there are.
    assert!(matches!(
        refusal(PAGE + 98, &[1]),
        DumpError::Malformed { .. }
    ));
    assert!(matches!(
        refusal(PAGE + 103, &[1]),
        DumpError::Malformed { .. }
    ));
    assert!(matches!(
        refusal(PAGE + 60, &[1]),
        DumpError::Truncated {
            what: "the notes",
            ..
        }
    ));
}

#[test]
fn truncated_dumps_are_named_with_the_offset() {
    let file = Maker::new(pages(0..3)).make();
    let size = file.len() as u64;
    for len in [100, 4100, 3 * PAGE, 4 * PAGE + 71, file.len() - 1] {
        let error = Dump::open(file[..len].to_vec()).unwrap_err();
        let DumpError::Truncated { end, size: at, .. } = error else {
            panic!("{len} bytes: {error}")
        };
        assert_eq!(at, len as u64);
        assert!(at < end && end <= size, "{len} bytes: {error}");
    }
}

#[test]
fn an_incomplete_dump_is_read_as_far_as_it_goes() {
    let all = pages([1, 2, 3, 8, 9, 10, 4096, 4097]);
    for room in 0..=all.len() {
        let maker = Maker {
            room: Some(room),
            ..Maker::new(all.clone())
        };
        let dump = Dump::open(maker.make()).unwrap();
        assert!(dump.header().incomplete);
        assert_eq!(dump.contents(), &contents(all.keys().copied().take(room)));
        for (rank, (pfn, page)) in all.iter().enumerate() {
            let mut bytes = vec![0; PAGE];
            let read = dump.read(PhysAddr::new(pfn * PAGE_SIZE), &mut bytes);
            if rank < room {
                read.unwrap();
                assert_eq!(&bytes, page);
            } else {
                assert!(matches!(read, Err(MemoryError::Absent { .. })));
            }
        }
    }
}

#[test]
fn a_damaged_page_is_named_and_others_are_read() {
    let mut maker = Maker::new(pages(0..3));
    for codec in CODECS.into_iter().flatten() {
        maker.codec = Some(codec);
        let mut file = maker.make();
        let desc = 4 * PAGE + 24;
        let size = u32::from_le_bytes(file[desc + 8..][..4].try_into().unwrap());
        put32(&mut file, desc + 8, size - 9);
        let dump = Dump::open(file).unwrap();
        let mut bytes = vec![0; 2 * PAGE];
        let error = dump.read(PhysAddr::new(0), &mut bytes).unwrap_err();
        let MemoryError::Read { addr, source } = error else {
            panic!("{error}")
        };
        assert_eq!(addr.get(), PAGE_SIZE);
        assert!(
            source.to_string().contains("does not decompress"),
            "{source}"
        );
        dump.read(PhysAddr::new(2 * PAGE_SIZE), &mut bytes[..PAGE])
            .unwrap();
        assert_eq!(bytes[..PAGE], maker.pages[&2]);
    }
}

#[test]
fn descriptors_that_cannot_be_right_are_refused() {
    let file = Maker::new(pages(0..5000)).make();
    let dump = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        let desc = 4 * PAGE + 24 * 3;
        file[desc + at..][..bytes.len()].copy_from_slice(bytes);
        let dump = Dump::open(file).unwrap();
        let error = dump
            .read(PhysAddr::new(3 * PAGE_SIZE), &mut [0; 8])
            .unwrap_err();
        let MemoryError::Read { source, .. } = error else {
            panic!("{error}")
        };
        source.to_string()
    };
    assert!(dump(7, &[0x7f]).contains("truncated"));
    assert!(dump(0, &[0xff; 8]).contains("truncated"));
    assert!(dump(8, &[0; 4]).contains("0 bytes"));
    assert!(dump(8, &[1, 0x10]).contains("4097 bytes"));
    assert!(dump(8, &[0xff; 4]).contains("cannot be right"));
    assert!(dump(12, &[3]).contains("flags"));
    // Not compressed, but no whole page.
    assert!(dump(12, &[0]).contains("bytes"));
}

/// A source that counts how often it is read.
struct Counted {
    bytes: Vec<u8>,
    reads: Cell<usize>,
}

impl ReadAt for Counted {
    fn size(&self) -> u64 {
        self.bytes.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.set(self.reads.get() + 1);
        self.bytes.read_exact_at(buf, offset)
    }
}

#[test]
fn small_reads_in_order_read_the_file_in_large_pieces() {
    let maker = Maker::new(pages(0..2000));
    let dump = Dump::open(Counted {
        bytes: maker.make(),
        reads: Cell::new(0),
    })
    .unwrap();
    let before = dump.source().reads.get();
    for at in (0..2000 * PAGE_SIZE).step_by(512) {
        dump.read(PhysAddr::new(at), &mut [0; 512]).unwrap();
    }
    let reads = dump.source().reads.get() - before;
    assert!(reads < 40, "{reads} reads");
}
