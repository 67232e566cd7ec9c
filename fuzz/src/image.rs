//! Images: whose they say they are, their blocks with right checksums, and what must hold for all.

use arbitrary::Arbitrary;
use rapidhash::v3::rapidhash_v3;
use vmcore::image::{
    Component, Digest, HEADER_SIZE, Header, Identity, Image, ImageError, ImageId, ImageMemory,
    ImageStream, Mapping, Paging, Platform, Segment, Stripe, Volume, VolumeState,
};
use vmcore::{MemoryKind, PageClass, PhysAddr, PhysRange, RangeMap};

use crate::{Number, bounded, memory};

/// The size of a block, and where the records begin.
pub const BLOCK: usize = 4096;
/// Where the records begin.
pub const RECORDS: usize = 64 << 10;
/// The most bytes of data in a chunk.
const CHUNK: usize = 1 << 20;

/// What a machine says of itself.
#[derive(Arbitrary, Clone, Debug)]
pub struct IdentitySpec {
    id: [u8; 16],
    release: String,
    build_id: Vec<u8>,
    five_levels: bool,
    window: (Number, Number),
    low: Vec<(Number, Number)>,
    memory: Vec<(Number, Number, u32)>,
    free_fill: Option<u8>,
    uptime: u64,
    platform: Vec<String>,
    time: u64,
    volumes: Vec<VolumeSpec>,
}

#[derive(Arbitrary, Clone, Debug)]
struct VolumeSpec {
    texts: [String; 4],
    size: u64,
    mapping: Option<MappingSpec>,
    state: StateSpec,
}

/// Sizes of components, and segments: length, chunk, and for each stripe its component and where it begins.
#[derive(Arbitrary, Clone, Debug)]
struct MappingSpec {
    components: Vec<(String, Number)>,
    segments: Vec<(Number, Number, Vec<(u8, Number)>)>,
}

