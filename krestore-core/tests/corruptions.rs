//! Damaged images: all damage is found before anybody would jump, nothing panics, and nothing is written
//! where the machine has no memory.
#![allow(clippy::unwrap_used, reason = "a test shall stop where it fails")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use krestore_core::{
    DevMem, FileTarget, Guard, Plan, Target, restore_image, restore_stream, verify_image,
};
use vmcore::elf::{Core, CoreHeaders, Load};
use vmcore::image::{
    Codec, Identity, Image, ImageId, ImageStream, Jump, Layout, Options, Paging, Platform, Seal,
    Secret, Stream,
};
use vmcore::{
    IoMem, LeaveOut, MemoryKind, PAGE_SIZE, Phases, PhysAddr, PhysRange, RangeMap, Saved,
};

/// How many images are damaged in all.
const CORRUPTIONS: usize = 10_000;

/// Pages of the target; the machine has only some of them.
const TARGET: u64 = 64;
/// Pages of the machine that are saved, as runs: the first, and how many.
const MEMORY: [(u64, u64); 2] = [(2, 30), (40, 20)];
/// What the target is full of at first.
const BEFORE: u8 = 0x77;

fn pages(first: u64, count: u64) -> PhysRange {
    PhysRange::new(first * PAGE_SIZE, (first + count) * PAGE_SIZE).unwrap()
}

/// Numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// What is in a page of the machine: text, noise or nothing.
fn page(number: u64) -> Vec<u8> {
    match number % 5 {
        0 => vec![0; PAGE_SIZE as usize],
        1 => {
            let mut random = Random(number + 1);
            (0..PAGE_SIZE).map(|_| random.next() as u8).collect()
        }
        _ => vec![number as u8 | 0x80; PAGE_SIZE as usize],
    }
}

fn machine() -> Saved<Core<Vec<u8>>> {
    let window = pages(1 << 16, 256);
    let mut memory = RangeMap::new();
    memory.replace(window, MemoryKind::Ram);
    let mut headers = CoreHeaders::new();
    let mut data = Vec::new();
    let mut offset = CoreHeaders::size_of(MEMORY.len());
    for (first, count) in MEMORY {
        memory.replace(pages(first, count), MemoryKind::Ram);
        headers.load(Load {
            memory: pages(first, count),
            offset,
            file_size: count * PAGE_SIZE,
            virt: 0,
        });
        offset += count * PAGE_SIZE;
        data.extend((first..first + count).flat_map(page));
    }
    let identity = Identity {
        id: ImageId([5; 16]),
        release: "6.12.0-test".to_owned(),
        build_id: vec![5; 20],
        paging: Paging::FourLevel,
        window,
        low: RangeMap::new(),
        memory,
        free_fill: None,
        uptime: 7,
        platform: Platform::default(),
        volumes: Vec::new(),
    };
    let jump = Jump {
        back: PhysAddr::new(2 * PAGE_SIZE),
        layout: Layout::Raw,
    };
    let core = Core::open([headers.encode(), data].concat()).unwrap();
    Saved::of_core(core, Some(identity), Some(jump))
}

fn image(codec: Codec, piped: bool, seal: Option<&Seal>) -> Vec<u8> {
    let options = Options {
        codec,
        threads: 1,
        seal,
    };
    let machine = machine();
    let (end, progress) = (&mut Phases::new, &mut |_| {});
    if piped {
        let mut bytes = Vec::new();
        machine
            .write_image(
                &Stream::new(&mut bytes),
                options,
                LeaveOut::Free,
                end,
                progress,
            )
            .unwrap();
        return bytes;
    }
    let sink = Mutex::new(Vec::new());
    machine
        .write_image(&sink, options, LeaveOut::Free, end, progress)
        .unwrap();
    sink.into_inner().unwrap()
}

/// What is behind the commit record in its block says nothing.
fn has_meaning(at: usize) -> bool {
    !((60 << 10) + 52..64 << 10).contains(&at)
}

