//! The command line.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use kjump::memory::DumpLevel;
use kjump::memory::image::Codec;
use kjump::{Verify, window};

use crate::key::KeyOptions;

/// Put a machine's whole memory aside and bring it back.
///
/// `kjump hibernate` jumps to a second kernel that writes this machine's memory to a block device and
/// powers off. After the next boot, `kjump resume` brings it back, and `kjump hibernate` returns. Ask
/// `kjump doctor` first.
#[derive(Debug, Parser)]
#[command(name = "kjump", version, after_help = EXIT_STATUS)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

const EXIT_STATUS: &str = "Exit status: 0 done, 1 failed, 2 wrong usage.";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Can this machine do it? Names each obstacle and what to do about it
    Doctor {
        /// Print JSON: {"ready": bool, "findings": [{"check", "status", "detail", "remedy"}]}
        #[arg(long)]
        json: bool,
        /// Say instead what would happen if this image were resumed now; "ready" then means that it can be
        #[arg(long, value_name = "TARGET")]
        image: Option<PathBuf>,
        #[command(flatten)]
        key: KeyOptions,
    },
    /// Load the kernel that saves this machine, without jumping to it
    ///
    /// Without --image the loaded kernel saves nothing and jumps right back: a rehearsal.
    Load(Load),
    /// Save this machine to a block device and power off; returns when it is resumed
    Hibernate {
        #[command(flatten)]
        load: LoadOptions,
        /// Block device for the image; what it holds is lost
        #[arg(long, value_name = "DEVICE")]
        image: PathBuf,
        /// Check and plan everything, print the plan, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Jump to the kernel that is loaded; returns when it, or the one that restores, jumps back
    Jump,
    /// In the saving kernel: jump back into the machine, without power-off
    Back,
    /// In the saving kernel: write the machine's memory to an image
    Save(Save),
    /// Write a saved machine in another format: an ELF core that debuggers open, or an image
    ///
    /// Free pages are left out and zero pages take no room. A core has the memory as the machine saw it
    /// before it jumped. `kjump restore` takes the core as well as the image.
    Convert(Convert),
    /// Read an image through and check every byte of it
    ///
    /// Says what the image holds if all is right, and else what is damaged, with exit status 1.
    Verify {
        /// Block device or file that holds the image, or - for standard input
        #[arg(value_name = "TARGET")]
        image: PathBuf,
        #[command(flatten)]
        key: KeyOptions,
    },
    /// After a boot: check an image, and leave for the kernel that restores it
    ///
    /// Nothing that the saved machine had mounted may be mounted when this runs: do it early in the
    /// boot. Does not return on success.
    Resume(Resume),
    /// In the restoring kernel: write an image's memory back, and jump into it
    Restore(Restore),
    /// Give an image up: it will never be resumed
    Discard {
        /// Block device or file that holds the image
        target: PathBuf,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Say what an image or a core holds
    Inspect(Inspect),
    /// Print the command line of a kernel that resumes an image by itself, for a boot loader's entry
    ///
    /// Such a kernel is confined to the window by `memmap=` and restores all other memory: no other one is
    /// loaded and booted. Its initramfs is that of `kjump initramfs --image DEVICE`, and the machine has to be
    /// hibernated with the same --window, which a kernel that is not relocated begins: 16 MiB. Where the image
    /// cannot be resumed, that kernel says why and powers off; boot normally then.
    InPlace {
        /// The window: SIZE@ADDRESS, such as 96M@0x1000000
        #[arg(long, value_name = "WINDOW")]
        window: window::Request,
        /// Block device for the image
        #[arg(long, value_name = "DEVICE")]
        image: PathBuf,
    },
    /// Write an initramfs that holds this very binary as /init, for the saving and restoring kernel
    ///
    /// `kjump hibernate` and `kjump resume` make one themselves; this is for kernels that something else loads.
    Initramfs(Initramfs),
    /// In the saving or restoring kernel: load the modules in a folder, in the order of their names
    #[command(hide = true)]
    LoadModules {
        /// The folder
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Initramfs {
    /// Where to; compressed if it ends with .gz
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Device for the image: the kernel modules are put in that this device needs, and all devices that are
    /// mounted for writing or swapped on now
    #[arg(long, value_name = "DEVICE")]
    pub(crate) image: Option<PathBuf>,
    /// Kernel that it is for, in whose release modules are looked for [default: the running one]
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// One more kernel module to load there, with what it depends on; for several, say it again
    #[arg(long, value_name = "NAME")]
    pub(crate) module: Vec<String>,
}

/// What is written when a machine is saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum SaveFormat {
    /// An image, as hibernation wants it
    #[default]
    Kjump,
    /// An ELF core of the memory as the machine saw it
    Elf,
}

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// Block device that the machine prepared, a new file, or - for standard output
    #[arg(long, value_name = "TARGET")]
    pub(crate) image: PathBuf,
    /// What to write: an image, or an ELF core that debuggers open too
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: SaveFormat,
    #[command(flatten)]
    pub(crate) packing: Packing,
    #[command(flatten)]
    pub(crate) key: KeyOptions,
    /// Save free pages too, to look at what was freed; nothing needs them to resume
    #[arg(long)]
    pub(crate) keep_free: bool,
    /// What a dump leaves out of a machine that panicked, as makedumpfile counts it: the sum of 1 for
    /// pages of zeros, 2 for cache, 4 for all cache, 8 for memory of processes, 16 for free pages
    /// [default: 17]
    #[arg(short, long, value_name = "LEVEL")]
    pub(crate) dump_level: Option<DumpLevel>,
}

#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// An image, an ELF core, or a dump of makedumpfile
    pub(crate) input: PathBuf,
    /// A new file, or - for standard output
    pub(crate) output: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value = "elf")]
    pub(crate) format: SaveFormat,
    #[command(flatten)]
    pub(crate) packing: Packing,
    #[command(flatten)]
    pub(crate) key: KeyOptions,
    /// Write free pages too, if they are there
    #[arg(long)]
    pub(crate) keep_free: bool,
}

