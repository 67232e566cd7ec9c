//! A clock that goes on from one kernel to the next.
//!
//! Each kernel counts its own time from its own start. The time-stamp counter of the CPU does not care
//! which kernel runs: it counts from the moment at which the machine was switched on ("Intel 64 and
//! IA-32 Architectures Software Developer's Manual", volume 3B, "Time-Stamp Counter").
#![allow(unsafe_code, reason = "the counter is read by an instruction")]

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// The time-stamp counter.
fn ticks() -> u64 {
    // SAFETY: the instruction reads a counter into registers, and every 64-bit CPU has it. It faults
    // only in processes that asked for that (prctl(2), `PR_SET_TSC`), and this one does not.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Measures how fast the time-stamp counter counts, from when it is made.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    ticks: u64,
    started: Instant,
}

impl Measure {
    /// The shortest time that something can be told by, since reading two clocks takes a moment.
    const SHORTEST: Duration = Duration::from_millis(5);

    /// Starts to measure.
    #[must_use]
    pub fn start() -> Self {
        Self {
            ticks: ticks(),
            started: Instant::now(),
        }
    }

    /// The moment at which this began, as the next kernel can tell it. Waits a few milliseconds if it
    /// began just now.
    ///
    /// `boot` is how long the machine was on before, if that is known.
    #[must_use]
    pub fn departure(&self, boot: Option<Duration>) -> Departure {
        if let Some(left) = Self::SHORTEST.checked_sub(self.started.elapsed()) {
            std::thread::sleep(left);
        }
        let micros = self.started.elapsed().as_micros().max(1);
        let counted = u128::from(ticks().wrapping_sub(self.ticks));
        let khz = counted.saturating_mul(1000) / micros;
        Departure {
            khz: u64::try_from(khz).unwrap_or(u64::MAX),
            ticks: self.ticks,
            boot,
        }
    }
}

/// The moment at which a kernel began to leave for another one. It travels on the command line of that
/// as `KHZ:TICKS`, and `:MICROSECONDS` if it is known how long the machine was on before.
///
/// ```
/// use std::time::Duration;
/// use kjump::Departure;
///
/// let departure: Departure = "2596105:1298052500:480000".parse().unwrap();
/// assert_eq!(departure.since_power_on(), Some(Duration::from_millis(500)));
/// assert_eq!(departure.boot, Some(Duration::from_millis(480)));
/// assert_eq!(departure.to_string(), "2596105:1298052500:480000");
/// assert!("2596105".parse::<Departure>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    khz: u64,
    ticks: u64,
    /// How long the machine was on before, if that is known.
    pub boot: Option<Duration>,
}

impl Departure {
    /// What takes longer than this was not measured well: the counter was set in between.
    const LONGEST: Duration = Duration::from_secs(3600);

    /// How long ago it was; `None` if the counter does not tell.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        self.duration(ticks().checked_sub(self.ticks)?)
    }

    /// How long the machine had been on at that moment, if the counter began with it.
    #[must_use]
    pub fn since_power_on(&self) -> Option<Duration> {
        self.duration(self.ticks)
    }

    /// How long the machine is on now, if the counter began with it: also in a machine that went on after
    /// its memory was restored, since nobody sets the counter then.
    #[must_use]
    pub fn on_for(&self) -> Option<Duration> {
        self.duration(ticks())
    }

    fn duration(&self, ticks: u64) -> Option<Duration> {
        let micros = u128::from(ticks) * 1000 / u128::from(self.khz.max(1));
        let duration = Duration::from_micros(u64::try_from(micros).ok()?);
        (duration < Self::LONGEST).then_some(duration)
    }
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.khz, self.ticks)?;
        match self.boot {
            Some(boot) => write!(f, ":{}", boot.as_micros()),
            None => Ok(()),
        }
    }
}

/// Says that a text is no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not of the form KHZ:TICKS or KHZ:TICKS:MICROSECONDS")]
pub struct NoDeparture;

impl FromStr for Departure {
    type Err = NoDeparture;

    fn from_str(text: &str) -> Result<Self, NoDeparture> {
        let mut numbers = text.split(':').map(|number| number.parse().ok());
        let mut next = || numbers.next();
        let (Some(Some(khz)), Some(Some(ticks)), boot, None) = (next(), next(), next(), next())
        else {
            return Err(NoDeparture);
        };
        let boot = boot.map(|micros| micros.ok_or(NoDeparture)).transpose()?;
        Ok(Self {
            khz,
            ticks,
            boot: boot.map(Duration::from_micros),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_counter_and_the_clock_of_the_kernel_agree() {
        let measure = Measure::start();
        let departure = measure.departure(None);
        let clock = measure.started.elapsed();
        let counter = departure.elapsed().unwrap();
        assert!(departure.on_for() >= departure.since_power_on());
        // However late the one is read after the other: no clock is half as fast as the other.
        assert!(counter >= clock / 2, "{counter:?} {clock:?}");
    }

    proptest! {
        #[test]
        fn moments_are_read_as_they_are_written(khz: u64, ticks: u64, boot: Option<u64>) {
            let departure = Departure { khz, ticks, boot: boot.map(Duration::from_micros) };
            prop_assert_eq!(departure.to_string().parse(), Ok(departure));
            // Whatever they are, no arithmetic overflows.
            let _ = departure.elapsed();
            prop_assert!(departure.since_power_on().is_none_or(|time| time < Departure::LONGEST));
        }

        #[test]
        fn any_text_is_a_moment_or_none(text in "[0-9:x-]{0,40}") {
            if let Ok(departure) = text.parse::<Departure>() {
                prop_assert!(matches!(departure.to_string().split(':').count(), 2 | 3));
            }
        }
    }
}
