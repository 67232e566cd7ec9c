//! `kexec`: what the program of that name in kexec-tools does, and the two verbs that the 2007 mail added
//! to it, `-j` and `-b`, on today's kernels.
//!
//! Options, messages and exit status are those that scripts know from kexec-tools; what is loaded comes
//! from this project's own planner.
#![forbid(unsafe_code)]

mod getopt;
mod leave;
mod load;
mod options;

use std::fmt;
use std::process::ExitCode;

use kjump::protocol::{Calls, RunningKernel};
use kjump::sys::{KernelState, file_unload};
use kjump::{Protocol, chain, machine};

use crate::options::{Leave, Options, Request, Syscall, USAGE};

/// Why the program ends, and how.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What is printed to standard error, with the line's end; nothing if there is nothing to say.
    message: String,
    /// Whether the usage is printed to standard output after.
    usage: bool,
    /// The exit status.
    status: u8,
}

impl Failure {
    /// What kexec-tools gives up for at once: status 1.
    pub(crate) fn fatal(message: impl fmt::Display) -> Self {
        Self {
            message: format!("{message}\n"),
            usage: false,
            status: 1,
        }
    }

    /// What kexec-tools returns as -1: status 255.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self {
            status: 255,
            ..Self::fatal(message)
        }
    }

    /// The same, with the usage.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self {
            usage: true,
            ..Self::failed(message)
        }
    }

    /// The same without a word.
    fn silent() -> Self {
        Self {
            message: String::new(),
            usage: false,
            status: 255,
        }
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().unwrap_or_else(|| "kexec".to_owned());
    let words: Vec<String> = words.collect();
    let result = match Options::read(&program, &words) {
        Request::Help => {
            version();
            print!("{USAGE}");
            Ok(0)
        }
        Request::Version => {
            version();
            Ok(0)
        }
        Request::CrashSize => {
            println!("{}", KernelState::new().kexec_crash_size().unwrap_or(0));
            Ok(0)
        }
        Request::Wrong(complaint) if complaint.is_empty() => Err(Failure {
            usage: true,
            status: 1,
            ..Failure::silent()
        }),
        Request::Wrong(complaint) => Err(Failure {
            status: 1,
            ..Failure::usage(complaint)
        }),
        Request::Run(options) => run(&options, &KernelState::new(), &mut RunningKernel),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprint!("{}", failure.message);
            if failure.usage {
                version();
                print!("{USAGE}");
            }
            ExitCode::from(failure.status)
        }
    }
}

fn version() {
    println!("kexec (kjump {})", env!("CARGO_PKG_VERSION"));
}

/// Does what `options` ask for, one after the other; returns the exit status.
fn run(options: &Options, state: &KernelState, calls: &mut dyn Calls) -> Result<u8, Failure> {
    if let Some(value) = &options.refused {
        return Err(Failure::fatal(format!(
            "an option for kernels that are not Linux of 64 bits is not supported here{}{value}",
            if value.is_empty() { "" } else { ": " }
        )));
    }
    if options.status {
        return status(options, state);
    }
    if options.load && options.panic {
        load::check_reserved()?;
    }
    if options.syscall == Syscall::File {
        for (given, name) in [
            (options.helper, "--load-jump-back-helper"),
            (options.preserve, "--load-preserve-context"),
        ] {
            if given {
                let message = format!("{name} not supported with kexec_file_load");
                return Err(Failure::fatal(message));
            }
        }
    }
    if options.debug {
        match Protocol::of(state) {
            Ok(protocol) => println!("jumps: {protocol}"),
            Err(error) => println!("jumps: {}", chain(&error)),
        }
    }
    if options.unload {
        unload(options, calls)?;
    }
    if options.load {
        load::load(options, calls)?;
    }
    if options.helper {
        leave::load_way_back(options, state, calls)?;
    }
    if options.shutdown || options.leave == Some(Leave::Exec) {
        // As kexec-tools has it: a kernel that does not tell has nothing loaded.
        if !state.kexec_loaded().unwrap_or(false) {
            return Err(Failure::fatal("Nothing has been loaded!"));
        }
    }
    if options.shutdown {
        return Err(leave::shutdown());
    }
    match options.leave {
        Some(leave) => leave::leave(options, leave, state, calls),
        None => Ok(0),
    }
}

/// `-S`: whether something is loaded, as status 1 or 0.
fn status(options: &Options, state: &KernelState) -> Result<u8, Failure> {
    let loaded = if options.load_named || options.preserve {
        state.kexec_loaded()
    } else {
        state.kexec_crash_loaded()
    };
    loaded.map(u8::from).map_err(|_| Failure::silent())
}

/// `-u`
fn unload(options: &Options, calls: &mut dyn Calls) -> Result<(), Failure> {
    let (unloaded, call) = match options.syscall {
        Syscall::Load => (calls.unload(options.load_flags()), "kexec unload"),
        Syscall::File => (file_unload(options.file_flags()), "kexec_file_load(unload)"),
        Syscall::Auto => (
            file_unload(options.file_flags()).or_else(|_| calls.unload(options.load_flags())),
            "kexec unload",
        ),
    };
    unloaded.map_err(|error| Failure::failed(refusal(call, &error)))
}

/// That `call` failed, in the words of kexec-tools, and why, in ours.
pub(crate) fn refusal(call: &str, error: &kjump::sys::Error) -> String {
    match error {
        kjump::sys::Error::Syscall { cause, source, .. } => {
            format!("{call} failed: {}\n{cause}", reason(source))
        }
        other => format!("{call} failed: {other}"),
    }
}

/// What the C library says of an error: without the number that Rust adds.
pub(crate) fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// The command line of the running kernel, without what must not be handed on.
pub(crate) fn running_command_line(panic: bool) -> Result<String, Failure> {
    let line = machine::command_line().map_err(|error| Failure::failed(chain(&error)))?;
    let kept: Vec<&str> = kjump::CommandLine::parameters(&line)
        .filter(|parameter| {
            let name = parameter.split('=').next().unwrap_or_default();
            name != "BOOT_IMAGE" && !(panic && name == "crashkernel")
        })
        .collect();
    Ok(kept.join(" "))
}
