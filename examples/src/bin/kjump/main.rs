//! `kjump`: hibernation by kexec, as one command.
//!
//! The same binary is the init of the kernels that save and restore: run as process 1 by the name `init`,
//! it takes its role from the kernel command line.
#![forbid(unsafe_code)]

mod cli;
mod convert;
mod doctor;
mod dump;
mod hibernate;
mod init;
mod inspect;
mod map;
mod report;
mod restore;
mod resume;
mod role;
mod save;

use std::process::ExitCode;

use anyhow::bail;
use clap::Parser;
use kjump::Crashed;

use cli::{Cli, CoreFormat, Verb};

fn main() -> ExitCode {
    if init::is_init() {
        init::run();
    }
    let cli = Cli::parse();
    cli.check();
    match run(cli.verb) {
        Ok(code) => code,
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Doctor { json } => return doctor::run(json),
        Verb::Load(load) => hibernate::load(&load)?,
        Verb::Hibernate {
            load,
            image,
            dry_run,
        } => hibernate::hibernate(&load, &image, dry_run)?,
        Verb::Jump => hibernate::jump()?,
        Verb::Back => match save::back()? {},
        Verb::Save {
            image,
            format,
            keep_free,
            dump_level,
        } => match (Crashed::is_here(), dump_level) {
            (true, level) => dump::run(&image, format, level)?,
            (false, Some(level)) => bail!(
                "dump level {level} is for machines that panicked: one that is to go on is saved whole"
            ),
            (false, None) => save::run(&image, format, keep_free)?,
        },
        Verb::Convert {
            input,
            output,
            format: CoreFormat::Elf,
        } => convert::run(&input, &output)?,
        Verb::Resume(resume) => resume::run(&resume)?,
        Verb::Restore(restore) => restore::run(&restore)?,
        Verb::Inspect(options) => inspect::run(&options)?,
        Verb::Initramfs { out } => role::write_initramfs(&out)?,
    }
    Ok(ExitCode::SUCCESS)
}
