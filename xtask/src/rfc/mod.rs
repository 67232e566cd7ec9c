//! `cargo xtask rfc`: the thirteen steps of the 2007 mail, by shell scripts with `kexec` and `krestore`,
//! and whatever else of kexec-tools is put in the place of ours, or ours in its.

pub(crate) mod answers;
mod document;
pub(crate) mod scenes;
mod stage;

use anyhow::{Context, Result, bail};
use clap::Parser;

pub(crate) use stage::Stage;

use crate::build;
use crate::lab::{Kernel, Lab};
use crate::settings::Settings;
use document::Record;

/// Go through the thirteen steps of the 2007 mail in a virtual machine
#[derive(Parser)]
#[command(name = "cargo xtask rfc", bin_name = "cargo xtask rfc")]
struct Arguments {
    /// Kernel of all four: 6.12, 6.1 or 7.3
    #[arg(long, value_name = "VERSION", default_value_t = Kernel::V6_12)]
    kernel: Kernel,
    /// Have B and D live in memory that crashkernel= reserves, as the mail did
    #[arg(long)]
    crashkernel: bool,
    /// Write what was seen to docs/rfc-2007.md
    #[arg(long)]
    write: bool,
    /// Compare the answers of kexec-tools' kexec and ours instead: with examples/tests/kexec-answers.txt, which
    /// --write makes anew
    #[arg(long)]
    compare: bool,
    /// Measure instead how long 4 GiB take through /dev/oldmem and through /dev/mem, on a machine that
    /// nobody else uses
    #[arg(long)]
    time: bool,
    /// Memory of the machine in MiB, if it is to have more or less than is usual
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(512..))]
    memory: Option<u32>,
    /// UEFI firmware, Q35 and AHCI instead of BIOS, i440FX and virtio
    #[arg(long)]
    uefi: bool,
    /// Show all that the machine's console shows
    #[arg(long)]
    verbose: bool,
}

/// Runs the task.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse_from([&["rfc".to_owned()], arguments].concat());
    let mut settings = Settings {
        kernel: arguments.kernel,
        uefi: arguments.uefi,
        ..settings()
    };
    if arguments.time {
        // 4 GiB, and what B and D live in.
        settings.memory = 4096 + 256;
    }
    if let Some(memory) = arguments.memory {
        settings.memory = memory;
    }
    let stage = Stage {
        label: "rfc",
        lab: &Lab::set_up(&[settings.kernel])?,
        binaries: &build::binaries()?,
        settings: &settings,
        verbose: arguments.verbose,
    };
    if arguments.time {
        println!("{}", time(&stage)?);
        return Ok(());
    }
    if arguments.compare {
        println!("{}", answers::compare(&stage, arguments.write)?);
        return Ok(());
    }
    let window = if arguments.crashkernel {
        Window::Reserved
    } else {
        Window::Chosen
    };
    let record = thirteen_steps(&stage, window)?;
    if arguments.write {
        document::write(&record, settings.kernel)?;
    } else {
        print!("{}", record.to_markdown());
    }
    println!("rfc: ok");
    Ok(())
}

/// The machine that the steps are gone through on: small, since cores have all of its memory.
pub(crate) fn settings() -> Settings {
    Settings {
        memory: 640,
        ..Settings::default()
    }
}

/// Where B and D live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    /// In memory that `--mem-min` and `--mem-max` say; nothing is reserved.
    Chosen,
    /// In the memory that `crashkernel=` reserves.
    Reserved,
}

impl Window {
    /// What the command lines of A and C say of it.
    fn parameters(self) -> &'static str {
        match self {
            // The end is the last address.
            Self::Chosen => "rfc.window=0x10000000-0x19ffffff",
            // The kernel itself must not be where memory is to be reserved.
            Self::Reserved => "rfc.window=reserved crashkernel=160M@256M nokaslr",
        }
    }
}

/// The scenario of the thirteen steps.
pub(crate) fn play(stage: &Stage<'_>) -> Result<String> {
    let record = thirteen_steps(stage, Window::Chosen)?;
    document::agrees(&record)?;
    document::check(&record)
}

/// The same with reserved memory.
pub(crate) fn play_reserved(stage: &Stage<'_>) -> Result<String> {
    let record = thirteen_steps(stage, Window::Reserved)?;
    document::check(&record)
}

/// Restores one core by both ways, twice, and tells the better time of each.
fn time(stage: &Stage<'_>) -> Result<String> {
    let set = stage.set()?;
    let parameters = format!("{} rfc.time=1", Window::Chosen.parameters());
    stage.boot(&set, 1, "A", &parameters)?;
    let lines = stage.boot(&set, 2, "C", &parameters)?;
    let best = |target: &str| {
        let mark = format!("time {target} ");
        lines
            .iter()
            .filter_map(|line| line.strip_prefix(&mark)?.trim().parse::<f64>().ok())
            .min_by(f64::total_cmp)
            .with_context(|| format!("no time of {target} was told"))
    };
    let (mem, oldmem) = (best("/dev/mem")?, best("/dev/oldmem")?);
    Ok(format!(
        "/dev/mem {mem:.1} s, /dev/oldmem {oldmem:.1} s: {:+.0} %",
        (oldmem / mem - 1.0) * 100.0
    ))
}

/// Goes through all steps, and returns what was said.
fn thirteen_steps(stage: &Stage<'_>, window: Window) -> Result<Record> {
    let set = stage.set()?;
    let mut record = Record::default();
    for (number, part) in [(1, "A"), (2, "C")] {
        let lines = stage.boot(&set, number, part, window.parameters())?;
        for line in &lines {
            record.add(line);
        }
        if window == Window::Reserved && part == "C" && !lines.iter().any(|line| line == "mapped") {
            bail!(
                "the module's device was not mapped: see {}",
                stage.log(number).display()
            );
        }
        if part == "C" && !lines.iter().any(|line| line == "verdict=ok") {
            bail!("A did not come back: see {}", stage.log(number).display());
        }
    }
    Ok(record)
}
