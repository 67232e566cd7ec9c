//! An ELF core that someone else wrote: what it says is within the file, or it is refused.
#![no_main]

use arbitrary::Arbitrary;
use kjump_fuzz::spec::CoreSpec;
use kjump_fuzz::{bounded, memory};
use libfuzzer_sys::fuzz_target;
use vmcore::elf::{Core, direct_map_base};
use vmcore::image::Identity;
use vmcore::{Memory, PhysRange};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Built(CoreSpec),
    Raw(&'a [u8]),
}

fuzz_target!(|input: Input<'_>| {
    let (bytes, sound) = match input {
        Input::Built(spec) => {
            let built = spec.build();
            (built.bytes, built.sound)
        }
        Input::Raw(bytes) => (bytes.to_vec(), None),
    };
    let bytes = bytes.as_slice();
    let limit = 4096 + 8 * bytes.len();
    let opened = bounded(limit, || Core::open(bytes));
    if let Some(sound) = sound {
        assert_eq!(opened.is_ok(), sound, "{:?}", opened.err());
    }
    let _ = bounded(limit, || direct_map_base(&bytes));
    let Ok(core) = opened else { return };

    let mut covered = 0u64;
    for load in core.loads() {
        assert!(load.offset + load.file_size <= bytes.len() as u64);
        assert!(load.file_size <= load.memory.len());
        covered += load.memory.len();
        // What is read is what lies in the file.
        let stored = &bytes[load.offset as usize..][..load.file_size as usize];
        let look = stored.len().min(5000);
        let mut read = vec![0; look];
        core.read(load.memory.start(), &mut read)
            .expect("it is in the file");
        assert_eq!(read, stored[..look]);
    }
    assert_eq!(covered, core.contents().bytes());
    assert!(core.loads().is_sorted_by_key(|load| load.memory));
    memory::check(&core, true);

    let mut noted = 0;
    for note in core.notes() {
        noted += note.name.len() + note.desc.len();
    }
    assert!(noted <= bytes.len());
    bounded(4096 + 64 * bytes.len(), || core.vmcoreinfo());
    if let Some(identity) = bounded(2 * limit, || Identity::from_notes(&core.encode_notes())) {
        assert!(identity.low.ranges().all(|range| range.len() > 0));
        memory::check_order(&identity.memory);
    }
    // All of it in one go, where that is little.
    if core.contents().bytes() < 1 << 20 {
        for range in core.contents().ranges() {
            let mut seen = 0;
            let all = PhysRange::new(range.start().get(), range.end().get()).expect("not empty");
            core.for_each_piece(all, &mut |piece| {
                seen += piece.len() as u64;
                std::ops::ControlFlow::Continue(())
            })
            .expect("the contents can be read");
            assert_eq!(seen, range.len());
        }
    }
});