/// How an image is compressed.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Packing {
    /// How to compress an image: none, lz4, zstd or zstd:LEVEL with a level from 1 to 19
    #[arg(long, value_name = "CODEC", default_value_t)]
    pub(crate) codec: Codec,
    /// How many threads do it [default: as many as there are CPUs and memory for]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub(crate) threads: Option<usize>,
}

/// A number of threads.
fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads @ 1..=1024) => Ok(threads),
        _ => Err("it is a number from 1 to 1024".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    #[command(flatten)]
    pub(crate) options: LoadOptions,
    /// Block device for the image; what it holds is lost
    #[arg(long, value_name = "DEVICE")]
    pub(crate) image: Option<PathBuf>,
}

/// The kernel that plays the other parts.
#[derive(Debug, Args)]
pub(crate) struct KernelOptions {
    /// Kernel to load: a bzImage or an ELF vmlinux [default: the running one's, in /boot]
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// Its initramfs [default: one that holds this very binary, and the modules of the drivers of the disks]
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// One more kernel module to load there, with what it depends on, such as usbhid for a keyboard to enter a
    /// passphrase; for several, say it again
    ///
    /// Modules are looked for in /lib/modules/RELEASE, by the release of the kernel that is loaded.
    #[arg(long, value_name = "NAME", conflicts_with = "initrd")]
    pub(crate) module: Vec<String>,
    /// More for its kernel command line; the consoles of the running kernel are there already
    #[arg(
        long,
        value_name = "PARAMETERS",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) append: String,
}

#[derive(Debug, Args)]
pub(crate) struct LoadOptions {
    #[command(flatten)]
    pub(crate) kernel: KernelOptions,
    /// Memory that the kernel lives in: SIZE or SIZE@ADDRESS, such as 96M or 128M@0x10000000
    #[arg(long, value_name = "WINDOW", default_value_t)]
    pub(crate) window: window::Request,
    #[command(flatten)]
    pub(crate) packing: Packing,
    #[command(flatten)]
    pub(crate) key: KeyOptions,
    /// Save free pages too, to look at what was freed; nothing needs them to resume
    #[arg(long)]
    pub(crate) keep_free: bool,
    /// Do not look whether this mounted device is used before the machine is resumed, which would
    /// destroy what is on it: for what the saving kernel cannot read
    #[arg(long, value_name = "DEVICE")]
    pub(crate) allow_unread: Vec<PathBuf>,
}

