use std::io::Write;

use proptest::prelude::*;

use super::commit::State;
use super::wire::{Writer, seal};
use super::*;
use crate::elf::{Core, CoreHeaders, CoreWriter, Load};
use crate::{Memory as _, MemoryKind, PhysAddr, PhysRange, RangeMap, ReadFile};

fn range(start: u64, end: u64) -> PhysRange {
    PhysRange::new(start, end).unwrap()
}

fn volume(device: &str, state: VolumeState) -> Volume {
    Volume {
        device: device.into(),
        used: "mounted at /".into(),
        kind: "ext4".into(),
        uuid: "0d1f1b06-6c4a-4a3b-a0a1-1f0a5c7a1234".into(),
        size: 1 << 30,
        state,
    }
}

fn identity() -> Identity {
    let mut low = RangeMap::new();
    low.insert(range(0x1000, 0x9f000), ()).unwrap();
    let mut memory = RangeMap::new();
    memory
        .insert(range(0x1000, 0x9f000), MemoryKind::Ram)
        .unwrap();
    memory
        .insert(range(0x10_0000, 0x4000_0000), MemoryKind::Ram)
        .unwrap();
    memory
        .insert(range(0xfee0_0000, 0xfee0_1000), MemoryKind::Custom(12))
        .unwrap();
    Identity {
        id: ImageId(*b"0123456789abcdef"),
        release: "6.12.1-test".into(),
        build_id: vec![0xde, 0xad],
        paging: Paging::FiveLevel,
        window: range(0x400_0000, 0xa00_0000),
        low,
        memory,
        free_fill: Some(0xaa),
        uptime: 90_061,
        platform: Platform {
            product: "Some Machine".into(),
            features: "fpu sse".into(),
            time: 1_700_000_000,
            ..Platform::default()
        },
        volumes: vec![
            volume("/dev/vda1", VolumeState::Pending),
            volume("/dev/vda2", VolumeState::Exempt),
            volume(
                "/dev/vda3",
                VolumeState::Known {
                    digest: Digest([7; 32]),
                    written: 1_700_000_001,
                },
            ),
        ],
    }
}

/// The memory that is saved, and the core of it.
fn core() -> (Core<Vec<u8>>, CoreWriter) {
    let mut headers = CoreHeaders::new();
    headers.load(Load {
        memory: range(0x10_0000, 0x10_2000),
        offset: 64 + 56,
        file_size: 0x2000,
        virt: 0,
    });
    let memory = Core::open([headers.encode(), vec![7; 0x2000]].concat()).unwrap();
    let classes = memory.contents().clone();
    let writer = CoreWriter::new(&memory, &classes, &identity().to_note(), |_| 0);
    (memory, writer)
}

fn image() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut last = 0;
    let (memory, core) = core();
    write(
        &identity(),
        PhysAddr::new(0x1234_5678),
        &core,
        &memory,
        &mut bytes,
        &mut |at| last = at.done,
    )
    .unwrap();
    assert_eq!(last, core.size());
    bytes
}

#[test]
fn an_image_reads_back() {
    let bytes = image();
    assert_eq!(Some(bytes.len() as u64), size_for(core().1.size()));
    let image = Image::open(bytes).unwrap();
    assert_eq!(*image.identity(), identity());
    assert_eq!(image.saved().jump_back, PhysAddr::new(0x1234_5678));
    let core = image.core().unwrap();
    assert_eq!(Identity::from_notes(&core.encode_notes()), Some(identity()));
    let mut page = [0; 4096];
    core.read(PhysAddr::new(0x10_1000), &mut page).unwrap();
    assert_eq!(page, [7; 4096]);
}

