//! `cargo xtask faults`: the power fails at many moments of a save and a resume.
//!
//! Each time QEMU is killed, and the machine boots again: either it resumes, and then all of A must be
//! as it was, or it refuses to and boots normally, which it may only where the image was not complete yet,
//! or A had already gone on. In the end its file system must be sound.
//!
//! Of every two cuts, one leaves on the disks all that was written until then, in order; the other one
//! leaves only what was flushed, as a disk does whose cache is lost with the power. What lies between, that
//! some of what was not flushed is written, in any order, is not tried.

use std::collections::HashMap;
use std::fs::{self, File};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use crate::course::{Boot, Course};
use crate::judge::{UNCHANGED, is_unchanged};
use crate::lab::Lab;
use crate::qemu::Vm;
use crate::run::{Parts, Run, Runner};
use crate::settings::Settings;
use crate::transcript::Transcript;
use crate::{build, disk, runs_folder, scenario};

/// Cut the power at many moments, and judge what becomes of the machine
#[derive(Parser)]
#[command(name = "cargo xtask faults", bin_name = "cargo xtask faults")]
struct Arguments {
    /// Number of moments
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    cuts: u32,
    /// Skip the first so many of them
    #[arg(long, default_value_t = 0)]
    first: u32,
    /// What the moments are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Memory of the machines in MiB
    #[arg(long, default_value_t = 384, value_parser = clap::value_parser!(u32).range(256..))]
    memory: u32,
    /// Machines that run at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    jobs: u32,
}

/// How long a boot may take.
const LIMIT: Duration = Duration::from_secs(180);

/// A part of the course in which the power may fail.
struct Span {
    /// Whether it is a part of the boot in which A is resumed, and not of that in which it is saved.
    resume: bool,
    /// Text of the line that it begins with.
    from: &'static str,
    /// Text of the line that it ends with.
    to: &'static str,
    /// The part of it that counts, in thousandths; beyond 1000 it goes on after its end.
    part: (u64, u64),
    /// How many of 20 moments are in it.
    share: usize,
}

static SPANS: [Span; 8] = [
    // B boots.
    span(
        false,
        "kjump: jumping to the saving kernel",
        "kjump: saving",
        (0, 1000),
        2,
    ),
    // It saves.
    span(false, "kjump: saving", "kjump: saved", (0, 1000), 3),
    // It commits the image.
    span(false, "kjump: saving", "kjump: saved", (850, 1050), 3),
    // It powers off.
    span(false, "kjump: saved", "reboot: Power down", (0, 1000), 1),
    // C checks the image, and marks it with an attempt; D boots.
    span(true, "lab: ready=", "kjump: restoring", (0, 1000), 3),
    // D restores.
    span(
        true,
        "kjump: restoring",
        "kjump: memory restored",
        (0, 1000),
        3,
    ),
    // It marks the image, and jumps.
    span(
        true,
        "kjump: memory restored",
        "kjump: resumed",
        (0, 300),
        3,
    ),
    // A goes on.
    span(
        true,
        "kjump: jumping back",
        "reboot: Power down",
        (100, 900),
        2,
    ),
];

const fn span(
    resume: bool,
    from: &'static str,
    to: &'static str,
    part: (u64, u64),
    share: usize,
) -> Span {
    Span {
        resume,
        from,
        to,
        part,
        share,
    }
}

/// When the power fails: so many thousandths of a span after its beginning.
#[derive(Clone, Copy)]
struct Moment {
    number: u32,
    span: &'static Span,
    at: u64,
    /// Whether the disks lose what was not flushed.
    loses: bool,
}

/// The moments: of each span its share, in turns, so that any few of them in a row are of all kinds.
fn moments(cuts: u32, seed: u64) -> Vec<Moment> {
    let turns: Vec<&'static Span> = SPANS
        .iter()
        .flat_map(|span| (0..span.share).map(move |turn| (turn * 20 / span.share, span)))
        .fold(Vec::new(), |mut turns, turn| {
            turns.push(turn);
            turns.sort_by_key(|(turn, _)| *turn);
            turns
        })
        .into_iter()
        .map(|(_, span)| span)
        .collect();
    // Marsaglia's xorshift, which must not begin with 0.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..cuts)
        .zip(turns.iter().cycle())
        .map(|(number, span)| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let (start, end) = span.part;
            Moment {
                number,
                span,
                at: start + (state >> 16) % (end - start),
                // Not in step with the spans, of which there are 20 in turn.
                loses: (number + number / 20) % 2 == 1,
            }
        })
        .collect()
}

/// How a cut ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// A went on, as it was.
    Resumed,
    /// The machine refused the image and booted normally.
    Booted,
}

/// A machine that was saved, to be resumed again and again.
struct Saved {
    parts: Parts,
    transcript: Transcript,
    /// How long each span takes.
    spans: Vec<Duration>,
}

struct Faults<'a> {
    runner: Runner<'a>,
    run: Run,
}

