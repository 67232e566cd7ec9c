//! What a kernel measured about its clocks, so that the next one need not measure it again.
//!
//! A kernel that boots waits for clocks: to find how fast the time-stamp counter counts (some ten
//! milliseconds), how long its delay loop takes (100 ms or more for each CPU that is not of the same
//! package as another), and how fast the timer in the local APIC is (100 ms, where that has no deadline
//! mode). A kernel on the same machine has done that before. But a wrong value lets a kernel hang or
//! run at the wrong speed, so nothing is handed on that was not confirmed:
//!
//! * The frequency of the counter: the running kernel keeps its time by the counter, and measured it
//!   twice, the second time for a second against another clock; Linux gives the counter up if the two
//!   differ by more than 1 % (`tsc_refine_calibration_work` in `arch/x86/kernel/tsc.c`).
//! * The length of the delay loop: the running kernel derived it from that frequency, the two agree, and
//!   the next kernel is of the same release, so that its timer ticks as often.
//! * That the local APIC's timer is not needed: the running kernel has another timer that ticks for all
//!   CPUs, the HPET.
//! * That ACPI need not be asked where interrupts of PCI devices go: the machine is one of QEMU's, and its
//!   firmware left a table that tells it (MP table). That firmware has a program in its ACPI tables which
//!   makes the whole table anew for each device that is switched on, 80 million instructions at a time.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;

/// How often the timer of a kernel ticks (`kernel/Kconfig.hz`).
const TICKS_PER_SECOND: [u64; 4] = [100, 250, 300, 1000];

/// What the running kernel knows of its clocks for certain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calibration {
    tsc_khz: Option<u64>,
    loops_per_jiffy: Option<u64>,
    apic_timer_spared: bool,
    acpi_routing_spared: bool,
}

impl Calibration {
    /// What the running kernel knows. What cannot be read is not known, and not knowing costs a moment
    /// and nothing else.
    #[must_use]
    pub fn read() -> Self {
        let device = |name: &str| {
            let path = Path::new("/sys/devices/system").join(name);
            fs::read_to_string(path).unwrap_or_default()
        };
        Self::from_state(
            &kernel_log(),
            &device("clocksource/clocksource0/current_clocksource"),
            &device("clockevents/clockevent0/current_device"),
            &device("clockevents/broadcast/current_device"),
        )
        .on_machine_by(&fs::read_to_string("/sys/class/dmi/id/sys_vendor").unwrap_or_default())
    }

    /// From the kernel's log, the clock that it keeps its time by, the timer of its first CPU, and the
    /// timer that stands in for those.
    fn from_state(log: &str, clock: &str, timer: &str, broadcast: &str) -> Self {
        // "lapic-deadline" needs no calibration.
        let apic_timer_spared = timer.trim() == "lapic" && broadcast.trim() == "hpet";
        let measured = (clock.trim() == "tsc").then(|| Frequency::from_log(log));
        let known = Self {
            apic_timer_spared,
            acpi_routing_spared: log.contains("found SMP MP-table at "),
            ..Self::default()
        };
        let Some(frequency) = measured.flatten() else {
            return known;
        };
        let loops = loops_per_jiffy(log).filter(|loops| {
            TICKS_PER_SECOND
                .iter()
                .any(|ticks| near(loops.saturating_mul(*ticks) / 1000, frequency.detected))
        });
        Self {
            tsc_khz: Some(frequency.refined),
            loops_per_jiffy: loops,
            ..known
        }
    }

    /// The MP tables of other firmware are older than its ACPI tables, and may be wrong by now.
    fn on_machine_by(self, vendor: &str) -> Self {
        Self {
            acpi_routing_spared: self.acpi_routing_spared && vendor.trim() == "QEMU",
            ..self
        }
    }