/// What is checked, and when.
#[derive(Debug, Args)]
pub(crate) struct Verification {
    /// How much of an image to check before the first byte of memory is written: index or full
    ///
    /// By default memory is checked as it is read, and nothing is jumped to unless all of it was right.
    #[arg(long, value_name = "EXTENT", default_value = "index")]
    pub(crate) verify: Verify,
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    #[command(flatten)]
    pub(crate) kernel: KernelOptions,
    /// Block device or file that holds the image
    #[arg(long, value_name = "TARGET")]
    pub(crate) image: PathBuf,
    #[command(flatten)]
    pub(crate) key: KeyOptions,
    #[command(flatten)]
    pub(crate) verification: Verification,
    /// Resume an image that was resumed already, or could not be three times. The machine in it then
    /// wakes up as of back then: what it has open since, and all that talked to it, is out of step, and
    /// the moment it writes to anything that went on without it, that is destroyed
    #[arg(long)]
    pub(crate) force_again: bool,
    /// Take another kernel than the one that saved the machine
    #[arg(long)]
    pub(crate) other_kernel: bool,
    /// Check and plan everything, print the plan, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// Block device or file that holds the image
    #[arg(long, value_name = "TARGET")]
    pub(crate) image: PathBuf,
    #[command(flatten)]
    pub(crate) key: KeyOptions,
    /// What to restore to: /dev/mem, /dev/oldmem, or a plain file, where nothing is jumped to after
    /// [default: /dev/oldmem if the kernel has it, else /dev/mem]
    #[arg(long, value_name = "MEMORY")]
    pub(crate) target: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) verification: Verification,
    /// Restore an image that was resumed already; see `kjump resume --help`
    #[arg(long)]
    pub(crate) force_again: bool,
    /// Check everything and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// An image, or an ELF core such as /proc/vmcore
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) key: KeyOptions,
    /// Print JSON
    ///
    /// {"format", "resumable", "reason", "kernel_release", "build_id", "id", "paging", "window",
    /// "uptime_seconds", "pages": {"total", "data", "zero", "free"}, "pages_reason", "stored": {"bytes",
    /// "data_bytes", "stored_bytes", "chunks": {"none", "lz4", "zstd"}, "phases": [{"name",
    /// "seconds"}]}, "ranges": [{"start", "end"}]}. Addresses are in bytes, ends lie behind the last byte, and pages have 4 KiB. What is
    /// not known is null.
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw physical memory: here, or as a picture to a file
    ///
    /// Without FILE.svg the map goes to standard output, in colour on a terminal unless NO_COLOR is set,
    /// and as wide as COLUMNS or the terminal says.
    #[arg(
        long,
        value_name = "FILE.svg",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "-",
        value_parser = map_target,
    )]
    pub(crate) map: Option<MapTarget>,
}

/// Where the map goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MapTarget {
    /// To standard output, as text.
    Here,
    /// To a file, as a picture.
    Svg(PathBuf),
}

/// Other names are refused, so that nobody overwrites a core by a slip.
fn map_target(text: &str) -> Result<MapTarget, String> {
    let path = PathBuf::from(text);
    if text == "-" {
        Ok(MapTarget::Here)
    } else if path.extension().is_some_and(|extension| extension == "svg") {
        Ok(MapTarget::Svg(path))
    } else {
        Err(
            "a map is an SVG; give a name that ends with .svg, or none for a map in text"
                .to_owned(),
        )
    }
}

impl Cli {
    /// Refuses, with the status of wrong usage, what cannot be said in the attributes above.
    pub(crate) fn check(&self) {
        if let Verb::Inspect(Inspect {
            json: true,
            map: Some(MapTarget::Here),
            ..
        }) = self.verb
        {
            Self::command()
                .error(
                    ErrorKind::ArgumentConflict,
                    "--json and --map both print to standard output; draw the map with --map=FILE.svg",
                )
                .exit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
