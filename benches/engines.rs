//! How fast images are written, verified and restored, by one thread and by one for each CPU.
//!
//! The memory is in memory, the target of writing takes all and keeps nothing, and that of restoring is a
//! file on tmpfs that is mapped as `/dev/mem` would be. `restore_vs_memcpy` beside this says what the figures
//! of restoring are worth.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run shall stop")]

use std::fs::OpenOptions;
use std::io;
use std::sync::Mutex;
use std::thread::available_parallelism;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kjump_benches::{Pages, machine, tmpfs};
use krestore_core::{DevMem, Guard, Plan, restore_image, verify_image};
use vmcore::image::{Codec, Image, Options, Sink};
use vmcore::{IoMem, LeaveOut, Phases};

const SIZE: u64 = 128 << 20;

/// Takes all and keeps nothing.
struct Nowhere;

impl Sink for Nowhere {
    fn can_seek(&self) -> bool {
        true
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn threads() -> Vec<usize> {
    let cpus = available_parallelism().map_or(1, usize::from);
    if cpus > 1 { vec![1, cpus] } else { vec![1] }
}

fn save(criterion: &mut Criterion) {
    let machine = machine(SIZE, Pages::Half);
    let mut group = criterion.benchmark_group("save");
    group.throughput(Throughput::Bytes(SIZE)).sample_size(10);
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd(1), Codec::Zstd(3)] {
        for threads in threads() {
            let id = BenchmarkId::new(codec.to_string(), threads);
            let options = Options {
                codec,
                threads,
                seal: None,
            };
            group.bench_function(id, |bencher| {
                bencher.iter(|| {
                    machine
                        .write_image(
                            &Nowhere,
                            options,
                            LeaveOut::Free,
                            &mut Phases::new,
                            &mut |_| {},
                        )
                        .unwrap()
                });
            });
        }
    }
    group.finish();
}

fn restore(criterion: &mut Criterion) {
    let machine = machine(SIZE, Pages::Half);
    let directory = tempfile::tempdir_in(tmpfs()).unwrap();
    let memory = directory.path().join("memory");
    let file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(&memory)
        .unwrap();
    file.set_len(SIZE).unwrap();
    let target = DevMem::open(&memory, Guard::new(&IoMem::parse("").unwrap())).unwrap();
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd(1)] {
        let sink = Mutex::new(Vec::new());
        let options = Options {
            codec,
            threads: 2,
            seal: None,
        };
        machine
            .write_image(
                &sink,
                options,
                LeaveOut::Free,
                &mut Phases::new,
                &mut |_| {},
            )
            .unwrap();
        let image = Image::open(sink.into_inner().unwrap()).unwrap();
        let plan_of = image.identity().saved_memory();
        let plan = Plan {
            machine: &plan_of,
            fill: None,
        };
        for (name, verify) in [("restore", false), ("verify", true)] {
            let mut group = criterion.benchmark_group(name);
            group.throughput(Throughput::Bytes(SIZE)).sample_size(10);
            for threads in threads() {
                let id = BenchmarkId::new(codec.to_string(), threads);
                group.bench_function(id, |bencher| {
                    bencher.iter(|| {
                        if verify {
                            verify_image(&image, threads, &mut |_| {}).unwrap();
                        } else {
                            restore_image(&image, plan, &target, threads, &mut |_| {}).unwrap();
                        }
                    });
                });
            }
            group.finish();
        }
    }
}

criterion_group!(benches, save, restore);
criterion_main!(benches);
