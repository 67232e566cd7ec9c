//! Loading a kernel: for the machine, for beside it, or for its panic.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use kjump::image::{Boot, PlanError, window};
use kjump::protocol::{self, Calls};
use kjump::sys::Error as SysError;
use kjump::{
    CommandLine, Error, Kernel, LoadPlan, Machine, PhysAddr, PhysRange, chain, machine, random_id,
};

use crate::options::{Options, Syscall};
use crate::{Failure, reason, refusal, running_command_line};

/// Names of types, and whether they are ELF files.
const TYPES: [(&str, bool); 5] = [
    ("bzImage64", false),
    ("bzImage", false),
    ("elf-x86_64", true),
    ("elf-x86", true),
    ("elf", true),
];

/// Fails unless memory is reserved for a kernel for panics.
pub(crate) fn check_reserved() -> Result<(), Failure> {
    let iomem = machine::iomem().map_err(|error| Failure::fatal(chain(&error)))?;
    if iomem.crash_kernel().next().is_some() {
        return Ok(());
    }
    Err(Failure::fatal(
        "Memory for crashkernel is not reserved\n\
         Please reserve memory by passing\"crashkernel=Y@X\" parameter to kernel\n\
         Then try to loading kdump kernel",
    ))
}

/// Loads what `options` name, by the call that they say.
pub(crate) fn load(options: &Options, calls: &mut dyn Calls) -> Result<(), Failure> {
    let Some(path) = &options.kernel else {
        return Err(Failure::usage("No kernel specified"));
    };
    match options.syscall {
        Syscall::Load => by_plan(options, path, calls),
        Syscall::File => by_file(options, path).map_err(FileFailure::into_failure),
        // Plans can do more than files, so all that files cannot be is tried again.
        Syscall::Auto if options.preserve => by_plan(options, path, calls),
        Syscall::Auto => match by_file(options, path) {
            Ok(()) => Ok(()),
            Err(FileFailure::Kernel(_)) => by_plan(options, path, calls),
            Err(other) => Err(other.into_failure()),
        },
    }
}

/// Why a file could not be loaded.
enum FileFailure {
    /// Before the kernel was asked.
    Before(Failure),
    /// The kernel refused.
    Kernel(SysError),
}

impl FileFailure {
    fn into_failure(self) -> Failure {
        match self {
            Self::Before(failure) => failure,
            Self::Kernel(error) => Failure::failed(refusal("kexec_file_load", &error)),
        }
    }
}

/// Hands the files to the kernel.
fn by_file(options: &Options, path: &Path) -> Result<(), FileFailure> {
    let before = FileFailure::Before;
    let open = |path: &Path| {
        File::open(path).map_err(|error| {
            before(Failure::failed(format!(
                "Failed to open file {}:{}",
                path.display(),
                reason(&error)
            )))
        })
    };
    let kernel = open(path)?;
    // What is no kernel at all is told of in better words than the kernel has.
    self::kernel(options, path, &read(path).map_err(before)?).map_err(before)?;
    let initrd = options.initrd.as_deref().map(open).transpose()?;
    let line = CString::new(command_line(options).map_err(before)?)
        .map_err(|_| before(Failure::failed("the command line holds a zero byte")))?;
    kjump::sys::file_load(
        kernel.as_fd(),
        initrd.as_ref().map(AsFd::as_fd),
        &line,
        options.file_flags(),
    )
    .map_err(FileFailure::Kernel)
}

/// Plans where everything lies, and loads that.
fn by_plan(options: &Options, path: &Path, calls: &mut dyn Calls) -> Result<(), Failure> {
    let file = read(path)?;
    let kernel = kernel(options, path, &file)?;
    let initramfs = match (&options.initrd, options.reuse_initrd) {
        (Some(path), _) => read(path)?,
        (None, true) => read(Path::new("/sys/firmware/initrd")).map_err(|_| {
            Failure::fatal("unrecoverable error: current boot didn't retain the initrd for reuse.")
        })?,
        (None, false) => Vec::new(),
    };
    let append = command_line(options)?;
    let boot = Boot {
        kernel: &kernel,
        initramfs: &initramfs,
        append: &append,
    };
    let plans = plans(options, &boot).map_err(|error| {
        let message = format!("Cannot load {}\n{}", path.display(), chain(&error));
        match error {
            Error::Plan(PlanError::NoRoom { .. }) => Failure::fatal(message),
            _ => Failure::failed(message),
        }
    })?;
    for plan in &plans {
        if options.debug {
            println!("{plan}");
        }
        protocol::load(calls, plan).map_err(|error| {
            Failure::failed(match error {
                Error::Kexec(error) => refusal("kexec_load", &error),
                other => format!("kexec_load failed: {}", chain(&other)),
            })
        })?;
    }
    Ok(())
}

