//! `scaling`: how time grows with memory, by each tool that can do it.

use std::cell::OnceCell;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::hibernate::{Contents, SWAPPED_AT_MOST};
use super::place::Place;
use super::plot::{Panel, Plot, Series};
use super::ratio::round;
use super::round_trip::{Bed, Guest, Resumed, SMALL_WINDOW, Way, is_emulators_fault};
use super::save::{self, Rival};
use super::swsusp::Compressor;
use super::{Bench, about, host, say};
use crate::workspace;

/// How long the first point is taken to need: a fixed part, and for each GiB.
const FIRST_GUESS: (u64, u64) = (60, 90);

/// How often a run is tried, since QEMU fails now and then.
const ATTEMPTS: usize = 3;

/// What is measured at each point, by its name in JSON; the text is for the picture.
const CURVES: [Curve; 6] = [
    curve(
        "kjump_hibernate",
        Side::Loop,
        "kjump: hibernate",
        OURS,
        false,
    ),
    curve("kjump_resume", Side::Loop, "kjump: resume", OURS, true),
    curve(
        "swsusp_hibernate",
        Side::Loop,
        "swsusp (LZ4): hibernate",
        THEIRS,
        false,
    ),
    curve(
        "swsusp_resume",
        Side::Loop,
        "swsusp (LZ4): resume",
        THEIRS,
        true,
    ),
    curve(
        "kjump_convert",
        Side::Tool,
        "kjump convert (lz4)",
        OURS,
        false,
    ),
    curve(
        "makedumpfile",
        Side::Tool,
        "makedumpfile -l -d 17",
        THEIRS,
        false,
    ),
];

const OURS: &str = "#0060a8";
const THEIRS: &str = "#c04a00";

/// A line of the picture.
struct Curve {
    name: &'static str,
    side: Side,
    title: &'static str,
    colour: &'static str,
    dashed: bool,
}

/// With how many threads makedumpfile is faster, once that was tried at the first point.
type Threads = OnceCell<Option<usize>>;

/// Which half of the picture it is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Loop,
    Tool,
}

const fn curve(
    name: &'static str,
    side: Side,
    title: &'static str,
    colour: &'static str,
    dashed: bool,
) -> Curve {
    Curve {
        name,
        side,
        title,
        colour,
        dashed,
    }
}

/// What was found for one size of memory: seconds, in the order of [`CURVES`].
#[derive(Clone, Debug)]
struct Point {
    memory: u32,
    /// What the image takes, in bytes.
    written: u64,
    seconds: [Option<f64>; CURVES.len()],
    /// What the kernel had swapped out for its image to be small enough, in MiB.
    swapped: Option<u64>,
    /// Why some could not be measured.
    missing: Vec<String>,
}

/// Measures all sizes, and draws the picture.
pub(crate) fn measure(bench: &Bench<'_>) -> Result<Value> {
    let contents = *bench.arguments.contents.first().unwrap_or(&Contents::Mixed);
    let mut sizes = bench.arguments.sizes.clone();
    sizes.sort_unstable();
    sizes.dedup();
    let largest = *sizes.last().context("no sizes are given")?;
    // For all of them the same, so that what changes is memory alone.
    let place = place(bench, &bench.guest(largest, contents))?;
    let budget = Duration::from_secs(bench.arguments.budget * 60);
    let started = Instant::now();
    let mut points = Vec::new();
    let mut skipped = Vec::new();
    let mut last = None;
    let threads: Threads = OnceCell::new();
    for memory in sizes {
        let estimate = estimate(last, memory);
        let left = budget.saturating_sub(started.elapsed());
        say!(
            "scaling: {memory} MiB takes about {}, {} are left",
            about(estimate),
            about(left)
        );
        if estimate > left {
            say!("  left out; --budget MINUTES gives it more time");
            skipped.push(memory);
            continue;
        }
        let point_started = Instant::now();
        let guest = bench.guest(memory, contents);
        points.push(point(bench, &place, guest, &threads));
        last = Some((memory, point_started.elapsed()));
    }
    ensure!(
        !points.is_empty(),
        "no size fits into the time that is given; --budget MINUTES gives more"
    );
    let svg = bench
        .arguments
        .svg
        .clone()
        .unwrap_or_else(|| workspace().join("docs/scaling.svg"));
    let picture = plot(&points, contents).svg();
    fs::write(&svg, picture).with_context(|| format!("writing {}", svg.display()))?;
    say!("drawn to {}", svg.display());
    Ok(json!({
        "unit": "seconds",
        "points": points.iter().map(Point::json).collect::<Vec<_>>(),
        "left_out_mib": skipped,
        "notes": notes(bench, contents, &place.kind, threads.into_inner().flatten()),
    }))
}