/// Runs the task.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse_from([&["faults".to_owned()], arguments].concat());
    let mut scenario = scenario::find("loop")?;
    scenario.course = Course::Loop;
    let mut run = Run::of(scenario);
    run.label = "faults".to_owned();
    run.settings = Settings {
        memory: arguments.memory,
        fill: 25,
        cpus: 1,
        ..Settings::default()
    };
    let faults = Faults {
        runner: Runner {
            lab: &Lab::set_up(&[run.settings.kernel])?,
            binaries: &build::binaries()?,
            keep: false,
            verbose: false,
        },
        run,
    };
    let saved = faults.save().context("a loop without any fault")?;
    let moments = moments(arguments.cuts, arguments.seed);
    let moments = moments.into_iter().skip(arguments.first as usize);
    faults.cut_all(&saved, moments, arguments.jobs)
}

impl Faults<'_> {
    /// Cuts the power at all of `moments`, and tells how each ended.
    fn cut_all(
        &self,
        saved: &Saved,
        moments: impl Iterator<Item = Moment> + Send,
        jobs: u32,
    ) -> Result<()> {
        let moments = Mutex::new(moments);
        let ends: Mutex<Vec<Option<End>>> = Mutex::default();
        let starved = Mutex::new(0);
        thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while let Some(moment) = moments.lock().ok().and_then(|mut all| all.next()) {
                        let mut result = self.cut(saved, moment);
                        let late = |error: &anyhow::Error| {
                            let text = format!("{error:#}");
                            text.contains("detected stall") || text.contains("not done after")
                        };
                        if result.as_ref().is_err_and(late) {
                            *starved.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                            println!("{:4} the emulator stood still; once more", moment.number);
                            result = self.cut(saved, moment);
                        }
                        let (word, more) = match &result {
                            Ok((end, why)) => (format!("{end:?}").to_lowercase(), why.clone()),
                            Err(error) => ("WRONG".to_owned(), format!("{error:#}")),
                        };
                        println!(
                            "{:4} {:>4} thousandths from {:?} to {:?}: {word} {more}",
                            moment.number, moment.at, moment.span.from, moment.span.to
                        );
                        let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
                        ends.push(result.ok().map(|(end, _)| end));
                    }
                });
            }
        });
        let ends = ends.into_inner().unwrap_or_else(PoisonError::into_inner);
        let count = |wanted| ends.iter().filter(|end| **end == wanted).count();
        let wrong = count(None);
        println!(
            "{} cuts: {} resumed, {} booted normally, {wrong} wrong; {} repeated because the emulator stood still",
            ends.len(),
            count(Some(End::Resumed)),
            count(Some(End::Booted)),
            starved.into_inner().unwrap_or_else(PoisonError::into_inner),
        );
        ensure!(wrong == 0, "{wrong} of {} cuts went wrong", ends.len());
        Ok(())
    }

    /// Goes through the loop once without a fault, and keeps the disks as they are in its middle.
    fn save(&self) -> Result<Saved> {
        let parts = self.runner.make_parts(&self.run)?;
        let (transcript, first) = self.boot("hibernate", &parts, "whole-1", None, false)?;
        let copy = self.copy_of(&parts)?;
        let (_, second) = self.boot("resume", &copy, "whole-2", None, false)?;
        let spans = SPANS
            .iter()
            .map(|span| {
                let marks = if span.resume { &second } else { &first };
                let time = |mark| {
                    marks
                        .get(mark)
                        .with_context(|| format!("it did not say {mark:?}"))
                };
                Ok(time(span.to)?.saturating_sub(*time(span.from)?))
            })
            .collect::<Result<_>>()?;
        Ok(Saved {
            parts,
            transcript,
            spans,
        })
    }

    /// New parts with the same contents of the disks.
    fn copy_of(&self, parts: &Parts) -> Result<Parts> {
        let copy = self.runner.make_parts(&self.run)?;
        for (from, to) in parts.disks.iter().zip(&copy.disks) {
            disk::copy(from, to)?;
        }
        Ok(copy)
    }

    /// Cuts the power at `moment`, boots again, and judges.
    fn cut(&self, saved: &Saved, moment: Moment) -> Result<(End, String)> {
        let length = SPANS
            .iter()
            .zip(&saved.spans)
            .find_map(|(span, length)| {
                (span.from == moment.span.from && span.to == moment.span.to).then_some(*length)
            })
            .context("no such span")?;
        let cut = Cut {
            mark: moment.span.from,
            after: length.mul_f64(moment.at as f64 / 1000.0),
        };
        let (role, parts) = if moment.span.resume {
            ("resume", self.copy_of(&saved.parts)?)
        } else {
            ("hibernate", self.runner.make_parts(&self.run)?)
        };
        let log = format!("{}-cut", moment.number);
        let bases = if moment.loses {
            parts
                .disks
                .iter()
                .map(|disk| {
                    let base = disk.with_extension("base");
                    disk::copy(disk, &base)?;
                    Ok(base)
                })
                .collect::<Result<Vec<_>>>()?
        } else {
            Vec::new()
        };
        let (before, _) = self.boot(role, &parts, &log, Some(cut), moment.loses)?;
        let mut lost = 0;
        for (number, (base, disk)) in bases.iter().zip(&parts.disks).enumerate() {
            fs::rename(base, disk)?;
            lost += disk::replay(&parts.folder.path().join(format!("log-{number}")), disk)?;
        }
        let lost = if moment.loses {
            format!("{lost} writes lost; ")
        } else {
            String::new()
        };
        let log = format!("{}-after", moment.number);
        let (after, _) = self.boot("recover", &parts, &log, None, false)?;

        disk::check_ext4(&parts.disks[0])?;
        let reason = after
            .values("booted")
            .first()
            .map(|reason| (*reason).to_owned());
        match reason {
            None => {
                let first = if moment.span.resume {
                    &saved.transcript
                } else {
                    &before
                };
                for thing in UNCHANGED {
                    is_unchanged(&[first, &after], thing, 1)?;
                }
                ensure!(
                    !before.shows("kjump: resumed"),
                    "A was resumed twice from the same image"
                );
                Ok((End::Resumed, lost))
            }
            Some(reason) => {
                // These lines come right before the mark is written, and right after.
                let may_be_lost = if moment.span.resume {
                    before.shows("kjump: jumping back")
                } else {
                    !before.shows("kjump: image committed")
                };
                if !may_be_lost {
                    bail!("a good image was refused: {reason}");
                }
                Ok((End::Booted, format!("{lost}{reason}")))
            }
        }
    }

    /// Boots the machine in `role`, until it is off or its power is cut. Returns what it said, and when
    /// it first said each of the marks.
    fn boot(
        &self,
        role: &'static str,
        parts: &Parts,
        log: &str,
        cut: Option<Cut>,
        logged: bool,
    ) -> Result<(Transcript, HashMap<&'static str, Duration>)> {
        let boot = Boot::new(role, &[]);
        let mut machine = self.runner.machine(&self.run, &boot, parts);
        if logged {
            let folder = parts.folder.path();
            for number in 0..parts.disks.len() {
                File::create(folder.join(format!("log-{number}")))?;
            }
            machine.logs = Some(folder.to_owned());
        }
        let log = runs_folder().join(format!("faults-{log}.log"));
        let mut vm = Vm::start(&machine, &log, LIMIT, false)?;
        let mut transcript = Transcript::new(&[]);
        let mut marks = HashMap::new();
        let mut until = None;
        loop {
            let line = match until {
                None => vm.next_line()?,
                // After a cut there is nothing more.
                Some(until) => vm.next_line_until(until)?,
            };
            let Some(line) = line else { break };
            for mark in SPANS.iter().flat_map(|span| [span.from, span.to]) {
                if has_come(&line.text, mark) {
                    marks.entry(mark).or_insert(line.at);
                }
            }
            if let Some(cut) = cut
                && until.is_none()
                && has_come(&line.text, cut.mark)
            {
                until = Some(Instant::now() + cut.after);
            }
            transcript.add(line);
        }
        match cut {
            None => ensure!(
                transcript.shows("lab: verdict=ok") || transcript.shows("kjump: image committed"),
                "{}",
                vm.failure("it was not well")
            ),
            Some(cut) => ensure!(
                until.is_some(),
                "{}",
                vm.failure(&format!("it did not say {:?}", cut.mark))
            ),
        }
        Ok((transcript, marks))
    }
}

