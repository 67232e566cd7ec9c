//! `hibernate_vs_swsusp` and `resume_vs_swsusp`: whole hibernations in virtual machines, by kjump and by the
//! kernel. What those comparisons have in common that are made of such runs is here too.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde_json::{Map, Value, json};

use super::place::Place;
use super::ratio::{Comparison, Pairs, Spread, round};
use super::round_trip::{Bed, Guest, Way, Work, is_emulators_fault};
use super::swsusp::Compressor;
use super::{Bench, say};

/// How often one pair may be repeated, because QEMU failed.
const REPEATS: usize = 4;

/// How much the kernel may swap out without an objection, in MiB.
pub(crate) const SWAPPED_AT_MOST: u64 = 8;

/// What memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contents {
    /// 40 % filled, half of that compressible
    Mixed,
    /// 45 % filled, nothing of that compressible
    Random,
    /// 5 % filled, half of that compressible
    Free,
}

impl Contents {
    /// How much of memory is filled, and how much of that compresses, in percent.
    pub(crate) const fn percents(self) -> (u8, u8) {
        match self {
            Self::Mixed => (40, 50),
            Self::Random => (45, 0),
            Self::Free => (5, 50),
        }
    }

    /// In words.
    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Mixed => "40 % of memory filled, half of that compressible 2:1",
            Self::Random => "45 % of memory filled, incompressible",
            Self::Free => "5 % of memory filled, half of that compressible 2:1",
        }
    }

    /// The name of a comparison with these contents: that of `mixed` has no addition.
    pub(super) fn name(self, base: &str) -> String {
        match self {
            Self::Mixed => base.to_owned(),
            Self::Random => format!("{base}_random"),
            Self::Free => format!("{base}_free"),
        }
    }
}

/// What was found in one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trip {
    pub(super) hibernate: Duration,
    pub(super) resume: Duration,
    /// What kjump told of both.
    pub(super) save: Work,
    pub(super) restore: Work,
    /// What the image takes, in bytes.
    pub(super) written: u64,
    /// What was still swapped out after it, in MiB.
    pub(super) swapped: u64,
}

/// Runs of each way, in the order in which they were made.
#[derive(Default)]
struct Runs {
    ours: Vec<Trip>,
    /// Ours, resumed without a kernel before the one that restores.
    in_place: Vec<Trip>,
    theirs: [Vec<Trip>; 2],
    repeats: Vec<String>,
}

/// Compares both halves, with memory of these contents; the second one also without the boot of C.
pub(crate) fn compare(bench: &Bench<'_>, contents: Contents) -> Result<[Comparison; 3]> {
    let (guest, place) = bench.setting(contents)?;
    let bed = bench.bed(&place);
    let in_place = Way::KjumpInPlace(bench.arguments.codec.clone());
    let mut runs = Runs::default();
    for number in 0..bench.arguments.pairs {
        say!("  pair {} of {}", number + 1, bench.arguments.pairs);
        runs.add_pair(&bed, guest, [&bench.ours(), &in_place], number)?;
    }
    let terms = terms(&guest, &place);
    let resumption = |ours: &str| {
        format!(
            "Resumption, from power on until A's process runs: {}. {ours} Theirs is resumed by the kernel itself \
             (`resume=`), before any process, and its initramfs holds one program only; {terms}.",
            contents.describe(),
        )
    };
    Ok([
        runs.comparison(
            contents,
            "hibernate_vs_swsusp",
            &runs.ours,
            |trip| trip.hibernate,
            &format!(
                "Hibernation, from the command until the machine is off: {}. Ours is `kjump hibernate` (load B, jump, \
                 boot of B, save, power off). Theirs is `echo disk > /sys/power/state`, with \
                 /sys/power/image_size at its most and /sys/power/disk at `shutdown`; {terms}.",
                contents.describe(),
            ),
        ),
        runs.comparison(
            contents,
            "resume_vs_swsusp",
            &runs.ours,
            |trip| trip.resume,
            &resumption("Ours has the boots of C and D, load of D, restore, jump."),
        ),
        runs.comparison(
            contents,
            "resume_in_place_vs_swsusp",
            &runs.in_place,
            |trip| trip.resume,
            &resumption(
                "Ours has the boot of D, which QEMU starts in the window as a boot loader would (`kjump in-place`), \
                 restore, jump.",
            ),
        ),
    ])
}