fn notes(bench: &Bench<'_>, contents: Contents, kind: &str, threads: Option<usize>) -> String {
    format!(
        "One run each; {}. hibernate and resume: whole loops as in hibernate_vs_swsusp, {} CPUs that run {}, swsusp with \
         LZ4, and below 512 MiB a window of {SMALL_WINDOW} for kjump. kjump_convert and makedumpfile: on the host, with {} CPUs, the image of the same machine as an ELF core \
         (which has no free and zero pages any more) to an image with lz4, and by `makedumpfile -l -d 17` \
         ({}). Files on {kind}.",
        contents.describe(),
        bench.arguments.cpus,
        if bench.arguments.single {
            "in turns"
        } else {
            "at once"
        },
        host::cpus(),
        match threads {
            Some(threads) => format!("--num-threads {threads}"),
            None => "without threads of its own".to_owned(),
        },
    )
}

/// For a disk, a core and an output, all of them as large as the filled memory, or a bit larger.
fn place(bench: &Bench<'_>, guest: &Guest) -> Result<Place> {
    let filled = u64::from(guest.memory) * u64::from(guest.fill) / 100 + 256;
    Place::choose(
        bench.arguments.folder.as_deref(),
        3 * filled,
        u64::from(guest.memory),
    )
}

/// How long a point with so much memory takes, by what the last one took. It grows no faster than memory.
fn estimate(last: Option<(u32, Duration)>, memory: u32) -> Duration {
    match last {
        Some((before, took)) => took.mul_f64((f64::from(memory) / f64::from(before)).max(1.0)),
        None => {
            let (fixed, per_gib) = FIRST_GUESS;
            Duration::from_secs(fixed + per_gib * u64::from(memory) / 1024)
        }
    }
}

fn point(bench: &Bench<'_>, place: &Place, guest: Guest, threads: &Threads) -> Point {
    let bed = bench.bed(place);
    let mut point = Point {
        memory: guest.memory,
        written: 0,
        swapped: None,
        seconds: [None; CURVES.len()],
        missing: Vec::new(),
    };
    let found = patiently(|| {
        let hibernated = bed.hibernate(guest, &bench.ours())?;
        point.written = hibernated.written;
        // The image is looked at while it is whole: resuming it marks it as used.
        let tools = tools(bench, place, &hibernated.disk, threads);
        Ok((hibernated.took, hibernated.resume()?.took, tools))
    });
    match found {
        Ok((hibernate, resume, tools)) => {
            point.record("kjump_hibernate", Ok(hibernate));
            point.record("kjump_resume", Ok(resume));
            match tools {
                Ok([convert, makedumpfile]) => {
                    point.record("kjump_convert", convert);
                    point.record("makedumpfile", makedumpfile);
                }
                Err(error) => {
                    let why = format!("core of the image: {error:#}");
                    point.missing.push(why);
                }
            }
        }
        Err(error) => point.missing.push(format!("kjump: {error:#}")),
    }
    match patiently(|| swsusp(&bed, guest)) {
        Ok((hibernate, resumed)) => {
            point.record("swsusp_hibernate", Ok(hibernate));
            point.record("swsusp_resume", Ok(resumed.took));
            point.swapped = Some(resumed.swapped);
        }
        Err(error) => point.missing.push(format!("swsusp: {error:#}")),
    }
    for (curve, seconds) in CURVES.iter().zip(point.seconds) {
        match seconds {
            Some(seconds) => say!("  {:24} {seconds:.2} s", curve.title),
            None => say!("  {:24} not measured", curve.title),
        }
    }
    for why in &point.missing {
        say!("  {why}");
    }
    point
}

fn swsusp(bed: &Bed<'_>, guest: Guest) -> Result<(Duration, Resumed)> {
    let hibernated = bed.hibernate(guest, &Way::Swsusp(Compressor::Lz4))?;
    Ok((hibernated.took, hibernated.resume()?))
}

/// Times of `kjump convert` and of makedumpfile on what the image holds.
fn tools(
    bench: &Bench<'_>,
    place: &Place,
    image: &Path,
    threads: &Threads,
) -> Result<[Result<Duration>; 2]> {
    let kjump = &bench.binaries.kjump;
    let core = save::core_of(kjump, image, place.path("core"))?;
    let output = place.path("output");
    let ours = save::ours(kjump, "lz4", &core, &output);
    let theirs = bench.lab.tools().and_then(|tools| {
        let threads = match threads.get() {
            Some(threads) => *threads,
            None => {
                let better = save::better_threads(tools, Rival::Lzo, &core, &output)?;
                *threads.get_or_init(|| better)
            }
        };
        save::theirs(tools, Rival::Lzo, threads, &core, &output)
    });
    fs::remove_file(&core).context("removing the core")?;
    Ok([ours, theirs].map(|result| result.map(|written| written.took)))
}

/// Runs `run` again if QEMU is to blame for its failure.
fn patiently<T>(mut run: impl FnMut() -> Result<T>) -> Result<T> {
    let mut attempts = 1;
    loop {
        match run() {
            Err(error) if attempts < ATTEMPTS && is_emulators_fault(&error) => {
                say!("  QEMU failed, once more");
                attempts += 1;
            }
            result => return result,
        }
    }
}

