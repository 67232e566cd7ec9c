//! What encryption costs, and what checksums do: `hibernate_sealed_vs_plain` and `resume_sealed_vs_plain`, whole
//! hibernations in virtual machines, whose CPUs are emulated; `save_sealed_vs_plain` and
//! `restore_sealed_vs_plain`, what the saving and the restoring kernel do in these, on the CPU of the host.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde_json::{Map, Value, json};

use super::hibernate::{Contents, Trip, in_turns, terms};
use super::ratio::{Comparison, Pairs, Spread, round};
use super::restore;
use super::round_trip::{Bed, Way, Work};
use super::{Bench, say};

/// Runs of each way, in the order in which they were made.
#[derive(Default)]
struct Runs {
    sealed: Vec<Trip>,
    plain: Vec<Trip>,
    repeats: Vec<String>,
}

/// The benchmark of the libraries, and what it compares.
const BENCH: &str = "sealed_vs_plain";
const RESULTS: [(&str, &str); 2] = [
    (
        "save_sealed_vs_plain",
        "Saving 512 MiB of memory to a file on tmpfs",
    ),
    (
        "restore_sealed_vs_plain",
        "Restoring 512 MiB of memory, all of it checked, from the page cache to a file on tmpfs that is mapped 16 MiB \
         at a time as /dev/mem would be",
    ),
];
const MEMORY: [(Contents, &str); 3] = [
    (Contents::Mixed, "all of it compressible 2:1"),
    (Contents::Random, "all of it incompressible"),
    (
        Contents::Free,
        "compressible 2:1, and beside it 768 MiB that are free, which are left alone, encrypted or not",
    ),
];

/// Compares the engines.
///
/// # Errors
///
/// If the benchmark fails, or does not say what it found.
pub(crate) fn compare_engines() -> Result<Vec<Comparison>> {
    let said = restore::run(BENCH)?;
    let each = RESULTS
        .iter()
        .flat_map(|result| MEMORY.map(|memory| (result, memory)));
    each.map(|((base, what), (contents, memory))| {
            let name = contents.name(base);
            let pairs = restore::pairs(&said, &name)?;
            let all = restore::seconds(&said, "pair", &name);
            let parts = restore::seconds(&said, "protection", &name);
            let share = |side: fn(&(Duration, Duration)) -> Duration| {
                let shares = parts.iter().map(side).zip(all.iter().map(side));
                let shares: Vec<f64> = shares.map(|(part, all)| part.div_duration_f64(all)).collect();
                Spread::of(&shares).map(|spread| round(spread.median))
            };
            let facts = [
                ("ours_encryption_share", json!(share(|of| of.0))),
                ("theirs_checksums_share", json!(share(|of| of.1))),
            ];
            Ok(Comparison {
                pairs,
                notes: format!(
                    "{what}: {memory}; with LZ4, by as many threads as there are CPUs. Ours is encrypted, theirs is not \
                     and has checksums. The shares are what of its time a thread encrypts, or takes checksums, \
                     medians. No boot, no jump and no device, which take the same time with encryption, are part of it."
                ),
                name,
                facts: facts
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect(),
                objection: None,
            })
        })
        .collect()
}

/// Compares both halves, with memory of these contents.
pub(crate) fn compare(bench: &Bench<'_>, contents: Contents) -> Result<[Comparison; 2]> {
    let (guest, place) = bench.setting(contents)?;
    let emulator = bench.lab.emulator()?;
    let bed = Bed {
        emulator: Some(emulator),
        ..bench.bed(&place)
    };
    let sealed = Way::KjumpSealed(bench.arguments.codec.clone());
    let mut runs = Runs::default();
    for number in 0..bench.arguments.pairs {
        say!("  pair {} of {}", number + 1, bench.arguments.pairs);
        let ways = [&sealed, &bench.ours()];
        let [sealed, plain] = in_turns(&bed, guest, ways, number, &mut runs.repeats)?;
        runs.sealed.push(sealed);
        runs.plain.push(plain);
    }
    let notes = |what: &str| {
        format!(
            "{what}: {}. Ours is encrypted with a key file, theirs is not and has checksums; all else is the same. \
             The CPU is emulated, by QEMU {}, with a call of a function for each of its instructions for AES: \
             save_sealed_vs_plain and restore_sealed_vs_plain have a real one. What saving and restoring took of \
             the time is told, and what all threads together took of that for encryption, or for checksums; {}.",
            contents.describe(),
            emulator.version("qemu-system-x86").unwrap_or_default(),
            terms(&guest, &place)
        )
    };
    Ok([
        runs.comparison(
            contents,
            "hibernate_sealed_vs_plain",
            |trip| (trip.hibernate, trip.save),
            notes("Hibernation, from the command until the machine is off"),
        ),
        runs.comparison(
            contents,
            "resume_sealed_vs_plain",
            |trip| (trip.resume, trip.restore),
            notes("Resumption, from power on until A's process runs"),
        ),
    ])
}

