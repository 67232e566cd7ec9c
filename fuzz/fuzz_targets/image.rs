//! Hibernation images: only what was committed and not resumed is opened, and it is what was written.
#![no_main]

use std::sync::Mutex;

use arbitrary::Arbitrary;
use kjump_fuzz::Damage;
use kjump_fuzz::image::{BLOCK, IdentitySpec, checksum, examine, header, stream};
use kjump_fuzz::machine::Fake;
use libfuzzer_sys::fuzz_target;
use vmcore::image::{
    Codec, HEADER_SIZE, Header, Identity, ImageError, Jump, Layout, Options, Stage, Stream,
    prepare, record_failure,
};
use vmcore::{
    LeaveOut, MemoryKind, PAGE_SIZE, PageClass, Phases, PhysAddr, PhysRange, Saved, WriteError,
};

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
enum StageSpec {
    Prepared,
    Failed(String, u16),
    Saved {
        jump_back: u64,
        notes: Vec<u8>,
        pages: Vec<(PageSpec, u8)>,
        codec: CodecSpec,
        threads: u8,
        piped: bool,
        keep_free: bool,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum CodecSpec {
    None,
    Lz4,
    Zstd(u8),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum PageSpec {
    Zero,
    /// Known to be zero before it is looked at.
    KnownZero,
    Same(u8),
    Noise(u8),
    Absent,
}

/// The most pages of the machine: two chunks of data, and more.
const PAGES: usize = 600;

/// Memory from address 0 on, with runs of such pages.
fn memory_of(pages: &[(PageSpec, u8)]) -> Fake {
    let mut memory = Fake::new(PAGES);
    let runs = pages
        .iter()
        .flat_map(|(page, count)| vec![*page; usize::from(*count) + 1]);
    for (number, page) in runs.take(PAGES).enumerate() {
        let start = number as u64 * PAGE_SIZE;
        let Some(range) = PhysRange::new(start, start + PAGE_SIZE) else {
            continue;
        };
        let bytes = &mut memory.bytes[number * BLOCK..][..BLOCK];
        match page {
            PageSpec::Zero => {}
            PageSpec::KnownZero => memory.contents.replace(range, PageClass::Zero),
            PageSpec::Same(byte) => bytes.fill(byte),
            PageSpec::Noise(seed) => {
                let mut state = (start << 8) | u64::from(seed) | 1;
                for byte in bytes {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    *byte = state as u8;
                }
            }
            PageSpec::Absent => memory.contents.remove(range),
        }
    }
    memory
}

/// Whether the last bytes of a header are the checksum of all before.
fn sealed(block: &[u8]) -> bool {
    let (bytes, sum) = block.split_at(block.len() - 8);
    checksum(bytes).to_le_bytes() == sum
}

/// Writes `memory` and asserts that it reads back, by the index and in order; `None` if it is not written.
fn written(identity: &mut Identity, memory: &Fake, stage: &StageSpec) -> Option<Vec<u8>> {
    let StageSpec::Saved {
        jump_back,
        notes,
        codec,
        threads,
        piped,
        keep_free,
        ..
    } = stage
    else {
        return None;
    };
    // What is there to be saved, and what the machine says besides that it has.
    if let Some(all) = PhysRange::new(0, PAGES as u64 * PAGE_SIZE) {
        identity.memory.replace(all, MemoryKind::Ram);
    }
    let wanted = identity.saved_memory();
    if wanted.bytes() > 64 << 20 {
        return None;
    }
    let jump = Jump {
        back: PhysAddr::new(*jump_back),
        layout: Layout::Raw,
    };
    let machine = Saved::new(
        memory.clone(),
        notes.clone(),
        Some(identity.clone()),
        Some(jump),
        None,
        Some(1 << 40),
    );
    let codec = match codec {
        CodecSpec::None => Codec::None,
        CodecSpec::Lz4 => Codec::Lz4,
        CodecSpec::Zstd(level) => Codec::Zstd(i32::from(level % 6) + 1),
    };
    let options = Options {
        codec,
        threads: usize::from(threads % 3) + 1,
        seal: None,
    };
    let leave_out = if *keep_free {
        LeaveOut::Nothing
    } else {
        LeaveOut::Free
    };
    let mut phases = || {
        let mut phases = Phases::new();
        phases.push("save", std::time::Duration::from_secs(1));
        phases
    };
    let mut file = Vec::new();
    let written = if *piped {
        let sink = Stream::new(&mut file);
        machine.write_image(&sink, options, leave_out, &mut phases, &mut |_| {})
    } else {
        let sink = Mutex::new(Vec::new());
        let written = machine.write_image(&sink, options, leave_out, &mut phases, &mut |_| {});
        file = sink.into_inner().expect("nothing panicked");
        written
    };
    match written {
        Ok(_) => {}
        Err(WriteError::Image(ImageError::Malformed { .. })) => return None,
        Err(WriteError::NoJump) if *jump_back == 0 => return None,
        Err(error) => panic!("{error}"),
    }
    let (map, data) = examine(&file).expect("it was just written");
    let streamed = stream(&file).expect("it was just written");
    assert!(streamed == (map.clone(), data));
    assert_eq!(map.bytes(), wanted.bytes(), "all memory has a class");
    for (range, class) in map.iter() {
        assert!(wanted.covers(range));
        for page in range.pieces(PAGE_SIZE) {
            let there = memory.contents.get(page.start()).is_some();
            let bytes = memory
                .bytes
                .get(page.start().get() as usize..)
                .and_then(|from| from.get(..BLOCK));
            let zero = bytes.is_none_or(|bytes| bytes.iter().all(|&byte| byte == 0));
            let expected = match (there, zero) {
                (false, _) => PageClass::Free,
                (true, true) => PageClass::Zero,
                (true, false) => PageClass::Data,
            };
            assert_eq!(*class, expected, "{page}");
        }
    }
    Some(file)
}

fuzz_target!(|input: Input<'_>| {
    match input {
        Input::Raw(file) => {
            let _ = examine(file);
            let _ = stream(file);
        }
        Input::Sealed { header: said, rest } => {
            let mut file = header(said);
            file.extend_from_slice(rest);
            let _ = examine(&file);
            file.resize(file.len().next_multiple_of(4096) + 8192, 0);
            let _ = examine(&file);
            let _ = stream(&file);
        }
        Input::Written {
            identity,
            stage,
            damage,
        } => {
            let Some(mut identity) = identity.build() else {
                return;
            };
            let stage = match stage {
                StageSpec::Failed(reason, times) => {
                    StageSpec::Failed(reason.repeat(usize::from(times % 512)), 1)
                }
                other => other,
            };
            let sink = Mutex::new(Vec::new());
            let made = match &stage {
                StageSpec::Prepared => prepare(&identity, &sink).map(|()| sink),
                StageSpec::Failed(reason, _) => {
                    record_failure(&identity, reason, &sink).map(|()| sink)
                }
                StageSpec::Saved { pages, .. } => {
                    let memory = memory_of(pages);
                    let Some(file) = written(&mut identity, &memory, &stage) else {
                        return;
                    };
                    Ok(Mutex::new(file))
                }
            };
            let Ok(file) = made else { return };
            let mut file = file.into_inner().expect("nothing panicked");
            let clean = file.clone();
            damage.apply(&mut file);
            let examined = examine(&file);
            let streamed = stream(&file);
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
                    StageSpec::Saved { .. } => assert!(examined.is_ok() && streamed.is_ok()),
                }
            } else if !sealed(header) {
                assert!(examined.is_err() && streamed.is_err(), "a damaged header");
            } else if file[64 << 10..] != clean[64 << 10..] {
                // Every byte of the records counts.
                assert!(examined.is_err() && streamed.is_err(), "a damaged record");
            }
        }
    }
});
