//! A thread on each CPU, which must stay there and go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use crate::machine;
use crate::witness::Witness;

/// How often each thread looks where it is.
const PERIOD: Duration = Duration::from_millis(10);

/// The CPUs of this machine, a thread on each.
pub(crate) struct Processors {
    online: Vec<usize>,
    threads: Vec<Arc<Pinned>>,
}

/// A thread that may run on one CPU only.
struct Pinned {
    processor: usize,
    rounds: AtomicU64,
    astray: AtomicU64,
}

impl Processors {
    /// Starts a thread on every CPU that is on line.
    pub(crate) fn start() -> Result<Self> {
        let online = machine::online_processors()?;
        let threads = online
            .iter()
            .map(|&processor| Pinned::start(processor))
            .collect();
        Ok(Self { online, threads })
    }
}

impl Witness for Processors {
    fn name(&self) -> &'static str {
        "cpus"
    }

    fn before(&mut self) -> Result<String> {
        self.verify()
    }

    fn verify(&mut self) -> Result<String> {
        let online = machine::online_processors()?;
        ensure!(
            online == self.online,
            "on line are {online:?}, not {:?}",
            self.online
        );
        for thread in &self.threads {
            thread.go_on()?;
        }
        Ok(format!("{} on line, a thread runs on each", online.len()))
    }

    fn spoil(&mut self) -> Result<()> {
        let last = self.online.last().context("no CPU at all")?;
        machine::write(format!("/sys/devices/system/cpu/cpu{last}/online"), "0")
    }
}

impl Pinned {
    fn start(processor: usize) -> Arc<Self> {
        let thread = Arc::new(Self {
            processor,
            rounds: AtomicU64::new(0),
            astray: AtomicU64::new(0),
        });
        std::thread::spawn({
            let thread = thread.clone();
            move || thread.run()
        });
        thread
    }

    fn run(&self) {
        if stay_on(self.processor).is_err() {
            self.astray.fetch_add(1, Ordering::SeqCst);
        }
        loop {
            if sched_getcpu() != Ok(self.processor) {
                self.astray.fetch_add(1, Ordering::SeqCst);
            }
            self.rounds.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(PERIOD);
        }
    }

    /// Waits until the thread made some more rounds.
    fn go_on(&self) -> Result<()> {
        let already = self.rounds.load(Ordering::SeqCst);
        for _ in 0..500 {
            let astray = self.astray.load(Ordering::SeqCst);
            ensure!(
                astray == 0,
                "the thread of CPU {} was elsewhere {astray} times",
                self.processor
            );
            if self.rounds.load(Ordering::SeqCst) > already + 2 {
                return Ok(());
            }
            std::thread::sleep(PERIOD);
        }
        bail!("the thread of CPU {} stands still", self.processor)
    }
}

/// Keeps the calling thread on one CPU.
pub(crate) fn stay_on(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .with_context(|| format!("choosing CPU {processor}"))
}