impl MappingSpec {
    /// The mapping, if it is one.
    fn build(self) -> Option<Mapping> {
        let component = |(text, size): (String, Number)| Component {
            device: text.clone(),
            kind: text.clone(),
            uuid: text,
            size: size.get(),
        };
        let stripe = |(component, start): (u8, Number)| Stripe {
            component: component.into(),
            start: start.get(),
        };
        let segment = |(len, chunk, stripes): (Number, Number, Vec<(u8, Number)>)| Segment {
            len: len.get(),
            chunk: chunk.get(),
            stripes: stripes.into_iter().map(stripe).collect(),
        };
        let components: Vec<_> = self.components.into_iter().map(component).collect();
        if components
            .iter()
            .any(|component| component.device.len() > 4096)
        {
            return None;
        }
        let segments = self.segments.into_iter().map(segment).collect();
        let mapping = Mapping::new(components, segments)?;
        for (component, range) in mapping.ranges() {
            assert!(range.end <= mapping.components()[component].size);
        }
        assert!(mapping.locate(mapping.size() - 1).is_some());
        assert!(mapping.locate(mapping.size()).is_none());
        Some(mapping)
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum StateSpec {
    Pending,
    Exempt,
    Known([u8; 32], u64),
}

impl VolumeSpec {
    fn build(self) -> Volume {
        let [device, used, kind, uuid] = self.texts;
        Volume {
            device,
            used,
            kind,
            uuid,
            size: self.size,
            mapping: self.mapping.and_then(MappingSpec::build),
            state: match self.state {
                StateSpec::Pending => VolumeState::Pending,
                StateSpec::Exempt => VolumeState::Exempt,
                StateSpec::Known(digest, written) => VolumeState::Known {
                    digest: Digest(digest),
                    written,
                },
            },
        }
    }
}

impl IdentitySpec {
    /// The identity; `None` if there is none, or if some of it would be cut when it is written.
    #[must_use]
    pub fn build(self) -> Option<Identity> {
        let range = |(start, len): (Number, Number)| {
            PhysRange::from_len(PhysAddr::new(start.get()), len.get())
        };
        let mut low = RangeMap::new();
        for part in self.low {
            low.replace(range(part)?, ());
        }
        let mut memory = RangeMap::new();
        for (start, len, kind) in self.memory {
            memory.replace(range((start, len))?, MemoryKind::from_e820(kind));
        }
        let mut texts = self.platform.into_iter();
        let mut text = || texts.next().unwrap_or_default();
        let platform = Platform {
            vendor: text(),
            product: text(),
            board: text(),
            uuid: text(),
            cpu: text(),
            features: text(),
            saver: text(),
            time: self.time,
        };
        let volumes: Vec<Volume> = self.volumes.into_iter().map(VolumeSpec::build).collect();
        let longest = [&self.release, &platform.vendor, &platform.product]
            .into_iter()
            .chain([&platform.board, &platform.uuid, &platform.cpu])
            .chain([&platform.features, &platform.saver])
            .chain(
                volumes
                    .iter()
                    .flat_map(|volume| [&volume.device, &volume.used, &volume.kind, &volume.uuid]),
            )
            .map(String::len)
            .max();
        if longest > Some(4096) || self.build_id.len() > 4096 || volumes.len() > 1024 {
            return None;
        }
        Some(Identity {
            id: ImageId(self.id),
            release: self.release,
            build_id: self.build_id,
            paging: if self.five_levels {
                Paging::FiveLevel
            } else {
                Paging::FourLevel
            },
            window: range(self.window)?,
            low,
            memory,
            free_fill: self.free_fill,
            uptime: self.uptime,
            platform,
            volumes,
        })
    }
}

/// The checksum of everything in an image, as `docs/format.md` has it.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(BLOCK)
        .fold(0x6b6a_756d_7069_6d67, |sum: u64, block| {
            (sum.rotate_left(23) ^ rapidhash_v3(block)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
}

/// A header with a right checksum over anything.
#[must_use]
pub fn header(said: &[u8]) -> Vec<u8> {
    let mut block = b"KJUMPIMG\x04\0\0\0".to_vec();
    block.extend_from_slice(&said[..said.len().min(60_000)]);
    block.resize(HEADER_SIZE as usize - 8, 0);
    block.extend(checksum(&block).to_le_bytes());
    block
}

/// The header of an image that was saved.
#[must_use]
pub fn saved_header(identity: &Identity, jump_back: u64, in_order: bool) -> Vec<u8> {
    // What a note says of the identity stands behind its sizes, its kind and its name.
    let note = identity.to_note();
    let len = u32::from_le_bytes(note[4..8].try_into().expect("four bytes")) as usize;
    let mut said = note[20..20 + len].to_vec();
    said.extend(1_u32.to_le_bytes());
    said.extend(jump_back.to_le_bytes());
    said.extend(u32::from(in_order).to_le_bytes());
    header(&said)
}

/// A commit record with a right checksum.
#[must_use]
pub fn commit(id: ImageId, state: u32, attempts: u32, end: u64) -> Vec<u8> {
    let mut block = b"KJUMPEND".to_vec();
    block.extend_from_slice(&id.0);
    block.extend(state.to_le_bytes());
    block.extend(attempts.to_le_bytes());
    block.extend(end.to_le_bytes());
    block.extend(checksum(&block).to_le_bytes());
    block.resize(BLOCK, 0);
    block
}

/// A record with right checksums, which says that its payload has `len` bytes.
#[must_use]
pub fn record(
    id: ImageId,
    offset: u64,
    kind: u32,
    body: &[u8],
    payload: &[u8],
    len: u64,
) -> Vec<u8> {
    let mut padded = payload.to_vec();
    padded.resize(payload.len().next_multiple_of(BLOCK), 0);
    let mut block = b"KJRECORD".to_vec();
    block.extend(kind.to_le_bytes());
    block.extend((body.len() as u32).to_le_bytes());
    block.extend_from_slice(&id.0);
    block.extend(offset.to_le_bytes());
    block.extend(len.to_le_bytes());
    block.extend(checksum(&padded).to_le_bytes());
    block.resize(64, 0);
    block.extend_from_slice(&body[..body.len().min(BLOCK - 80)]);
    block.resize(BLOCK - 16, 0);
    block.extend(checksum(&block).to_le_bytes());
    block.resize(BLOCK, 0);
    block.extend(padded);
    block
}

/// What was read of an image in some way: the classes of its memory, and its data.
pub type Contents = (RangeMap<PageClass>, Vec<u8>);

/// What must hold for any file. Returns what it holds if it may be resumed, by its index.
///
/// # Errors
///
/// Why it holds nothing, or may not be resumed.
///
/// # Panics
///
/// If something does not hold.
pub fn examine(file: &[u8]) -> Result<Contents, ImageError> {
    let limit = (256 << 10) + 8 * file.len();
    let header = bounded(limit, || Header::read(&file));
    let opened = bounded(limit, || Image::examine(file));
    assert_eq!(
        opened
            .as_ref()
            .is_ok_and(|(_, resumable)| resumable.is_ok()),
        Image::open(file).is_ok()
    );
    let (image, resumable) = opened?;
    let header = header.expect("who examines reads the header");
    assert_eq!(*image.identity(), header.identity);
    memory::check_order(&image.identity().low);
    memory::check_order(&image.identity().memory);
    assert!(image.size() <= file.len() as u64);
    // Who reads has room for a record and for the data of a chunk; what is kept here doubles as it grows.
    let limit = limit + 8 * CHUNK;
    let read = bounded(limit, || read_all(&image));
    resumable?;
    let contents = read?;
    let memory = ImageMemory::open(image).expect("its index was read");
    memory::check_order(vmcore::Memory::contents(&memory));
    assert!(vmcore::Memory::contents(&memory) == &contents.0);
    bounded(limit + 32 * CHUNK, || memory::check(&memory, true));
    Ok(contents)
}

/// Reads all chunks of an image as those who restore it do; of the data of many, the first.
fn read_all(image: &Image<&[u8]>) -> Result<Contents, ImageError> {
    let (mut map, mut all) = (RangeMap::new(), Vec::new());
    let mut reader = image.reader();
    let mut scratch = vec![0; CHUNK];
    for entry in image.index()? {
        let entry = entry?;
        let len = entry.chunk.data_len() as usize;
        let (one, two) = scratch[..len].split_at_mut(len / BLOCK / 2 * BLOCK);
        reader.read(&entry, &mut [one, two])?;
        keep(&mut map, &mut all, entry.chunk.iter(), &scratch[..len]);
    }
    Ok((map, all))
}

/// Reads an image in order, as it comes out of a pipe.
///
/// # Errors
///
/// Why it is not whole.
pub fn stream(file: &[u8]) -> Result<Contents, ImageError> {
    let limit = (256 << 10) + 8 * file.len() + 8 * CHUNK;
    bounded(limit, || {
        let (mut map, mut all) = (RangeMap::new(), Vec::new());
        let mut stream = ImageStream::open(file)?;
        let mut scratch = vec![0; CHUNK];
        while let Some(mut chunk) = stream.next_chunk()? {
            let len = chunk.chunk.data_len() as usize;
            chunk.read(&mut [&mut scratch[..len]])?;
            keep(&mut map, &mut all, chunk.chunk.iter(), &scratch[..len]);
        }
        assert!(stream.totals().is_some(), "it is whole");
        Ok((map, all))
    })
}

/// Keeps what a chunk says; of data, no more than a chunk may have.
fn keep(
    map: &mut RangeMap<PageClass>,
    all: &mut Vec<u8>,
    runs: impl Iterator<Item = (PhysRange, PageClass)>,
    data: &[u8],
) {
    for (range, class) in runs {
        map.insert(range, class).expect("chunks are in order");
    }
    let room = CHUNK - all.len();
    all.extend_from_slice(&data[..data.len().min(room)]);
}