    /// Parameters that tell the next kernel; none if nothing is certain. `same_release` says whether
    /// that is a kernel of the running one's release.
    ///
    /// ```
    /// assert_eq!(kjump::Calibration::default().parameters(true), "");
    /// ```
    #[must_use]
    pub fn parameters(&self, same_release: bool) -> String {
        let mut parameters = Vec::new();
        if let Some(khz) = self.tsc_khz {
            parameters.push(format!("tsc_early_khz={khz}"));
        }
        if let Some(loops) = self.loops_per_jiffy
            && same_release
        {
            parameters.push(format!("lpj={loops}"));
        }
        if self.apic_timer_spared {
            parameters.push("noapictimer".to_owned());
        }
        if self.acpi_routing_spared {
            parameters.push("acpi=noirq".to_owned());
        }
        parameters.join(" ")
    }
}

/// How fast the time-stamp counter counts, in kHz, as the kernel measured it twice.
struct Frequency {
    /// In a moment, when it booted.
    detected: u64,
    /// Within a second, later.
    refined: u64,
}

impl Frequency {
    /// From the log of a kernel that measured it twice, with the same result.
    fn from_log(log: &str) -> Option<Self> {
        let of = |key: &str| {
            let (_, rest) = log.rsplit_once(key)?;
            let (number, _) = rest.split_once(" MHz")?;
            let (mhz, khz) = number.split_once('.')?;
            let digits = khz.len() == 3 && mhz.len() <= 6;
            digits.then(|| format!("{mhz}{khz}").parse().ok())?
        };
        let detected = of("tsc: Detected ")?;
        let refined = of("tsc: Refined TSC clocksource calibration: ")?;
        (refined > 0 && near(detected, refined)).then_some(Self { detected, refined })
    }
}

/// What the log says that the delay loop was derived as, from the frequency of the counter.
fn loops_per_jiffy(log: &str) -> Option<u64> {
    let (_, rest) = log.rsplit_once("value calculated using timer frequency.. ")?;
    let line = rest.lines().next()?;
    let (_, number) = line.split_once("(lpj=")?;
    number.split_once(')')?.0.parse().ok()
}

/// Whether two frequencies differ by less than 1 %.
fn near(one: u64, other: u64) -> bool {
    one.abs_diff(other) < other / 100
}

/// The log of the running kernel, as far as it is still there; empty if this process may not read it.
fn kernel_log() -> String {
    /// The longest record of any version, in bytes (`Documentation/ABI/testing/dev-kmsg`).
    const LONGEST_RECORD: usize = 16 << 10;
    /// More than the largest buffer that a log comes with, in bytes.
    const LONGEST_LOG: usize = 32 << 20;

    let log = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open("/dev/kmsg");
    let Ok(mut log) = log else {
        return String::new();
    };
    let mut text = String::new();
    let mut record = vec![0; LONGEST_RECORD];
    while text.len() < LONGEST_LOG {
        match log.read(&mut record) {
            Ok(0) => break,
            // Processes can write to the log, and are no witnesses; nor are they for the next line. The
            // facility, whose number is in front, tells them from the kernel, which has 0.
            Ok(length) => {
                let record = String::from_utf8_lossy(&record[..length]);
                if let Some((prefix, message)) = record.split_once(';')
                    && from_kernel(prefix)
                {
                    text.push_str(message.lines().next().unwrap_or_default());
                    text.push('\n');
                }
            }
            // A record was overwritten before it was read; the next one is there.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(_) => break,
        }
    }
    text
}

