//! The example in the document of the format is what is written.
#![allow(clippy::unwrap_used, reason = "a test whose helper fails has failed")]

use std::fmt::Write;
use std::sync::Mutex;

use vmcore::elf::{Core, CoreHeaders, Load};
use vmcore::image::{Codec, Identity, Image, ImageId, Jump, Layout, Options, Paging, Platform};
use vmcore::{LeaveOut, MemoryKind, Phases, PhysAddr, PhysRange, RangeMap, Saved};

/// The image of the document's machine.
fn image() -> Vec<u8> {
    let range = |start, end| PhysRange::new(start, end).unwrap();
    let mut low = RangeMap::new();
    low.insert(range(0x1000, 0x9f000), ()).unwrap();
    let mut memory = RangeMap::new();
    for range in [range(0x1000, 0x9f000), range(0x10_0000, 0x10_4000)] {
        memory.insert(range, MemoryKind::Ram).unwrap();
    }
    let identity = Identity {
        id: ImageId(*b"0123456789abcdef"),
        release: "6.12.0".to_owned(),
        build_id: Vec::new(),
        paging: Paging::FourLevel,
        window: range(0x20_0000, 0x60_0000),
        low,
        memory,
        free_fill: None,
        uptime: 90_061,
        platform: Platform {
            time: 1_700_000_000,
            ..Platform::default()
        },
        volumes: Vec::new(),
    };
    let mut headers = CoreHeaders::new();
    // The last page is not there.
    headers.load(Load {
        memory: range(0x10_0000, 0x10_3000),
        offset: CoreHeaders::size_of(1),
        file_size: 4096,
        virt: 0xffff_8880_0010_0000,
    });
    let mut file = headers.encode();
    file.extend(b"put aside ".iter().cycle().take(4096));
    let jump = Jump {
        back: PhysAddr::new(0x10_0120),
        layout: Layout::Raw,
    };
    let options = Options {
        codec: Codec::None,
        threads: 1,
        seal: None,
    };
    let mut phases = || {
        let mut phases = Phases::new();
        phases.push("save", std::time::Duration::from_millis(2450));
        phases
    };
    let sink = Mutex::new(Vec::new());
    Saved::of_core(Core::open(file).unwrap(), Some(identity), Some(jump))
        .write_image(&sink, options, LeaveOut::Free, &mut phases, &mut |_| {})
        .unwrap();
    sink.into_inner().unwrap()
}

/// The bytes of `image` from `offset` on in one line, as `hexdump -C` has them.
fn line(image: &[u8], offset: usize) -> String {
    let bytes = &image[offset..offset + 16];
    let mut line = format!("{offset:08x} ");
    for (number, byte) in bytes.iter().enumerate() {
        let gap = if number == 8 { "  " } else { " " };
        write!(line, "{gap}{byte:02x}").unwrap();
    }
    line.push_str("  |");
    line.extend(bytes.iter().map(|byte| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '.',
    }));
    line + "|"
}

#[test]
fn the_example_in_the_document_is_what_is_written() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/format.md");
    let document = std::fs::read_to_string(path).unwrap();
    let image = image();
    assert_eq!(Image::open(image.as_slice()).unwrap().size(), 0x17000);
    let mut lines = 0;
    for block in document.split("```hexdump\n").skip(1) {
        let (block, _) = block.split_once("```").unwrap();
        for said in block.lines().filter(|line| *line != "*") {
            let offset = usize::from_str_radix(&said[..8], 16).unwrap();
            assert_eq!(said, line(&image, offset));
            lines += 1;
        }
    }
    assert!(lines > 30, "{lines} lines");
}
