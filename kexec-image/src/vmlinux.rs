//! The ELF `vmlinux`: an uncompressed kernel.
//!
//! Its entry is the kernel proper's `startup_64` (`arch/x86/kernel/head_64.S`), which finds out itself
//! how far from its link address it lies, so that the file can be loaded at any multiple of 2 MiB.

use goblin::elf64::header::{EI_CLASS, EI_DATA, EM_X86_64, ET_EXEC, Header};
use goblin::elf64::program_header::{PT_LOAD, ProgramHeader};
use scroll::{LE, Pread};
use vmcore::PhysAddr;

use crate::kernel::{Kernel, KernelFormat, Part};
use crate::{PlanError, boot_params};

/// What the base must be a multiple of: the size of the pages that map the kernel (`PMD_SIZE`).
const ALIGN: u64 = 2 << 20;
/// `CONFIG_PHYSICAL_START` of nearly all kernels; lower, a machine's firmware may be in the way.
const LOWEST_BASE: PhysAddr = PhysAddr::new(16 << 20);
/// `COMMAND_LINE_SIZE` of x86, less the zero byte behind (`arch/x86/include/asm/setup.h`).
const CMDLINE_MAX: usize = 2047;

/// Reads a vmlinux.
pub(crate) fn parse(file: &[u8]) -> Result<Kernel<'_>, PlanError> {
    let size = file.len() as u64;
    let truncated = |what, end| PlanError::Truncated { what, end, size };
    let header: Header = file
        .pread_with(0, LE)
        .map_err(|_| truncated("the ELF header", 64))?;
    if header.e_ident[EI_CLASS] == 1 {
        return Err(PlanError::Only32Bit);
    }
    if header.e_ident[EI_DATA] != 1 || header.e_machine != EM_X86_64 || header.e_type != ET_EXEC {
        return Err(PlanError::NotKernel);
    }

    let mut loads = Vec::new();
    for index in 0..u64::from(header.e_phnum) {
        let offset = header
            .e_phoff
            .checked_add(index * u64::from(header.e_phentsize))
            .ok_or_else(|| truncated("the program header table", u64::MAX))?;
        let load: ProgramHeader = usize::try_from(offset)
            .ok()
            .and_then(|offset| file.pread_with(offset, LE).ok())
            .ok_or_else(|| truncated("the program header table", offset.saturating_add(56)))?;
        if load.p_type == PT_LOAD && load.p_memsz > 0 {
            loads.push(load);
        }
    }
    loads.sort_by_key(|load| load.p_paddr);
    let lowest = loads.first().ok_or(PlanError::NotKernel)?.p_paddr;
    // The link address may lie anywhere in a page of 2 MiB; that distance is kept.
    let link_base = PhysAddr::new(lowest).align_down(ALIGN).get();

    let mut parts = Vec::new();
    let mut memory = 0;
    for load in loads {
        let malformed = |what, value| PlanError::Malformed { what, value };
        let offset = load.p_paddr - link_base;
        if offset < memory {
            return Err(malformed("the address of a segment", load.p_paddr));
        }
        memory = offset
            .checked_add(load.p_memsz)
            .ok_or(malformed("the size of a segment", load.p_memsz))?;
        if load.p_filesz > load.p_memsz {
            return Err(malformed(
                "the size of a segment in the file",
                load.p_filesz,
            ));
        }
        let bytes = load
            .p_offset
            .checked_add(load.p_filesz)
            .filter(|&end| end <= size)
            .and_then(|end| Some(usize::try_from(load.p_offset).ok()?..usize::try_from(end).ok()?))
            .ok_or_else(|| truncated("a segment", load.p_offset.saturating_add(load.p_filesz)))?;
        parts.push(Part { offset, bytes });
    }
    let entry = header
        .e_entry
        .checked_sub(link_base)
        .filter(|&entry| entry < memory)
        .ok_or(PlanError::Malformed {
            what: "its entry",
            value: header.e_entry,
        })?;
    Ok(Kernel {
        file,
        format: KernelFormat::Vmlinux,
        parts,
        memory,
        entry,
        lowest_base: LOWEST_BASE,
        relocatable: true,
        align: ALIGN,
        cmdline_max: CMDLINE_MAX,
        // The file does not tell. It is entered with the page tables of the kernel that jumps.
        five_level: true,
        setup_header: boot_params::plain_setup_header(),
        version: None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use scroll::Pwrite;

    use super::*;

    /// A file that looks like a vmlinux with two segments.
    pub(crate) fn sample() -> Vec<u8> {
        let mut file = vec![0; 0x3000];
        let mut header = Header {
            e_type: ET_EXEC,
            e_machine: EM_X86_64,
            e_version: 1,
            e_entry: 0x100_0040,
            e_phoff: 64,
            e_ehsize: 64,
            e_phentsize: 56,
            e_phnum: 2,
            ..Default::default()
        };
        header.e_ident[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file.pwrite_with(header, 0, LE).unwrap();
        let load = |offset, paddr, filesz, memsz| ProgramHeader {
            p_type: PT_LOAD,
            p_offset: offset,
            p_paddr: paddr,
            p_filesz: filesz,
            p_memsz: memsz,
            ..Default::default()
        };
        // Out of order, as nothing forbids.
        file.pwrite_with(load(0x2000, 0x120_0000, 0x1000, 0x40_0000), 64, LE)
            .unwrap();
        file.pwrite_with(load(0x1000, 0x100_0000, 0x1000, 0x1000), 120, LE)
            .unwrap();
        file
    }

    #[test]
    fn a_kernel_is_measured() {
        let file = sample();
        let kernel = Kernel::parse(&file).unwrap();
        assert_eq!(kernel.format(), KernelFormat::Vmlinux);
        assert_eq!(kernel.entry, 0x40);
        assert_eq!(kernel.memory(), 0x60_0000);
        assert_eq!(
            kernel.parts,
            [
                Part {
                    offset: 0,
                    bytes: 0x1000..0x2000
                },
                Part {
                    offset: 0x20_0000,
                    bytes: 0x2000..0x3000
                },
            ]
        );
    }

    #[test]
    fn other_elf_files_are_refused() {
        let mut file = sample();
        file[EI_CLASS] = 1;
        assert!(matches!(Kernel::parse(&file), Err(PlanError::Only32Bit)));
        let mut file = sample();
        file[18] = 183;
        assert!(matches!(Kernel::parse(&file), Err(PlanError::NotKernel)));
        let file = sample();
        assert!(matches!(
            Kernel::parse(&file[..0x2fff]),
            Err(PlanError::Truncated { .. })
        ));
        assert!(matches!(
            Kernel::parse(&file[..20]),
            Err(PlanError::Truncated { .. })
        ));
    }

    proptest! {
        #[test]
        fn damaged_headers_never_panic(at in 4..176usize, value in any::<u8>()) {
            let mut file = sample();
            file[at] = value;
            if let Ok(kernel) = Kernel::parse(&file) {
                prop_assert!(kernel.parts.iter().all(|part| part.bytes.end <= file.len()));
                prop_assert!(kernel.entry < kernel.memory());
            }
        }
    }
}