/// Whether a record with this prefix is the kernel's own: the number in front is eight times the
/// facility, and the level.
fn from_kernel(prefix: &str) -> bool {
    let number = prefix.split(',').next();
    number
        .and_then(|number| number.parse::<u32>().ok())
        .is_some_and(|number| number < 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
tsc: Unable to calibrate against PIT
tsc: using HPET reference calibration
tsc: Detected 2595.033 MHz processor
Calibrating delay loop (skipped), value calculated using timer frequency.. 5190.06 BogoMIPS (lpj=10380132)
smp: Brought up 1 node, 2 CPUs
tsc: Refined TSC clocksource calibration: 2596.105 MHz
clocksource: Switched to clocksource tsc
";

    fn parameters(log: &str, clock: &str) -> String {
        Calibration::from_state(log, clock, "lapic-deadline\n", "hpet\n").parameters(true)
    }

    #[test]
    fn what_was_confirmed_is_handed_on() {
        let known = Calibration::from_state(LOG, "tsc\n", "lapic\n", "hpet\n");
        assert_eq!(
            known.parameters(true),
            "tsc_early_khz=2596105 lpj=10380132 noapictimer"
        );
        // Another kernel may tick at another pace.
        assert_eq!(known.parameters(false), "tsc_early_khz=2596105 noapictimer");
    }

    #[test]
    fn what_was_not_confirmed_is_not() {
        assert_eq!(
            parameters(LOG, "tsc\n"),
            "tsc_early_khz=2596105 lpj=10380132"
        );
        for clock in ["hpet\n", "tsc-early\n", "acpi_pm\n", ""] {
            assert_eq!(parameters(LOG, clock), "");
        }
        let without = |line: &str| {
            let lines = LOG.lines().filter(|other| !other.contains(line));
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(parameters(&without("Refined"), "tsc"), "");
        assert_eq!(parameters(&without("Detected"), "tsc"), "");
        assert_eq!(
            parameters(&without("Calibrating"), "tsc"),
            "tsc_early_khz=2596105"
        );
        // A log that is cut in the middle of a number.
        for end in 0..LOG.len() {
            let cut = parameters(&LOG[..end], "tsc");
            assert!(cut.is_empty() || cut.ends_with("tsc_early_khz=2596105 lpj=10380132"));
        }
    }

    #[test]
    fn measurements_that_do_not_agree_are_not_handed_on() {
        let other = |from: &str, to: &str| parameters(&LOG.replace(from, to), "tsc");
        assert_eq!(other("2595.033", "2495.033"), "");
        assert_eq!(other("2596.105", "0.000"), "");
        assert_eq!(other("2596.105", "2596.1"), "");
        assert_eq!(other("2596.105", "99999999999999999999.105"), "");
        assert_eq!(
            other("lpj=10380132", "lpj=9380132"),
            "tsc_early_khz=2596105"
        );
        assert_eq!(
            other("lpj=10380132", "lpj=18446744073709551615"),
            "tsc_early_khz=2596105"
        );
    }

    #[test]
    fn the_timer_is_spared_only_where_another_stands_in() {
        let spared = |timer, broadcast| {
            Calibration::from_state("", "", timer, broadcast).parameters(true) == "noapictimer"
        };
        assert!(spared("lapic\n", "hpet\n"));
        assert!(!spared("lapic-deadline\n", "hpet\n"));
        assert!(!spared("lapic\n", "pit\n"));
        assert!(!spared("lapic\n", "(null)\n"));
        assert!(!spared("", ""));
    }

    #[test]
    fn acpi_is_spared_only_where_the_other_table_is_known_to_be_right() {
        let parameters = |log, vendor| {
            let known = Calibration::from_state(log, "", "", "").on_machine_by(vendor);
            known.parameters(true)
        };
        let log = "found SMP MP-table at [mem 0x000f5b80-0x000f5b8f]\n";
        assert_eq!(parameters(log, "QEMU\n"), "acpi=noirq");
        assert_eq!(parameters(log, "LENOVO\n"), "");
        assert_eq!(parameters(log, ""), "");
        assert_eq!(parameters(LOG, "QEMU\n"), "");
    }

    #[test]
    fn only_the_kernel_is_a_witness() {
        assert!(from_kernel("6,339,5140900,-"));
        assert!(!from_kernel("14,339,5140900,-"));
        assert!(!from_kernel(""));
    }
}
