//! Restoring beside a plain copy of the same bytes: the ratio of their times, larger is better.
//!
//! The image is a file in the page cache. The target is a file on tmpfs that is mapped as `/dev/mem` would
//! be, 16 MiB at a time, for both sides: the copy goes from memory to the same mappings, by as many
//! threads. Both sides take turns. A line `pair NAME OURS THEIRS` has the seconds of each pair, and a line
//! `ratio NAME MEDIAN MIN MAX PAIRS` the times of the copy over those of restoring. `cargo xtask bench` reads
//! both.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run shall stop")]

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, available_parallelism};
use std::time::Instant;

use kjump_benches::{Pages, machine, target, tmpfs};
use krestore_core::{DevMem, Plan, Target, restore_image};
use vmcore::image::{Codec, Image, Options};
use vmcore::{LeaveOut, Phases, PhysAddr, PhysRange, ReadFile};

const SIZE: u64 = 512 << 20;
const PAIRS: usize = 9;

fn main() {
    let directory = tempfile::tempdir_in(tmpfs()).unwrap();
    let target = target(directory.path(), SIZE);
    let threads = available_parallelism().map_or(1, usize::from);
    let source = vec![7; SIZE as usize];
    for (name, codec, pages) in [
        ("restore_vs_memcpy", Codec::None, Pages::Noise),
        ("restore_vs_memcpy_lz4", Codec::Lz4, Pages::Half),
    ] {
        let path = directory.path().join(name);
        write(&path, codec, pages);
        let image = Image::open(ReadFile::new(File::open(&path).unwrap()).unwrap()).unwrap();
        let machine = image.identity().saved_memory();
        let plan = Plan {
            machine: &machine,
            fill: None,
        };
        let restore = || {
            restore_image(&image, plan, &target, threads, &mut |_| {}).unwrap();
        };
        let copy = || copy(&source, &target, threads);
        // Once without a clock, so that all pages are there.
        restore();
        copy();
        let mut ratios: Vec<f64> = (0..PAIRS)
            .map(|pair| {
                let (ours, theirs) = if pair % 2 == 0 {
                    let ours = time(restore);
                    (ours, time(copy))
                } else {
                    let theirs = time(copy);
                    (time(restore), theirs)
                };
                println!("pair {name} {ours:.4} {theirs:.4}");
                theirs / ours
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        println!(
            "ratio {name} {:.3} {:.3} {:.3} {PAIRS}",
            ratios[PAIRS / 2],
            ratios[0],
            ratios[PAIRS - 1]
        );
        std::fs::remove_file(&path).unwrap();
    }
}

fn time(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

fn write(path: &Path, codec: Codec, pages: Pages) {
    let options = Options {
        codec,
        threads: 2,
        seal: None,
    };
    machine(SIZE, pages)
        .write_image(
            &File::create_new(path).unwrap(),
            options,
            LeaveOut::Free,
            &mut Phases::new,
            &mut |_| {},
        )
        .unwrap();
}

/// Copies all of `source` to `target`, a mapping at a time.
fn copy(source: &[u8], target: &DevMem, threads: usize) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(target.piece(), Ordering::Relaxed);
                    let end = source.len().min(at as usize + target.piece() as usize);
                    let Some(bytes) = source.get(at as usize..end) else {
                        break;
                    };
                    let range = PhysRange::from_len(PhysAddr::new(at), bytes.len() as u64);
                    let Some(range) = range else { break };
                    target.write(range, bytes).unwrap();
                }
            });
        }
    });
}
