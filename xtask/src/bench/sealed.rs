//! `hibernate_sealed_vs_plain` and `resume_sealed_vs_plain`: whole hibernations in virtual machines, with an
//! image that is encrypted and with one that is not.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde_json::{Map, Value, json};

use super::hibernate::{Contents, Trip, in_turns, terms};
use super::place::Place;
use super::ratio::{Comparison, Pairs, round};
use super::round_trip::Way;
use super::{Bench, say};

/// Runs of each way, in the order in which they were made.
#[derive(Default)]
struct Runs {
    sealed: Vec<Trip>,
    plain: Vec<Trip>,
    repeats: Vec<String>,
}

/// Compares both halves, with memory of these contents.
pub(crate) fn compare(bench: &Bench<'_>, contents: Contents) -> Result<[Comparison; 2]> {
    let guest = bench.guest(bench.arguments.memory, contents);
    let place = Place::choose(
        bench.arguments.folder.as_deref(),
        guest.disk(),
        u64::from(guest.memory),
    )?;
    let bed = bench.bed(&place);
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
             The CPU is emulated, and has no fast instructions for encryption: see `save_sealed_vs_plain` for a \
             CPU that has; {}.",
            contents.describe(),
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
    /// Of what `times` gives of a trip: all that it took, and what saving or restoring took of it.
    fn comparison(
        &self,
        contents: Contents,
        base: &str,
        times: fn(&Trip) -> (Duration, Option<Duration>),
        notes: String,
    ) -> Comparison {
        let mut pairs = Pairs::default();
        for (sealed, plain) in self.sealed.iter().zip(&self.plain) {
            pairs.add(times(sealed).0, times(plain).0);
        }
        let work = |runs: &[Trip]| -> Vec<Option<f64>> {
            let seconds = |trip| Some(round(times(trip).1?.as_secs_f64()));
            runs.iter().map(seconds).collect()
        };
        let bytes = |runs: &[Trip]| runs.last().map(|trip| trip.written);
        let facts: [(&str, Value); 7] = [
            (
                "contents",
                json!(
                    contents
                        .to_possible_value()
                        .as_ref()
                        .map(PossibleValue::get_name)
                ),
            ),
            ("repeats", json!(self.repeats.len())),
            ("repeated_for", json!(self.repeats)),
            ("ours_bytes", json!(bytes(&self.sealed))),
            ("theirs_bytes", json!(bytes(&self.plain))),
            ("ours_save_or_restore", json!(work(&self.sealed))),
            ("theirs_save_or_restore", json!(work(&self.plain))),
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
            save: Some(Duration::from_millis(1500)),
            restore: None,
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
        assert_eq!(json["ours_save_or_restore"], json!([1.5, 1.5]));
        assert_eq!(json["ours"], json!([5.0, 8.0]));
        let resume = runs.comparison(
            Contents::Mixed,
            "resume_sealed_vs_plain",
            |trip| (trip.resume, trip.restore),
            String::new(),
        );
        assert_eq!(resume.pairs.ratios(), [0.8, 0.5]);
        assert_eq!(resume.json()["theirs_save_or_restore"], json!([null, null]));
    }
}
