//! Commands that take seconds or minutes, and what people see of them meanwhile.

use std::fs::{self, OpenOptions};
use std::io::{IsTerminal, Write, stderr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often the command is looked after, and a terminal's line is written anew.
const GLANCE: Duration = Duration::from_millis(200);

/// How often a line is written where there is no terminal.
const REPORT: Duration = Duration::from_secs(30);

/// How many lines of the log a failure shows.
const SHOWN: usize = 20;

/// Runs `command` to its end, with all that it prints added to the file `log`.
///
/// Meanwhile, standard error tells that `what` goes on, for how long it has, and what `state` says of
/// the log so far: on a terminal in a line that stays up to date, elsewhere in a line now and then.
///
/// # Errors
///
/// If the command cannot be started, or ends with another status than 0; then with the last lines of
/// the log.
pub(super) fn run(
    what: &str,
    command: &mut Command,
    log: &Path,
    state: fn(log: &str) -> String,
) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot open {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;

    let mut line = Line::new(what);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        line.update(|| state(&read(log)));
        sleep(GLANCE);
    };
    if !status.success() {
        line.finish("failed");
        let log_text = read(log);
        let lines: Vec<&str> = log_text.lines().collect();
        bail!(
            "{what}: {name} ended with {status}; its output is in {}, and the last of it is\n{}",
            log.display(),
            lines[lines.len().saturating_sub(SHOWN)..].join("\n")
        );
    }
    line.finish("done");
    Ok(())
}

/// Says nothing more than how long it has been.
pub(super) fn no_state(_log: &str) -> String {
    String::new()
}

/// The text of a log, as far as it can be read.
fn read(log: &Path) -> String {
    String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
}

/// The line on standard error that tells what goes on.
struct Line<'a> {
    what: &'a str,
    start: Instant,
    /// Time of the next plain line; `None` on a terminal.
    next_report: Option<Instant>,
}

impl<'a> Line<'a> {
    fn new(what: &'a str) -> Self {
        let start = Instant::now();
        let on_terminal = stderr().is_terminal();
        if !on_terminal {
            eprintln!("{what}");
        }
        Self {
            what,
            start,
            next_report: (!on_terminal).then(|| start + REPORT),
        }
    }

    /// Shows the time that has passed and `state`, if it is time to.
    fn update(&mut self, state: impl FnOnce() -> String) {
        let text = || {
            let state = state();
            let comma = if state.is_empty() { "" } else { ", " };
            format!(
                "{}: {}{comma}{state}",
                self.what,
                clock(self.start.elapsed())
            )
        };
        match &mut self.next_report {
            None => {
                eprint!("\r\x1b[K{}", text());
                // A terminal that does not take it has nobody who would read it.
                let _ = stderr().flush();
            }
            Some(at) if Instant::now() >= *at => {
                *at += REPORT;
                eprintln!("{}", text());
            }
            Some(_) => {}
        }
    }

    /// Shows how it ended.
    fn finish(self, how: &str) {
        let redraw = if self.next_report.is_none() {
            "\r\x1b[K"
        } else {
            ""
        };
        eprintln!(
            "{redraw}{}: {how} in {}",
            self.what,
            clock(self.start.elapsed())
        );
    }
}

/// A duration as minutes and seconds.
fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_added_to_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        for word in ["one", "two"] {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("echo {word} >&2")]);
            run("echo", &mut command, &log, no_state).unwrap();
        }
        assert_eq!(fs::read_to_string(&log).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_failure_shows_the_end_of_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "seq 100 140; exit 3"]);
        let text = run("seq", &mut command, &log, no_state)
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("exit status: 3") && text.ends_with("139\n140"),
            "{text}"
        );
        assert!(text.contains("\n121\n") && !text.contains("120"), "{text}");
    }

    #[test]
    fn a_command_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("/nonexistent/program");
        let error = run("x", &mut command, &directory.path().join("log"), no_state).unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/program"),
            "{error}"
        );
    }

    #[test]
    fn times_are_minutes_and_seconds() {
        assert_eq!(clock(Duration::from_millis(59_900)), "0:59");
        assert_eq!(clock(Duration::from_secs(605)), "10:05");
    }
}
