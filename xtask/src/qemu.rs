//! A virtual machine that runs: one QEMU process and the lines on its console.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::console::{self, Line};
use crate::machine::Machine;

/// How many of the last lines an error shows.
const LAST_LINES: usize = 30;

/// How long a machine may go on after a crash: to tell more of it.
const AFTERMATH: Duration = Duration::from_secs(3);

/// A running machine. It ends with this value at the latest.
pub(crate) struct Vm {
    child: Child,
    lines: Receiver<Line>,
    started: Instant,
    deadline: Instant,
    log: PathBuf,
    last: VecDeque<Line>,
    verbose: bool,
    /// Whether a crash is a line like any other.
    tolerant: bool,
}

impl Vm {
    /// Starts `machine`, which has to be done within `limit`. All that its console shows goes to the
    /// file `log`, and with `verbose` to standard error too.
    pub(crate) fn start(
        machine: &Machine,
        log: &Path,
        limit: Duration,
        verbose: bool,
    ) -> Result<Self> {
        let qemu = Command::new("qemu-system-x86_64");
        Self::start_in(qemu, machine, log, limit, verbose)
    }

    /// As [`start`](Self::start), in another `qemu` than the one that is installed.
    pub(crate) fn start_in(
        mut qemu: Command,
        machine: &Machine,
        log: &Path,
        limit: Duration,
        verbose: bool,
    ) -> Result<Self> {
        qemu.args(machine.arguments());
        Self::spawn(qemu, log, limit, verbose)
    }

    fn spawn(mut command: Command, log: &Path, limit: Duration, verbose: bool) -> Result<Self> {
        if let Some(folder) = log.parent() {
            fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        let creating = || format!("creating {}", log.display());
        let mut log_file = File::create(log).with_context(creating)?;
        writeln!(log_file, "{command:?}").with_context(creating)?;
        let program = command.get_program().to_string_lossy().into_owned();
        // QEMU's own messages belong among the lines of the console.
        let (output, input) = std::io::pipe().context("making a pipe")?;
        let started = Instant::now();
        let child = command
            .stdin(Stdio::piped())
            .stdout(input.try_clone().context("copying a pipe")?)
            .stderr(input)
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        // With the command go this process' ends of the pipe, so that the console ends with QEMU.
        drop(command);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || pass_lines_on(output, log_file, started, &sender));
        Ok(Self {
            child,
            lines,
            started,
            deadline: started + limit,
            log: log.to_owned(),
            last: VecDeque::new(),
            verbose,
            tolerant: false,
        })
    }

    /// From now on a crash is a line like any other.
    pub(crate) fn tolerate_crashes(&mut self) {
        self.tolerant = true;
    }