#[test]
fn a_target_is_only_valid_when_committed() {
    let mut target = image();
    let commit = target.len() - COMMIT_SIZE as usize;

    // The record of another image, as left by one that was there before.
    let other = commit::encode(
        ImageId([9; 16]),
        core().1.size(),
        State::Committed { attempts: 0 },
    );
    target[commit..].copy_from_slice(&other);
    assert!(matches!(
        Image::open(target.clone()),
        Err(ImageError::Uncommitted)
    ));
    target[commit..].fill(0);
    assert!(matches!(
        Image::open(target.clone()),
        Err(ImageError::Uncommitted)
    ));
    target.truncate(commit);
    assert!(matches!(
        Image::open(target),
        Err(ImageError::Truncated { .. })
    ));

    let mut prepared = Vec::new();
    prepare(&identity(), &mut prepared).unwrap();
    assert!(matches!(Image::open(prepared), Err(ImageError::Prepared)));
    let mut failed = Vec::new();
    record_failure(&identity(), "no space", &mut failed).unwrap();
    assert!(
        matches!(Image::open(failed), Err(ImageError::Failed { reason }) if reason == "no space")
    );
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    // At an odd place in every character but the first, whatever a blob's greatest length is.
    let reason = format!("x{}", "é".repeat(5000));
    let mut failed = Vec::new();
    record_failure(&identity(), &reason, &mut failed).unwrap();
    match Header::read(&failed).unwrap().stage {
        Stage::Failed(read) => assert!(reason.starts_with(&read) && read.len() > 4000),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_identity_that_no_header_holds_is_none() {
    let mut long = identity();
    for page in 0..5000 {
        let range = range((1 << 40) + page * 8192, (1 << 40) + page * 8192 + 4096);
        long.memory.insert(range, MemoryKind::Ram).unwrap();
    }
    assert_eq!(Identity::from_notes(&long.to_note()), None);
}

#[test]
fn an_image_is_resumed_once() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&image()).unwrap();
    let image = Image::open(ReadFile::new(file.try_clone().unwrap()).unwrap()).unwrap();
    image.mark_resumed(&file).unwrap();
    let again = Image::open(ReadFile::new(file).unwrap());
    assert!(matches!(again, Err(ImageError::Resumed)));
}

#[test]
fn attempts_are_counted_until_it_goes_on() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&image()).unwrap();
    let open = || Image::open(ReadFile::new(file.try_clone().unwrap()).unwrap());
    for attempts in 0..3 {
        let image = open().unwrap();
        assert_eq!(image.attempts(), attempts);
        image.mark_attempt(&file).unwrap();
    }
    let image = open().unwrap();
    image.mark_resumed(&file).unwrap();
    assert!(matches!(open(), Err(ImageError::Resumed)));
    image.unmark_resumed(&file).unwrap();
    assert_eq!(open().unwrap().attempts(), 3);
}

#[test]
fn what_is_discarded_is_gone() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&image()).unwrap();
    let open = || Image::open(ReadFile::new(file.try_clone().unwrap()).unwrap());
    open().unwrap().discard(&file).unwrap();
    assert!(matches!(open(), Err(ImageError::Discarded)));
}

/// A sink that fails after so many bytes, and counts what was synced before.
struct Failing {
    left: usize,
    written: Vec<u8>,
}

impl Write for Failing {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let len = buf.len().min(self.left);
        self.left -= len;
        self.written.extend_from_slice(&buf[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Failing {
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

proptest! {
    #[test]
    fn what_is_cut_short_is_never_valid(left in 0..image().len()) {
        let mut sink = Failing { left, written: Vec::new() };
        let (memory, core) = core();
        let result = write(&identity(), PhysAddr::new(0), &core, &memory, &mut sink, &mut |_| {});
        let failed = matches!(result, Err(ImageError::Write { .. }));
        prop_assert!(failed);
        // As on a device that is larger than the image, with what was there before behind it.
        sink.written.resize(image().len(), 0xff);
        prop_assert!(Image::open(sink.written).is_err());
    }

    #[test]
    fn any_flipped_bit_of_header_or_record_is_noticed(bit in 0..8 * HEADER_SIZE as usize, in_record in any::<bool>()) {
        let mut bytes = image();
        let at = if in_record {
            bytes.len() - 1 - (bit / 8) % COMMIT_SIZE as usize
        } else {
            bit / 8
        };
        bytes[at] ^= 1 << (bit % 8);
        prop_assert!(Image::open(bytes).is_err());
    }

    #[test]
    fn any_header_is_refused_or_read(junk in prop::collection::vec(any::<u8>(), 0..400)) {
        // With a right checksum, so that what stands before it is looked at.
        let mut block = Writer::default();
        block.raw(b"KJUMPIMG");
        block.u32(1);
        block.raw(&junk);
        let _ = Header::read(&seal(block, HEADER_SIZE).unwrap());
    }
}
