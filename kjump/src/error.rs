//! What can go wrong between two kernels.

use std::io;
use std::path::{Path, PathBuf};

use kexec_image::PlanError;
use krestore_core::RestoreError;
use vmcore::elf::{CoreError, CoreWriteError};
use vmcore::image::{ImageError, ImageId, Paging};
use vmcore::{FileError, MemoryError, PagesError, SwapError, WriteError};
use vmcore::{IoMemError, PhysRange};

use crate::Moment;

/// What can go wrong between two kernels, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the reading met.
        source: io::Error,
    },
    /// A device or file cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The device or file.
        path: PathBuf,
        /// What the opening met.
        source: io::Error,
    },
    /// The memory map of the machine is of no use.
    #[error("the memory of this machine cannot be known")]
    IoMem(#[from] IoMemError),
    /// The plan cannot be made.
    #[error("this cannot be loaded")]
    Plan(#[from] PlanError),
    /// The kernel refused.
    #[error("the kernel refused")]
    Kexec(#[from] kexec_sys::Error),
    /// The image cannot be used.
    #[error("the image in {} cannot be used", path.display())]
    Image {
        /// Where the image is.
        path: PathBuf,
        /// Why not.
        source: ImageError,
    },
    /// A key cannot be used.
    #[error("the key cannot be used")]
    Seal(#[source] ImageError),
    /// The kernel before handed no key on where it said that it did.
    #[error(
        "the kernel before handed on no key for the image at {at}: it was taken already, or that memory was written to"
    )]
    NoKey {
        /// Where it said that there is one.
        at: String,
    },
    /// The kernel does not tell where pages of this process are.
    #[error(
        "{} cannot be read, which tells where the page is by which the key of an encrypted image is handed on: \
         that takes a kernel with CONFIG_PROC_PAGE_MONITOR, and /proc mounted",
        path.display()
    )]
    PageMap {
        /// The file that would tell.
        path: &'static Path,
        /// What the reading met.
        source: io::Error,
    },
    /// There is no page to hand a key on in.
    #[error("the key of the encrypted image cannot be handed on: {why}")]
    KeyPage {
        /// What is wrong, and what can be done.
        why: &'static str,
    },
    /// Memory cannot be had, or not be kept where it is.
    #[error("there is no page of memory to hand the key of the encrypted image on in")]
    Lock(#[source] io::Error),
    /// The core of the sleeping machine cannot be used.
    #[error("the memory of the sleeping machine cannot be read")]
    Core(#[from] CoreError),
    /// The saved memory does not have what is needed of it.
    #[error("the saved memory cannot be used")]
    Memory(#[from] MemoryError),
    /// What the pages of the sleeping machine are for cannot be found out.
    #[error("the pages of the sleeping machine cannot be looked through")]
    Pages(#[from] PagesError),
    /// The file holds no memory that can be read.
    #[error("cannot use {}", path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: FileError,
    },
    /// The file holds memory of a machine that cannot be jumped to.
    #[error(
        "{} does not tell how to get back into its machine: only images, and cores that `kjump save` or `kjump convert` wrote, do",
        path.display()
    )]
    NoJump {
        /// Where it is.
        path: PathBuf,
    },
    /// Where the window of the machine went is not known.
    #[error("the memory is not known as the machine saw it: {0}")]
    Swap(String),
    /// A core could not be written.
    #[error("cannot write {}", path.display())]
    WriteCore {
        /// Where to.
        path: PathBuf,
        /// Why.
        #[source]
        source: CoreWriteError,
    },
    /// An image could not be written.
    #[error("cannot write the image to {path}")]
    WriteImage {
        /// Where to.
        path: PathBuf,
        /// Why.
        #[source]
        source: WriteError,
    },
    /// Memory could not be restored.
    #[error("the memory cannot be restored")]
    Restore(#[from] RestoreError),

    /// There is too little memory to load a kernel.
    #[error(
        "loading a kernel takes {} MiB, and this machine has {} MiB to spare: end something, add swap space, or have a smaller window (--window)",
        needed.div_ceil(1 << 20),
        available >> 20
    )]
    NoMemory {
        /// What is needed in bytes.
        needed: u64,
        /// What is free or can be made so, in bytes.
        available: u64,
    },
    /// Nothing is loaded that could be jumped to.
    #[error("nothing is loaded; load a kernel first (kjump load)")]
    NothingLoaded,
    /// A jump that was not to come back did.
    #[error("the kernel came back from a jump that leads away; nothing was changed")]
    CameBack,

    /// This kernel was jumped back to, and keeps what it had loaded for the jump.
    #[error(
        "the machine went on, but the kernel that it jumped to stays loaded, and must not be entered again; `kexec -u` unloads it"
    )]
    StillLoaded {
        /// Why.
        source: kexec_sys::Error,
    },

    /// The target of an image is not a block device.
    #[error(
        "{} is not a block device: the saving kernel cannot write into a file system that this machine has mounted; give it a partition or a disk of its own",
        path.display()
    )]
    NotBlockDevice {
        /// The target.
        path: PathBuf,
    },
    /// The target of an image is in use.
    #[error(
        "{} is in use (mounted, swapped on, or part of another device): an image there would destroy what it holds",
        path.display()
    )]
    TargetInUse {
        /// The target.
        path: PathBuf,
        /// What the opening met.
        source: io::Error,
    },
    /// The target of an image is made of other things, which other kernels do not set up.
    #[error(
        "{} is {made_of}, and the saving kernel would not find it: give the image a disk or a partition, which may be encrypted by itself (--passphrase)",
        path.display()
    )]
    NotPlainDevice {
        /// The target.
        path: PathBuf,
        /// What it is made of.
        made_of: &'static str,
    },
    /// The target is too small.
    #[error(
        "{} has {available} bytes, and an image of this machine takes {needed}",
        path.display()
    )]
    TargetTooSmall {
        /// The target.
        path: PathBuf,
        /// Its size in bytes.
        available: u64,
        /// What is needed in bytes.
        needed: u64,
    },
    /// The target holds something else than what the machine wrote there.
    #[error(
        "{} is not the device that the machine prepared for its image ({found}); nothing was written to it",
        path.display()
    )]
    WrongTarget {
        /// The target.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// No device holds the image.
    #[error("neither {} nor any other block device holds the image {id}", path.display())]
    NoDevice {
        /// Where it should be.
        path: PathBuf,
        /// The image.
        id: ImageId,
    },
    /// Saving failed, and the machine went on without.
    #[error("the machine was not saved: {reason}")]
    NotSaved {
        /// What the saving kernel said.
        reason: String,
    },

    /// The machine goes on, and nothing tells what became of its image.
    #[error(
        "this machine goes on, and {} does not tell what became of its image: {why}; if the device was taken away, the machine was not saved. Connect it again, or hibernate to another one",
        path.display()
    )]
    NoOutcome {
        /// Where the image was to be.
        path: PathBuf,
        /// Why the device does not tell.
        why: String,
    },

    /// This is not a kernel that saves another.
    #[error(
        "no sleeping machine: this kernel was not jumped to ({what} is missing); `kjump hibernate` and `kjump load` set up such a kernel"
    )]
    NoSleeper {
        /// What is missing.
        what: &'static str,
    },
    /// The window of the image is not free to be loaded into.
    #[error(
        "the kernel that restores the image has to lie in the window {window}, and {range} there is no RAM to this kernel, but {what}; {}",
        same_memory_remedy(parameters)
    )]
    WindowTaken {
        /// The image's window.
        window: PhysRange,
        /// The first range in it that is taken.
        range: PhysRange,
        /// By what, as `/proc/iomem` names it.
        what: String,
        /// The parameters of the running kernel that take it; none if its firmware does.
        parameters: Vec<String>,
    },
    /// The image is of another machine, or of other memory.
    #[error(
        "the image was made with other memory than this machine has: {range} is RAM {}; {}",
        if *in_image { "in the image and not here" } else { "here and not in the image" },
        same_memory_remedy(parameters)
    )]
    OtherMemory {
        /// The first range that differs.
        range: PhysRange,
        /// Whether the image has it.
        in_image: bool,
        /// The parameters of the running kernel that take it; none if its firmware does.
        parameters: Vec<String>,
    },
    /// A kernel that is to restore without another one uses memory of the machine that it is to restore.
    #[error(
        "this kernel uses the memory {owned}, and the image can only be restored by one that keeps to the \
         window {window}: start the machine normally and run `kjump resume`, or give this kernel what \
         `kjump in-place` prints for that window"
    )]
    NotConfined {
        /// Memory that it uses.
        owned: PhysRange,
        /// The image's window.
        window: PhysRange,
    },
    /// The image is of another machine.
    #[error("the image was made on another machine: that was {image:?}, and this is {here:?}")]
    OtherMachine {
        /// What the firmware said there.
        image: String,
        /// What it says here.
        here: String,
    },
    /// The CPUs lack what the kernel in the image makes use of.
    #[error(
        "the CPUs here ({here}) do not have {feature:?}, which the kernel in the image uses (it ran on {image}); if this is the same machine, boot this kernel with the parameters of that one, and check the firmware's settings"
    )]
    OtherCpu {
        /// The feature, as `/proc/cpuinfo` names it.
        feature: String,
        /// The CPUs that the image was made on.
        image: String,
        /// The CPUs here.
        here: String,
    },
    /// The kernel that is to restore the image is not the one that saved it.
    #[error(
        "the kernel that is to restore the image is {here:?}, and the one that saved it was {image:?}; give that one with --kernel, or say --other-kernel"
    )]
    OtherKernel {
        /// What the one is that saved it.
        image: String,
        /// What the one is that was given.
        here: String,
    },
    /// It was tried too often.
    #[error(
        "the image in {} was to be resumed {attempts} times, and the machine never went on; `kjump resume --force-again` tries once more, `kjump discard` gives the image up",
        path.display()
    )]
    TooManyAttempts {
        /// Where the image is.
        path: PathBuf,
        /// How often.
        attempts: u32,
    },
    /// The image was made under page tables of another depth.
    #[error(
        "the image was made with {image}, and this kernel runs with {here}; boot it {}",
        match image {
            Paging::FourLevel => "with no5lvl",
            Paging::FiveLevel => "without no5lvl (that takes a kernel with CONFIG_X86_5LEVEL, and CPUs that have la57)",
        }
    )]
    OtherPaging {
        /// The image's.
        image: Paging,
        /// This kernel's.
        here: Paging,
    },
    /// A device that the machine uses cannot be read by other kernels.
    #[error(
        "{device} ({used}) is {why}: the saving kernel cannot see whether somebody writes to it before this machine is resumed. Unmount it, or say --allow-unread {device} if nobody will"
    )]
    HiddenVolume {
        /// The device.
        device: String,
        /// What it is used for.
        used: String,
        /// What it is on, and why that cannot be looked at.
        why: String,
    },
    /// A device came into use while the saving kernel was prepared, which does not know of it.
    #[error(
        "{device} ({used}) came into use just now, and the saving kernel would not look at it; try again, when nothing is being mounted"
    )]
    NewVolume {
        /// The device.
        device: String,
        /// What it is used for.
        used: String,
    },
    /// A device that is to be left alone is not in use.
    #[error(
        "{} is not among the devices that are mounted for writing or swapped on; nothing is to be allowed for it",
        device.display()
    )]
    NoVolume {
        /// The device.
        device: PathBuf,
    },
    /// A device that the machine uses cannot be read.
    #[error(
        "{volume} ({used} in the machine that is saved) cannot be looked at, to know whether it is used before the machine goes on"
    )]
    UnreadVolume {
        /// What is on the device.
        volume: String,
        /// What it is used for.
        used: String,
        /// What the reading met.
        source: io::Error,
    },
    /// A device that the sleeping machine uses is mounted here.
    #[error(
        "{volume} on {place} is {used} here, and the sleeping machine has it mounted too; resume before anything of that machine's is mounted"
    )]
    MountedVolume {
        /// What is on the device.
        volume: String,
        /// The device, or those that it is made of.
        place: String,
        /// What it is used for here.
        used: String,
    },
    /// A device that the sleeping machine uses was written to.
    #[error(
        "{volume}, here on {place} and {used} in the sleeping machine, was written to since that was saved{}; resuming it now would destroy what is there. `kjump discard {}` gives the image up",
        since.map_or(String::new(), |since| format!(" (last at {since})")),
        image.display()
    )]
    UsedVolume {
        /// What is on the device.
        volume: String,
        /// The device, or those that it is made of.
        place: String,
        /// What it is used for.
        used: String,
        /// When it was written last, if it tells.
        since: Option<Moment>,
        /// Where the image is.
        image: PathBuf,
    },
    /// A kernel lacks a module that it needs.
    #[error(
        "the module {module} (for {what_for}) is not in {}{}: install the modules of that kernel and run depmod, or give it an initramfs that finds its devices (--initrd)",
        folder.display(),
        if *listed { "" } else { ", which has no list of modules (modules.dep)" }
    )]
    NoModule {
        /// The module.
        module: String,
        /// What needs it.
        what_for: String,
        /// Where it should be.
        folder: PathBuf,
        /// Whether there is a list of modules.
        listed: bool,
    },
    /// The file of a module cannot be used.
    #[error(
        "the module {module} cannot be read from {}: install the modules of that kernel again, or give it an initramfs that finds its devices (--initrd)",
        path.display()
    )]
    Module {
        /// The module.
        module: String,
        /// Its file.
        path: PathBuf,
        /// What the reading met.
        source: io::Error,
    },
    /// The release of a kernel is no name of a folder.
    #[error("{release:?} is no release of a kernel, by which its modules could be found")]
    Release {
        /// The release.
        release: String,
    },
    /// The image could not be marked as resumed.
    #[error(
        "the image in {} cannot be marked, so it must not be resumed, for it could be twice; see to the device, and try again",
        path.display()
    )]
    Mark {
        /// Where the image is.
        path: PathBuf,
        /// What the writing met.
        source: io::Error,
    },
}

