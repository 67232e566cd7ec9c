//! What a core is to hold, and the bytes of it.

use arbitrary::Arbitrary;
use vmcore::elf::encode_note;

use crate::{Damage, Number};

/// What a core is to hold.
#[derive(Arbitrary, Clone, Debug)]
pub struct CoreSpec {
    /// What its program headers say.
    pub programs: Vec<ProgramSpec>,
    /// Notes, which lie right behind the headers.
    pub notes: Vec<NoteSpec>,
    /// Whether the number of program headers is in section 0, and what is added to it there.
    pub extended: Option<u8>,
    /// What follows the notes.
    pub rest: Vec<u8>,
    /// This many zeros follow that.
    pub zeros: u16,
    /// What is written over it all.
    pub damage: Damage,
}

/// A program header.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum ProgramSpec {
    /// Memory.
    Load {
        /// Its address.
        addr: Number,
        /// Its size.
        size: Number,
        /// How many bytes less than that the file has.
        lacks: Number,
        /// Where they lie in the file.
        offset: Number,
        /// The virtual address.
        virt: u64,
    },
    /// The notes of the core.
    Notes,
    /// Notes elsewhere.
    OtherNotes {
        /// Where in the file.
        offset: Number,
        /// How many bytes.
        size: Number,
    },
    /// Anything.
    Any([u64; 7]),
}

/// A note.
#[derive(Arbitrary, Clone, Debug)]
pub struct NoteSpec {
    /// Its owner.
    pub owner: Owner,
    /// What it says.
    pub desc: Vec<u8>,
}

/// The owner of a note.
#[derive(Arbitrary, Clone, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Owner {
    Core,
    Vmcoreinfo,
    Kjump,
    Other(String, u32),
}

impl NoteSpec {
    /// The bytes of the note.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (name, kind) = match &self.owner {
            Owner::Core => ("CORE", 1),
            Owner::Vmcoreinfo => ("VMCOREINFO", 0),
            Owner::Kjump => ("KJUMP", 1),
            Owner::Other(name, kind) => (name.as_str(), *kind),
        };
        encode_note(name, kind, &self.desc)
    }
}

/// A core as bytes, and what is known of it.
#[derive(Clone, Debug)]
pub struct BuiltCore {
    /// The file.
    pub bytes: Vec<u8>,
    /// Whether all that it says can be, where that is known.
    pub sound: Option<bool>,
}

/// The most bytes of notes that are read, as in `vmcore::elf`.
const MAX_NOTES: u64 = 64 << 20;

impl CoreSpec {
    /// The file.
    #[must_use]
    pub fn build(&self) -> BuiltCore {
        let headers = 64 + 56 * self.programs.len() as u64;
        let section: u64 = if self.extended.is_some() { 64 } else { 0 };
        let notes: Vec<u8> = self.notes.iter().flat_map(NoteSpec::encode).collect();
        let notes_at = headers + section;
        let size = notes_at + notes.len() as u64 + self.rest.len() as u64 + u64::from(self.zeros);

        let mut file = Vec::new();
        file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        file.extend_from_slice(&4u16.to_le_bytes());
        file.extend_from_slice(&62u16.to_le_bytes());
        file.extend_from_slice(&1u32.to_le_bytes());
        file.extend_from_slice(&0u64.to_le_bytes());
        file.extend_from_slice(&64u64.to_le_bytes());
        file.extend_from_slice(&(headers * u64::from(section > 0)).to_le_bytes());
        file.extend_from_slice(&0u32.to_le_bytes());
        for word in [64, 56] {
            file.extend_from_slice(&u16::to_le_bytes(word));
        }
        let count = u16::try_from(self.programs.len()).unwrap_or(0xffff);
        let count = if self.extended.is_some() {
            0xffff
        } else {
            count
        };
        for word in [count, 64, 0, 0] {
            file.extend_from_slice(&word.to_le_bytes());
        }

        // Where all this is right, the oracle knows what the reader must say.
        // Not where the count says more headers than there are: then what follows them is read as such.
        let known = self.damage.is_none() && self.extended.unwrap_or(0) == 0;
        let mut sound = true;
        let mut noted = 0u64;
        let mut memory: Vec<(u64, u64)> = Vec::new();
        // The kernel's image, which may be there a second time.
        let mut images: Vec<(u64, u64)> = Vec::new();
        let in_file =
            |offset: u64, len: u64| offset.checked_add(len).is_some_and(|end| end <= size);
        for program in &self.programs {
            // type and flags, offset, virt, phys, file size, memory size, alignment
            let words = match *program {
                ProgramSpec::Load {
                    addr,
                    size,
                    lacks,
                    offset,
                    virt,
                } => {
                    let (addr, size) = (addr.get(), size.get());
                    let stored = size.saturating_sub(lacks.get());
                    [1 | 7 << 32, offset.get(), virt, addr, stored, size, 0]
                }
                ProgramSpec::Notes => [4, notes_at, 0, 0, notes.len() as u64, 0, 0],
                ProgramSpec::OtherNotes { offset, size } => {
                    [4, offset.get(), 0, 0, size.get(), 0, 0]
                }
                ProgramSpec::Any(words) => words,
            };
            let [kind, offset, virt, addr, stored, len, _] = words;
            match kind & 0xffff_ffff {
                1 if len > 0 => {
                    sound &= in_file(offset, stored) && stored <= len;
                    match addr.checked_add(len).filter(|end| *end <= 1 << 52) {
                        Some(end) if virt >= crate::machine::IMAGE => images.push((addr, end)),
                        Some(end) => memory.push((addr, end)),
                        None => sound = false,
                    }
                }
                4 => {
                    noted = noted.saturating_add(stored);
                    sound &= in_file(offset, stored) && noted <= MAX_NOTES.min(size);
                }
                _ => {}
            }
            for word in words {
                file.extend_from_slice(&word.to_le_bytes());
            }
        }
        images.retain(|image| {
            let holds = |other: &(u64, u64)| other.0 <= image.0 && image.1 <= other.1;
            !memory.iter().any(holds)
        });
        memory.extend(images);
        memory.sort_unstable();
        sound &= memory.windows(2).all(|pair| pair[0].1 <= pair[1].0);

        if let Some(more) = self.extended {
            let mut zero = [0; 64];
            let count = (self.programs.len() as u32).wrapping_add(more.into());
            zero[44..48].copy_from_slice(&count.to_le_bytes());
            file.extend_from_slice(&zero);
        }
        file.extend_from_slice(&notes);
        file.extend_from_slice(&self.rest);
        file.resize(file.len() + usize::from(self.zeros), 0);
        assert_eq!(file.len() as u64, size, "the builder counts right");
        let sound = known.then_some(sound);
        self.damage.apply(&mut file);
        BuiltCore { bytes: file, sound }
    }
}
