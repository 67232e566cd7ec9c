//! `cargo xtask bench`: what kjump does beside other tools that do the same, as ratios of times.

mod core;
mod hibernate;
mod host;
mod place;
mod plot;
mod ratio;
mod restore;
mod round_trip;
mod save;
mod scaling;
mod sealed;
mod swsusp;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use serde_json::{Value, json};

use self::hibernate::Contents;
use self::place::Place;
use self::ratio::Comparison;
use self::round_trip::{Bed, Guest, Way};
use self::save::Rival;
use crate::build::{self, Binaries};
use crate::lab::{Kernel, Lab};

/// Tells what is being done. Standard output is for results.
macro_rules! say {
    ($($word:tt)*) => { eprintln!($($word)*) };
}
use say;

/// Compare kjump with other tools, side by side, as ratios of times: larger is better for kjump
///
/// Both sides take turns, in pairs; which of them is first alternates too. Each pair gives a ratio, theirs
/// over ours; the median of these, the least and the greatest are told. Nothing else should run meanwhile:
/// the load of the machine is told with the results.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench", after_help = AFTER_HELP)]
struct Arguments {
    /// What to compare; without names, all but `scaling`
    names: Vec<String>,
    /// List what can be compared
    #[arg(long)]
    list: bool,
    /// How many pairs of runs
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Memory of the machines that hibernate, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(256..))]
    memory: u32,
    /// What their memory holds; all of these without it
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CONTENTS")]
    contents: Vec<Contents>,
    /// Number of their CPUs
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    cpus: u32,
    /// Run their CPUs in turns and not at once: slower, but QEMU never fails with `Oops: int3`
    #[arg(long)]
    single: bool,
    /// What `kjump hibernate` compresses with: none, lz4, zstd or zstd:LEVEL [default: its own choice]
    #[arg(long, value_parser = codec)]
    codec: Option<String>,
    /// Folder for disks and outputs of both sides [default: in /dev/shm if they fit, or else in target/lab]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Memory of the machines of `scaling`, in MiB
    #[arg(
        long,
        value_name = "MIB,...",
        value_delimiter = ',',
        default_value = "256,512,1024,2048,4096,8192,16384",
        value_parser = clap::value_parser!(u32).range(256..)
    )]
    sizes: Vec<u32>,
    /// How long `scaling` may take, in minutes: a size that would take longer is left out
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    budget: u64,
    /// Where `scaling` draws its picture [default: docs/scaling.svg]
    #[arg(long, value_name = "FILE.svg")]
    svg: Option<PathBuf>,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    /// Write them as JSON to a file
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show all that the machines' consoles show
    #[arg(long)]
    verbose: bool,
}

const AFTER_HELP: &str = "\
JSON: {\"version\": 1, \"host\": {\"cpus\", \"cpu\", \"memory_mib\", \"kernel\", \"load_before\", \"load_after\"},
\"comparisons\": [{\"name\", \"unit\": \"ratio\", \"pairs\", \"median\", \"min\", \"max\", \"ours\": [seconds],
\"theirs\": [seconds], \"notes\", \"objection\", ...}], \"scaling\": null or {\"points\": [...], \"notes\"},
\"failed\": [{\"name\", \"error\"}]}. An objection says what is wrong with a result, whatever its ratio.

Exit status: 0 all was measured, 1 something failed or was objected to, 2 wrong usage.";

/// Something that can be compared.
struct Entry {
    name: &'static str,
    summary: &'static str,
    work: Work,
}

/// How it is done. What is done by the same runs is done once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Save(Rival),
    Restore,
    Hibernation,
    Sealing,
    SealingEngines,
    Scaling,
}

