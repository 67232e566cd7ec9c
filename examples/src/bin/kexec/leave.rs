//! Leaving this kernel: for what is loaded, for the machine that jumped here, or by a shutdown.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use kjump::protocol::Calls;
use kjump::sys::KernelState;
use kjump::{
    CommandLine, Error, LoadPlan, PhysAddr, PhysRange, Protocol, chain, machine, memory_device,
    open_memory,
};

use crate::Failure;
use crate::options::{Leave, Options};

/// Size of the page that a jump-back entry lies in.
const PAGE: u64 = 4096;

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
                None => Err(NO_ENTRY),
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

/// What leads back into the machine that jumped here.
struct WayBack {
    entry: PhysAddr,
    /// What is in the page of the entry.
    page: Vec<u8>,
    /// The memory that this kernel has.
    window: PhysRange,
}

impl WayBack {
    fn plan(&self) -> Result<LoadPlan<'_>, Error> {
        Ok(LoadPlan::returning(self.entry, &self.page, self.window)?)
    }
}

const NO_ENTRY: Error = Error::NoSleeper {
    what: "kexec_jump_back_entry= on the kernel command line",
};

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
    find(entry, target(options)).map_err(|error| {
        Failure::failed(format!("load jump back kernel failed: {}", chain(&error)))
    })
}

fn find(entry: PhysAddr, target: &Path) -> Result<WayBack, Error> {
    // Everything below 1 MiB may be in use, by this kernel's other CPUs for instance.
    let window = machine::iomem()?
        .ram()
        .ranges()
        .filter(|range| range.start().get() >= 1 << 20)
        .max_by_key(|range| range.len())
        .ok_or(Error::NoSleeper {
            what: "memory of this kernel's own",
        })?;
    let page = PhysRange::from_len(entry.align_down(PAGE), PAGE)
        .ok_or(kjump::memory::MemoryError::Absent { addr: entry })?;
    let page = open_memory(target)?.read(page)?;
    Ok(WayBack {
        entry,
        page,
        window,
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
