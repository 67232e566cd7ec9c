//! Two processes that exchange numbered messages, driven by timers.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::witness::Witness;
use crate::worker::{self, Worker};

/// How often a message is sent.
const PERIOD: Duration = Duration::from_millis(10);

/// How long the answer to a message is held back.
const DELAY: Duration = Duration::from_millis(1);

/// The two processes.
pub(crate) struct Messages {
    sender: Worker,
}

impl Messages {
    /// Starts the exchange.
    pub(crate) fn start() -> Result<Self> {
        Ok(Self {
            sender: Worker::start(&["send-messages"])?,
        })
    }

    /// How many messages were answered so far; an error if any got lost or changed.
    fn answered(&mut self) -> Result<u64> {
        let answer = self.sender.ask("count")?;
        let (answered, wrong) = answer.split_once(' ').context("short answer")?;
        ensure!(
            wrong == "0",
            "{wrong} of {answered} messages got lost or changed"
        );
        Ok(answered.parse()?)
    }

    /// Waits until some more messages were answered, and returns how many that makes.
    fn go_on(&mut self) -> Result<u64> {
        let already = self.answered()?;
        for _ in 0..500 {
            std::thread::sleep(PERIOD);
            let answered = self.answered()?;
            // The one that was under way when the machine stopped does not count.
            if answered > already + 2 {
                return Ok(answered);
            }
        }
        bail!("the exchange stands still at message {already}")
    }
}

impl Witness for Messages {
    fn name(&self) -> &'static str {
        "messages"
    }

    fn before(&mut self) -> Result<String> {
        Ok(format!("{} answered", self.go_on()?))
    }

    fn verify(&mut self) -> Result<String> {
        Ok(format!("{} answered, none lost", self.go_on()?))
    }

    fn spoil(&mut self) -> Result<()> {
        self.sender.ask("spoil").map(drop)
    }
}

/// The process that sends a message each time its timer fires, and compares the answers.
pub(crate) fn send() -> Result<()> {
    let answered = Arc::new(AtomicU64::new(0));
    let wrong = Arc::new(AtomicU64::new(0));
    let skip = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let (answered, wrong, skip) = (answered.clone(), wrong.clone(), skip.clone());
        move || {
            if let Err(error) = exchange(&answered, &wrong, &skip) {
                eprintln!("lab-guest send-messages: {error:#}");
                wrong.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    worker::serve(|command| match command {
        "count" => Ok(format!(
            "{} {}",
            answered.load(Ordering::SeqCst),
            wrong.load(Ordering::SeqCst)
        )),
        "spoil" => {
            skip.store(true, Ordering::SeqCst);
            Ok("spoilt".to_owned())
        }
        _ => bail!("unknown command {command}"),
    })
}

fn exchange(answered: &AtomicU64, wrong: &AtomicU64, skip: &AtomicBool) -> Result<()> {
    let mut partner = Command::new("/proc/self/exe")
        .arg("answer-messages")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the partner")?;
    let mut messages = partner.stdin.take().context("no pipe to the partner")?;
    let mut answers = partner.stdout.take().context("no pipe from the partner")?;

    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty())?;
    let period = TimeSpec::milliseconds(i64::try_from(PERIOD.as_millis())?);
    timer.set(Expiration::Interval(period), TimerSetTimeFlags::empty())?;
    for number in 0_u64.. {
        timer.wait().context("waiting for the timer")?;
        if skip.swap(false, Ordering::SeqCst) {
            continue;
        }
        messages
            .write_all(&number.to_le_bytes())
            .context("sending")?;
        let mut answer = [0; 8];
        answers
            .read_exact(&mut answer)
            .context("waiting for an answer")?;
        if u64::from_le_bytes(answer) != number {
            wrong.fetch_add(1, Ordering::SeqCst);
        }
        answered.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

/// The process that answers: by the number of messages that it got before, which is the message's own
/// number as long as none got lost.
pub(crate) fn answer() -> Result<()> {
    let mut messages = std::io::stdin().lock();
    let mut answers = std::io::stdout().lock();
    for expected in 0_u64.. {
        let mut message = [0; 8];
        if messages.read_exact(&mut message).is_err() {
            break;
        }
        std::thread::sleep(DELAY);
        let answer = if u64::from_le_bytes(message) == expected {
            expected
        } else {
            u64::MAX
        };
        answers
            .write_all(&answer.to_le_bytes())
            .context("answering")?;
        answers.flush().context("answering")?;
    }
    Ok(())
}
