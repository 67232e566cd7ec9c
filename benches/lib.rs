//! Benchmarks of the libraries; see the files beside this one. `cargo bench` runs them.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run shall stop")]

use std::fs::File;
use std::path::{Path, PathBuf};

use krestore_core::{DevMem, Guard};
use vmcore::elf::{Core, CoreHeaders, Load};
use vmcore::image::{Identity, ImageId, Jump, Layout, Paging, Platform};
use vmcore::{IoMem, MemoryKind, PAGE_SIZE, PhysAddr, PhysRange, RangeMap, Saved};

/// Where files in memory are made.
#[must_use]
pub fn tmpfs() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() {
        shm
    } else {
        std::env::temp_dir()
    }
}

/// What memory is restored to: a file of `size` bytes in `directory`, any of which may be written.
///
/// # Panics
///
/// If it cannot be made.
#[must_use]
pub fn target(directory: &Path, size: u64) -> DevMem {
    let path = directory.join("memory");
    let file = File::create_new(&path).unwrap();
    file.set_len(size).unwrap();
    DevMem::open(&path, Guard::new(&IoMem::parse("").unwrap())).unwrap()
}

/// What the pages of a made-up machine hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Nothing that can be compressed.
    Noise,
    /// What LZ4 makes half as large: half a page of noise, and half a page of one byte.
    Half,
}

/// A machine with `size` bytes of memory outside its window, none of them zero or free.
///
/// # Panics
///
/// If `size` is not a multiple of the size of a page.
#[must_use]
pub fn machine(size: u64, pages: Pages) -> Saved<Core<Vec<u8>>> {
    machine_with_free(size, 0, pages)
}

/// The same with `free` bytes of memory behind that which are free.
///
/// # Panics
///
/// As [`machine`].
#[must_use]
pub fn machine_with_free(size: u64, free: u64, pages: Pages) -> Saved<Core<Vec<u8>>> {
    let end = size + free;
    let window = PhysRange::new(end, end + (64 << 20)).unwrap();
    let ram = PhysRange::new(0, window.end().get()).unwrap();
    let mut memory = RangeMap::new();
    memory.replace(ram, MemoryKind::Ram);
    let identity = Identity {
        id: ImageId([7; 16]),
        release: "6.12.0-made-up".to_owned(),
        build_id: vec![7; 20],
        paging: Paging::FourLevel,
        window,
        low: RangeMap::new(),
        memory,
        free_fill: None,
        uptime: 1,
        platform: Platform::default(),
        volumes: Vec::new(),
    };
    let jump = Jump {
        back: PhysAddr::new(0x1000),
        layout: Layout::Raw,
    };
    let mut headers = CoreHeaders::new();
    headers.load(Load {
        memory: PhysRange::new(0, size).unwrap(),
        offset: PAGE_SIZE,
        file_size: size,
        virt: 0,
    });
    let mut bytes = headers.encode();
    bytes.resize(PAGE_SIZE as usize, 0);
    let mut state = 1_u64;
    let mut noise = |words: u64, bytes: &mut Vec<u8>| {
        for _ in 0..words {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
    };
    for page in 0..size / PAGE_SIZE {
        let words = PAGE_SIZE / 8;
        match pages {
            Pages::Noise => noise(words, &mut bytes),
            Pages::Half => {
                noise(words / 2, &mut bytes);
                bytes.resize(bytes.len() + (PAGE_SIZE / 2) as usize, page as u8);
            }
        }
    }
    Saved::of_core(Core::open(bytes).unwrap(), Some(identity), Some(jump))
}