const ENTRIES: [Entry; 11] = [
    Entry {
        name: "save_vs_makedumpfile_lzo",
        summary: "a 2 GiB core to an image with lz4, beside makedumpfile -l -d 17, with all CPUs and (_alone) with one",
        work: Work::Save(Rival::Lzo),
    },
    Entry {
        name: "save_vs_makedumpfile_zlib",
        summary: "a 2 GiB core to an image with zstd, beside makedumpfile -c -d 17, likewise",
        work: Work::Save(Rival::Zlib),
    },
    Entry {
        name: "restore_vs_memcpy",
        summary: "an image to mapped memory, beside a plain copy of the same bytes",
        work: Work::Restore,
    },
    Entry {
        name: "hibernate_vs_swsusp",
        summary: "from the command until the machine is off, beside the kernel's own hibernation",
        work: Work::Hibernation,
    },
    Entry {
        name: "resume_vs_swsusp",
        summary: "from power on until A's process runs, beside the kernel's own hibernation",
        work: Work::Hibernation,
    },
    Entry {
        name: "resume_in_place_vs_swsusp",
        summary: "the same without a first kernel: a boot loader starts the restoring one in the window",
        work: Work::Hibernation,
    },
    Entry {
        name: "save_sealed_vs_plain",
        summary: "memory to an encrypted image, beside the same without encryption",
        work: Work::SealingEngines,
    },
    Entry {
        name: "restore_sealed_vs_plain",
        summary: "an encrypted image to mapped memory, beside the same without encryption",
        work: Work::SealingEngines,
    },
    Entry {
        name: "hibernate_sealed_vs_plain",
        summary: "from the command until the machine is off, encrypted, beside the same without encryption",
        work: Work::Sealing,
    },
    Entry {
        name: "resume_sealed_vs_plain",
        summary: "from power on until A's process runs, encrypted, beside the same without encryption",
        work: Work::Sealing,
    },
    Entry {
        name: "scaling",
        summary: "all of these as memory grows, drawn as a picture; takes long, so only if it is named",
        work: Work::Scaling,
    },
];

/// What comparisons are made with.
pub(crate) struct Bench<'a> {
    lab: &'a Lab,
    binaries: &'a Binaries,
    arguments: &'a Arguments,
}

impl<'a> Bench<'a> {
    /// A machine that hibernates with memory of these contents, and a place with room for its disk.
    fn setting(&self, contents: Contents) -> Result<(Guest, Place)> {
        let guest = self.guest(self.arguments.memory, contents);
        let folder = self.arguments.folder.as_deref();
        let place = Place::choose(folder, guest.disk(), u64::from(guest.memory))?;
        Ok((guest, place))
    }

    fn guest(&self, memory: u32, contents: Contents) -> Guest {
        let (fill, compressible) = contents.percents();
        Guest {
            memory,
            cpus: self.arguments.cpus,
            parallel: !self.arguments.single,
            fill,
            compressible,
        }
    }

    fn ours(&self) -> Way {
        Way::Kjump(self.arguments.codec.clone())
    }

    fn bed<'b>(&self, place: &'b Place) -> Bed<'b>
    where
        'a: 'b,
    {
        Bed {
            lab: self.lab,
            binaries: self.binaries,
            place,
            emulator: None,
            verbose: self.arguments.verbose,
        }
    }
}

