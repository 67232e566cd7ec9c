//! `kjump`: hibernation by kexec, as one command.
//!
//! The same binary is the init of the kernels that save and restore: run as process 1 by the name `init`,
//! it takes its role from the kernel command line.
#![forbid(unsafe_code)]

mod cli;
mod convert;
mod discard;
mod doctor;
mod dump;
mod hibernate;
mod init;
mod inspect;
mod key;
mod map;
mod modules;
mod patience;
mod report;
mod restore;
mod resume;
mod role;
mod save;
mod stopwatch;
mod verify;

use std::process::ExitCode;

use anyhow::bail;
use clap::Parser;
use kjump::{Crashed, Measure};

use cli::{Cli, Verb};

fn main() -> ExitCode {
    if init::is_init() {
        init::run();
    }
    let measure = Measure::start();
    let cli = Cli::parse();
    cli.check();
    let done = run(cli.verb, &measure);
    // Of a process that has ended, its kernel keeps registers and stack until something else is there.
    kjump::overwrite_traces();
    match done {
        Ok(code) => code,
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb, measure: &Measure) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Doctor { json, image, key } => return doctor::run(json, image.as_deref(), &key),
        Verb::Load(load) => hibernate::load(&load, measure)?,
        Verb::Hibernate {
            load,
            image,
            dry_run,
        } => hibernate::hibernate(&load, &image, dry_run, measure)?,
        Verb::Jump => hibernate::jump()?,
        Verb::Back => match save::back()? {},
        Verb::Save(save) => match (Crashed::is_here(), save.dump_level) {
            (true, _) => dump::run(&save)?,
            (false, Some(level)) => bail!(
                "dump level {level} is for machines that panicked: one that is to go on is saved whole"
            ),
            (false, None) => save::run(&save)?,
        },
        Verb::Convert(convert) => convert::run(&convert)?,
        Verb::Verify { image, key } => verify::run(&image, &key)?,
        Verb::Resume(resume) => resume::run(&resume, measure)?,
        Verb::Restore(restore) => restore::run(&restore)?,
        Verb::Discard { target, yes } => discard::run(&target, yes)?,
        Verb::Inspect(options) => inspect::run(&options)?,
        Verb::InPlace { window, image } => println!("{}", role::in_place_line(window, &image)?),
        Verb::Initramfs(options) => role::write_initramfs(&options)?,
        Verb::LoadModules { folder } => modules::load(&folder)?,
    }
    Ok(ExitCode::SUCCESS)
}
