//! The clocks, which must not go backwards.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};

use crate::witness::Witness;

/// The monotonic clock and the time of day.
pub(crate) struct Clock {
    monotonic: Instant,
    time_of_day: SystemTime,
}

impl Clock {
    /// Reads both clocks.
    pub(crate) fn read() -> Self {
        Self {
            monotonic: Instant::now(),
            time_of_day: SystemTime::now(),
        }
    }
}

impl Witness for Clock {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn before(&mut self) -> Result<String> {
        self.verify()
    }

    fn verify(&mut self) -> Result<String> {
        let now = Self::read();
        let monotonic = now
            .monotonic
            .checked_duration_since(self.monotonic)
            .context("the monotonic clock went backwards")?;
        let time_of_day = now
            .time_of_day
            .duration_since(self.time_of_day)
            .context("the time of day went backwards")?;
        *self = now;
        Ok(format!(
            "{:.2} s on the monotonic clock, {:.2} s of the day",
            monotonic.as_secs_f64(),
            time_of_day.as_secs_f64()
        ))
    }

    fn spoil(&mut self) -> Result<()> {
        self.monotonic += Duration::from_secs(3600);
        Ok(())
    }
}
