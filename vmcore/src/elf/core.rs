//! Reading a core.

use std::io;
use std::ops::ControlFlow;

use goblin::elf64::header::{EI_CLASS, EI_DATA, ET_CORE, Header};
use goblin::elf64::program_header::{PT_LOAD, PT_NOTE, ProgramHeader};
use goblin::elf64::section_header::SectionHeader;
use scroll::{LE, Pread};

use super::kcore::KERNEL_MAP;
use super::{CoreError, FILE_HEADER, Load, Note, Notes, PN_XNUM, PROGRAM_HEADER};
use crate::{
    Memory, MemoryError, Overlap, PageClass, PhysAddr, PhysRange, RangeMap, ReadAt, VmcoreInfo,
};

/// An ELF64 core: its segments of memory in order of address, and its notes.
///
/// ```
/// use vmcore::elf::{Core, CoreHeaders, Load};
/// use vmcore::{Memory, PhysAddr, PhysRange};
///
/// let memory = PhysRange::new(0x1000, 0x1008).unwrap();
/// let mut headers = CoreHeaders::new();
/// headers.load(Load { memory, offset: 120, file_size: 4, virt: 0 });
/// let file = [headers.encode(), b"data".to_vec()].concat();
///
/// let core = Core::open(file)?;
/// let mut bytes = [1; 6];
/// core.read(PhysAddr::new(0x1002), &mut bytes)?;
/// assert_eq!(&bytes, b"ta\0\0\0\0");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Core<S> {
    source: S,
    machine: u16,
    loads: Vec<Load>,
    contents: RangeMap<PageClass>,
    notes: Vec<u8>,
}

/// The most bytes of notes that are read. A machine of 8,192 CPUs has 3 MiB of them.
const MAX_NOTES: u64 = 64 << 20;

/// Physical addresses have 52 bits at most (Intel's manual, volume 3, section 4.1.4). Zeros beyond take no
/// room in a file, but whoever looked at all of them would not end.
const MAX_ADDRESS: u64 = 1 << 52;

impl<S: ReadAt> Core<S> {
    /// Reads the headers and the notes of the core in `source`.
    ///
    /// # Errors
    ///
    /// [`CoreError`] if it is no ELF64 core, if its headers are damaged or contradict each other, or if
    /// it ends before the memory that they speak of.
    pub fn open(source: S) -> Result<Self, CoreError> {
        let size = source.size();
        let header = read_file_header(&source)?;
        let mut loads = Vec::new();
        let mut notes = Vec::new();
        for program in read_program_headers(&source, &header)? {
            match program.p_type {
                PT_LOAD if program.p_memsz > 0 => loads.push(check_load(&program, size)?),
                PT_NOTE => {
                    let so_far = notes.len() as u64;
                    // Segments of notes may lie on one another, but not so as to become more than the file.
                    if program.p_filesz > MAX_NOTES.min(size).saturating_sub(so_far) {
                        return Err(CoreError::Malformed {
                            what: "the size of the core's notes",
                            value: program.p_filesz,
                        });
                    }
                    notes.extend(read(
                        &source,
                        "a segment of notes",
                        program.p_offset,
                        program.p_filesz,
                    )?);
                }
                _ => {}
            }
        }
        let loads = without_aliases(loads);
        Ok(Self {
            source,
            machine: header.e_machine,
            contents: contents(&loads)?,
            loads,
            notes,
        })
    }

    /// The virtual address at which the kernel maps physical address 0, if the segments tell.
    pub fn direct_map(&self) -> Option<u64> {
        self.loads
            .iter()
            .filter(|load| load.virt < KERNEL_MAP)
            .find_map(|load| load.virt.checked_sub(load.memory.start().get()))
            .filter(|base| *base > 0)
    }

    /// Where the bytes come from.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The kind of machine, `e_machine` of the ELF header (62 is x86_64).
    pub fn machine(&self) -> u16 {
        self.machine
    }

    /// The segments of memory, in order of address and without overlaps.
    pub fn loads(&self) -> &[Load] {
        &self.loads
    }

