//! How fast images are written, verified and restored, by one thread and by one for each CPU.
//!
//! The memory is in memory, the target of writing takes all and keeps nothing, and that of restoring is a
//! file on tmpfs that is mapped as `/dev/mem` would be. `restore_vs_memcpy` beside this says what the figures
//! of restoring are worth.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run shall stop")]

use std::io;
use std::sync::Mutex;
use std::thread::available_parallelism;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kjump_benches::{Pages, machine, target, tmpfs};
use krestore_core::{Plan, restore_image, verify_image};
use vmcore::image::{Codec, Image, ImageId, Options, Seal, Secret, Sink};
use vmcore::{LeaveOut, Phases};

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

/// What an image is sealed with.
fn seal(id: ImageId) -> Seal {
    Seal::new(&Secret::key(vec![7; 32]).unwrap(), id).unwrap()
}

/// What an engine is called.
fn name(codec: Codec, seal: Option<&Seal>) -> String {
    match seal {
        Some(_) => format!("{codec}, encrypted"),
        None => codec.to_string(),
    }
}

fn save(criterion: &mut Criterion) {
    let machine = machine(SIZE, Pages::Half);
    let mut group = criterion.benchmark_group("save");
    group.throughput(Throughput::Bytes(SIZE)).sample_size(10);
    let seal = seal(machine.identity().unwrap().id);
    for (codec, seal) in [
        (Codec::None, None),
        (Codec::Lz4, None),
        (Codec::Zstd(1), None),
        (Codec::Zstd(3), None),
        (Codec::None, Some(&seal)),
        (Codec::Lz4, Some(&seal)),
    ] {
        for threads in threads() {
            let id = BenchmarkId::new(name(codec, seal), threads);
            let options = Options {
                codec,
                threads,
                seal,
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
    let target = target(directory.path(), SIZE);
    let seal = seal(machine.identity().unwrap().id);
    for (codec, seal) in [
        (Codec::None, None),
        (Codec::Lz4, None),
        (Codec::Zstd(1), None),
        (Codec::None, Some(&seal)),
        (Codec::Lz4, Some(&seal)),
    ] {
        let sink = Mutex::new(Vec::new());
        let options = Options {
            codec,
            threads: 2,
            seal,
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
        let key = seal.map(|seal| &seal.key);
        let image = Image::open_with(sink.into_inner().unwrap(), key).unwrap();
        let plan_of = image.identity().saved_memory();
        let plan = Plan {
            machine: &plan_of,
            fill: None,
        };
        for (verb, verify) in [("restore", false), ("verify", true)] {
            let mut group = criterion.benchmark_group(verb);
            group.throughput(Throughput::Bytes(SIZE)).sample_size(10);
            for threads in threads() {
                let id = BenchmarkId::new(name(codec, seal), threads);
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
