//! Files that saved memory is kept in, whatever their format.

use std::fmt;

use crate::elf::{Core, CoreError};
use crate::image::{Identity, Image, ImageError, ImageMemory, Jump, Key, Totals};
use crate::kdump::{self, Dump, DumpError, Flattened, is_flattened};
use crate::{Memory, Phases, ReadAt, Saved};

/// A format that saved memory is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An ELF core.
    Elf,
    /// A kdump-compressed file, as makedumpfile writes them.
    KdumpCompressed,
    /// A hibernation image.
    Image,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elf => "elf",
            Self::KdumpCompressed => "kdump",
            Self::Image => "kjump",
        })
    }
}

/// Why a file holds no memory that can be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It begins like a core.
    #[error("the core cannot be used")]
    Core(#[from] CoreError),
    /// It begins like a dump of makedumpfile.
    #[error("the dump cannot be used")]
    Dump(#[from] DumpError),
    /// It begins like an image, or like nothing that is known.
    #[error("the image cannot be used")]
    Image(#[from] ImageError),
}

/// The memory in a file, which can be read by many threads.
type AnyMemory = Box<dyn Memory + Send + Sync>;

/// A file that holds a machine.
#[derive(Debug)]
pub struct SavedFile {
    /// The format.
    pub format: Format,
    /// Whether the file is an image that may be resumed, or why not; `None` if it is no image.
    pub resumable: Option<Result<(), ImageError>>,
    /// How an image stores the memory; `None` if the file is none.
    pub stored: Option<Stored>,
    /// The machine.
    pub machine: Saved<AnyMemory>,
}

/// How an image stores memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What there is in it.
    pub totals: Totals,
    /// How many bytes it takes in all.
    pub size: u64,
    /// How long it took to save it, and what came before.
    pub phases: Phases,
}

impl SavedFile {
    /// Finds out what `source` holds, and opens it. An image need not be one that may be resumed.
    ///
    /// # Errors
    ///
    /// [`FileError`] that says what the file seems to be, and why it cannot be read.
    pub fn open<S: ReadAt + Send + Sync + 'static>(source: S) -> Result<Self, FileError> {
        Self::open_with(source, None)
    }

    /// As [`open`](Self::open), with the key of an image that is sealed. Nothing else takes one.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with<S: ReadAt + Send + Sync + 'static>(
        source: S,
        key: Option<&Key>,
    ) -> Result<Self, FileError> {
        if is_flattened(&source) {
            return Self::open_plain(Flattened::open(source)?, key);
        }
        Self::open_plain(source, key)
    }

    fn open_plain<S: ReadAt + Send + Sync + 'static>(
        source: S,
        key: Option<&Key>,
    ) -> Result<Self, FileError> {
        let mut magic = [0; 8];
        // What is too short for this is too short for an image too, which then says so.
        let read = source.read_exact_at(&mut magic, 0);
        if read.is_ok() && magic.starts_with(b"\x7fELF") {
            Ok(Self {
                format: Format::Elf,
                resumable: None,
                stored: None,
                machine: Saved::of_core(Core::open(source)?, None, None).boxed(),
            })
        } else if read.is_ok() && &magic == kdump::SIGNATURE {
            let dump = Dump::open(source)?;
            let notes: Vec<u8> = dump.notes().flat_map(|note| note.encode()).collect();
            let identity = Identity::from_notes(&notes);
            let (jump, info) = (Jump::from_notes(&notes), dump.vmcoreinfo());
            Ok(Self {
                format: Format::KdumpCompressed,
                resumable: None,
                stored: None,
                machine: Saved::new(dump, notes, identity, jump, info, None).boxed(),
            })
        } else {
            let (image, resumable) = Image::examine_with(source, key)?;
            let stored = Stored {
                totals: image.totals(),
                size: image.size(),
                phases: image.phases().clone(),
            };
            Ok(Self {
                format: Format::Image,
                resumable: Some(resumable),
                stored: Some(stored),
                machine: Saved::of_image(ImageMemory::open(image)?).boxed(),
            })
        }
    }
}
