//! Why something cannot be booted, or not here.

use vmcore::{PhysAddr, PhysRange};

/// Why something cannot be booted, or not here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Neither a bzImage nor an ELF file.
    #[error(
        "not a Linux kernel for x86: neither a bzImage nor an ELF vmlinux (a kernel is usually /boot/vmlinuz-*)"
    )]
    NotKernel,
    /// The kernel file ends too early.
    #[error("the kernel is truncated: {what} ends at byte {end}, the file at {size}")]
    Truncated {
        /// What does not fit.
        what: &'static str,
        /// Where it would end.
        end: u64,
        /// Size of the file in bytes.
        size: u64,
    },
    /// A kernel without the 64-bit entry.
    #[error(
        "the kernel has no 64-bit entry: it is a 32-bit one, and this machine runs a 64-bit one"
    )]
    Only32Bit,
    /// A kernel that speaks too old a boot protocol.
    #[error("the kernel speaks boot protocol {}.{}, and 2.12 (Linux 3.8) is needed", version >> 8, version & 0xff)]
    OldProtocol {
        /// Version of the protocol; major number in the upper byte.
        version: u16,
    },
    /// A kernel that cannot be put where the window is.
    #[error(
        "the kernel is not relocatable and must lie at {wanted}, but the window begins at {window}; use a kernel with CONFIG_RELOCATABLE"
    )]
    NotRelocatable {
        /// Where the kernel must lie.
        wanted: PhysAddr,
        /// Where it would lie.
        window: PhysAddr,
    },
    /// A kernel without page tables of five levels, on a machine that runs with them.
    #[error(
        "the running kernel uses 5-level paging and this kernel cannot (CONFIG_X86_5LEVEL); boot the machine with no5lvl, or use another kernel"
    )]
    No5Level,
    /// A header of the kernel says something that cannot be.
    #[error("the kernel is damaged: {what} is {value:#x}")]
    Malformed {
        /// What the header speaks of.
        what: &'static str,
        /// What it says.
        value: u64,
    },
    /// The command line is too long.
    #[error(
        "the command line has {len} bytes, and the kernel takes {max}; shorten what is appended"
    )]
    CommandLineTooLong {
        /// Its length in bytes.
        len: usize,
        /// What the kernel takes.
        max: usize,
    },
    /// The command line holds a character that ends it.
    #[error("the command line holds a line break or a zero byte")]
    CommandLineCharacter,
    /// The window cannot hold what it must.
    #[error(
        "the window of {window} bytes is too small: {what} needs {needed} bytes in it; choose a larger window"
    )]
    WindowTooSmall {
        /// Size of the window.
        window: u64,
        /// What does not fit.
        what: &'static str,
        /// How many bytes are needed.
        needed: u64,
    },
    /// There is no place for the window.
    #[error(
        "no place for a window of {size} bytes: it must lie in one piece of RAM between {low} and 4 GiB, beside the running kernel; choose a smaller one"
    )]
    NoWindow {
        /// The size that was asked for.
        size: u64,
        /// The lowest address that the kernel takes.
        low: PhysAddr,
    },
    /// There is no place for what is to be booted.
    #[error(
        "no place for {size} bytes: they must lie in one piece of RAM between {low} and 2 GiB; allow more (--mem-min, --mem-max), or use a smaller kernel or initramfs"
    )]
    NoRoom {
        /// How much there has to be room for.
        size: u64,
        /// The lowest address that will do.
        low: PhysAddr,
    },
    /// No memory is reserved for a crash kernel, or not where the kernel can lie.
    #[error(
        "no memory is reserved that this kernel can live in; boot the machine with crashkernel=256M"
    )]
    NoCrashMemory,
    /// The window may not lie where it was asked to.
    #[error("the window cannot lie at {window}: {why}")]
    WindowRefused {
        /// Where it was asked to lie.
        window: PhysRange,
        /// What is in the way.
        why: &'static str,
    },
    /// A window is not given as it must be.
    #[error("{text:?} is no window; say SIZE or SIZE@ADDRESS, such as 96M or 96M@0x10000000")]
    WindowSyntax {
        /// What was given.
        text: String,
    },
    /// More than half of memory.
    #[error(
        "loading takes {needed} bytes, and the kernel allows half of RAM, {half} bytes; choose a smaller window"
    )]
    MoreThanHalf {
        /// Bytes of all segments.
        needed: u64,
        /// Half of the machine's RAM in bytes.
        half: u64,
    },
    /// A segment is not made of whole pages, or overlaps another.
    #[error(
        "what is to lie at {memory} is not made of whole pages, or overlaps something else: the window or the image is not sound"
    )]
    Segment {
        /// Its memory.
        memory: PhysRange,
    },
    /// More segments than a kernel takes.
    #[error("the plan has {count} segments, and the kernel takes 16")]
    TooManySegments {
        /// How many there are.
        count: usize,
    },
    /// More memory ranges than the boot protocol has room for.
    #[error("the memory map has {count} entries, and the boot protocol has room for 128")]
    TooManyRanges {
        /// How many there are.
        count: usize,
    },
    /// There is no RAM below 1 MiB to start other CPUs with.
    #[error("the machine has no RAM below 1 MiB, which the loaded kernel needs")]
    NoLowMemory,
    /// The page that is to hand a key on is where a kernel is loaded, or no page of the machine.
    #[error(
        "the key cannot be handed on at {page}: that is no page, or the restoring kernel is loaded there, or the sleeping machine has no memory there"
    )]
    KeyPage {
        /// Where it begins.
        page: PhysAddr,
    },
    /// The page to return through is not what it must be.
    #[error("the jump-back entry {entry} cannot be right: {why}")]
    JumpBack {
        /// The entry.
        entry: PhysAddr,
        /// Why not.
        why: &'static str,
    },
    /// Something that cannot be part of an initramfs.
    #[error("{path:?} cannot be put into the initramfs: {why}")]
    Archive {
        /// The path in the archive.
        path: String,
        /// Why not.
        why: &'static str,
    },
}