    /// Waits for the next line. `None` when the machine is off; an error when it crashed or is late.
    pub(crate) fn next_line(&mut self) -> Result<Option<Line>> {
        match self.receive(self.deadline) {
            Ok(line) if !self.tolerant && console::is_crash(&line.text) => {
                let aftermath = Instant::now() + AFTERMATH;
                while self.receive(aftermath).is_ok() {}
                Err(self.failure(&format!("a crash: {}", line.text)))
            }
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait().context("waiting for QEMU")?;
                if !status.success() {
                    return Err(self.failure(&format!("QEMU failed: {status}")));
                }
                Ok(None)
            }
            Err(RecvTimeoutError::Timeout) => {
                let limit = self.deadline - self.started;
                Err(self.failure(&format!("not done after {} s", limit.as_secs())))
            }
        }
    }

    /// As [`next_line`](Self::next_line), but `None` at `until` too. A crash is no error then.
    pub(crate) fn next_line_until(&mut self, until: Instant) -> Result<Option<Line>> {
        match self.receive(until) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
        }
    }

    /// Types `text` at the console, and the end of a line.
    pub(crate) fn type_line(&mut self, text: &str) -> Result<()> {
        let keyboard = self.child.stdin.as_mut().context("there is no keyboard")?;
        writeln!(keyboard, "{text}").context("typing at the console")
    }

    /// How long ago the machine was switched on.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// An error that tells where the log is, and its end.
    pub(crate) fn failure(&self, what: &str) -> anyhow::Error {
        let mut message = format!("{what}\nthe last lines of {}:", self.log.display());
        for line in &self.last {
            message.push_str(&format!("\n  {line}"));
        }
        anyhow!(message)
    }

    fn receive(&mut self, until: Instant) -> Result<Line, RecvTimeoutError> {
        let left = until.saturating_duration_since(Instant::now());
        let line = self.lines.recv_timeout(left)?;
        if self.verbose {
            eprintln!("{line}");
        }
        self.last.push_back(line.clone());
        if self.last.len() > LAST_LINES {
            self.last.pop_front();
        }
        Ok(line)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the console to its end: writes each line to the log, and sends it on.
fn pass_lines_on(output: PipeReader, mut log: File, started: Instant, sender: &Sender<Line>) {
    let mut output = BufReader::new(output);
    let mut bytes = Vec::new();
    while read_line(&mut output, &mut bytes).is_ok_and(|read| read > 0) {
        let line = Line {
            at: started.elapsed(),
            text: console::clean(&bytes),
        };
        bytes.clear();
        // A log that cannot be written is no reason to stop the machine, and when nobody listens any
        // more, the rest still goes to the log.
        let _ = writeln!(log, "{line}");
        let _ = sender.send(line);
    }
}

/// Reads up to the end of the line, or of a prompt, which nothing comes after until it is answered.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<usize> {
    while let Some(&byte) = input.fill_buf()?.first() {
        input.consume(1);
        line.push(byte);
        if byte == b'\n' || console::is_prompt(line) {
            break;
        }
    }
    Ok(line.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell in place of QEMU.
    fn shell(script: &str, log: &Path, limit: Duration) -> Vm {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Vm::spawn(command, log, limit, false).unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn lines_come_in_order_and_go_to_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("logs/log");
        let mut vm = shell(
            "echo one; echo two >&2; printf 'three\\r\\nend'",
            &log,
            LONG,
        );
        for expected in ["one", "two", "three", "end"] {
            assert_eq!(vm.next_line().unwrap().unwrap().text, expected);
        }
        assert!(vm.next_line().unwrap().is_none());
        let log = fs::read_to_string(log).unwrap();
        let words: Vec<_> = log
            .lines()
            .filter_map(|l| l.split_whitespace().nth(1))
            .collect();
        assert!(words.ends_with(&["one", "two", "three", "end"]), "{log}");
    }

    #[test]
    fn a_crash_is_an_error_with_the_last_lines_and_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut vm = shell("seq 100; echo 'BUG: bad'; echo more", &log, LONG);
        for _ in 0..100 {
            vm.next_line().unwrap();
        }
        let error = vm.next_line().unwrap_err().to_string();
        for words in [
            "a crash: BUG: bad",
            "more",
            &log.display().to_string(),
            " 90\n",
        ] {
            assert!(error.contains(words), "{words:?} is not in {error}");
        }
        assert!(!error.contains(" 50\n"), "{error}");
    }

    #[test]
    fn a_machine_that_hangs_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut vm = shell("echo one; exec sleep 60", &log, Duration::from_millis(200));
        vm.next_line().unwrap();
        let error = vm.next_line().unwrap_err().to_string();
        assert!(error.contains("not done after"), "{error}");
        // It ends with the value, long before the sleep does.
        drop(vm);
    }

    #[test]
    fn a_qemu_that_fails_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut vm = shell(
            "echo no such option; exit 1",
            &folder.path().join("log"),
            LONG,
        );
        vm.next_line().unwrap();
        let error = vm.next_line().unwrap_err().to_string();
        assert!(
            error.contains("exit status: 1") && error.contains("no such option"),
            "{error}"
        );
    }
}