impl Runs {
    /// Of what `times` gives of a trip: all that it took, and what kjump told of it.
    fn comparison(
        &self,
        contents: Contents,
        base: &str,
        times: fn(&Trip) -> (Duration, Work),
        notes: String,
    ) -> Comparison {
        let mut pairs = Pairs::default();
        for (sealed, plain) in self.sealed.iter().zip(&self.plain) {
            pairs.add(times(sealed).0, times(plain).0);
        }
        let seconds = |time: Option<Duration>| time.map(|time| round(time.as_secs_f64()));
        let work = |runs: &[Trip]| -> Vec<_> {
            let took = |trip| seconds(times(trip).1.took);
            runs.iter().map(took).collect()
        };
        let protection = |runs: &[Trip]| -> Vec<_> {
            let took = |trip| seconds(times(trip).1.protection);
            runs.iter().map(took).collect()
        };
        let bytes = |runs: &[Trip]| runs.last().map(|trip| trip.written);
        let name = contents.to_possible_value();
        let facts: [(&str, Value); 9] = [
            (
                "contents",
                json!(name.as_ref().map(PossibleValue::get_name)),
            ),
            ("repeats", json!(self.repeats.len())),
            ("repeated_for", json!(self.repeats)),
            ("ours_bytes", json!(bytes(&self.sealed))),
            ("theirs_bytes", json!(bytes(&self.plain))),
            ("ours_work", json!(work(&self.sealed))),
            ("theirs_work", json!(work(&self.plain))),
            ("ours_encryption", json!(protection(&self.sealed))),
            ("theirs_checksums", json!(protection(&self.plain))),
        ];
        Comparison {
            name: contents.name(base),
            pairs,
            notes,
            facts: facts
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect::<Map<_, _>>(),
            objection: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_encryption_costs_is_a_ratio_below_one() {
        let trip = |seconds| Trip {
            hibernate: Duration::from_secs(seconds),
            resume: Duration::from_secs(2 * seconds),
            save: Work {
                took: Some(Duration::from_millis(1500)),
                protection: Some(Duration::from_millis(seconds)),
            },
            restore: Work::default(),
            written: 7 << 20,
            swapped: 0,
        };
        let runs = Runs {
            sealed: vec![trip(5), trip(8)],
            plain: vec![trip(4), trip(4)],
            repeats: Vec::new(),
        };
        let hibernate = runs.comparison(
            Contents::Random,
            "hibernate_sealed_vs_plain",
            |trip| (trip.hibernate, trip.save),
            String::new(),
        );
        assert_eq!(hibernate.name, "hibernate_sealed_vs_plain_random");
        assert_eq!(hibernate.pairs.ratios(), [0.8, 0.5]);
        let json = hibernate.json();
        assert_eq!(json["ours_work"], json!([1.5, 1.5]));
        assert_eq!(json["ours"], json!([5.0, 8.0]));
        assert_eq!(json["ours_encryption"], json!([0.005, 0.008]));
        assert_eq!(json["theirs_checksums"], json!([0.004, 0.004]));
        let resume = runs.comparison(
            Contents::Mixed,
            "resume_sealed_vs_plain",
            |trip| (trip.resume, trip.restore),
            String::new(),
        );
        assert_eq!(resume.pairs.ratios(), [0.8, 0.5]);
        assert_eq!(resume.json()["theirs_work"], json!([null, null]));
    }
}
