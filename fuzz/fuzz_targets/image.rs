//! Hibernation images: only what was committed and not resumed is opened, and it is what was written.
#![no_main]

use arbitrary::Arbitrary;
use kjump_fuzz::spec::CoreSpec;
use kjump_fuzz::{Damage, Number, bounded, memory};
use libfuzzer_sys::fuzz_target;
use vmcore::elf::{Core, CoreWriter};
use vmcore::image::{
    self, HEADER_SIZE, Header, Identity, Image, ImageError, ImageId, Paging, Platform, Stage, prepare,
    record_failure,
};
use vmcore::{Memory, MemoryKind, PhysAddr, PhysRange, RangeMap};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// An image that is written as it should be, then damaged.
    Written {
        identity: IdentitySpec,
        stage: StageSpec,
        damage: Damage,
    },
    /// A header with a right checksum over any bytes, and what follows it.
    Sealed { header: &'a [u8], rest: &'a [u8] },
    /// The file itself.
    Raw(&'a [u8]),
}

#[derive(Arbitrary, Debug)]
struct IdentitySpec {
    id: [u8; 16],
    release: String,
    build_id: Vec<u8>,
    five_levels: bool,
    window: (Number, Number),
    low: Vec<(Number, Number)>,
    memory: Vec<(Number, Number, u32)>,
    free_fill: Option<u8>,
    uptime: u64,
}

#[derive(Arbitrary, Debug)]
enum StageSpec {
    Prepared,
    Failed(String, u16),
    Saved { jump_back: u64, core: CoreSpec },
}

impl IdentitySpec {
    fn build(self) -> Option<Identity> {
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
            platform: Platform::default(),
            volumes: Vec::new(),
        })
    }
}

/// What must hold for any file.
fn examine(file: &[u8]) -> Result<(), ImageError> {
    let limit = (256 << 10) + 8 * file.len();
    let header = bounded(limit, || Header::read(&file));
    let (image, resumable) = bounded(limit, || Image::examine(file))?;
    let header = header.expect("who examines reads the header");
    assert_eq!(*image.identity(), header.identity);
    memory::check_order(&image.identity().low);
    memory::check_order(&image.identity().memory);
    let needed = image::size_for(image.saved().core_size).expect("it was compared");
    assert!(needed <= file.len() as u64);
    if let Ok(core) = bounded(limit, || image.core()) {
        memory::check(&core, true);
    }
    assert_eq!(Image::open(file).is_ok(), resumable.is_ok());
    resumable
}

/// Whether the last four bytes of a block are the checksum of all before.
fn sealed(block: &[u8]) -> bool {
    let (bytes, checksum) = block.split_at(block.len() - 4);
    crc32fast::hash(bytes).to_le_bytes() == checksum
}

fuzz_target!(|input: Input<'_>| {
    match input {
        Input::Raw(file) => {
            let _ = examine(file);
        }
        Input::Sealed { header, rest } => {
            let mut file = b"KJUMPIMG\x02\0\0\0".to_vec();
            file.extend_from_slice(&header[..header.len().min(60_000)]);
            file.resize(HEADER_SIZE as usize - 4, 0);
            file.extend_from_slice(&crc32fast::hash(&file).to_le_bytes());
            file.extend_from_slice(rest);
            let _ = examine(&file);
            file.resize(file.len().next_multiple_of(4096) + 8192, 0);
            let _ = examine(&file);
        }
        Input::Written {
            identity,
            stage,
            damage,
        } => {
            let Some(identity) = identity.build() else {
                return;
            };
            // Longer ones are cut when they are written.
            if identity.release.len() > 4096 || identity.build_id.len() > 4096 {
                return;
            }
            let stage = match stage {
                StageSpec::Failed(reason, times) => {
                    StageSpec::Failed(reason.repeat(usize::from(times % 512)), 1)
                }
                other => other,
            };
            let mut file = Vec::new();
            let written = match &stage {
                StageSpec::Prepared => prepare(&identity, &mut file),
                StageSpec::Failed(reason, _) => record_failure(&identity, reason, &mut file),
                StageSpec::Saved { jump_back, core } => {
                    let Ok(memory) = Core::open(core.build().bytes) else {
                        return;
                    };
                    let stored: u64 = memory.loads().iter().map(|load| load.file_size).sum();
                    if stored > 1 << 20 {
                        return;
                    }
                    let notes = memory.encode_notes();
                    let core =
                        CoreWriter::new(&memory, memory.contents(), &notes, |addr| addr.get());
                    let back = PhysAddr::new(*jump_back);
                    let written =
                        image::write(&identity, back, &core, &memory, &mut file, &mut |_| {});
                    let again = Image::open(file.as_slice()).expect("it was just written");
                    let again = again.core().expect("it was just written");
                    assert_eq!(again.contents(), memory.contents());
                    written
                }
            };
            if written.is_err() {
                return;
            }
            let clean = file.clone();
            damage.apply(&mut file);
            let examined = examine(&file);
            let header = file.split_at(HEADER_SIZE as usize).0;
            if file == clean {
                let header = Header::read(&file).expect("it was just written");
                assert_eq!(header.identity, identity);
                match stage {
                    StageSpec::Prepared => {
                        assert_eq!(header.stage, Stage::Prepared);
                        assert!(matches!(examined, Err(ImageError::Prepared)));
                    }
                    StageSpec::Failed(reason, _) => {
                        // A long reason is cut.
                        let Stage::Failed(read) = header.stage else {
                            panic!("{:?}", header.stage)
                        };
                        assert!(reason.starts_with(&read));
                        assert!(read.len() == reason.len() || read.len() > 4000);
                        assert!(matches!(examined, Err(ImageError::Failed { .. })));
                    }
                    StageSpec::Saved { .. } => assert!(examined.is_ok()),
                }
            } else if !sealed(header) {
                assert!(examined.is_err(), "a damaged header");
            } else if matches!(stage, StageSpec::Saved { .. })
                && header == &clean[..HEADER_SIZE as usize]
                && !sealed(&file[file.len() - 4096..])
            {
                assert!(
                    matches!(examined, Err(ImageError::Uncommitted)),
                    "a damaged record"
                );
            }
        }
    }
});
