//! Leaving this kernel: for what is loaded, for the machine that jumped here, or by a shutdown.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use kjump::protocol::Calls;
use kjump::sys::KernelState;
use kjump::{
    CommandLine, Error, PhysAddr, Protocol, WayBack, chain, machine, memory_device, open_memory,
};

use crate::Failure;
use crate::options::{Leave, Options};

/// Leaves as `leave` says. What returns is the status after a jump that came back.
pub(crate) fn leave(
    options: &Options,
    leave: Leave,
    state: &KernelState,
    calls: &mut dyn Calls,
) -> Result<u8, Failure> {
    let protocol = match leave {
        Leave::Exec => Protocol::Mainline,
        Leave::JumpTo | Leave::JumpBack => {
            Protocol::of(state).map_err(|error| Failure::failed(chain(&error)))?
        }
    };
    // Nothing may fail behind what is done to the system, if it can fail before.
    if leave == Leave::JumpTo && !protocol.is_loaded(state).unwrap_or(false) {
        return Err(Failure::fatal("Nothing has been loaded!"));
    }
    let back = match (leave, protocol) {
        (Leave::JumpBack, Protocol::Mainline) => Some(way_back(options)?),
        _ => None,
    };
    if options.sync {
        nix::unistd::sync();
    }
    if options.ifdown {
        take_interfaces_down();
    }
    match leave {
        Leave::Exec | Leave::JumpTo => {
            let name = match leave {
                Leave::JumpTo => "kexec jump to",
                _ => "kexec",
            };
            match protocol.jump_to(calls) {
                Ok(()) => Ok(0),
                Err(error) => Err(refused(name, error)),
            }
        }
        Leave::JumpBack => {
            let plan = || match &back {
                Some(back) => back.plan(),
                None => Err(Error::NO_ENTRY),
            };
            match protocol.jump_back(calls, plan) {
                Ok(never) => match never {},
                Err(error) => Err(refused("kexec jump back", error)),
            }
        }
    }
}

/// That the kernel did not jump, in the words of kexec-tools, and why, in ours.
fn refused(call: &str, error: Error) -> Failure {
    Failure::failed(match error {
        Error::Kexec(error) => crate::refusal(call, &error),
        other => format!("{call} failed: {}", chain(&other)),
    })
}

/// `--load-jump-back-helper`: loads what jumps back, for `-e`.
pub(crate) fn load_way_back(
    options: &Options,
    state: &KernelState,
    calls: &mut dyn Calls,
) -> Result<(), Failure> {
    if state.kexec_loaded().unwrap_or(false) {
        return Err(Failure::failed(
            "There is kexec kernel loaded, make sure you are in kexeced kernel.",
        ));
    }
    let back = way_back(options)?;
    back.plan()
        .and_then(|plan| kjump::protocol::load(calls, &plan))
        .map_err(|error| refused("load jump back kernel", error))
}

/// The address to jump back to: the one that is given, or the one on this kernel's command line. 0 is
/// none.
fn entry(options: &Options) -> Option<PhysAddr> {
    match options.entry {
        Some(0) => None,
        Some(entry) => Some(PhysAddr::new(entry)),
        None => CommandLine::jump_back_entry(&machine::command_line().ok()?),
    }
}

/// Finds out what leads back, without changing anything.
fn way_back(options: &Options) -> Result<WayBack, Failure> {
    let Some(entry) = entry(options) else {
        return Err(Failure::failed(
            "Please specify jump back entry in command line",
        ));
    };
    open_memory(target(options))
        .and_then(|memory| WayBack::find(entry, memory.as_ref()))
        .map_err(|error| {
            Failure::failed(format!("load jump back kernel failed: {}", chain(&error)))
        })
}

/// The device through which the memory of the machine that jumped here is read.
fn target(options: &Options) -> &Path {
    options.target.as_deref().unwrap_or_else(|| memory_device())
}

/// Runs the system's shutdown, which takes the place of this program.
pub(crate) fn shutdown() -> Failure {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for program in ["/sbin/shutdown", "/etc/shutdown", "/bin/shutdown"] {
        last = Command::new(program).args(["-r", "now"]).exec();
    }
    Failure::failed(format!("shutdown: {last}"))
}

/// Takes all network interfaces down, as far as they let it: a card that still receives would write into
/// the memory of the next kernel.
fn take_interfaces_down() {
    const UP: u32 = 0x1;
    const LOOPBACK: u32 = 0x8;
    let Ok(interfaces) = fs::read_dir("/sys/class/net") else {
        return;
    };
    for interface in interfaces.flatten() {
        let path = interface.path().join("flags");
        let flags = fs::read_to_string(&path).ok().and_then(|text| {
            let digits = text.trim().strip_prefix("0x")?;
            u32::from_str_radix(digits, 16).ok()
        });
        if let Some(flags) = flags
            && flags & LOOPBACK == 0
            && flags & UP != 0
            && let Err(error) = fs::write(&path, format!("{:#x}\n", flags & !UP))
        {
            eprintln!("ifdown: {}: {error}", interface.path().display());
        }
    }
}