    /// The notes of all `PT_NOTE` segments.
    pub fn notes(&self) -> impl Iterator<Item = Note<'_>> {
        Notes::new(&self.notes)
    }

    /// All notes, encoded anew: those of a core that is made of this one.
    pub fn encode_notes(&self) -> Vec<u8> {
        self.notes().flat_map(|note| note.encode()).collect()
    }

    /// The first note of this owner and kind.
    pub fn note(&self, name: &str, kind: u32) -> Option<Note<'_>> {
        self.notes()
            .find(|note| note.name == name.as_bytes() && note.kind == kind)
    }

    /// What the saved kernel told of itself, if the core has it.
    pub fn vmcoreinfo(&self) -> Option<VmcoreInfo> {
        self.note(VmcoreInfo::NOTE_NAME, 0)
            .map(|note| VmcoreInfo::parse(note.desc))
    }

    /// The segment that holds `addr`, and how far into it that is.
    fn locate(&self, addr: PhysAddr) -> Result<(&Load, u64), MemoryError> {
        let index = self.loads.partition_point(|load| load.memory.end() <= addr);
        self.loads
            .get(index)
            .and_then(|load| Some((load, addr.offset_from(load.memory.start())?)))
            .ok_or(MemoryError::Absent { addr })
    }
}

impl<S: ReadAt> Memory for Core<S> {
    fn contents(&self) -> &RangeMap<PageClass> {
        &self.contents
    }

    fn read(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), MemoryError> {
        let mut at = addr;
        let mut rest = buf;
        while !rest.is_empty() {
            let (load, skip) = self.locate(at)?;
            let here = usize::try_from(load.memory.len() - skip).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(here.min(rest.len()));
            let stored = usize::try_from(load.file_size.saturating_sub(skip)).unwrap_or(usize::MAX);
            let (bytes, zeros) = now.split_at_mut(stored.min(now.len()));
            if !bytes.is_empty() {
                self.source
                    .read_exact_at(bytes, load.offset + skip)
                    .map_err(|source| MemoryError::Read { addr: at, source })?;
            }
            zeros.fill(0);
            // No overflow: the segment's end is an address.
            at = PhysAddr::new(at.get() + now.len() as u64);
            rest = later;
        }
        Ok(())
    }

    fn is_mapped(&self) -> bool {
        self.source.is_mapped()
    }

    fn for_each_piece(
        &self,
        range: PhysRange,
        each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), MemoryError> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut left = Some(range);
        while let Some(range) = left {
            let (load, skip) = self.locate(range.start())?;
            let stored = load.file_size.saturating_sub(skip);
            let here = if stored > 0 {
                stored
            } else {
                (load.memory.len() - skip).min(ZEROS.len() as u64)
            };
            let len = here.min(range.len());
            let mut flow = ControlFlow::Continue(());
            if stored > 0 {
                let offset = load.offset + skip;
                let handed = self
                    .source
                    .for_each_piece(offset..offset + len, &mut |piece| {
                        flow = each(piece);
                        match flow {
                            ControlFlow::Continue(()) => Ok(()),
                            ControlFlow::Break(()) => Err(io::ErrorKind::Interrupted.into()),
                        }
                    });
                if let (Err(source), true) = (handed, flow.is_continue()) {
                    let addr = range.start();
                    return Err(MemoryError::Read { addr, source });
                }
            } else {
                // No truncation: `len` is at most the length of the zeros.
                flow = each(&ZEROS[..len as usize]);
            }
            if flow.is_break() {
                break;
            }
            // No overflow: the range's end is an address.
            left = PhysRange::new(range.start().get() + len, range.end().get());
        }
        Ok(())
    }
}

/// The segments in order of address, without those that hold the kernel's image a second time: kexec-tools
/// adds one at the addresses that the image runs at, whose memory is part of another segment too.
fn without_aliases(loads: Vec<Load>) -> Vec<Load> {
    let (images, mut loads): (Vec<_>, Vec<_>) =
        loads.into_iter().partition(|load| load.virt >= KERNEL_MAP);
    loads.sort_unstable_by_key(|load| load.memory);
    let others = loads.len();
    for image in images {
        let before =
            loads[..others].partition_point(|load| load.memory.end() <= image.memory.start());
        let holder = loads[..others].get(before);
        if !holder.is_some_and(|holder| holder.memory.covers(image.memory)) {
            loads.push(image);
        }
    }
    loads.sort_unstable_by_key(|load| load.memory);
    loads
}

/// What the segments hold, which are in order of address. Refuses those that overlap.
fn contents(loads: &[Load]) -> Result<RangeMap<PageClass>, Overlap> {
    let mut contents = RangeMap::new();
    for load in loads {
        let start = load.memory.start().get();
        // No overflow: the file has no more bytes of a segment than the segment has.
        let stored = start + load.file_size;
        let parts = [
            (PhysRange::new(start, stored), PageClass::Data),
            (
                PhysRange::new(stored, load.memory.end().get()),
                PageClass::Zero,
            ),
        ];
        for (range, class) in parts {
            if let Some(range) = range {
                contents.insert(range, class)?;
            }
        }
    }
    Ok(contents)
}