/// An error and its causes on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What to do where memory is not as it was, and these parameters of the running kernel are why.
fn same_memory_remedy(parameters: &[String]) -> String {
    if parameters.is_empty() {
        return "it can only be resumed on the machine that it was made on, with the same memory, firmware \
                settings, and kernel parameters for memory (mem=, memmap=)"
            .to_owned();
    }
    format!(
        "boot this kernel without {}, and the image can be resumed",
        parameters.join(" ")
    )
}

impl Error {
    /// No machine jumped here.
    pub const NO_ENTRY: Self = Self::NoSleeper {
        what: "kexec_jump_back_entry= on the kernel command line",
    };

    /// For `map_err`: an image in `path` that cannot be used.
    pub(crate) fn image(path: &std::path::Path) -> impl Fn(ImageError) -> Self {
        move |source| Self::Image {
            path: path.to_owned(),
            source,
        }
    }

    /// For `map_err`: a file in `path` that cannot be used. Images have an error of their own.
    pub(crate) fn file(path: &std::path::Path) -> impl Fn(FileError) -> Self {
        move |source| match source {
            FileError::Image(source) => Self::image(path)(source),
            source => Self::File {
                path: path.to_owned(),
                source,
            },
        }
    }

    /// For `map_err`: memory that cannot be looked at as it must be.
    pub(crate) fn swap(error: &SwapError) -> Self {
        Self::Swap(error.to_string())
    }

    /// For `map_err`: a core that cannot be written to `path`.
    pub(crate) fn write_core(path: &std::path::Path) -> impl Fn(CoreWriteError) -> Self {
        move |source| Self::WriteCore {
            path: path.to_owned(),
            source,
        }
    }

    /// For `map_err`: an image that cannot be written.
    pub(crate) fn write_image(path: &std::path::Path) -> impl Fn(WriteError) -> Self {
        move |source| Self::WriteImage {
            path: path.to_owned(),
            source,
        }
    }

    /// For `map_err`: a file that cannot be read.
    pub(crate) fn read(path: &std::path::Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Read {
            path: path.to_owned(),
            source,
        }
    }

    /// For `map_err`: a device or file that cannot be opened.
    pub(crate) fn open(path: &std::path::Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Open {
            path: path.to_owned(),
            source,
        }
    }
}
