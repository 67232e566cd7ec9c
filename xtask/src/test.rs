//! `cargo xtask test` and `cargo xtask matrix`: all that can be tested.

use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::lab::{Kernel, Lab};
use crate::run::{Event, Run, Runner};
use crate::{build, runs_folder, scenario, workspace};

/// How many machines run at once.
const MACHINES: usize = 2;

/// Kernels that the main scenarios run on.
const MATRIX_KERNELS: [Kernel; 3] = [Kernel::V6_1, Kernel::V6_12, Kernel::V7_3];

/// The main scenarios.
const MATRIX_SCENARIOS: [&str; 8] = [
    "bounce",
    "loop",
    "loop-big",
    "pages",
    "pages-big",
    "tools",
    "rfc",
    "oldmem-refuses",
];

/// Run all tests, and take machines through all scenarios
#[derive(Parser)]
#[command(name = "cargo xtask test", bin_name = "cargo xtask test")]
struct Arguments {
    /// Run nothing but scenarios with this in their name, those that take long among them
    filter: Option<String>,
}

/// Run the main scenarios on every kernel
#[derive(Parser)]
#[command(name = "cargo xtask matrix", bin_name = "cargo xtask matrix")]
struct NoArguments {}

/// Runs the task `test`.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse_from([&["test".to_owned()], arguments].concat());
    let filter = arguments.filter.as_deref();
    let runs: Vec<Run> = scenario::all()
        .into_iter()
        .filter(|scenario| match filter {
            Some(filter) => scenario.name.contains(filter),
            None => !scenario.long,
        })
        .map(Run::of)
        .collect();
    if runs.is_empty() {
        bail!(
            "no scenario has {:?} in its name",
            filter.unwrap_or_default()
        );
    }
    let lab = set_up(&runs)?;
    let tests = filter.is_none().then(cargo_test);
    let scenarios = run_all(&lab, runs);
    tests.unwrap_or(Ok(())).and(scenarios)
}

/// Runs the task `matrix`.
pub(crate) fn matrix(arguments: &[String]) -> Result<()> {
    NoArguments::parse_from([&["matrix".to_owned()], arguments].concat());
    let mut runs = Vec::new();
    for kernel in MATRIX_KERNELS {
        for name in MATRIX_SCENARIOS {
            let mut run = Run::of(scenario::find(name)?);
            run.label = format!("{name}-{kernel}");
            run.settings.kernel = kernel;
            runs.push(run);
        }
    }
    run_all(&set_up(&runs)?, runs)
}

/// Sets up the lab, with the kernels of `runs`.
fn set_up(runs: &[Run]) -> Result<Lab> {
    let mut kernels: Vec<Kernel> = runs.iter().flat_map(Run::kernels).collect();
    kernels.sort();
    kernels.dedup();
    Lab::set_up(&kernels)
}

/// Runs the tests of all packages.
fn cargo_test() -> Result<()> {
    let status = Command::new(env!("CARGO"))
        .current_dir(workspace())
        .args(["test", "--workspace"])
        .status()
        .context("starting cargo")?;
    if !status.success() {
        bail!("cargo test --workspace failed: {status}");
    }
    Ok(())
}

/// Runs all of `runs`, some at once, and tells how each went.
fn run_all(lab: &Lab, runs: Vec<Run>) -> Result<()> {
    let runner = Runner {
        lab,
        binaries: &build::binaries()?,
        keep: false,
        verbose: false,
    };
    let total = runs.len();
    let runs = Mutex::new(runs.into_iter());
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..MACHINES {
            scope.spawn(|| {
                while let Some(run) = next(&runs) {
                    let started = Instant::now();
                    let mut found = String::new();
                    let result = runner.run(&run, &mut |event| {
                        if let Event::Found(what) = event {
                            found = format!("  {what}");
                        }
                    });
                    let seconds = started.elapsed().as_secs_f64();
                    let word = if result.is_ok() { "ok" } else { "FAILED" };
                    println!("{:20} {word:6} {seconds:6.1} s{found}", run.label);
                    if let (Err(error), Ok(mut failures)) = (result, failures.lock()) {
                        failures.push((run.label, error));
                    }
                }
            });
        }
    });
    let failures = failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    for (label, error) in &failures {
        println!("\n{label}: {error:#}");
    }
    let failed = failures.len();
    println!("\nscenarios: {} passed, {failed} failed", total - failed);
    for (label, _) in &failures {
        println!("{label}: see {}-*.log", runs_folder().join(label).display());
    }
    if failed > 0 {
        bail!("{failed} of {total} scenarios failed");
    }
    Ok(())
}

/// The next run, for whoever is first.
fn next(runs: &Mutex<impl Iterator<Item = Run>>) -> Option<Run> {
    runs.lock().ok()?.next()
}
