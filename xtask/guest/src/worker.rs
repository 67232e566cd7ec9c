//! Processes of A's besides the first: they are told what to do over a pipe, in lines.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::{freed, memory, messages};

/// Runs as the process that `arguments` name, until its standard input ends.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["hold-memory", numbers @ ..] => memory::hold(numbers),
        ["take-memory", numbers @ ..] => freed::take(numbers),
        ["send-messages"] => messages::send(),
        ["answer-messages"] => messages::answer(),
        _ => bail!("no such worker"),
    }
}

/// Answers each line of standard input by a line of standard output.
pub(crate) fn serve(mut answer: impl FnMut(&str) -> Result<String>) -> Result<()> {
    for line in std::io::stdin().lines() {
        let mut line = answer(&line.context("reading commands")?)?;
        line.push('\n');
        let mut output = std::io::stdout().lock();
        output
            .write_all(line.as_bytes())
            .and_then(|()| output.flush())
            .context("answering")?;
    }
    Ok(())
}

/// A process that this one started.
pub(crate) struct Worker {
    name: String,
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts the worker that `arguments` name.
    pub(crate) fn start(arguments: &[&str]) -> Result<Self> {
        let name = arguments.join(" ");
        let mut child = Command::new("/proc/self/exe")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let commands = child.stdin.take().context("no pipe to the worker")?;
        let answers = child.stdout.take().context("no pipe from the worker")?;
        Ok(Self {
            name,
            child,
            commands,
            answers: BufReader::new(answers),
        })
    }

    /// Sends a command. The answer is for [`answer`](Self::answer) to wait for.
    pub(crate) fn send(&mut self, command: &str) -> Result<()> {
        self.commands
            .write_all(format!("{command}\n").as_bytes())
            .with_context(|| format!("sending {command} to {}", self.name))
    }

    /// Waits for the answer to a command.
    pub(crate) fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .with_context(|| format!("waiting for {}", self.name))?;
        if line.is_empty() {
            bail!("{} ended: {:?}", self.name, self.child.wait());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Ends the process, and waits until all that it held is free.
    pub(crate) fn end(self) -> Result<()> {
        let Self {
            name,
            mut child,
            commands,
            ..
        } = self;
        drop(commands);
        let status = child
            .wait()
            .with_context(|| format!("waiting for the end of {name}"))?;
        ensure!(status.success(), "{name} failed: {status}");
        Ok(())
    }

    /// Sends a command and waits for the answer.
    pub(crate) fn ask(&mut self, command: &str) -> Result<String> {
        self.send(command)?;
        self.answer()
    }
}