impl Point {
    /// Takes down how long the curve `name` took here, or why it has no point.
    fn record(&mut self, name: &str, took: Result<Duration>) {
        match took {
            Err(error) => self.missing.push(format!("{name}: {error:#}")),
            Ok(took) => {
                for (curve, seconds) in CURVES.iter().zip(&mut self.seconds) {
                    if curve.name == name {
                        *seconds = Some(took.as_secs_f64());
                    }
                }
            }
        }
    }

    fn json(&self) -> Value {
        let mut object = json!({
            "memory_mib": self.memory,
            "image_bytes": self.written,
            "swsusp_swapped_mib": self.swapped,
            "missing": self.missing,
        });
        for (curve, seconds) in CURVES.iter().zip(self.seconds) {
            object[curve.name] = json!(seconds.map(round));
        }
        object
    }
}

/// What one has to know to read the picture.
fn subtitle(points: &[Point], contents: Contents) -> String {
    let swapped = points
        .iter()
        .filter(|point| point.swapped.is_some_and(|mib| mib > SWAPPED_AT_MOST));
    let swapped: Vec<String> = swapped.map(|point| point.memory.to_string()).collect();
    let mut text = format!("{}; both axes are logarithmic", contents.describe());
    if !swapped.is_empty() {
        let swapped = swapped.join(", ");
        text.push_str(&format!("; swsusp had to swap out at {swapped} MiB"));
    }
    text
}

/// The picture of these points.
fn plot(points: &[Point], contents: Contents) -> Plot {
    let panel = |side: Side, title: &str| Panel {
        title: title.to_owned(),
        x_label: "memory of the machine".to_owned(),
        y_label: "seconds".to_owned(),
        series: CURVES
            .iter()
            .enumerate()
            .filter(|(_, curve)| curve.side == side)
            .map(|(number, curve)| Series {
                name: curve.title.to_owned(),
                colour: curve.colour,
                dashed: curve.dashed,
                points: points
                    .iter()
                    .filter_map(|point| Some((f64::from(point.memory), point.seconds[number]?)))
                    .collect(),
            })
            .collect(),
    };
    Plot {
        title: "Time as memory grows".to_owned(),
        subtitle: subtitle(points, contents),
        panels: vec![
            panel(
                Side::Loop,
                "Whole hibernation in a virtual machine, boots included",
            ),
            panel(Side::Tool, "Saving the same pages on the host"),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(memory: u32) -> Point {
        Point {
            memory,
            written: u64::from(memory) << 19,
            swapped: None,
            seconds: [None; CURVES.len()],
            missing: vec!["swsusp: no room".to_owned()],
        }
    }

    #[test]
    fn what_was_not_measured_is_null_and_not_drawn() {
        let mut point = point(512);
        point.record("kjump_resume", Ok(Duration::from_millis(2500)));
        point.record("makedumpfile", Err(anyhow::anyhow!("no tool")));
        let json = point.json();
        assert_eq!(json["kjump_resume"], 2.5);
        assert_eq!(json["swsusp_resume"], Value::Null);
        assert_eq!(json["memory_mib"], 512);
        assert_eq!(
            json["missing"],
            json!(["swsusp: no room", "makedumpfile: no tool"])
        );
        let plot = plot(&[point], Contents::Mixed);
        let drawn: Vec<_> = plot
            .panels
            .iter()
            .flat_map(|panel| &panel.series)
            .filter(|series| !series.points.is_empty())
            .collect();
        assert_eq!(drawn.len(), 1);
        assert_eq!(drawn[0].points, [(512.0, 2.5)]);
        assert!(drawn[0].dashed && drawn[0].name.contains("resume"));
    }

    #[test]
    fn the_picture_tells_where_the_kernel_swapped() {
        let mut points = [256, 512, 1024].map(point);
        assert!(!subtitle(&points, Contents::Mixed).contains("swap"));
        (points[0].swapped, points[1].swapped, points[2].swapped) = (Some(91), Some(94), Some(0));
        assert!(
            subtitle(&points, Contents::Mixed).contains("swsusp had to swap out at 256, 512 MiB")
        );
    }

    #[test]
    fn estimates_grow_with_memory() {
        let minute = Duration::from_secs(60);
        assert_eq!(estimate(Some((512, minute)), 2048), 4 * minute);
        assert_eq!(estimate(Some((512, minute)), 512), minute);
        assert!(estimate(None, 16384) > estimate(None, 256));
    }

    #[test]
    fn only_qemu_is_given_another_chance() {
        let mut runs = 0;
        let result = patiently(|| {
            runs += 1;
            ensure!(runs == 3, "a crash: Oops: int3: 0000 [#1]");
            Ok(())
        });
        assert!(result.is_ok());
        let mut runs = 0;
        let result: Result<()> = patiently(|| {
            runs += 1;
            ensure!(runs > 3, "the guest failed");
            Ok(())
        });
        assert!(result.is_err() && runs == 1);
    }
}
