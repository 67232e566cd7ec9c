//! Saving and restoring of encrypted images beside the same of plain ones: the ratio of their times, larger
//! is better.
//!
//! Images are files on tmpfs, which saving writes anew, and which are in memory when they are restored. The
//! target is a file on tmpfs that is mapped as `/dev/mem` would be. Those named `_free` are of a machine of whose
//! memory only 40 % are filled: all else is left alone, whether the image was encrypted or not. Both sides
//! compress with LZ4, by as many threads as there are CPUs, and take turns. A line `pair NAME OURS THEIRS` has the seconds of each pair, ours
//! with encryption, and a line `protection NAME OURS THEIRS` what the threads took of that for encryption and
//! for checksums, in seconds of each thread. `cargo xtask bench` reads both.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run shall stop")]

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use kjump_benches::{Pages, machine_with_free, target, tmpfs};
use krestore_core::{DevMem, Plan, restore_image};
use vmcore::elf::Core;
use vmcore::image::{Codec, Image, Options, Seal, Secret};
use vmcore::{LeaveOut, Phases, ReadFile, Saved};

const SIZE: u64 = 512 << 20;
const FREE: u64 = SIZE / 2 * 3;
const PAIRS: usize = 9;

/// What a run took: from its beginning to its end, and what of that was protection, of each thread.
struct Took {
    all: f64,
    protection: f64,
}

fn main() {
    let directory = tempfile::tempdir_in(tmpfs()).unwrap();
    let target = target(directory.path(), SIZE + FREE);
    let threads = available_parallelism().map_or(1, usize::from);
    for (contents, pages, free) in [
        ("", Pages::Half, 0),
        ("_random", Pages::Noise, 0),
        ("_free", Pages::Half, FREE),
    ] {
        let machine = machine_with_free(SIZE, free, pages);
        let secret = Secret::key(vec![7; 32]).unwrap();
        let seal = Seal::new(&secret, machine.identity().unwrap().id).unwrap();
        let (sealed, plain) = (
            directory.path().join("sealed"),
            directory.path().join("plain"),
        );
        in_turns(
            &format!("save_sealed_vs_plain{contents}"),
            || save(&machine, &sealed, Some(&seal), threads),
            || save(&machine, &plain, None, threads),
        );
        in_turns(
            &format!("restore_sealed_vs_plain{contents}"),
            || restore(&sealed, Some(&seal), &target, threads),
            || restore(&plain, None, &target, threads),
        );
    }
}

/// Runs both sides in pairs, and tells of each.
fn in_turns(name: &str, ours: impl Fn() -> Took, theirs: impl Fn() -> Took) {
    // Once without a clock, so that all pages are there.
    ours();
    theirs();
    for pair in 0..PAIRS {
        let (ours, theirs) = if pair % 2 == 0 {
            let ours = ours();
            (ours, theirs())
        } else {
            let theirs = theirs();
            (ours(), theirs)
        };
        println!("pair {name} {:.4} {:.4}", ours.all, theirs.all);
        println!(
            "protection {name} {:.4} {:.4}",
            ours.protection, theirs.protection
        );
    }
}

fn took(started: Instant, protection: Duration, threads: usize) -> Took {
    Took {
        all: started.elapsed().as_secs_f64(),
        protection: protection.as_secs_f64() / threads as f64,
    }
}

fn save(machine: &Saved<Core<Vec<u8>>>, path: &Path, seal: Option<&Seal>, threads: usize) -> Took {
    // What is there already is written over, as on a device.
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .unwrap();
    let options = Options {
        codec: Codec::Lz4,
        threads,
        seal,
    };
    let started = Instant::now();
    let written = machine
        .write_image(
            &file,
            options,
            LeaveOut::Free,
            &mut Phases::new,
            &mut |_| {},
        )
        .unwrap();
    took(started, written.protection, threads)
}

fn restore(path: &Path, seal: Option<&Seal>, target: &DevMem, threads: usize) -> Took {
    let started = Instant::now();
    let source = ReadFile::new(File::open(path).unwrap()).unwrap();
    let image = Image::open_with(source, seal.map(|seal| &seal.key)).unwrap();
    let machine = image.identity().saved_memory();
    let plan = Plan {
        machine: &machine,
        fill: image.identity().free_fill,
    };
    restore_image(&image, plan, target, threads, &mut |_| {}).unwrap();
    took(started, image.protection_took(), threads)
}
