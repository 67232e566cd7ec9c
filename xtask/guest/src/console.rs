//! Results, as lines on the console.

use std::fs::OpenOptions;
use std::io::Write;

/// Tells the lab that `key` is `value`, in a line of its own.
///
/// The line goes through the kernel's log, because that keeps it whole and in order: what processes
/// write to a terminal, the kernel sends when it gets to it, and may cut with messages of its own.
pub(crate) fn report(key: &str, value: &str) {
    let line = format!("lab: {key}={}\n", value.replace('\n', " | "));
    // What was written to the terminal before comes first.
    let _ = nix::sys::termios::tcdrain(std::io::stdout());
    // Level 5 (notice) gets to the console unless that is set to `quiet`.
    let logged = OpenOptions::new()
        .write(true)
        .open("/dev/kmsg")
        .and_then(|mut log| log.write_all(format!("<5>{line}").as_bytes()));
    if logged.is_err() {
        let _ = std::io::stdout().write_all(line.as_bytes());
    }
}
