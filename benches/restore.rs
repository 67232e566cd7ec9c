//! How fast memory is restored, beside a plain copy of the same bytes in the same run.
//!
//! The core is in a file in the page cache, the target is a file on tmpfs that is mapped as `/dev/mem`
//! would be. What is of interest is the ratio of the two figures, not either alone.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run shall stop")]

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use krestore_core::{DevMem, Guard, Plan, restore};
use vmcore::elf::{Core, CoreHeaders, Load};
use vmcore::{IoMem, Memory as _, PhysRange, ReadFile};

const SIZE: u64 = 256 << 20;

/// Where the target is: a file in memory.
fn tmpfs() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() {
        shm
    } else {
        std::env::temp_dir()
    }
}

/// A core of [`SIZE`] bytes that do not repeat.
fn core_file(path: &Path) {
    let memory = PhysRange::new(0, SIZE).unwrap();
    let mut headers = CoreHeaders::new();
    headers.load(Load {
        memory,
        offset: 4096,
        file_size: SIZE,
        virt: 0,
    });
    let mut bytes = headers.encode();
    bytes.resize(4096, 0);
    let mut state = 1_u64;
    for _ in 0..SIZE / 8 {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    std::fs::write(path, bytes).unwrap();
}

fn restore_beside_copy(criterion: &mut Criterion) {
    let directory = tempfile::tempdir_in(tmpfs()).unwrap();
    let core_path = directory.path().join("core");
    core_file(&core_path);
    let memory_path = directory.path().join("memory");
    let memory = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(&memory_path)
        .unwrap();
    memory.set_len(SIZE).unwrap();

    let mut group = criterion.benchmark_group("restore");
    group.throughput(Throughput::Bytes(SIZE)).sample_size(10);
    group.bench_function("to a mapping", |bencher| {
        let core = Core::open(ReadFile::new(File::open(&core_path).unwrap()).unwrap()).unwrap();
        let guard = Guard::new(&IoMem::parse("").unwrap());
        let mut target = DevMem::open(&memory_path, guard).unwrap();
        let machine = core.contents().filter_map(|_| Some(()));
        let plan = Plan {
            machine: &machine,
            fill: None,
        };
        bencher.iter(|| restore(&core, plan, &mut target, &mut |_| {}).unwrap());
    });
    group.bench_function("memcpy", |bencher| {
        let source = std::fs::read(&core_path).unwrap();
        let mut target = vec![1_u8; SIZE as usize];
        bencher.iter(|| black_box(&mut target).copy_from_slice(&black_box(&source)[4096..]));
    });
    group.finish();
}

criterion_group!(benches, restore_beside_copy);
criterion_main!(benches);
