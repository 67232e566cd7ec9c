//! Flags of the two load calls, and the architecture that `kexec_load` takes beside them.

use bitflags::bitflags;

bitflags! {
    /// Flags of `kexec_load(2)`, the lower 16 bits of its last argument (`include/uapi/linux/kexec.h`).
    ///
    /// ```
    /// use kexec_sys::LoadFlags;
    ///
    /// assert_eq!(LoadFlags::PRESERVE_CONTEXT.bits(), 2);
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct LoadFlags: u32 {
        /// The image is for the moment in which the kernel crashes. It goes straight into the memory
        /// that `crashkernel=` reserved (Linux 2.6.13).
        const ON_CRASH = 0x1;
        /// The running kernel survives the jump and can be jumped back into: memory under the segments
        /// is swapped, not overwritten (Linux 2.6.27, needs `CONFIG_KEXEC_JUMP`).
        const PRESERVE_CONTEXT = 0x2;
        /// The kernel may update the core header among the segments when CPUs or memory come and go;
        /// it is left out of the checksums (Linux 6.6).
        const UPDATE_ELFCOREHDR = 0x4;
        /// All segments that the kernel may update when CPUs or memory come and go are left out of the
        /// checksums (Linux 6.10).
        const CRASH_HOTPLUG_SUPPORT = 0x8;
    }
}

bitflags! {
    /// Flags of `kexec_file_load(2)` (`include/uapi/linux/kexec.h`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct FileLoadFlags: u32 {
        /// Take back what was loaded. Set by [`file_unload`](crate::file_unload), refused by
        /// [`file_load`](crate::file_load).
        const UNLOAD = 0x1;
        /// The image is for the moment in which the kernel crashes.
        const ON_CRASH = 0x2;
        /// There is no initramfs. [`file_load`](crate::file_load) sets or clears it by itself.
        const NO_INITRAMFS = 0x4;
        /// The kernel logs what it does while it loads (Linux 6.8).
        const DEBUG = 0x8;
        /// The kernel does not place segments in CMA memory (Linux 6.17).
        const NO_CMA = 0x10;
        /// The device tree of this boot is handed on, on x86 (Linux 6.18). Others always do so.
        const FORCE_DTB = 0x20;
    }
}

/// The architecture of an image, as `kexec_load(2)` takes it in the upper 16 bits of its flags.
///
/// The numbers are ELF machine numbers (`KEXEC_ARCH_*` in `include/uapi/linux/kexec.h`).
///
/// ```
/// use kexec_sys::Arch;
///
/// assert_eq!(Arch::X86_64.id(), 62);
/// assert_eq!(Arch::X86_64.flag_bits(), 62 << 16);
/// assert_eq!(Arch::from_id(9999), Arch::Custom(9999));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Arch {
    /// That of the running kernel, whatever it is.
    #[default]
    Default,
    /// 32-bit x86.
    I386,
    /// Motorola 68000.
    M68k,
    /// MIPS, big-endian.
    Mips,
    /// MIPS, little-endian.
    MipsLe,
    /// PA-RISC.
    Parisc,
    /// 32-bit PowerPC.
    Ppc,
    /// 64-bit PowerPC.
    Ppc64,
    /// S390.
    S390,
    /// 32-bit ARM.
    Arm,
    /// `SuperH`.
    Sh,
    /// Itanium.
    Ia64,
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
    /// RISC-V.
    Riscv,
    /// `LoongArch`.
    LoongArch,
    /// An architecture that has a number only.
    Custom(u16),
}

impl Arch {
    /// The architecture that this program was compiled for; [`Arch::Default`] where that is not one of
    /// the common ones.
    pub const NATIVE: Self = if cfg!(target_arch = "x86_64") {
        Self::X86_64
    } else if cfg!(target_arch = "x86") {
        Self::I386
    } else if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else {
        Self::Default
    };

    /// The architecture with the ELF machine number `id`.
    #[must_use]
    pub const fn from_id(id: u16) -> Self {
        match id {
            0 => Self::Default,
            3 => Self::I386,
            4 => Self::M68k,
            8 => Self::Mips,
            10 => Self::MipsLe,
            15 => Self::Parisc,
            20 => Self::Ppc,
            21 => Self::Ppc64,
            22 => Self::S390,
            40 => Self::Arm,
            42 => Self::Sh,
            50 => Self::Ia64,
            62 => Self::X86_64,
            183 => Self::Aarch64,
            243 => Self::Riscv,
            258 => Self::LoongArch,
            other => Self::Custom(other),
        }
    }

    /// The ELF machine number.
    #[must_use]
    pub const fn id(self) -> u16 {
        match self {
            Self::Default => 0,
            Self::I386 => 3,
            Self::M68k => 4,
            Self::Mips => 8,
            Self::MipsLe => 10,
            Self::Parisc => 15,
            Self::Ppc => 20,
            Self::Ppc64 => 21,
            Self::S390 => 22,
            Self::Arm => 40,
            Self::Sh => 42,
            Self::Ia64 => 50,
            Self::X86_64 => 62,
            Self::Aarch64 => 183,
            Self::Riscv => 243,
            Self::LoongArch => 258,
            Self::Custom(id) => id,
        }
    }

    /// The bits by which `kexec_load(2)` knows the architecture, to be or-ed to the flags.
    #[must_use]
    pub const fn flag_bits(self) -> u32 {
        (self.id() as u32) << 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_survives_the_way_through_its_meaning() {
        for id in 0..=u16::MAX {
            let arch = Arch::from_id(id);
            assert_eq!(arch.id(), id);
            assert_eq!(arch.flag_bits(), u32::from(id) << 16);
        }
    }

    #[test]
    fn flags_and_architecture_share_no_bit() {
        assert_eq!(
            LoadFlags::all().bits() & Arch::from_id(u16::MAX).flag_bits(),
            0
        );
    }

    #[test]
    fn flags_that_many_headers_do_not_have_yet() {
        assert_eq!(LoadFlags::UPDATE_ELFCOREHDR.bits(), 4);
        assert_eq!(LoadFlags::CRASH_HOTPLUG_SUPPORT.bits(), 8);
        assert_eq!(FileLoadFlags::DEBUG.bits(), 8);
        assert_eq!(FileLoadFlags::NO_CMA.bits(), 16);
        assert_eq!(FileLoadFlags::FORCE_DTB.bits(), 32);
    }

    #[test]
    fn the_default_is_what_the_kernel_calls_so() {
        assert_eq!(Arch::default().flag_bits(), 0);
    }
}