/// Flips a bit, or writes over some bytes; tells what was done if that changed anything that has a
/// meaning.
fn damage(image: &mut [u8], random: &mut Random) -> Option<String> {
    let at = random.below(image.len());
    let len = match random.below(3) {
        0 => {
            image[at] ^= 1 << random.below(8);
            return has_meaning(at).then(|| format!("a bit of byte {at}"));
        }
        1 => 1 + random.below(64),
        _ => 1 + random.below(8192),
    };
    let end = image.len().min(at + len);
    let mut changed = false;
    for (at, byte) in (at..end).zip(&mut image[at..end]) {
        let new = random.next() as u8;
        changed |= *byte != new && has_meaning(at);
        *byte = new;
    }
    changed.then(|| format!("bytes {at} to {end}"))
}

/// Looks at all pages of the target.
fn check_target(file: &File, is_restored: bool, what: &str) {
    let mut bytes = vec![0; PAGE_SIZE as usize];
    for number in 0..TARGET {
        file.read_exact_at(&mut bytes, number * PAGE_SIZE).unwrap();
        let runs = MEMORY.iter();
        let is_saved = runs
            .map(|(first, count)| *first..first + count)
            .any(|run| run.contains(&number));
        if !is_saved {
            let same = bytes.iter().all(|byte| *byte == BEFORE);
            assert!(same, "{what}: page {number} is none of the machine");
        } else if is_restored {
            assert!(bytes == page(number), "{what}: page {number} is wrong");
        }
    }
    assert_eq!(file.metadata().unwrap().len(), TARGET * PAGE_SIZE, "{what}");
}

#[test]
fn every_damage_is_found_before_the_jump() {
    let memory = tempfile::NamedTempFile::new().unwrap();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(memory.path())
        .unwrap();
    file.write_all_at(&[BEFORE; (TARGET * PAGE_SIZE) as usize], 0)
        .unwrap();
    let guard = Guard::new(&IoMem::parse("00000000-0003ffff : Reserved\n").unwrap());
    let mapped = DevMem::open(memory.path(), guard).unwrap();
    let plain = FileTarget::plain(file.try_clone().unwrap());
    let targets: [&dyn Target; 2] = [&mapped, &plain];
    let of_machine = machine().identity().unwrap().saved_memory();
    let plan = Plan {
        machine: &of_machine,
        fill: None,
    };
    let secret = Secret::key(vec![7; 16]).unwrap();
    let seal = Seal::new(&secret, machine().identity().unwrap().id).unwrap();
    let mut images = Vec::new();
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd(1)] {
        for (piped, seal) in [
            (false, None),
            (true, None),
            (false, Some(&seal)),
            (true, Some(&seal)),
        ] {
            let image = image(codec, piped, seal);
            let key = seal.map(|seal| &seal.key);
            let name = format!("{codec}, piped: {piped}, sealed: {}", key.is_some());
            let opened = Image::open_with(image.as_slice(), key).unwrap();
            restore_image(&opened, plan, &mapped, 1, &mut |_| {}).unwrap();
            check_target(&file, true, &name);
            images.push((name, piped, key, image));
        }
    }

    let mut random = Random(0x6b6a_756d);
    let mut harmless = 0;
    for number in 0..CORRUPTIONS {
        let (name, piped, key, image) = &images[number % images.len()];
        let mut damaged = image.clone();
        let Some(what) = damage(&mut damaged, &mut random) else {
            harmless += 1;
            continue;
        };
        let what = format!("{name}: {what}");
        let target = targets[number / images.len() % 2];
        let restored = Image::open_with(damaged.as_slice(), *key).is_ok_and(|image| {
            let verified = verify_image(&image, 1, &mut |_| {}).is_ok();
            let restored = restore_image(&image, plan, target, 1, &mut |_| {}).is_ok();
            assert_eq!(verified, restored, "{what}");
            restored
        });
        if restored {
            // A pipe has no commit record: what stands in its place means nothing, unless it is one.
            let mut differing = (0..image.len()).filter(|at| image[*at] != damaged[*at]);
            let nowhere_else = differing.all(|at| (60 << 10..64 << 10).contains(&at));
            assert!(*piped && nowhere_else, "{what} was not noticed");
        }
        check_target(&file, restored, &what);
        let stream = ImageStream::open_with(damaged.as_slice(), |_| Ok(key.cloned()));
        if let Ok(mut stream) = stream {
            let restored = restore_stream(&mut stream, plan, target, &mut |_| {}).is_ok();
            check_target(&file, restored, &what);
        }
    }
    assert!(
        harmless < CORRUPTIONS / 20,
        "{harmless} changes had no meaning"
    );
}
