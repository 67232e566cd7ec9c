//! The scenarios: what happens to which machine, and what has to be seen on the way.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::check::Checked;
use crate::course::Course;
use crate::lab::Kernel;
use crate::settings::Settings;
use crate::transcript::Transcript;

mod alone;
mod faults;
mod judges;
mod loops;
mod pages;
mod rfc;
mod stale;

/// Something that a machine goes through.
pub(crate) struct Scenario {
    /// What to call it.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) summary: &'static str,
    /// What happens.
    pub(crate) course: Course,
    /// The machine.
    pub(crate) settings: Settings,
    /// How long each boot of the machine may take.
    pub(crate) limit: Duration,
    /// Judges what the machine said, beyond what its course wants.
    pub(crate) judge: fn(&[Transcript]) -> Result<()>,
    /// Looks at the image that is there in the end, and tells in a line what it found.
    pub(crate) check: Option<fn(&Checked<'_>) -> Result<String>>,
    /// Kernels that it needs besides the machine's own.
    pub(crate) others: &'static [Kernel],
    /// Whether it takes so long that `cargo xtask test` runs it only if it is named.
    pub(crate) long: bool,
}

/// All scenarios.
pub(crate) fn all() -> Vec<Scenario> {
    [
        alone::all(),
        loops::all(),
        stale::all(),
        faults::all(),
        pages::all(),
        rfc::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The scenario of this name.
pub(crate) fn find(name: &str) -> Result<Scenario> {
    let all = all();
    let names: Vec<&str> = all.iter().map(|scenario| scenario.name).collect();
    let names = names.join(", ");
    match all.into_iter().find(|scenario| scenario.name == name) {
        Some(scenario) => Ok(scenario),
        None => bail!("there is no scenario {name:?}; there are: {names}"),
    }
}

fn scenario(name: &'static str, summary: &'static str, course: Course) -> Scenario {
    Scenario {
        name,
        summary,
        course,
        settings: Settings::default(),
        limit: Duration::from_secs(180),
        judge: |_| Ok(()),
        check: None,
        others: &[],
        long: false,
    }
}

impl Scenario {
    fn on(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    fn judged_by(self, judge: fn(&[Transcript]) -> Result<()>) -> Self {
        Self { judge, ..self }
    }

    fn with_kernels(self, others: &'static [Kernel]) -> Self {
        Self { others, ..self }
    }

    fn only_if_named(self) -> Self {
        Self { long: true, ..self }
    }

    fn checked_by(self, check: fn(&Checked<'_>) -> Result<String>) -> Self {
        Self {
            check: Some(check),
            ..self
        }
    }
}

/// A machine that takes little time.
fn small() -> Settings {
    Settings {
        memory: 512,
        fill: 20,
        ..Settings::default()
    }
}

/// A machine much of whose memory was used and is free.
fn freed() -> Settings {
    Settings {
        fill: 20,
        churn: 60,
        ..Settings::default()
    }
}

/// A machine that is saved with all of its memory, much of which was used and is free.
fn whole() -> Settings {
    Settings {
        churn: 30,
        keep_free: true,
        ..Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_found_by_their_names() {
        let names: Vec<&str> = all().iter().map(|scenario| scenario.name).collect();
        for (number, name) in names.iter().enumerate() {
            assert_eq!(find(name).unwrap().name, *name);
            assert!(!names[..number].contains(name), "{name} is there twice");
        }
        assert!(find("").is_err());
    }

    #[test]
    fn no_scenario_wants_more_memory_than_there_is() {
        for scenario in all() {
            let settings = scenario.settings;
            assert!(settings.fill <= 95, "{}", scenario.name);
            assert!(
                settings.churn == 0 || settings.fill + settings.churn <= 90,
                "{}",
                scenario.name
            );
        }
    }
}