/// What both have in common.
pub(super) fn terms(guest: &Guest, place: &Place) -> String {
    format!(
        "both with Linux 6.12 in QEMU (TCG), {} MiB of memory, {} CPUs that run {}, one virtio disk of {} MiB in a \
         file on {}; A's content was compared by checksum each time",
        guest.memory,
        guest.cpus,
        if guest.parallel {
            "at once"
        } else {
            "in turns"
        },
        guest.disk(),
        place.kind
    )
}

impl Runs {
    /// Runs each way once.
    fn add_pair(
        &mut self,
        bed: &Bed<'_>,
        guest: Guest,
        [ours, in_place]: [&Way; 2],
        number: u32,
    ) -> Result<()> {
        let theirs = Compressor::ALL.map(Way::Swsusp);
        let ways = [ours, in_place, &theirs[0], &theirs[1]];
        let [ours, in_place, lz4, lzo] = in_turns(bed, guest, ways, number, &mut self.repeats)?;
        self.ours.push(ours);
        self.in_place.push(in_place);
        self.theirs[0].push(lz4);
        self.theirs[1].push(lzo);
        Ok(())
    }

    fn comparison(
        &self,
        contents: Contents,
        base: &str,
        ours: &[Trip],
        time: fn(&Trip) -> Duration,
        notes: &str,
    ) -> Comparison {
        let mut pairs = Pairs::default();
        for (number, ours) in ours.iter().enumerate() {
            let theirs = self.theirs.iter().map(|runs| time(&runs[number])).min();
            pairs.add(time(ours), theirs.unwrap_or_default());
        }
        let median = |runs: &[Trip]| {
            let seconds: Vec<f64> = runs.iter().map(|trip| time(trip).as_secs_f64()).collect();
            Spread::of(&seconds).map_or(0.0, |spread| spread.median)
        };
        let [lz4, lzo] = &self.theirs;
        let notes = format!(
            "{notes} Of theirs the better of two runs counts in each pair: LZ4 took {:.2} s and LZO {:.2} s (medians).",
            median(lz4),
            median(lzo)
        );
        let mut facts = self.facts(contents, ours);
        for (compressor, runs) in Compressor::ALL.iter().zip(&self.theirs) {
            let seconds: Vec<f64> = runs
                .iter()
                .map(|trip| round(time(trip).as_secs_f64()))
                .collect();
            facts.insert(format!("theirs_{}", compressor.name()), json!(seconds));
        }
        Comparison {
            name: contents.name(base),
            pairs,
            notes,
            facts,
            objection: self.objection(),
        }
    }

    /// What the kernel swapped out before it made its image is not in its image, and not resumed.
    fn objection(&self) -> Option<String> {
        let swapped = self.swapped().filter(|mib| *mib > SWAPPED_AT_MOST)?;
        Some(format!(
            "the kernel swapped out {swapped} MiB, because its image would be more than half of memory; \
             a machine with more memory has room for it (--memory)"
        ))
    }

    /// The most that was still swapped out after a resumption, in MiB.
    fn swapped(&self) -> Option<u64> {
        self.theirs.iter().flatten().map(|trip| trip.swapped).max()
    }

