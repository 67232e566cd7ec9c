//! How page classification scales: time and memory for machines from 1 GiB to 1 TiB, and how long it takes
//! to open cores of up to a million segments. Both should be in proportion to the size, and the memory
//! should not depend on it.
//!
//! Each measurement is made in a process of its own, so that its peak memory is its own. The made-up
//! machines are in the directory for temporary files (`TMPDIR`); `--max-gib N` leaves out larger ones.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run shall stop")]
#![allow(clippy::print_stdout, reason = "this is how a benchmark reports")]

mod machine;

use std::env;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use vmcore::elf::{Core, CoreHeaders, Load};
use vmcore::{Classifier, Counts, PageMap, PhysAddr, PhysRange, ReadFile, SavedFile};

const SIZES: [u64; 6] = [1, 4, 16, 64, 256, 1024];
const SEGMENTS: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// How often everything is measured. The least time counts, since others may use the machine too.
const RUNS: usize = 3;

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["child", path, threads] = args[..] {
        child(Path::new(path), threads.parse().unwrap());
        return;
    }
    // Without this, it is not cargo bench, but a test of whether this runs at all.
    let bench = args.contains(&"--bench");
    let max = args.iter().skip_while(|arg| **arg != "--max-gib").nth(1);
    let max = max.map_or(if bench { 1024 } else { 1 }, |max| max.parse().unwrap());
    segments(if bench { 1_000_000 } else { 10_000 });
    machines(max);
}

/// What a child found and took.
struct Measured {
    time: Duration,
    peak_kib: u64,
    counts: Counts,
}

fn machines(max: u64) {
    let all = thread::available_parallelism().map_or(1, usize::from);
    println!("\nclassification of made-up machines, best of {RUNS} runs:");
    println!("     size  threads     seconds   ms/GiB   peak RSS");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("core");
    for gib in SIZES.into_iter().filter(|gib| *gib <= max) {
        let expected = machine::write(&File::create(&path).unwrap(), gib).unwrap();
        for threads in [1, all] {
            let runs: Vec<_> = (0..RUNS).map(|_| measure(&path, threads)).collect();
            assert!(runs.iter().all(|run| run.counts == expected));
            let time = runs.iter().map(|run| run.time).min().unwrap().as_secs_f64();
            let peak = runs.iter().map(|run| run.peak_kib).max().unwrap();
            println!(
                "{gib:5} GiB  {threads:7}  {time:10.4}  {:7.2}  {:5.1} MiB",
                time * 1e3 / gib as f64,
                peak as f64 / 1024.0
            );
        }
        fs::remove_file(&path).unwrap();
    }
}

fn measure(path: &Path, threads: usize) -> Measured {
    let output = Command::new(env::current_exe().unwrap())
        .args(["child", path.to_str().unwrap(), &threads.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<u64> = text
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    let [micros, peak_kib, total, data, zero, free] = numbers[..] else {
        panic!("{text}");
    };
    Measured {
        time: Duration::from_micros(micros),
        peak_kib,
        counts: Counts {
            total,
            data,
            zero,
            free,
        },
    }
}

/// Classifies the machine in the core at `path`, and prints what [`measure`] reads.
fn child(path: &Path, threads: usize) {
    let start = Instant::now();
    let saved = SavedFile::open(ReadFile::new(File::open(path).unwrap()).unwrap()).unwrap();
    let memory = saved.machine.seen().unwrap();
    let pages = PageMap::open(&memory, saved.machine.info().unwrap()).unwrap();
    let mut counts = Counts::default();
    Classifier::new(&memory, &pages)
        .for_each(threads, None, &mut |range, classes| {
            counts.add(range, classes);
            ControlFlow::Continue(())
        })
        .unwrap();
    let time = start.elapsed();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().split_whitespace().next().unwrap();
    let Counts {
        total,
        data,
        zero,
        free,
    } = counts;
    println!("{} {peak} {total} {data} {zero} {free}", time.as_micros());
}

/// Cores of many segments, each a page of memory with a page that is not there behind it.
fn segments(max: u64) {
    println!("cores of many segments, best of {RUNS} runs:");
    println!("segments    order   seconds   ns/segment");
    for count in SEGMENTS.into_iter().filter(|count| *count <= max) {
        for (order, step) in [("sorted", 1), ("mixed", 7_919)] {
            let file = many_segments(count, step);
            let best = (0..RUNS)
                .map(|_| {
                    let start = Instant::now();
                    let core = Core::open(&file).unwrap();
                    let time = start.elapsed();
                    assert_eq!(core.loads().len() as u64, count);
                    time
                })
                .min()
                .unwrap()
                .as_secs_f64();
            println!(
                "{count:8}  {order:>7}  {best:8.5}  {:10.0}",
                best * 1e9 / count as f64
            );
        }
    }
}

/// A core of `count` segments, where each is `step` places from the one before. All have the same bytes in
/// the file.
fn many_segments(count: u64, step: u64) -> Vec<u8> {
    let offset = CoreHeaders::size_of(count as usize);
    let mut headers = CoreHeaders::new();
    for nth in 0..count {
        let start = PhysAddr::new(nth * step % count * 2 * 4096);
        headers.load(Load {
            memory: PhysRange::from_len(start, 4096).unwrap(),
            offset,
            file_size: 4096,
            virt: 0,
        });
    }
    let mut file = headers.encode();
    file.resize(file.len() + 4096, 1);
    file
}
