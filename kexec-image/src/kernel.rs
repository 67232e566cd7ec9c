//! A kernel that can be booted: the one form that all formats are read into.

use std::ops::Range;

use vmcore::{PhysAddr, PhysRange};

use crate::{PlanError, bzimage, vmlinux};

/// The format of a kernel file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelFormat {
    /// A compressed kernel with the x86 boot protocol's header.
    BzImage,
    /// An uncompressed ELF file.
    Vmlinux,
}

/// A part of a kernel file, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Distance from the kernel's base in bytes.
    pub(crate) offset: u64,
    /// The bytes in the kernel file.
    pub(crate) bytes: Range<usize>,
}

/// A kernel, checked and measured.
#[derive(Clone, Debug)]
pub struct Kernel<'a> {
    pub(crate) file: &'a [u8],
    pub(crate) format: KernelFormat,
    /// What is loaded, in order of offset.
    pub(crate) parts: Vec<Part>,
    /// Memory that the kernel takes from its base on, before it knows of any other.
    pub(crate) memory: u64,
    /// Distance of the 64-bit entry from the base.
    pub(crate) entry: u64,
    /// The lowest base that the kernel takes; the only one if it is not relocatable.
    pub(crate) lowest_base: PhysAddr,
    pub(crate) relocatable: bool,
    /// What the base must be a multiple of.
    pub(crate) align: u64,
    /// Longest command line in bytes, without the zero byte behind it.
    pub(crate) cmdline_max: usize,
    /// Whether it can run with page tables of five levels.
    pub(crate) five_level: bool,
    /// The setup header, for the boot parameters: the bytes from 0x1f1 on.
    pub(crate) setup_header: Vec<u8>,
    pub(crate) version: Option<String>,
}

impl<'a> Kernel<'a> {
    /// Reads the kernel in `file`.
    ///
    /// # Errors
    ///
    /// [`PlanError`] that says why this is no kernel, or none that can be booted on its 64-bit entry.
    pub fn parse(file: &'a [u8]) -> Result<Self, PlanError> {
        if file.starts_with(b"\x7fELF") {
            vmlinux::parse(file)
        } else {
            bzimage::parse(file)
        }
    }

    /// The vmlinux that a bzImage carries; `None` if this is none, or if it is packed in a way that is not
    /// known here. See [`with_vmlinux`](Self::with_vmlinux).
    #[must_use]
    pub fn unpack(&self) -> Option<Vec<u8>> {
        match self.format {
            KernelFormat::BzImage => bzimage::unpack(self),
            KernelFormat::Vmlinux => None,
        }
    }

    /// The same kernel, which need not unpack itself when it boots: `vmlinux` is what
    /// [`unpack`](Self::unpack) made of it. What the file says of it holds on.
    ///
    /// # Errors
    ///
    /// [`PlanError`] if that is no kernel.
    pub fn with_vmlinux(self, vmlinux: &[u8]) -> Result<Kernel<'_>, PlanError> {
        let unpacked = vmlinux::parse(vmlinux)?;
        Ok(Kernel {
            lowest_base: self.lowest_base.max(unpacked.lowest_base),
            relocatable: self.relocatable,
            align: self.align.max(unpacked.align),
            cmdline_max: self.cmdline_max,
            five_level: self.five_level,
            setup_header: self.setup_header,
            version: self.version,
            ..unpacked
        })
    }

    /// The format of the file.
    #[must_use]
    pub fn format(&self) -> KernelFormat {
        self.format
    }

    /// The kernel's release, as `uname -r` prints it, if the file tells.
    #[must_use]
    pub fn release(&self) -> Option<&str> {
        self.version()?.split(' ').next()
    }

    /// All that the file tells of its version: the release, who built it, where and when.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// How much memory the kernel takes from its base on, before it knows of any other, in bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// The lowest address where the kernel can lie, and its alignment.
    #[must_use]
    pub fn placement(&self) -> (PhysAddr, u64) {
        (self.lowest_base, self.align)
    }

    /// Checks that the kernel can lie at the start of `window`.
    pub(crate) fn check_base(&self, window: PhysRange) -> Result<(), PlanError> {
        let base = window.start();
        if !self.relocatable && base != self.lowest_base {
            return Err(PlanError::NotRelocatable {
                wanted: self.lowest_base,
                window: base,
            });
        }
        if base < self.lowest_base {
            return Err(PlanError::WindowRefused {
                window,
                why: "it lies below the lowest address that the kernel takes",
            });
        }
        if !base.is_aligned(self.align) {
            return Err(PlanError::WindowRefused {
                window,
                why: "its start is not aligned as the kernel needs it",
            });
        }
        Ok(())
    }
}
