//! How long it takes to leave free and zero pages out of a core, beside makedumpfile on the same core.
//!
//! ```text
//! cargo bench -p kjump-benches --bench makedumpfile -- --core PATH [--makedumpfile COMMAND] [--runs N]
//! ```
//!
//! Both tell all pages apart and write those that are neither free nor zero to `/dev/null`. makedumpfile
//! runs as `-d 17`, in its own format, as ELF, and in its own format with a thread for each CPU. The same
//! work of ours is done with the file read and with it mapped; telling pages apart alone is measured too.
//! All take turns, so that what else the machine does meets all of them.
#![allow(
    unsafe_code,
    reason = "mapping a file is a promise that nobody changes it"
)]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run shall stop")]
#![allow(clippy::print_stdout, reason = "this is how a benchmark reports")]

use std::env;
use std::fs::{File, OpenOptions};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use vmcore::image::Layout;
use vmcore::{Classifier, Counts, MappedFile, PageMap, ReadFile, SavedFile};

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [child, way, work, path] = &args[..]
        && child == "child"
    {
        ours(way, work, Path::new(path));
        return;
    }
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let Some(core) = value("--core") else {
        println!("nothing was measured: this needs --core PATH, the core of a real machine");
        return;
    };
    let makedumpfile = value("--makedumpfile").unwrap_or_else(|| "makedumpfile".to_owned());
    let runs = value("--runs").map_or(5, |runs| runs.parse().unwrap());
    compare(&core, &makedumpfile, runs);
}

/// One thing that is measured.
struct Contender {
    name: String,
    program: String,
    args: Vec<String>,
    seconds: Vec<f64>,
}

fn compare(core: &str, makedumpfile: &str, runs: usize) {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let own = env::current_exe().unwrap().to_str().unwrap().to_owned();
    let contender = |name: &str, program: &str, args: &str| Contender {
        name: name.to_owned(),
        program: program.to_owned(),
        args: args.split(' ').map(str::to_owned).collect(),
        seconds: Vec::new(),
    };
    let theirs = |options: &str| {
        let args = format!("--message-level 0 -f {options} {core} /dev/null");
        contender(&format!("makedumpfile {options}"), makedumpfile, &args)
    };
    let ours = |way: &str, work: &str| {
        let args = format!("child {way} {work} {core}");
        contender(&format!("ours, {work}, {way}"), &own, &args)
    };
    let mut all = [
        theirs("-d 17"),
        theirs("-E -d 17"),
        theirs(&format!("-d 17 --num-threads {threads}")),
        ours("read", "write"),
        ours("mapped", "write"),
        ours("read", "classify"),
        ours("mapped", "classify"),
    ];
    // The first run brings the core into the page cache, and counts for nobody.
    for run in 0..=runs {
        for contender in &mut all {
            let start = Instant::now();
            let output = Command::new(&contender.program)
                .args(&contender.args)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let seconds = start.elapsed().as_secs_f64();
            assert!(output.status.success(), "{}: {output:?}", contender.name);
            if run == 0 {
                print!("{}", String::from_utf8_lossy(&output.stdout));
            } else {
                contender.seconds.push(seconds);
            }
        }
    }
    println!("\n{runs} runs in turn, {threads} CPUs, seconds:");
    println!("    min   median      max");
    for contender in &mut all {
        contender.seconds.sort_by(f64::total_cmp);
        let [min, median, max] = three(&contender.seconds);
        println!("{min:7.3}  {median:7.3}  {max:7.3}   {}", contender.name);
    }
    let best = all[..3]
        .iter()
        .min_by(|a, b| a.seconds[0].total_cmp(&b.seconds[0]))
        .unwrap();
    println!("\nhow many times as long `{}` takes:", best.name);
    println!("  by min  by median   by max");
    for contender in &all[3..] {
        let ours = three(&contender.seconds);
        let [min, median, max]: [f64; 3] =
            std::array::from_fn(|at| three(&best.seconds)[at] / ours[at]);
        println!("{min:8.2}  {median:9.2}  {max:7.2}   {}", contender.name);
    }
}

/// The least, the median and the greatest of `sorted`.
fn three(sorted: &[f64]) -> [f64; 3] {
    [
        sorted[0],
        sorted[sorted.len() / 2],
        sorted[sorted.len() - 1],
    ]
}

/// Does `work` on the core at `path`, and says what was in it.
fn ours(way: &str, work: &str, path: &Path) {
    let file = File::open(path).unwrap();
    let saved = match way {
        // SAFETY: who runs the benchmark leaves the core as it is.
        "mapped" => SavedFile::open(unsafe { MappedFile::new(file) }.unwrap()).unwrap(),
        _ => SavedFile::open(ReadFile::new(file).unwrap()).unwrap(),
    };
    let machine = saved.machine;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut counts = Counts::default();
    let mut size = 0;
    if work == "write" {
        let classes = machine.classify(threads).unwrap();
        assert!(classes.unknown.is_none(), "{:?}", classes.unknown);
        counts = classes.counts();
        let (memory, writer) = machine.core(Layout::Seen, &classes).unwrap();
        let mut sink = OpenOptions::new().write(true).open("/dev/null").unwrap();
        writer.write(&memory, &mut sink, &mut |_| {}).unwrap();
        size = writer.size();
    } else {
        let memory = machine.seen().unwrap();
        let pages = PageMap::open(&memory, machine.info().unwrap()).unwrap();
        Classifier::new(&memory, &pages)
            .for_each(threads, None, &mut |range, classes| {
                counts.add(range, classes);
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    println!("{way} {work}: {counts:?}, {size} bytes written");
}