/// All that was found.
#[derive(Default)]
struct Results {
    comparisons: Vec<Comparison>,
    scaling: Option<Value>,
    failed: Vec<(&'static str, String)>,
}

/// Runs the task.
///
/// # Errors
///
/// If something could not be measured, or a result was objected to; after all else was measured.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse_from([&["bench".to_owned()], arguments].concat());
    if arguments.list {
        for entry in &ENTRIES {
            println!("{:26} {}", entry.name, entry.summary);
        }
        return Ok(());
    }
    let entries = chosen(&arguments.names).unwrap_or_else(|error| {
        let mut command = Arguments::command();
        command.error(ErrorKind::InvalidValue, error).exit()
    });
    let bench = Bench {
        lab: &Lab::set_up(&[Kernel::V6_12])?,
        binaries: &build::binaries()?,
        arguments: &arguments,
    };
    let load_before = host::load();
    let results = measure(&bench, &entries);
    let json = results.json(load_before);
    if let Some(path) = &arguments.output {
        fs::write(path, format!("{json:#}\n"))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    if arguments.json {
        println!("{json:#}");
    } else {
        for comparison in &results.comparisons {
            println!("\n{comparison}");
        }
    }
    results.verdict()
}

/// The entries of these names, in their own order.
fn chosen(names: &[String]) -> Result<Vec<&'static Entry>> {
    if let Some(name) = names
        .iter()
        .find(|name| ENTRIES.iter().all(|entry| entry.name != **name))
    {
        let all = ENTRIES.map(|entry| entry.name).join(", ");
        bail!("nothing is called {name:?}; there are: {all}");
    }
    let chosen = ENTRIES.iter().filter(|entry| match names {
        [] => entry.work != Work::Scaling,
        names => names.iter().any(|name| name == entry.name),
    });
    Ok(chosen.collect())
}

fn measure(bench: &Bench<'_>, entries: &[&'static Entry]) -> Results {
    let mut results = Results::default();
    let mut done: Vec<Work> = Vec::new();
    for entry in entries {
        if done.contains(&entry.work) {
            continue;
        }
        done.push(entry.work);
        let wanted = |name: &str| entries.iter().any(|entry| name.starts_with(entry.name));
        let started = Instant::now();
        let result = match entry.work {
            Work::Save(rival) => {
                say!("{}", entry.name);
                save::compare(bench, rival)
                    .map(|comparisons| results.comparisons.extend(comparisons))
            }
            Work::Restore => {
                say!("{}", entry.name);
                restore::compare().map(|found| results.comparisons.extend(found))
            }
            Work::Hibernation => {
                let all = [Contents::Mixed, Contents::Random, Contents::Free];
                each_contents(bench, &all, "hibernation", |contents| {
                    let both = hibernate::compare(bench, contents)?;
                    let both = both.into_iter().filter(|one| wanted(&one.name));
                    results.comparisons.extend(both);
                    Ok(())
                })
            }
            Work::SealingEngines => {
                say!("{}", entry.name);
                sealed::compare_engines().map(|found| {
                    let found = found.into_iter().filter(|one| wanted(&one.name));
                    results.comparisons.extend(found);
                })
            }
            Work::Sealing => {
                let all = [Contents::Mixed, Contents::Random];
                each_contents(bench, &all, "encryption", |contents| {
                    let both = sealed::compare(bench, contents)?;
                    let both = both.into_iter().filter(|one| wanted(&one.name));
                    results.comparisons.extend(both);
                    Ok(())
                })
            }
            Work::Scaling => scaling::measure(bench).map(|found| results.scaling = Some(found)),
        };
        if let Err(error) = result {
            say!("{} failed: {error:#}", entry.name);
            results.failed.push((entry.name, format!("{error:#}")));
        }
        say!("  {} s", started.elapsed().as_secs());
    }
    results
}

/// Does `compare` with the contents that were asked for, or with `all`.
fn each_contents(
    bench: &Bench<'_>,
    all: &[Contents],
    what: &str,
    mut compare: impl FnMut(Contents) -> Result<()>,
) -> Result<()> {
    let asked = bench.arguments.contents.as_slice();
    let contents = if asked.is_empty() { all } else { asked };
    contents.iter().try_for_each(|&contents| {
        say!("{what}: {}", contents.describe());
        compare(contents)
    })
}

impl Results {
    fn json(&self, load_before: Option<f64>) -> Value {
        let mut host = host::json();
        host["load_before"] = json!(load_before);
        host["load_after"] = json!(host::load());
        let failed = self
            .failed
            .iter()
            .map(|(name, error)| json!({"name": name, "error": error}));
        json!({
            "version": 1,
            "host": host,
            "comparisons": self.comparisons.iter().map(Comparison::json).collect::<Vec<_>>(),
            "scaling": self.scaling,
            "failed": failed.collect::<Vec<_>>(),
        })
    }