/// What is to be loaded, in this order.
fn plans<'a>(options: &Options, boot: &Boot<'a>) -> Result<Vec<LoadPlan<'a>>, Error> {
    let machine = machine::read()?;
    if !options.panic && !options.preserve {
        let firmware = machine::firmware()?;
        let area = PhysRange::new(options.mem_min.unwrap_or(0), end(options));
        let area = area.ok_or_else(|| no_place(options))?;
        return Ok(vec![LoadPlan::booting(&machine, &firmware, boot, area)?]);
    }
    let window = if options.panic {
        window::reserved(&machine.iomem, boot.kernel)?
    } else {
        beside(options, &machine, boot.kernel)?
    };
    let identity = machine.identity(random_id()?, window)?;
    let mut plans = Vec::new();
    if options.panic {
        let notes = machine::crash_notes()?;
        plans.push(LoadPlan::catching(&machine, &identity, &notes, boot)?);
    }
    if options.preserve {
        plans.push(LoadPlan::saving(&machine, &identity, boot, None)?);
    }
    Ok(plans)
}

/// The memory for a kernel that lives beside this one: all between the two addresses that are given, or
/// as much as is usual from or up to one of them.
fn beside(options: &Options, machine: &Machine, kernel: &Kernel<'_>) -> Result<PhysRange, Error> {
    let mut request = window::Request::default();
    if let Some(min) = options.mem_min {
        request.at = Some(PhysAddr::new(min));
        if options.mem_max.is_some() {
            request.size = end(options)
                .checked_sub(min)
                .filter(|&size| size > 0)
                .ok_or_else(|| no_place(options))?;
        }
    }
    let window = window::choose(&machine.iomem, machine.vmcoreinfo, kernel, request)?;
    if window.end().get() > end(options) {
        return Err(no_place(options));
    }
    Ok(window)
}

/// The address behind the highest one that may be used.
fn end(options: &Options) -> u64 {
    options
        .mem_max
        .map_or(u64::MAX, |last| last.saturating_add(1))
}

fn no_place(options: &Options) -> Error {
    Error::Plan(PlanError::NoRoom {
        size: end(options).saturating_sub(options.mem_min.unwrap_or(0)),
        low: PhysAddr::new(options.mem_min.unwrap_or(0)),
    })
}

/// Reads the kernel, and checks that it is of the type that it is said to be.
fn kernel<'a>(options: &Options, path: &Path, file: &'a [u8]) -> Result<Kernel<'a>, Failure> {
    let is_elf = file.starts_with(b"\x7fELF");
    if let Some(kind) = &options.kind {
        let Some((_, elf)) = TYPES.iter().find(|(name, _)| name == kind) else {
            return Err(Failure::failed(format!("Unsupported kernel type {kind}")));
        };
        if *elf != is_elf && Kernel::parse(file).is_ok() {
            let found = if is_elf { "elf-x86_64" } else { "bzImage64" };
            return Err(Failure::failed(format!(
                "Wrong file type {kind}, file matches type {found}"
            )));
        }
    }
    Kernel::parse(file).map_err(|error| {
        Failure::failed(format!(
            "Cannot determine the file type of {}\n{}",
            path.display(),
            chain(&error)
        ))
    })
}

/// The command line of the kernel that is loaded.
fn command_line(options: &Options) -> Result<String, Failure> {
    let mut line = CommandLine::new();
    if options.reuse_command_line {
        line.append(&running_command_line(options.panic)?);
    }
    line.append(options.command_line.as_deref().unwrap_or_default());
    Ok(line.as_str().to_owned())
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| cannot_open(path, &error))
}

fn cannot_open(path: &Path, error: &std::io::Error) -> Failure {
    Failure::fatal(format!(
        "Cannot open `{}': {}",
        path.display(),
        reason(error)
    ))
}
