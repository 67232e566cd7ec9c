//! Progress on long work.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use kjump::Progress;

use crate::size::{human, size};

/// How much memory this process has had resident at most, in KiB (`VmHWM`, proc_pid_status(5)).
fn peak_memory_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Shows how far long work has come: one line that changes on a terminal, a line every few seconds
/// elsewhere.
#[derive(Debug)]
pub struct Meter {
    command: &'static str,
    what: &'static str,
    start: Instant,
    shown: Instant,
    terminal: bool,
    total: u64,
    each: fn(),
}

impl Meter {
    /// For what `command` does; `each` is called whenever some of it was done.
    #[must_use]
    pub fn new(command: &'static str, what: &'static str, each: fn()) -> Self {
        let now = Instant::now();
        Self {
            command,
            what,
            start: now,
            shown: now,
            // The console of a kernel without user space is one too, but often a serial line with a
            // log at its other end.
            terminal: std::io::stdout().is_terminal() && std::process::id() != 1,
            total: 0,
            each,
        }
    }

    /// To be called as the work goes on.
    pub fn update(&mut self, at: Progress) {
        self.total = at.total;
        (self.each)();
        let pause = if self.terminal { 200 } else { 2000 };
        if self.shown.elapsed() < Duration::from_millis(pause) || at.done == 0 {
            return;
        }
        self.shown = Instant::now();
        let rate = at.done as f64 / self.start.elapsed().as_secs_f64();
        let line = format!(
            "{}: {} {} of {} ({} %), {}/s, {:.0} s left",
            self.command,
            self.what,
            size(at.done),
            size(at.total),
            at.done.saturating_mul(100) / at.total.max(1),
            human(rate),
            at.total.saturating_sub(at.done) as f64 / rate,
        );
        if self.terminal {
            print!("\r\x1b[K{line}");
            let _ = std::io::stdout().flush();
        } else {
            println!("{line}");
        }
    }

    /// Prints what was done, how long it took, and the memory that it took.
    pub fn finish(self, done: &str) {
        if self.terminal {
            print!("\r\x1b[K");
        }
        let elapsed = self.start.elapsed().as_secs_f64();
        let rate = human(self.total as f64 / elapsed.max(0.001));
        let memory = match peak_memory_kib() {
            Some(kib) => format!(", peak resident memory {kib} KiB"),
            None => String::new(),
        };
        println!(
            "{}: {done} {} in {elapsed:.1} s ({rate}/s){memory}",
            self.command,
            size(self.total)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_is_known() {
        assert!(peak_memory_kib().unwrap() > 100);
    }
}