/// Reads `len` bytes at `offset`, after a look whether the source has them.
fn read(
    source: &impl ReadAt,
    what: &'static str,
    offset: u64,
    len: u64,
) -> Result<Vec<u8>, CoreError> {
    check_end(what, offset, len, source.size())?;
    let len = usize::try_from(len).map_err(|_| CoreError::Malformed { what, value: len })?;
    let mut bytes = vec![0; len];
    source
        .read_exact_at(&mut bytes, offset)
        .map_err(|source| CoreError::Read { offset, source })?;
    Ok(bytes)
}

/// Checks that `len` bytes at `offset` end within `size`.
fn check_end(what: &'static str, offset: u64, len: u64, size: u64) -> Result<(), CoreError> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        end => Err(CoreError::Truncated {
            what,
            end: end.unwrap_or(u64::MAX),
            size,
        }),
    }
}

pub(super) fn read_file_header(source: &impl ReadAt) -> Result<Header, CoreError> {
    let bytes = read(source, "the ELF header", 0, FILE_HEADER)?;
    // All pieces have the length that is asked for, so only a bug could make these fail.
    let malformed = |_| CoreError::Malformed {
        what: "the ELF header",
        value: 0,
    };
    let magic: [u8; 4] = [bytes[0], bytes[1], bytes[2], bytes[3]];
    if &magic != b"\x7fELF" {
        return Err(CoreError::NotElf { magic });
    }
    match bytes[EI_CLASS] {
        2 => {}
        1 => return Err(CoreError::Elf32),
        class => {
            return Err(CoreError::Malformed {
                what: "the class of the ELF file",
                value: class.into(),
            });
        }
    }
    match bytes[EI_DATA] {
        1 => {}
        2 => return Err(CoreError::BigEndian),
        data => {
            return Err(CoreError::Malformed {
                what: "the byte order of the ELF file",
                value: data.into(),
            });
        }
    }
    let header: Header = bytes.pread_with(0, LE).map_err(malformed)?;
    if header.e_type != ET_CORE {
        return Err(CoreError::NotCore {
            kind: header.e_type,
        });
    }
    Ok(header)
}

pub(super) fn read_program_headers(
    source: &impl ReadAt,
    header: &Header,
) -> Result<Vec<ProgramHeader>, CoreError> {
    if u64::from(header.e_phentsize) != PROGRAM_HEADER {
        return Err(CoreError::Malformed {
            what: "the size of a program header",
            value: header.e_phentsize.into(),
        });
    }
    let count = if header.e_phnum == PN_XNUM {
        let bytes = read(source, "section 0", header.e_shoff, 64)?;
        let section: SectionHeader = bytes.pread_with(0, LE).map_err(|_| CoreError::Malformed {
            what: "section 0",
            value: header.e_shoff,
        })?;
        section.sh_info.into()
    } else {
        u64::from(header.e_phnum)
    };
    // No overflow: both factors have 32 bits at most.
    let bytes = read(
        source,
        "the program header table",
        header.e_phoff,
        count * PROGRAM_HEADER,
    )?;
    bytes
        .chunks_exact(PROGRAM_HEADER as usize)
        .map(|bytes| {
            bytes.pread_with(0, LE).map_err(|_| CoreError::Malformed {
                what: "a program header",
                value: header.e_phoff,
            })
        })
        .collect()
}

fn check_load(program: &ProgramHeader, size: u64) -> Result<Load, CoreError> {
    let memory = PhysRange::from_len(PhysAddr::new(program.p_paddr), program.p_memsz)
        .filter(|memory| memory.end().get() <= MAX_ADDRESS)
        .ok_or(CoreError::Malformed {
            what: "the end of a segment of memory",
            value: program.p_paddr.wrapping_add(program.p_memsz),
        })?;
    if program.p_filesz > program.p_memsz {
        return Err(CoreError::Malformed {
            what: "the size of a segment in the file",
            value: program.p_filesz,
        });
    }
    check_end(
        "a segment of memory",
        program.p_offset,
        program.p_filesz,
        size,
    )?;
    Ok(Load {
        memory,
        offset: program.p_offset,
        file_size: program.p_filesz,
        virt: program.p_vaddr,
    })
}

#[cfg(test)]
mod tests;