    fn facts(&self, contents: Contents, ours: &[Trip]) -> Map<String, Value> {
        let name = contents.to_possible_value();
        let written = |runs: &[Trip]| runs.last().map(|trip| trip.written);
        [
            (
                "contents",
                json!(name.as_ref().map(PossibleValue::get_name)),
            ),
            ("repeats", json!(self.repeats.len())),
            ("repeated_for", json!(self.repeats)),
            ("ours_bytes", json!(written(ours))),
            ("theirs_swapped_mib", json!(self.swapped())),
            (
                "theirs_bytes",
                json!(self.theirs.iter().filter_map(|runs| written(runs)).min()),
            ),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }
}

/// Runs each of `ways` once; those of every other `number` the other way round. All of it is repeated if
/// QEMU fails, and why is added to `repeats`.
///
/// # Errors
///
/// If anything else fails, or QEMU does too often.
pub(super) fn in_turns<const N: usize>(
    bed: &Bed<'_>,
    guest: Guest,
    ways: [&Way; N],
    number: u32,
    repeats: &mut Vec<String>,
) -> Result<[Trip; N]> {
    let mut order: Vec<usize> = (0..N).collect();
    if number % 2 == 1 {
        order.reverse();
    }
    for _ in 0..=REPEATS {
        let trips: Result<Vec<(usize, Trip)>> = order
            .iter()
            .map(|&at| Ok((at, trip(bed, guest, ways[at])?)))
            .collect();
        match trips {
            Ok(mut trips) => {
                trips.sort_by_key(|(at, _)| *at);
                let trips: Vec<Trip> = trips.into_iter().map(|(_, trip)| trip).collect();
                return trips.try_into().map_err(|_| anyhow!("each way runs once"));
            }
            Err(error) if is_emulators_fault(&error) => {
                let text = format!("{error:#}");
                let why = text.lines().next().unwrap_or_default().to_owned();
                say!("  QEMU failed, once more: {why}");
                repeats.push(why);
            }
            Err(error) => return Err(error),
        }
    }
    bail!(
        "QEMU failed {} times in one pair; --single runs its CPUs in turns",
        REPEATS + 1
    )
}

fn trip(bed: &Bed<'_>, guest: Guest, way: &Way) -> Result<Trip> {
    let run = || -> Result<Trip> {
        let hibernated = bed.hibernate(guest, way)?;
        let resumed = hibernated.resume()?;
        Ok(Trip {
            hibernate: hibernated.took,
            resume: resumed.took,
            save: hibernated.save,
            restore: resumed.restore,
            written: hibernated.written,
            swapped: resumed.swapped,
        })
    };
    let trip = run().with_context(|| format!("{way}"))?;
    say!(
        "  {:13} hibernated in {:.2} s ({} MiB), resumed in {:.2} s",
        way.to_string(),
        trip.hibernate.as_secs_f64(),
        trip.written >> 20,
        trip.resume.as_secs_f64()
    );
    Ok(trip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trip(hibernate: u64, resume: u64) -> Trip {
        Trip {
            hibernate: Duration::from_secs(hibernate),
            resume: Duration::from_secs(resume),
            save: Work::default(),
            restore: Work::default(),
            written: 7 << 20,
            swapped: 0,
        }
    }

    #[test]
    fn the_better_of_theirs_counts_in_each_pair() {
        let runs = Runs {
            ours: vec![trip(2, 1), trip(2, 1)],
            in_place: Vec::new(),
            theirs: [vec![trip(6, 9), trip(4, 2)], vec![trip(8, 3), trip(2, 3)]],
            repeats: vec!["Oops: int3".to_owned()],
        };
        let hibernate = runs.comparison(
            Contents::Random,
            "hibernate",
            &runs.ours,
            |trip| trip.hibernate,
            "",
        );
        assert_eq!(hibernate.name, "hibernate_random");
        assert_eq!(hibernate.pairs.ratios(), [3.0, 1.0]);
        let resume = runs.comparison(
            Contents::Mixed,
            "resume",
            &runs.ours,
            |trip| trip.resume,
            "",
        );
        assert_eq!(resume.name, "resume");
        assert_eq!(resume.pairs.ratios(), [3.0, 2.0]);
        assert_eq!(resume.objection, None);
        let json = resume.json();
        assert_eq!(json["theirs_lz4"], json!([9.0, 2.0]));
        assert_eq!(json["theirs_lzo"], json!([3.0, 3.0]));
        assert_eq!(json["repeats"], 1);
        assert_eq!(json["contents"], "mixed");
        assert_eq!(json["ours_bytes"], 7 << 20);
    }

    #[test]
    fn what_was_swapped_out_is_objected_to() {
        let swapped = |swapped| {
            let some = Trip {
                swapped,
                ..trip(2, 2)
            };
            let runs = Runs {
                in_place: Vec::new(),
                ours: vec![trip(1, 1)],
                theirs: [vec![trip(2, 2)], vec![some]],
                repeats: Vec::new(),
            };
            runs.comparison(
                Contents::Mixed,
                "resume",
                &runs.ours,
                |trip| trip.resume,
                "",
            )
            .objection
        };
        assert_eq!(swapped(SWAPPED_AT_MOST), None);
        assert!(swapped(246).is_some_and(|text| text.contains("246 MiB")));
    }

    #[test]
    fn no_contents_fill_half_of_memory() {
        for contents in Contents::value_variants() {
            let (fill, compressible) = contents.percents();
            // The kernel's own hibernation cannot save more.
            assert!(fill < 50 && compressible <= 100);
            assert!(contents.describe().contains(&format!("{fill} %")));
        }
    }
}
