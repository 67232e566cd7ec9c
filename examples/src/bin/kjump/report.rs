//! What the user sees: lines that begin with `kjump: `, and progress.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use kjump::Progress;
use kjump::memory::image::{CodecKind, Totals};

use crate::patience;

/// Prints a line.
macro_rules! say {
    ($($arg:tt)*) => {
        println!("kjump: {}", format_args!($($arg)*))
    };
}
pub(crate) use say;

/// Waits until what was printed has left the machine: a serial line is slower than a jump.
pub(crate) fn drain() {
    let _ = std::io::stdout().flush();
    // What is not a terminal needs no waiting for.
    let _ = nix::sys::termios::tcdrain(std::io::stdout());
}

/// Prints an error and its causes, each once, to standard error.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("kjump: {error:#}");
}

/// `text` with `?` for characters that a terminal would obey. Text from a file is hostile.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_control() { '?' } else { char })
        .collect()
}

/// A size for people.
pub(crate) fn size(bytes: u64) -> String {
    human(bytes as f64)
}

/// A number of bytes for people.
fn human(mut value: f64) -> String {
    let mut unit = "bytes";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    let digits = usize::from(unit != "bytes");
    format!("{value:.digits$} {unit}")
}

/// How the data in an image is stored.
pub(crate) fn stored(totals: &Totals) -> String {
    let data = totals.data_bytes();
    let chunks: Vec<String> = CodecKind::ALL
        .into_iter()
        .map(|codec| (codec, totals.chunks_by(codec)))
        .filter(|(_, count)| *count > 0)
        .map(|(codec, count)| format!("{count} by {codec}"))
        .collect();
    let ratio = data as f64 / totals.stored.max(1) as f64;
    let mut text = format!("{} of data take {}", size(data), size(totals.stored));
    if !chunks.is_empty() {
        text += &format!(" ({ratio:.2} to 1; chunks: {})", chunks.join(", "));
    }
    text
}

/// How much memory this process has had resident at most, in KiB (`VmHWM`, proc_pid_status(5)).
pub(crate) fn peak_memory_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Shows how far long work has come: one line that changes on a terminal, a line every few seconds
/// elsewhere.
pub(crate) struct Meter {
    what: &'static str,
    start: Instant,
    shown: Instant,
    terminal: bool,
    total: u64,
}

impl Meter {
    pub(crate) fn new(what: &'static str) -> Self {
        let now = Instant::now();
        Self {
            what,
            start: now,
            shown: now,
            // The console of a kernel without user space is one too, but often a serial line with a
            // log at its other end.
            terminal: std::io::stdout().is_terminal() && std::process::id() != 1,
            total: 0,
        }
    }

    /// To be called as the work goes on.
    pub(crate) fn update(&mut self, at: Progress) {
        self.total = at.total;
        patience::work_goes_on();
        let pause = if self.terminal { 200 } else { 2000 };
        if self.shown.elapsed() < Duration::from_millis(pause) || at.done == 0 {
            return;
        }
        self.shown = Instant::now();
        let rate = at.done as f64 / self.start.elapsed().as_secs_f64();
        let line = format!(
            "kjump: {} {} of {} ({} %), {}/s, {:.0} s left",
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
    pub(crate) fn finish(self, done: &str) {
        if self.terminal {
            print!("\r\x1b[K");
        }
        let elapsed = self.start.elapsed().as_secs_f64();
        let rate = human(self.total as f64 / elapsed.max(0.001));
        let memory = match peak_memory_kib() {
            Some(kib) => format!(", peak resident memory {kib} KiB"),
            None => String::new(),
        };
        say!(
            "{done} {} in {elapsed:.1} s ({rate}/s){memory}",
            size(self.total)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(17), "17 bytes");
        assert_eq!(size(96 << 20), "96.0 MiB");
        assert_eq!(size(3 << 29), "1.5 GiB");
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn peak_memory_is_known() {
        assert!(peak_memory_kib().unwrap() > 100);
    }
}
