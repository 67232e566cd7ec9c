//! Whose memory it is.

use std::fmt;

use super::wire::{Reader, Writer};
use super::{HEADER_SIZE, Platform, Volume};
use crate::elf::{Notes, encode_note};
use crate::{MemoryKind, PAGE_SIZE, PhysRange, RangeMap};

/// A number, drawn at random when a machine prepares to hibernate, that tells its image from all
/// others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageId(pub [u8; 16]);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl ImageId {
    /// The id with these 32 hexadecimal digits, as they are printed.
    ///
    /// ```
    /// use vmcore::image::ImageId;
    ///
    /// let id = ImageId(*b"0123456789abcdef");
    /// assert_eq!(ImageId::from_hex(&id.to_string()), Some(id));
    /// assert_eq!(ImageId::from_hex("0123"), None);
    /// ```
    #[must_use]
    pub fn from_hex(digits: &str) -> Option<Self> {
        let plain = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = u128::from_str_radix(digits, 16).ok()?;
        plain.then_some(Self(number.to_be_bytes()))
    }
}

/// How many levels the page tables of a kernel have. A kernel cannot change it while it runs, so the
/// kernels that save and restore it must have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// Four levels: 47 bits of address for each half.
    FourLevel,
    /// Five levels (LA57): 56 bits of address for each half.
    FiveLevel,
}

impl Paging {
    /// The number of levels.
    #[must_use]
    pub const fn levels(self) -> u32 {
        match self {
            Self::FourLevel => 4,
            Self::FiveLevel => 5,
        }
    }
}

impl fmt::Display for Paging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-level paging", self.levels())
    }
}

/// What a machine says of itself before it is saved: all that must hold when it is resumed.
///
/// It travels from the machine to the kernel that saves it as a note in the headers of the core, and
/// from there into the header of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Tells this hibernation from all others.
    pub id: ImageId,
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// The kernel's GNU build id; empty if it has none.
    pub build_id: Vec<u8>,
    /// Depth of its page tables.
    pub paging: Paging,
    /// The memory that the saving kernel lives in, and the restoring one must live in too.
    pub window: PhysRange,
    /// The memory below 1 MiB, which those kernels use besides.
    pub low: RangeMap<()>,
    /// All memory of the machine.
    pub memory: RangeMap<MemoryKind>,
    /// What the kernel counts on finding in each byte of its free pages: 0 with `init_on_free`, 0xaa with
    /// page poisoning, `None` if it does not look.
    pub free_fill: Option<u8>,
    /// For how many seconds it had run, the time asleep included.
    pub uptime: u64,
    /// The hardware that it ran on.
    pub platform: Platform,
    /// The devices that it had mounted for writing or swapped on. The saving kernel adds what was on them.
    pub volumes: Vec<Volume>,
}

/// How it is written that free pages need not be filled.
const NO_FILL: u32 = 0x100;

impl Identity {
    /// Owner name of the note.
    const NOTE_NAME: &str = "KJUMP";
    /// Kind of the note: none that tools take for a note of a CPU, whoever its owner is.
    const NOTE_KIND: u32 = 0x4b4a_0001;

    /// The identity as an ELF note.
    #[must_use]
    pub fn to_note(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.encode(&mut writer);
        encode_note(Self::NOTE_NAME, Self::NOTE_KIND, &writer.bytes)
    }

    /// The identity in these encoded notes; `None` if there is none, or none that makes sense.
    #[must_use]
    pub fn from_notes(notes: &[u8]) -> Option<Self> {
        let note = Notes::new(notes)
            .find(|note| note.name == Self::NOTE_NAME.as_bytes() && note.kind == Self::NOTE_KIND)?;
        // One that no header has room for is of no use, and its maps could take minutes to put in order.
        if note.desc.len() as u64 > HEADER_SIZE {
            return None;
        }
        Self::decode(&mut Reader::new(note.desc))
    }

    /// The memory that is saved as it lies: whole pages of RAM outside the window and low memory, whose
    /// contents the jump has put elsewhere in it.
    ///
    /// ```
    /// # use vmcore::image::{Identity, ImageId, Paging};
    /// # use vmcore::{MemoryKind, PhysRange, RangeMap};
    /// # let range = |start, end| PhysRange::new(start, end).unwrap();
    /// # let (mut low, mut memory) = (RangeMap::new(), RangeMap::new());
    /// # low.insert(range(0x1000, 0x9f000), ())?;
    /// # memory.insert(range(0x1000, 0x9fc00), MemoryKind::Ram)?;
    /// # memory.insert(range(0x10_0000, 0x4000_0000), MemoryKind::Ram)?;
    /// # let identity = Identity {
    /// #     id: ImageId([0; 16]),
    /// #     release: String::new(),
    /// #     build_id: Vec::new(),
    /// #     paging: Paging::FourLevel,
    /// #     window: range(0x400_0000, 0xa00_0000),
    /// #     low,
    /// #     memory,
    /// #     free_fill: None,
    /// #     uptime: 90_061,
    /// #     platform: Default::default(),
    /// #     volumes: Vec::new(),
    /// # };
    /// let saved: Vec<_> = identity.saved_memory().ranges().collect();
    /// assert_eq!(saved, [range(0x10_0000, 0x400_0000), range(0xa00_0000, 0x4000_0000)]);
    /// # Ok::<(), vmcore::Overlap>(())
    /// ```
    #[must_use]
    pub fn saved_memory(&self) -> RangeMap<()> {
        let mut saved = self
            .memory
            .filter_map(|kind| (*kind == MemoryKind::Ram).then_some(()));
        for range in self.low.ranges().chain([self.window]) {
            saved.remove(range);
        }
        // Last, for the window of a hostile image may end anywhere.
        saved.shrink_to(PAGE_SIZE)
    }

    /// The build id in hexadecimal digits.
    #[must_use]
    pub fn build_id_hex(&self) -> String {
        self.build_id
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        to.raw(&self.id.0);
        to.string(&self.release);
        to.blob(&self.build_id);
        to.u32(self.paging.levels());
        to.range(self.window);
        to.u64(self.low.len() as u64);
        for range in self.low.ranges() {
            to.range(range);
        }
        to.u64(self.memory.len() as u64);
        for (range, kind) in self.memory.iter() {
            to.range(range);
            to.u32(kind.to_e820());
        }
        // No byte is 0x100.
        to.u32(self.free_fill.map_or(NO_FILL, u32::from));
        to.u64(self.uptime);
        self.platform.encode(to);
        Volume::encode_all(&self.volumes, to);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let id = ImageId(from.array()?);
        let release = from.string()?;
        let build_id = from.blob()?.to_vec();
        let paging = match from.u32()? {
            4 => Paging::FourLevel,
            5 => Paging::FiveLevel,
            _ => return None,
        };
        let window = from.range()?;
        // Nothing is allocated by these counts: the loops end where the bytes do.
        let mut low = RangeMap::new();
        for _ in 0..from.u64()? {
            low.insert(from.range()?, ()).ok()?;
        }
        let mut memory = RangeMap::new();
        for _ in 0..from.u64()? {
            let range = from.range()?;
            memory
                .insert(range, MemoryKind::from_e820(from.u32()?))
                .ok()?;
        }
        let free_fill = match from.u32()? {
            NO_FILL => None,
            byte => Some(u8::try_from(byte).ok()?),
        };
        Some(Self {
            id,
            release,
            build_id,
            paging,
            window,
            low,
            memory,
            free_fill,
            uptime: from.u64()?,
            platform: Platform::decode(from)?,
            volumes: Volume::decode_all(from)?,
        })
    }
}
