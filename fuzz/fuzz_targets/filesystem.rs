//! What is on a block device: it is always something, little is read to find out, and whatever it
//! claims, its digest takes no more than it may.
#![no_main]

use std::cell::Cell;
use std::io;

use arbitrary::Arbitrary;
use kjump::filesystem::recognise_as;
use kjump_fuzz::bounded;
use libfuzzer_sys::fuzz_target;
use vmcore::ReadAt;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    kind: Kind,
    /// The size of the device.
    size: Size,
    /// Words that are written over the superblock.
    words: Vec<(u16, Width, u64)>,
    /// What is elsewhere on the device, and where.
    rest: Vec<(u32, &'a [u8])>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kind {
    Ext,
    Xfs,
    Btrfs,
    Fat,
    Swap,
    Luks1,
    Luks2,
    Lvm,
    Md11,
    Md12,
    Encrypted,
    None,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Width {
    Byte,
    Two,
    TwoBig,
    Four,
    FourBig,
    Eight,
    EightBig,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Size {
    Tiny(u16),
    Some(u32),
    Any(u64),
}

/// A device of zeros but for some pieces.
struct Device<'a> {
    size: u64,
    pieces: Vec<(u64, &'a [u8])>,
    read: Cell<u64>,
}

impl ReadAt for Device<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset
            .checked_add(buf.len() as u64)
            .filter(|&end| end <= self.size)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        self.read.set(self.read.get() + buf.len() as u64);
        buf.fill(0);
        for (start, bytes) in &self.pieces {
            let (from, to) = (offset.max(*start), end.min(start + bytes.len() as u64));
            if from < to {
                buf[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
            }
        }
        Ok(())
    }
}

/// Where the superblock is, its size, and words that make it one.
fn superblock(kind: Kind) -> (u64, usize, &'static [(usize, &'static [u8])]) {
    match kind {
        Kind::Ext => (
            1024,
            1024,
            &[
                (0x38, b"\x53\xef"),
                (0x18, &[2]),
                (0x5c, &[4]),
                (0xfd, &[1]),
                (0x10c, b"\x0a\xf3\x01\0"),
            ],
        ),
        Kind::Xfs => (
            0,
            512,
            &[
                (0, b"XFSB\0\0\x10\0"),
                (48, b"\0\0\0\0\0\0\x04\x05"),
                (84, b"\0\0\x03\xe8"),
                (96, b"\0\0\x04\0"),
                (102, b"\x02\0"),
                (120, &[12]),
                (124, &[10]),
            ],
        ),
        Kind::Btrfs => (64 << 10, 4096, &[(0x40, b"_BHRfS_M"), (0x88, &[1])]),
        Kind::Fat => (
            0,
            512,
            &[
                (0, &[0xeb, 0x58, 0x90]),
                (11, &[0, 2, 8, 32, 0, 2]),
                (21, &[0xf8]),
                (36, &[100]),
                (44, &[2]),
                (48, &[1]),
                (510, &[0x55, 0xaa]),
            ],
        ),
        Kind::Swap => (0, 4096, &[(1024, &[1]), (4086, b"SWAPSPACE2")]),
        Kind::Luks1 => (0, 4096, &[(0, b"LUKS\xba\xbe\0\x01")]),
        Kind::Luks2 => (
            0,
            8192,
            &[
                (0, b"LUKS\xba\xbe\0\x02"),
                (
                    4096,
                    br#"{"segments":{"0":{"type":"crypt","offset":"8388608"}}}"#,
                ),
            ],
        ),
        Kind::Lvm => (
            512,
            // All sectors that the label may be in.
            1536,
            &[
                (0, b"LABELONE"),
                (20, &[32]),
                (24, b"LVM2 001"),
                (73, &[0, 0x10]),
                (105, &[0x10]),
                (113, &[0xf0, 0x0f]),
            ],
        ),
        Kind::Md11 => (0, 4096, &[(0, b"\xfc\x4e\x2b\xa9\x01"), (129, &[8])]),
        Kind::Md12 => (
            4096,
            4096,
            &[(0, b"\xfc\x4e\x2b\xa9\x01"), (129, &[8]), (144, &[8])],
        ),
        Kind::Encrypted | Kind::None => (0, 4096, &[]),
    }
}

/// The most that is read to recognise something, and for a digest.
const RECOGNITION: u64 = 128 << 10;
const DIGEST: u64 = 32 << 20;

fuzz_target!(|input: Input<'_>| {
    let (start, len, fields) = superblock(input.kind);
    let mut block = vec![0; len];
    for (at, bytes) in fields {
        block[*at..][..bytes.len()].copy_from_slice(bytes);
    }
    for (at, width, word) in &input.words {
        let (little, big) = (word.to_le_bytes(), word.to_be_bytes());
        let bytes = match width {
            Width::Byte => &little[..1],
            Width::Two => &little[..2],
            Width::TwoBig => &big[6..],
            Width::Four => &little[..4],
            Width::FourBig => &big[4..],
            Width::Eight => &little[..],
            Width::EightBig => &big[..],
        };
        let at = usize::from(*at) % len;
        for (to, from) in block[at..].iter_mut().zip(bytes) {
            *to = *from;
        }
    }
    let mut pieces = vec![(start, block.as_slice())];
    pieces.extend(
        input
            .rest
            .iter()
            .map(|(at, bytes)| (u64::from(*at), *bytes)),
    );
    let size = match input.size {
        Size::Tiny(size) => size.into(),
        Size::Some(size) => size.into(),
        Size::Any(size) => size,
    };
    let device = Device {
        size,
        pieces,
        read: Cell::new(0),
    };
    // These have to be known.
    let known = match input.kind {
        Kind::Md11 | Kind::Md12 => "md",
        Kind::Encrypted => "encrypted",
        _ => "",
    };
    let found =
        bounded(256 << 10, || recognise_as(&device, known)).expect("this device can be read");
    assert!(
        device.read.get() <= RECOGNITION,
        "{} bytes were read",
        device.read.get()
    );
    assert!(found.places.len() <= 300);
    let terminal = |text: &str| text.chars().any(char::is_control);
    assert!(
        !terminal(&found.label) && !terminal(&found.uuid),
        "{found:?}"
    );
    if let (
        Kind::Ext
        | Kind::Xfs
        | Kind::Btrfs
        | Kind::Fat
        | Kind::Swap
        | Kind::Luks1
        | Kind::Luks2
        | Kind::Lvm
        | Kind::Md11
        | Kind::Md12,
        true,
    ) = (input.kind, input.words.is_empty() && input.rest.is_empty())
    {
        assert!(
            size < start + len as u64 || found.kind != "unknown",
            "{found:?}"
        );
    }
    device.read.set(0);
    let digest = bounded(4 << 20, || found.digest(&device)).expect("this device can be read");
    assert!(
        device.read.get() <= DIGEST,
        "{} bytes were read",
        device.read.get()
    );
    // Twice the same, unless it takes long.
    if device.read.get() < 1 << 20 {
        assert!(found.digest(&device).expect("as before") == digest);
    }
});
