//! A small machine, its core, and files that hold what a test wants.

use std::fs;

use kjump::PhysRange;
use kjump::memory::elf::{CoreHeaders, Load};
use kjump::memory::image::{Identity, ImageId, Paging, Platform};
use kjump::memory::{MemoryKind, RangeMap};

pub(crate) fn range(start: u64, end: u64) -> PhysRange {
    PhysRange::new(start, end).unwrap()
}

/// A machine with memory up to 2 MiB, the end of which is its window.
pub(crate) fn identity(release: &str, window: PhysRange) -> Identity {
    let low = range(0x1000, 0x9f000);
    let (mut lows, mut memory) = (RangeMap::new(), RangeMap::new());
    lows.insert(low, ()).unwrap();
    memory.insert(low, MemoryKind::Ram).unwrap();
    memory
        .insert(range(0x10_0000, 0x20_0000), MemoryKind::Ram)
        .unwrap();
    Identity {
        id: ImageId([3; 16]),
        release: release.to_owned(),
        build_id: vec![0xab, 0xcd],
        paging: Paging::FiveLevel,
        window,
        low: lows,
        memory,
        free_fill: None,
        uptime: 90_061,
        platform: Platform::default(),
        volumes: Vec::new(),
    }
}

/// A core of `memory` with these notes. The first `data` bytes of it are in the file, none of them zero; the
/// others are zero.
pub(crate) fn core(notes: &[u8], memory: PhysRange, data: u64) -> Vec<u8> {
    let mut headers = CoreHeaders::new();
    headers.notes(4096, notes.len() as u64);
    headers.load(Load {
        memory,
        offset: 8192,
        file_size: data,
        virt: 0,
    });
    let mut core = headers.encode();
    core.resize(4096, 0);
    core.extend(notes);
    assert!(core.len() <= 8192);
    core.resize(8192, 0);
    core.resize(8192 + usize::try_from(data).unwrap(), 0x5a);
    core
}

/// Writes `bytes` to a file of a new directory.
pub(crate) fn file(bytes: &[u8]) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}
