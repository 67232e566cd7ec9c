//! Writing the headers of a core.

use goblin::elf64::header::{EI_CLASS, EI_DATA, EI_VERSION, EM_X86_64, ET_CORE, Header};
use goblin::elf64::program_header::{PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE, ProgramHeader};
use goblin::elf64::section_header::SectionHeader;
use scroll::{LE, Pwrite};

use super::{FILE_HEADER, Load, PN_XNUM, PROGRAM_HEADER, SECTION_HEADER};
use crate::PhysRange;

/// The headers of a core: which notes and which memory it has, and where in the file they lie.
///
/// The headers that one kernel leaves for the next (`elfcorehdr=`) are these too; there the "file" is
/// physical memory, so that offsets are physical addresses
/// (`Documentation/admin-guide/kdump/kdump.rst`, `fs/proc/vmcore.c`).
///
/// ```
/// use vmcore::elf::{Core, CoreHeaders};
/// use vmcore::{PhysAddr, PhysRange};
///
/// let mut headers = CoreHeaders::new();
/// headers.load_in_place(PhysRange::new(0x1000, 0x3000).unwrap(), 0xffff_8880_0000_1000);
/// let bytes = headers.encode();
/// assert_eq!(bytes.len(), 64 + 56);
/// ```
#[derive(Clone, Debug, Default)]
pub struct CoreHeaders {
    programs: Vec<ProgramHeader>,
}

impl CoreHeaders {
    /// Headers of a core without notes or memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a segment of notes: `len` bytes at `offset`.
    pub fn notes(&mut self, offset: u64, len: u64) -> &mut Self {
        self.programs.push(ProgramHeader {
            p_type: PT_NOTE,
            p_offset: offset,
            p_paddr: offset,
            p_filesz: len,
            p_memsz: len,
            ..Default::default()
        });
        self
    }

    /// Adds a segment of memory.
    pub fn load(&mut self, load: Load) -> &mut Self {
        self.programs.push(ProgramHeader {
            p_type: PT_LOAD,
            p_flags: PF_R | PF_W | PF_X,
            p_offset: load.offset,
            p_vaddr: load.virt,
            p_paddr: load.memory.start().get(),
            p_filesz: load.file_size,
            p_memsz: load.memory.len(),
            p_align: 0,
        });
        self
    }

    /// Adds a segment of memory that lies where it always was: its offset is its physical address.
    pub fn load_in_place(&mut self, memory: PhysRange, virt: u64) -> &mut Self {
        self.load(Load {
            memory,
            offset: memory.start().get(),
            file_size: memory.len(),
            virt,
        })
    }

    /// The size of the encoded headers in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        Self::size_of(self.programs.len())
    }

    /// The size of the encoded headers of `count` segments in bytes.
    #[must_use]
    pub fn size_of(count: usize) -> u64 {
        let section = if count < usize::from(PN_XNUM) {
            0
        } else {
            SECTION_HEADER
        };
        FILE_HEADER + PROGRAM_HEADER * count as u64 + section
    }

    /// The headers as bytes: the file header, and the program headers right behind it. Of 65,535 segments
    /// and more, their number is in section 0 behind those (`elf(5)`, `PN_XNUM`).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // No 16-bit number is greater than that.
        let count = u16::try_from(self.programs.len()).unwrap_or(PN_XNUM);
        let section_at = FILE_HEADER + PROGRAM_HEADER * self.programs.len() as u64;
        let mut header = Header {
            e_type: ET_CORE,
            e_machine: EM_X86_64,
            e_version: 1,
            e_phoff: FILE_HEADER,
            e_ehsize: FILE_HEADER as u16,
            e_phentsize: PROGRAM_HEADER as u16,
            e_phnum: count,
            ..Default::default()
        };
        if count == PN_XNUM {
            header.e_shoff = section_at;
            header.e_shentsize = SECTION_HEADER as u16;
            header.e_shnum = 1;
        }
        header.e_ident[..4].copy_from_slice(b"\x7fELF");
        header.e_ident[EI_CLASS] = 2;
        header.e_ident[EI_DATA] = 1;
        header.e_ident[EI_VERSION] = 1;

        let mut bytes = vec![0; self.size() as usize];
        let offset = &mut 0;
        let mut fits = bytes.gwrite_with(header, offset, LE).is_ok();
        for program in &self.programs {
            fits &= bytes.gwrite_with(*program, offset, LE).is_ok();
        }
        if count == PN_XNUM {
            let section = SectionHeader {
                // More segments than that do not fit into any memory.
                sh_info: u32::try_from(self.programs.len()).unwrap_or(u32::MAX),
                ..Default::default()
            };
            fits &= bytes.gwrite_with(section, offset, LE).is_ok();
        }
        debug_assert!(
            fits && *offset == bytes.len(),
            "the headers fill the bytes exactly"
        );
        bytes
    }
}
