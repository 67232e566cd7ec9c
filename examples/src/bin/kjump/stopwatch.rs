//! How long the phases of a hibernation take, the boots of the kernels in between among them.

use std::time::{Duration, Instant};

use kjump::memory::Phases;
use kjump::{CommandLine, Departure};
use nix::time::{ClockId, clock_gettime};

use crate::report::say;
use crate::role::Role;

/// Takes the time of one phase after the other.
pub(crate) struct Stopwatch {
    phases: Phases,
    lap: Instant,
}

impl Stopwatch {
    /// Of the kernel that saves or restores, from `line`, its command line: begins with how long it took
    /// to get here, as far as that is known.
    pub(crate) fn of_boot(line: &str) -> Self {
        let mut phases = Phases::new();
        let departure: Option<Departure> =
            CommandLine::value(line, Role::CLOCK_KEY).and_then(|text| text.parse().ok());
        let up = uptime();
        if let Some(departure) = departure {
            if let Some(boot) = departure.boot {
                phases.push("boot of the first kernel", boot);
            }
            // What the other kernel took, and the jump.
            if let Some(before) = departure.elapsed().and_then(|all| all.checked_sub(up)) {
                phases.push("load and jump", before);
            }
        }
        phases.push("boot", up);
        Self {
            phases,
            lap: Instant::now(),
        }
    }

    /// A phase ends, and the next one begins.
    pub(crate) fn lap(&mut self, name: &str) {
        self.phases.push(name, self.lap.elapsed());
        self.lap = Instant::now();
    }

    /// A phase ends; returns all that there were.
    pub(crate) fn after(&mut self, name: &str) -> Phases {
        self.lap(name);
        self.phases.clone()
    }

    /// Prints what is known by now.
    pub(crate) fn report(&self) {
        say!("phases: {}", self.phases);
    }
}

/// For how long the running kernel has run. Linux begins to count early in its boot, but after it was
/// unpacked.
pub(crate) fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Into::into)
}
