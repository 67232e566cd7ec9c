//! The first process of the lab's machines.
//!
//! As A it fills the machine with content, has `kjump` stop and resume it, and compares what came back
//! with what there was. As C it spoils all free memory, so that nothing can be right by chance, and
//! has `kjump` resume the image. It also asks for things that must be refused. What to do comes from
//! the kernel command line ([`parameters`]); results go to the console as `lab: key=value` lines, the
//! last of which is `lab: verdict=ok` or `lab: verdict=failed` and the reason.
//!
//! The same binary, run with arguments, is each of the processes that A holds ([`worker`]).

mod bench;
mod clock;
mod console;
mod content;
mod disk;
mod freed;
mod identity;
mod kernel_log;
mod key;
mod kinds;
mod kjump;
mod machine;
mod mapped;
mod memory;
mod messages;
mod network;
mod parameters;
mod processors;
mod refusals;
mod roles;
mod save;
mod stacked;
mod stale;
mod swap;
mod tmpfs;
mod window;
mod witness;
mod worker;

use std::process::ExitCode;

use anyhow::{Context, Result};

fn main() -> ExitCode {
    if std::process::id() == 1 {
        return first_process();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match worker::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-guest {}: {error:#}", arguments.join(" "));
            ExitCode::FAILURE
        }
    }
}

/// Plays the role that the kernel command line names, tells how that went, and powers off.
fn first_process() -> ExitCode {
    match play() {
        Ok(()) => console::report("verdict", "ok"),
        Err(error) => console::report("verdict", &format!("failed {error:#}")),
    }
    // The kernel panics when its first process ends, and the lab sees that.
    let Err(error) = machine::power_off();
    eprintln!("lab-guest: {error:#}");
    ExitCode::FAILURE
}

fn play() -> Result<()> {
    machine::mount_kernel_file_systems()?;
    machine::load_modules()?;
    let line = std::fs::read_to_string("/proc/cmdline").context("reading /proc/cmdline")?;
    let mut parameters = parameters::Parameters::parse(&line)?;
    if parameters.window.as_deref() == Some("kernel") {
        let window = window::over_kernel()?;
        console::report("window", &window);
        parameters.window = Some(window);
    }
    roles::play(&parameters)
}
