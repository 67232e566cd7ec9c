//! What a machine said, and how far it got.

use std::collections::VecDeque;
use std::time::Duration;

use crate::console::{self, Line};
use crate::course::Phase;

/// What a machine said since it was switched on.
#[derive(Debug)]
pub(crate) struct Transcript {
    lines: Vec<Line>,
    /// What is still to come, in this order.
    left: VecDeque<Phase>,
    /// When the last phase was done.
    since: Duration,
}

/// What a line means for the course of things.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Same,
    /// A phase is done, and took this long.
    Done(Phase, Duration),
    /// The guest says that it failed, and why.
    Failed(String),
}

impl Transcript {
    /// Of a machine that was switched on just now, and is to go through `phases`.
    pub(crate) fn new(phases: &[Phase]) -> Self {
        Self {
            lines: Vec::new(),
            left: phases.iter().copied().collect(),
            since: Duration::ZERO,
        }
    }

    /// Adds a line, and tells what it means.
    pub(crate) fn add(&mut self, line: Line) -> Step {
        let step = match self.left.front() {
            Some(&phase) if line.text.contains(phase.mark) => {
                let took = line.at.saturating_sub(self.since);
                self.left.pop_front();
                self.since = line.at;
                Step::Done(phase, took)
            }
            _ => {
                console::failure(&line.text).map_or(Step::Same, |why| Step::Failed(why.to_owned()))
            }
        };
        self.lines.push(line);
        step
    }

    /// The first phase that is not done, if any.
    pub(crate) fn missing(&self) -> Option<&Phase> {
        self.left.front()
    }

    /// Whether some line has `text`.
    pub(crate) fn shows(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.text.contains(text))
    }

    /// Whether there are lines that have `texts`, in this order.
    pub(crate) fn shows_in_order(&self, texts: &[&str]) -> bool {
        let mut lines = self.lines.iter();
        let mut follows = |text: &&str| lines.any(|line| line.text.contains(*text));
        texts.iter().all(&mut follows)
    }

    /// All that the guest reported about `key`.
    pub(crate) fn values(&self, key: &str) -> Vec<&str> {
        let lines = self.lines.iter();
        lines
            .filter_map(|line| console::value(&line.text, key))
            .collect()
    }

    /// How many bytes each saving kernel left out because they were free.
    pub(crate) fn left_out(&self) -> Vec<u64> {
        let lines = self.lines.iter();
        lines
            .filter_map(|line| console::left_out(&line.text))
            .collect()
    }

    /// The most memory that each of the long runs held, in KiB.
    pub(crate) fn peak_memory(&self) -> Vec<u64> {
        let lines = self.lines.iter();
        lines
            .filter_map(|line| console::peak_memory(&line.text))
            .collect()
    }
}

#[cfg(test)]
impl Transcript {
    /// Of a machine that said these lines.
    pub(crate) fn of(lines: &[&str]) -> Self {
        let mut transcript = Self::new(&[]);
        for &text in lines {
            transcript.add(Line {
                at: Duration::ZERO,
                text: text.to_owned(),
            });
        }
        transcript
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 2] = [
        Phase {
            title: "it boots",
            mark: "lab: ready=",
        },
        Phase {
            title: "it verifies",
            mark: "lab: verdict=ok",
        },
    ];

    fn line(seconds: u64, text: &str) -> Line {
        Line {
            at: Duration::from_secs(seconds),
            text: text.to_owned(),
        }
    }

    #[test]
    fn phases_are_done_one_after_the_other() {
        let mut transcript = Transcript::new(&PHASES);
        assert_eq!(transcript.add(line(1, "hello")), Step::Same);
        let seconds = Duration::from_secs;
        let ready = line(3, "[    1.0] lab: ready=yes");
        assert_eq!(transcript.add(ready), Step::Done(PHASES[0], seconds(3)));
        assert_eq!(transcript.missing(), Some(&PHASES[1]));
        let verdict = line(7, "lab: verdict=ok");
        assert_eq!(transcript.add(verdict), Step::Done(PHASES[1], seconds(4)));
        assert_eq!(transcript.missing(), None);
        assert!(transcript.shows("hello") && !transcript.shows("bye"));
        assert_eq!(transcript.values("ready"), ["yes"]);
    }

    #[test]
    fn a_mark_out_of_order_does_not_count() {
        let mut transcript = Transcript::new(&PHASES);
        assert_eq!(transcript.add(line(1, "lab: verdict=ok")), Step::Same);
        assert_eq!(transcript.missing(), Some(&PHASES[0]));
    }

    #[test]
    fn a_failure_counts_unless_it_is_what_has_to_happen() {
        let failed = line(1, "lab: verdict=failed disk: gone");
        let mut transcript = Transcript::new(&PHASES);
        let step = transcript.add(failed.clone());
        assert_eq!(step, Step::Failed(" disk: gone".to_owned()));

        let wanted = [Phase {
            title: "it finds the harm",
            mark: "lab: verdict=failed disk",
        }];
        let mut transcript = Transcript::new(&wanted);
        let step = transcript.add(failed);
        assert_eq!(step, Step::Done(wanted[0], Duration::from_secs(1)));
    }
}
