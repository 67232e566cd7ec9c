//! Dumps that are made up.

use std::collections::BTreeMap;
use std::io::Write;

use proptest::prelude::*;

use super::super::*;
use super::{CODECS, PAGE};
use crate::PAGE_SIZE;
use crate::elf::encode_note;

/// What a dump is made of.
#[derive(Clone, Debug)]
pub(super) struct Maker {
    pub(super) version: i32,
    pub(super) codec: Option<Codec>,
    pub(super) pages: BTreeMap<u64, Vec<u8>>,
    pub(super) max_pfn: u64,
    /// How many pages are written before there is no more room.
    pub(super) room: Option<usize>,
}

impl Maker {
    pub(super) fn new(pages: BTreeMap<u64, Vec<u8>>) -> Self {
        let max_pfn = pages.keys().next_back().map_or(0, |last| last + 1);
        Self {
            version: 6,
            codec: Some(Codec::Zlib),
            pages,
            max_pfn,
            room: None,
        }
    }

    pub(super) fn make(&self) -> Vec<u8> {
        let vmcoreinfo = b"OSRELEASE=6.12.1\n";
        let notes = [
            encode_note("CORE", 1, &[7; 300]),
            encode_note("VMCOREINFO", 0, vmcoreinfo),
        ]
        .concat();
        let flags = self.codec.map_or(0, flag);
        let half = self.max_pfn.div_ceil(8).div_ceil(PAGE_SIZE);

        let mut file = vec![0; 2 * PAGE];
        file[..8].copy_from_slice(b"KDUMP   ");
        put32(&mut file, 8, self.version.unsigned_abs());
        for (index, text) in ["Linux", "host", "6.12.1", "#1 SMP", "x86_64", "(none)"]
            .iter()
            .enumerate()
        {
            file[12 + index * 65..][..text.len()].copy_from_slice(text.as_bytes());
        }
        put64(&mut file, 408, 1_700_000_000);
        put32(
            &mut file,
            424,
            flags | if self.room.is_some() { 8 } else { 0 },
        );
        put32(&mut file, 428, 4096);
        put32(&mut file, 432, 1);
        put32(&mut file, 436, u32::try_from(2 * half).unwrap());
        put64(&mut file, PAGE, 0x100_0000);
        put32(&mut file, PAGE + 8, 17);
        // Each field stands only in the versions that have it; what others read there is nonsense.
        put32(&mut file, 440, u32::MAX);
        if self.version < 6 {
            put32(&mut file, 440, u32::try_from(self.max_pfn).unwrap());
            put64(&mut file, PAGE + 96, u64::MAX);
        } else {
            put64(&mut file, PAGE + 96, self.max_pfn);
        }
        put32(&mut file, PAGE + 12, u32::from(self.version < 2));
        let notes_at = PAGE + 104;
        file[notes_at..][..notes.len()].copy_from_slice(&notes);
        let (text_at, text_len) = if self.version < 3 {
            (u64::MAX, u64::MAX)
        } else {
            (
                (notes_at + notes.len() - 20) as u64,
                vmcoreinfo.len() as u64,
            )
        };
        put64(&mut file, PAGE + 32, text_at);
        put64(&mut file, PAGE + 40, text_len);
        let (at, len) = if self.version < 4 {
            (u64::MAX, u64::MAX)
        } else {
            (notes_at as u64, notes.len() as u64)
        };
        put64(&mut file, PAGE + 48, at);
        put64(&mut file, PAGE + 56, len);

        let mut bitmap = vec![0; usize::try_from(half).unwrap() * PAGE];
        file.extend(vec![0xff; bitmap.len()]);
        for pfn in self.pages.keys() {
            bitmap[usize::try_from(pfn / 8).unwrap()] |= 1 << (pfn % 8);
        }
        file.extend(&bitmap);

        let table = file.len();
        let zero = table + self.pages.len() * 24;
        file.resize(zero + PAGE, 0);
        let room = self.room.unwrap_or(usize::MAX);
        for (rank, page) in self.pages.values().enumerate().take(room) {
            let desc = table + rank * 24;
            let packed = self.codec.map(|codec| (pack(codec, page), flag(codec)));
            let (bytes, flags) = match packed {
                Some((bytes, flags)) if bytes.len() < PAGE => (bytes, flags),
                _ => (page.clone(), 0),
            };
            let offset = if page.iter().all(|byte| *byte == 0) {
                put32(&mut file, desc + 8, 4096);
                zero
            } else {
                put32(&mut file, desc + 8, u32::try_from(bytes.len()).unwrap());
                put32(&mut file, desc + 12, flags);
                file.extend(&bytes);
                file.len() - bytes.len()
            };
            put64(&mut file, desc, offset as u64);
        }
        file
    }
}

pub(super) fn put32(file: &mut [u8], at: usize, value: u32) {
    file[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put64(file: &mut [u8], at: usize, value: u64) {
    file[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn flag(codec: Codec) -> u32 {
    match codec {
        Codec::Zlib => 1,
        Codec::Lzo => 2,
        Codec::Snappy => 4,
        Codec::Zstd => 0x20,
    }
}

pub(super) fn pack(codec: Codec, page: &[u8]) -> Vec<u8> {
    match codec {
        Codec::Zlib => {
            let mut writer =
                flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            writer.write_all(page).unwrap();
            writer.finish().unwrap()
        }
        Codec::Lzo => lzokay::compress::compress(page).unwrap(),
        Codec::Snappy => snap::raw::Encoder::new().compress_vec(page).unwrap(),
        Codec::Zstd => zstd::bulk::compress(page, 1).unwrap(),
    }
}

/// A page of random bytes, of few different bytes, or of one byte.
pub(super) fn page() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(vec![0; PAGE]),
        any::<u8>().prop_map(|byte| vec![byte; PAGE]),
        any::<u64>().prop_map(|seed| noise(seed, u64::MAX)),
        (any::<u64>(), 1..40u64).prop_map(|(seed, values)| noise(seed, values)),
        prop::collection::vec(any::<u8>(), 1..200).prop_map(|bytes| bytes
            .into_iter()
            .cycle()
            .take(PAGE)
            .collect()),
    ]
}

/// Bytes of so many values, from a small generator of numbers.
pub(super) fn noise(seed: u64, values: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..PAGE)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 20) % values) as u8
        })
        .collect()
}

pub(super) fn maker() -> impl Strategy<Value = Maker> {
    let pages = prop::collection::btree_map(
        prop_oneof![0..12u64, 60..70u64, 4090..4100u64, 9000..9003u64],
        page(),
        0..12,
    );
    (
        pages,
        1..=6i32,
        prop::sample::select(CODECS.to_vec()),
        0..70u64,
    )
        .prop_map(|(pages, version, codec, more)| {
            let mut maker = Maker::new(pages);
            maker.max_pfn += more;
            Maker {
                version,
                codec,
                ..maker
            }
        })
}