    fn verdict(&self) -> Result<()> {
        let failed = self
            .failed
            .iter()
            .map(|(name, _)| format!("{name} could not be measured"));
        let objections = self.comparisons.iter().filter_map(|comparison| {
            Some(format!(
                "{}: {}",
                comparison.name,
                comparison.objection.as_deref()?
            ))
        });
        let all: Vec<String> = failed.chain(objections).collect();
        if !all.is_empty() {
            bail!("{}", all.join("; "));
        }
        Ok(())
    }
}

/// A codec as `kjump` takes it.
fn codec(name: &str) -> Result<String, String> {
    let level = name.strip_prefix("zstd:").map(str::parse::<i32>);
    match (name, level) {
        ("none" | "lz4" | "zstd", _) | (_, Some(Ok(1..=19))) => Ok(name.to_owned()),
        _ => Err("it is none, lz4, zstd or zstd:LEVEL with a level from 1 to 19".to_owned()),
    }
}

/// A duration in words, for what is told beforehand.
fn about(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::ratio::Pairs;
    use super::*;

    fn parsed(words: &str) -> Option<Arguments> {
        Arguments::try_parse_from(words.split(' ')).ok()
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
        let arguments = parsed(
            "bench hibernate_vs_swsusp --contents random,free --codec zstd:5 --sizes 256,512",
        )
        .unwrap();
        assert_eq!(arguments.contents, [Contents::Random, Contents::Free]);
        assert_eq!(arguments.codec.as_deref(), Some("zstd:5"));
        assert_eq!(arguments.sizes, [256, 512]);
        assert_eq!(parsed("bench").unwrap().sizes.len(), 7);
        for line in [
            "bench --pairs 0",
            "bench --codec lzo",
            "bench --codec zstd:",
            "bench --codec zstd:20",
            "bench --contents full",
            "bench --sizes 64",
        ] {
            assert!(parsed(line).is_none(), "{line}");
        }
    }

    #[test]
    fn what_takes_long_has_to_be_named() {
        let names = |asked: &[&str]| {
            let asked: Vec<String> = asked.iter().map(ToString::to_string).collect();
            let chosen = chosen(&asked).ok()?;
            Some(chosen.iter().map(|entry| entry.name).collect::<Vec<_>>())
        };
        let all = names(&[]).unwrap();
        assert!(all.len() == ENTRIES.len() - 1 && !all.contains(&"scaling"));
        assert_eq!(names(&["scaling"]).unwrap(), ["scaling"]);
        assert!(names(&["scale"]).is_none());
    }

    #[test]
    fn results_have_a_shape_that_stays() {
        let mut pairs = Pairs::default();
        pairs.add(Duration::from_secs(1), Duration::from_secs(3));
        let mut results = Results::default();
        results.comparisons.push(Comparison {
            name: "save_vs_makedumpfile_lzo".to_owned(),
            pairs,
            notes: String::new(),
            facts: serde_json::Map::new(),
            objection: None,
        });
        assert!(results.verdict().is_ok());
        results.failed.push(("scaling", "no room".to_owned()));
        let json = results.json(Some(0.5));
        assert_eq!(json["version"], 1);
        assert_eq!(json["comparisons"][0]["median"], 3.0);
        assert_eq!(json["host"]["load_before"], 0.5);
        assert_eq!(json["scaling"], Value::Null);
        assert_eq!(json["failed"][0]["name"], "scaling");
        assert!(results.verdict().is_err());
        results.failed.clear();
        results.comparisons[0].objection = Some("larger".to_owned());
        assert!(
            results
                .verdict()
                .unwrap_err()
                .to_string()
                .contains("larger")
        );
    }
}
