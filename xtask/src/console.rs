//! What the lines on a machine's console mean.

use std::fmt;
use std::time::Duration;

/// A line on the console.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// When it came, from the start of the machine.
    pub(crate) at: Duration,
    /// The line, without its end.
    pub(crate) text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:8.3} {}", self.at.as_secs_f64(), self.text)
    }
}

/// What a kernel prints when it is not well.
///
/// Mind that several mitigations of CPU bugs have a plain `WARNING:` in messages that mean no harm.
const CRASHES: &[&str] = &[
    "------------[ cut here ]------------",
    "BUG: ",
    "Call Trace:",
    "Kernel panic",
    "Oops",
    "general protection fault",
    "detected stall",
    "blocked for more than",
    "panicked at",
];

/// Whether a line tells that a kernel, or a program of ours, broke down.
pub(crate) fn is_crash(text: &str) -> bool {
    CRASHES.iter().any(|crash| text.contains(crash))
}

/// Whether what a line has so far asks for a passphrase.
pub(crate) fn is_prompt(line: &[u8]) -> bool {
    [&b"kjump: passphrase: "[..], b"kjump: the same again: "]
        .iter()
        .any(|prompt| line.ends_with(prompt))
}

/// Why the guest says that the run failed, if the line is that.
pub(crate) fn failure(text: &str) -> Option<&str> {
    value(text, "verdict")?.strip_prefix("failed")
}

/// The value, if the line is the guest's report of `key`.
pub(crate) fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    // The kernel's timestamp comes before.
    let (_, report) = text.split_once("lab: ")?;
    report.strip_prefix(key)?.strip_prefix('=')
}

/// The most memory that a process held, in KiB, if the line tells.
pub(crate) fn peak_memory(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("peak resident memory ")?;
    let (number, _) = rest.split_once(" KiB")?;
    number.parse().ok()
}

/// How many bytes the saving kernel did not save because they were free, if the line tells.
pub(crate) fn left_out(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("left out ")?;
    let (size, _) = rest.split_once(" that were free")?;
    bytes(size)
}

/// A size as `kjump` prints it, such as `12.3 MiB`, in bytes.
fn bytes(size: &str) -> Option<u64> {
    let (number, unit) = size.split_once(' ')?;
    let unit: u64 = match unit {
        "B" | "bytes" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
    let tenths = Some(tenths).filter(|tenths| tenths.len() == 1)?;
    let tenths: u64 = format!("{whole}{tenths}").parse().ok()?;
    Some(tenths.checked_mul(unit)? / 10)
}

/// A line of a serial port as text: without what terminals do with it.
pub(crate) fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .filter(|&c| c == '\t' || !c.is_control())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn crashes_are_noticed() {
        for line in [
            "[    2.526925] Kernel panic - not syncing: VFS: Unable to mount root fs",
            "[    9.0] BUG: unable to handle page fault for address: ffffed1000000000",
            "[    9.0] BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "[    9.0] Oops: Oops: 0000 [#1] PREEMPT SMP NOPTI",
            "[    9.0] ------------[ cut here ]------------",
            "[   30.1] rcu: INFO: rcu_sched self-detected stall on CPU",
            "thread 'main' panicked at src/main.rs:3:5:",
        ] {
            assert!(is_crash(line), "{line}");
        }
        for line in [
            "",
            "[    0.1] Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on",
            "[    0.0] Command line: console=ttyS0 panic=-1",
            "kjump: jumping to the saving kernel",
        ] {
            assert!(!is_crash(line), "{line}");
        }
    }

    #[test]
    fn what_was_left_out_is_read() {
        let line = |size| {
            format!("kjump: left out {size} that were free, 12.0 MiB of zeros (found in 0.1 s)")
        };
        for (size, bytes) in [
            ("612.5 MiB", Some((612 << 20) + (1 << 19))),
            ("0 bytes", Some(0)),
            ("1.0 GiB", Some(1 << 30)),
            ("4 KiB", Some(4096)),
            ("much", None),
            ("1.25 GiB", None),
            ("-1 MiB", None),
            ("99999999999999 TiB", None),
        ] {
            assert_eq!(left_out(&line(size)), bytes, "{size}");
        }
        assert_eq!(left_out("kjump: saved 926.8 MiB in 5.3 s"), None);
    }

    #[test]
    fn reports_are_read_with_and_without_a_timestamp() {
        assert_eq!(
            value("[    5.001] lab: before.memory=3 MiB, a=b", "before.memory"),
            Some("3 MiB, a=b")
        );
        assert_eq!(value("lab: verdict=ok", "verdict"), Some("ok"));
        assert_eq!(value("lab: verdict=ok", "verd"), None);
        assert_eq!(value("lab: verdict", "verdict"), None);
        assert_eq!(failure("[ 1.0] lab: verdict=ok"), None);
        assert_eq!(
            failure("[ 1.0] lab: verdict=failed disk: gone"),
            Some(" disk: gone")
        );
    }

    #[test]
    fn peak_memory_is_found() {
        let line = "kjump: saved 1012 MiB in 3.1 s, peak resident memory 1234 KiB";
        assert_eq!(peak_memory(line), Some(1234));
        assert_eq!(peak_memory("peak resident memory a lot"), None);
        assert_eq!(peak_memory("peak resident memory -5 KiB"), None);
    }

    #[test]
    fn terminal_codes_lose_their_effect() {
        assert_eq!(clean(b"\x1b[2J\x1b[01;01Habc\r\n"), "[2J[01;01Habc");
        assert_eq!(clean(b"a\tb\xff"), "a\tb\u{fffd}");
    }

    proptest! {
        #[test]
        fn any_line_can_be_read(bytes: Vec<u8>) {
            let text = clean(&bytes);
            prop_assert!(!text.contains('\n'));
            is_crash(&text);
            failure(&text);
            value(&text, "before.memory");
            peak_memory(&text);
        }
    }
}
