//! `cargo xtask vm`: one scenario, on a machine of one's choice.

use anyhow::Result;
use clap::Parser;

use crate::lab::Lab;
use crate::run::{Event, Run, Runner};
use crate::settings::Overrides;
use crate::{build, scenario};

/// Run one scenario on a machine of your choice
#[derive(Parser)]
#[command(name = "cargo xtask vm", bin_name = "cargo xtask vm")]
struct Arguments {
    /// The scenario; without it, they are listed
    scenario: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
    /// Keep the disks of the machine
    #[arg(long)]
    keep: bool,
    /// Show all that the machine's console shows
    #[arg(long)]
    verbose: bool,
}

/// Runs the task.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse_from([&["vm".to_owned()], arguments].concat());
    let Some(name) = arguments.scenario else {
        for scenario in scenario::all() {
            println!("{:18} {}", scenario.name, scenario.summary);
        }
        return Ok(());
    };
    let mut run = Run::of(scenario::find(&name)?);
    run.settings = arguments.overrides.apply(run.settings);
    let runner = Runner {
        lab: &Lab::set_up(&run.kernels())?,
        binaries: &build::binaries()?,
        keep: arguments.keep,
        verbose: arguments.verbose,
    };
    runner.run(&run, &mut |event| match event {
        Event::PowerOn(number) => println!("boot {number}"),
        Event::Done(phase, took) => println!("{:7.2} s  {}", took.as_secs_f64(), phase.title),
        Event::Found(found) => println!("           {found}"),
        Event::Said(_) => {}
    })?;
    println!("{name}: ok");
    Ok(())
}
