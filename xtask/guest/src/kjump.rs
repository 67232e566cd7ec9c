//! Runs the command under test.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::console;
use crate::parameters::Parameters;

/// Where the lab put it.
pub(crate) const KJUMP: &str = "/bin/kjump";

/// The kernel to boot as B and D; the one that runs as A and C.
pub(crate) const KERNEL: &str = "/boot/bzImage";

/// What a run of it said.
pub(crate) struct Outcome {
    /// Its exit status, unless a signal ended it.
    pub(crate) status: Option<i32>,
    /// All that it wrote to standard output and standard error.
    pub(crate) output: String,
}

/// Runs `kjump` with `arguments`, its output on the console, and expects success.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let status = Command::new(KJUMP)
        .args(arguments)
        .status()
        .with_context(|| format!("running {KJUMP}"))?;
    ensure!(
        status.success(),
        "kjump {} failed: {status}",
        arguments.join(" ")
    );
    Ok(())
}

/// Runs `kjump` with `arguments`, its output on the console, and expects it to fail.
pub(crate) fn run_in_vain(arguments: &[&str]) -> Result<()> {
    let status = Command::new(KJUMP)
        .args(arguments)
        .status()
        .with_context(|| format!("running {KJUMP}"))?;
    ensure!(
        status.code() == Some(1),
        "kjump {} ended with {status}",
        arguments.join(" ")
    );
    Ok(())
}

/// Runs `kjump` with `arguments` as user `uid`, and returns how that went.
pub(crate) fn try_run(arguments: &[&str], uid: u32) -> Result<Outcome> {
    let output = Command::new(KJUMP)
        .args(arguments)
        .uid(uid)
        .gid(uid)
        .output()
        .with_context(|| format!("running {KJUMP}"))?;
    let text = [output.stdout, output.stderr].concat();
    Ok(Outcome {
        status: output.status.code(),
        output: String::from_utf8_lossy(&text).trim_end().to_owned(),
    })
}

/// Tells the command line of a kernel that resumes this machine from `image` by itself.
pub(crate) fn tell_boot_line(parameters: &Parameters, image: &str) -> Result<()> {
    let window = parameters.window.as_deref().context("no window")?;
    let arguments = ["in-place", "--window", window, "--image", image];
    let outcome = try_run(&arguments, 0)?;
    ensure!(outcome.status == Some(0), "{}", outcome.output);
    console::report("boot-line", &outcome.output);
    Ok(())
}

/// Options that say which kernel to load, and with what command line.
pub(crate) fn kernel_options(parameters: &Parameters) -> Vec<&str> {
    let mut options = vec!["--kernel", KERNEL];
    if !parameters.append.is_empty() {
        options.extend(["--append", &parameters.append]);
    }
    for module in &parameters.modules {
        options.extend(["--module", module]);
    }
    options
}

/// The same, and into what memory.
pub(crate) fn load_options(parameters: &Parameters) -> Vec<&str> {
    let mut options = kernel_options(parameters);
    if let Some(window) = &parameters.window {
        options.extend(["--window", window]);
    }
    options
}
