//! The end of patience: a kernel that saves or restores must not stand still for ever.
//!
//! Where there is a watchdog, it is fed as long as work goes on. When none was done for some minutes the
//! machine boots again: by a reboot, and if the kernel cannot do even that, by the watchdog, which nobody
//! feeds then. A kernel that hangs as a whole does not feed it either.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kjump::CommandLine;
use kjump::sys::{RebootCommand, reboot};

use crate::report::{self, say};

/// How long no work may be done, in seconds, on the kernel command line.
const KEY: &str = "kjump.patience";
/// The same where nothing is said.
const DEFAULT: Duration = Duration::from_secs(600);
/// How often the watchdog is fed. None has a limit of less than a few seconds.
const MEAL: Duration = Duration::from_secs(1);

/// Counts up whenever some work was done.
static WORK: AtomicU64 = AtomicU64::new(0);
/// Whether this kernel is about to be left.
static OVER: AtomicBool = AtomicBool::new(false);

/// To be called whenever some work was done.
pub(crate) fn work_goes_on() {
    WORK.fetch_add(1, Ordering::Relaxed);
}

/// Begins to watch, in a thread of its own.
pub(crate) fn begin(line: &str) {
    let limit = CommandLine::value(line, KEY)
        .and_then(|seconds| seconds.parse().ok())
        .map_or(DEFAULT, Duration::from_secs);
    thread::spawn(move || watch(limit));
}

/// Ends it: the watchdog is told to rest, since whoever comes next may not know that there is one.
pub(crate) fn end() {
    OVER.store(true, Ordering::SeqCst);
    // The thread looks every now and then.
    thread::sleep(MEAL / 10 * 2);
}

fn watch(limit: Duration) {
    // The device appears when its driver is ready, which may be after init began. It begins to count when
    // it is opened (`Documentation/watchdog/watchdog-api.rst`).
    let open = || OpenOptions::new().write(true).open("/dev/watchdog").ok();
    let mut watchdog: Option<File> = None;
    let (mut work, mut since) = (WORK.load(Ordering::Relaxed), Instant::now());
    let mut fed = Instant::now() - MEAL;
    loop {
        if OVER.load(Ordering::SeqCst) {
            if let Some(mut watchdog) = watchdog.take() {
                let _ = watchdog.write_all(b"V");
            }
            return;
        }
        let now = WORK.load(Ordering::Relaxed);
        if now != work {
            (work, since) = (now, Instant::now());
        }
        if since.elapsed() > limit {
            say!("no progress for {} s; booting again", limit.as_secs());
            report::drain();
            if let Err(error) = reboot(RebootCommand::Restart) {
                report::error(&error.into());
            }
            return;
        }
        if fed.elapsed() >= MEAL {
            fed = Instant::now();
            watchdog = watchdog.or_else(open);
            if let Some(watchdog) = &mut watchdog {
                let _ = watchdog.write_all(b"\0");
            }
        }
        thread::sleep(MEAL / 10);
    }
}