/// When to cut the power: so long after this text.
#[derive(Clone, Copy)]
struct Cut {
    mark: &'static str,
    after: Duration,
}

/// Whether this line of the console is the one that `mark` tells of. What the guest repeats of what `kjump` said
/// has that somewhere behind its beginning.
fn has_come(line: &str, mark: &str) -> bool {
    if mark.starts_with("kjump: ") {
        line.starts_with(mark)
    } else {
        line.contains(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_repeats_is_no_mark() {
        assert!(has_come("kjump: restoring 6.12.1", "kjump: restoring"));
        assert!(has_come("[    2.1] lab: ready=to go", "lab: ready="));
        let repeated = "[    2.1] lab: refused.restore=kjump: restoring 6.12.1";
        assert!(!has_come(repeated, "kjump: restoring"));
    }

    #[test]
    fn moments_are_spread_over_all_spans() {
        let all = moments(60, 7);
        assert_eq!(all.len(), 60);
        for span in &SPANS {
            let here = all.iter().filter(|moment| std::ptr::eq(moment.span, span));
            assert_eq!(here.clone().count(), 3 * span.share);
            for moment in here {
                assert!((span.part.0..span.part.1).contains(&moment.at));
            }
        }
        // Any few in a row are of both boots.
        for few in all.chunks(6) {
            assert!(few.iter().any(|moment| moment.span.resume));
            assert!(few.iter().any(|moment| !moment.span.resume));
            assert!(few.iter().any(|moment| moment.loses));
            assert!(few.iter().any(|moment| !moment.loses));
        }
        let again = moments(60, 7);
        assert!(
            all.iter()
                .zip(&again)
                .all(|(one, other)| one.at == other.at)
        );
        let other = moments(60, 8);
        assert!(
            all.iter()
                .zip(&other)
                .any(|(one, other)| one.at != other.at)
        );
    }
}
