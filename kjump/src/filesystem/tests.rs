use std::cell::Cell;

use proptest::prelude::*;

use super::*;

/// Bytes, and where they are.
type Pieces = Vec<(u64, Vec<u8>)>;

/// A device that is zeros but for some pieces, and counts what is read of it.
struct Device {
    size: u64,
    pieces: Pieces,
    read: Cell<u64>,
}

impl Device {
    fn new(size: u64, pieces: Pieces) -> Self {
        Self {
            size,
            pieces,
            read: Cell::new(0),
        }
    }
}

impl ReadAt for Device {
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

fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

const UUID: [u8; 16] = *b"0123456789abcdef";
const UUID_TEXT: &str = "30313233-3435-3637-3839-616263646566";

fn ext4() -> Pieces {
    let mut block = vec![0; 1024];
    put(&mut block, 0x18, &2u32.to_le_bytes());
    put(&mut block, 0x2c, &1_700_000_000u32.to_le_bytes());
    put(&mut block, 0x30, &1_700_000_009u32.to_le_bytes());
    put(&mut block, 0x38, &0xef53u16.to_le_bytes());
    put(&mut block, 0x5c, &4u32.to_le_bytes());
    put(&mut block, 0x60, &0x40u32.to_le_bytes());
    put(&mut block, 0x68, &UUID);
    put(&mut block, 0x78, b"root\0junk");
    block[0xfd] = 1;
    put(&mut block, 0x10c, &0xf30au16.to_le_bytes());
    put(&mut block, 0x10c + 2, &1u16.to_le_bytes());
    put(&mut block, 0x10c + 20, &1000u32.to_le_bytes());
    vec![(1024, block)]
}

fn xfs() -> Pieces {
    let mut block = vec![0; 512];
    put(&mut block, 0, b"XFSB");
    put(&mut block, 4, &4096u32.to_be_bytes());
    put(&mut block, 32, &UUID);
    // The log begins at block 5 of group 1, and a group has 1000 blocks.
    put(&mut block, 48, &((1u64 << 10) + 5).to_be_bytes());
    put(&mut block, 84, &1000u32.to_be_bytes());
    put(&mut block, 96, &1024u32.to_be_bytes());
    put(&mut block, 102, &512u16.to_be_bytes());
    put(&mut block, 108, b"data");
    put(&mut block, 120, &[12]);
    put(&mut block, 124, &[10]);
    // 5000 of its 8192 sectors were written in round 7, the rest in round 6; two of them begin records.
    let mut log = Vec::new();
    for sector in 0..8192u32 {
        let round: u32 = if sector < 5000 { 7 } else { 6 };
        let mut bytes = vec![0; 512];
        if matches!(sector, 3 | 4096) {
            put(&mut bytes, 0, &0xfeed_babe_u32.to_be_bytes());
            put(&mut bytes, 4, &round.to_be_bytes());
        } else {
            put(&mut bytes, 0, &round.to_be_bytes());
        }
        log.extend(bytes);
    }
    vec![(0, block), (1005 * 4096, log)]
}

fn btrfs() -> Pieces {
    let mut block = vec![0; 4096];
    put(&mut block, 0x20, &UUID);
    put(&mut block, 0x40, b"_BHRfS_M");
    put(&mut block, 0x88, &1u64.to_le_bytes());
    vec![(64 << 10, block)]
}

fn fat(bits: u32) -> Pieces {
    let mut block = vec![0; 512];
    put(&mut block, 0, &[0xeb, 0x58, 0x90]);
    put(&mut block, 11, &512u16.to_le_bytes());
    put(&mut block, 13, &[8]);
    put(&mut block, 14, &32u16.to_le_bytes());
    put(&mut block, 16, &[2]);
    put(&mut block, 21, &[0xf8]);
    let extension = if bits == 32 {
        put(&mut block, 36, &100u32.to_le_bytes());
        put(&mut block, 44, &2u32.to_le_bytes());
        put(&mut block, 48, &1u16.to_le_bytes());
        64
    } else {
        put(&mut block, 17, &512u16.to_le_bytes());
        put(&mut block, 22, &100u16.to_le_bytes());
        36
    };
    put(&mut block, extension + 3, &0x1234_abcd_u32.to_le_bytes());
    put(&mut block, extension + 7, b"EFI        ");
    put(&mut block, 510, &[0x55, 0xaa]);
    vec![(0, block)]
}

fn swap() -> Pieces {
    let mut block = vec![0; 4096];
    put(&mut block, 1024, &1u32.to_le_bytes());
    put(&mut block, 1036, &UUID);
    put(&mut block, 4086, b"SWAPSPACE2");
    vec![(0, block)]
}

fn luks2() -> Pieces {
    let mut block = vec![0; 4096];
    put(&mut block, 0, b"LUKS\xba\xbe\0\x02");
    put(&mut block, 168, UUID_TEXT.as_bytes());
    let json = br#"{"keyslots":{"0":{"area":{"offset":"32768"}}},"segments":{"0":{"type":"crypt","offset":"8388608","size":"dynamic"}}}"#;
    vec![(0, block), (4096, json.to_vec())]
}

fn luks1() -> Pieces {
    let mut block = vec![0; 4096];
    put(&mut block, 0, b"LUKS\xba\xbe\0\x01");
    put(&mut block, 104, &4096u32.to_be_bytes());
    put(&mut block, 168, UUID_TEXT.as_bytes());
    vec![(0, block)]
}

const PV: &[u8; 32] = b"ZBW5qWdXF20bGwZCad2RlVphwu1c1RFt";
const PV_TEXT: &str = "ZBW5qW-dXF2-0bGw-ZCad-2RlV-phwu-1c1RFt";

fn lvm() -> Pieces {
    let mut block = vec![0; 512];
    put(&mut block, 0, b"LABELONE");
    put(&mut block, 8, &1u64.to_le_bytes());
    put(&mut block, 20, &32u32.to_le_bytes());
    put(&mut block, 24, b"LVM2 001");
    put(&mut block, 32, PV);
    put(&mut block, 64, &SIZE.to_le_bytes());
    // One place of data, and two of metadata.
    for (at, word) in [
        (72, 1 << 20),
        (104, 4096),
        (112, (1 << 20) - 4096),
        (120, SIZE - (1 << 20)),
        (128, 1 << 20),
    ] {
        put(&mut block, at, &u64::to_le_bytes(word));
    }
    vec![(512, block)]
}

/// A member of an array, by the version of its superblock.
fn md(minor: u32) -> Pieces {
    let (at, start, len) = match minor {
        0 => (0, 0, 0),
        1 => (0, 2048_u64, SIZE / 512 - 2048),
        2 => (4096, 2048, SIZE / 512 - 2048),
        _ => (SIZE - 8192, 0, SIZE / 512 - 16),
    };
    let mut block = vec![0; 4096];
    put(&mut block, 0, &0xa92b_4efc_u32.to_le_bytes());
    if minor == 0 {
        put(&mut block, 8, &90u32.to_le_bytes());
        put(&mut block, 20, &UUID[..4]);
        put(&mut block, 52, &UUID[4..]);
        put(&mut block, 3968, &3u32.to_le_bytes());
        return vec![(SIZE - (64 << 10), block)];
    }
    put(&mut block, 4, &1u32.to_le_bytes());
    put(&mut block, 16, &UUID);
    put(&mut block, 32, b"host:0");
    put(&mut block, 128, &start.to_le_bytes());
    put(&mut block, 136, &len.to_le_bytes());
    put(&mut block, 144, &(at / 512).to_le_bytes());
    put(&mut block, 160, &3u32.to_le_bytes());
    vec![(at, block)]
}

const SIZE: u64 = 64 << 20;

/// Each kind, and bytes that change when it is used.
fn kinds() -> Vec<(&'static str, Pieces, Vec<u64>)> {
    vec![
        ("ext4", ext4(), vec![1024 + 0x34, 1000 * 4096 + 0x1c]),
        // The sector before the head, and the one behind it.
        (
            "xfs",
            xfs(),
            vec![
                300,
                1005 * 4096 + 4999 * 512 + 9,
                1005 * 4096 + 5000 * 512 + 9,
            ],
        ),
        ("btrfs", btrfs(), vec![(64 << 10) + 0x48]),
        (
            "vfat",
            fat(32),
            vec![0x41, 512 + 0x1e8, 32 * 512 + 9, (32 + 200) * 512],
        ),
        (
            "vfat",
            fat(16),
            vec![0x25, 32 * 512 + 9, (32 + 200) * 512 + 60],
        ),
        ("swap", swap(), vec![1050, 4096, (2 << 20) + 7]),
        ("luks2", luks2(), vec![9, (8 << 20) + 1080]),
        ("luks1", luks1(), vec![9, (2 << 20) + 1080]),
        (
            "lvm",
            lvm(),
            vec![513, 4096 + 40, (1 << 20) - 1, SIZE - (1 << 20) + 9],
        ),
        (
            "md",
            md(0),
            vec![SIZE - (64 << 10) + 128, 1080, SIZE - (64 << 10) - 9],
        ),
        ("md", md(1), vec![192, (1 << 20) + 1080, SIZE - 9]),
        ("md", md(2), vec![4096 + 200, (1 << 20) + 1080, SIZE - 9]),
        ("md", md(3), vec![SIZE - 8192 + 192, 1080, SIZE - 8192 - 9]),
        ("encrypted", ext4(), vec![1080, (4 << 20) - 1, SIZE - 9]),
        ("unknown", vec![(7, vec![1])], vec![3, SIZE - 1]),
    ]
}

#[test]
fn each_kind_is_known_and_each_change_is_noticed() {
    for (kind, pieces, changes) in kinds() {
        let device = Device::new(SIZE, pieces.clone());
        let found = recognise_as(&device, kind).unwrap();
        assert_eq!(found.kind, kind);
        let digest = found.digest(&device).unwrap();
        assert_eq!(digest, found.digest(&device).unwrap());
        for at in changes {
            let mut byte = [0];
            device.read_exact_at(&mut byte, at).unwrap();
            let mut pieces = pieces.clone();
            pieces.push((at, vec![byte[0] ^ 4]));
            let device = Device::new(SIZE, pieces);
            let found = recognise_as(&device, kind).unwrap();
            assert_ne!(found.digest(&device).unwrap(), digest, "{kind} at {at}");
        }
    }
}

#[test]
fn names_are_read() {
    let found = |pieces| recognise(&Device::new(SIZE, pieces)).unwrap();
    for pieces in [ext4(), xfs(), btrfs(), swap(), luks2(), luks1()] {
        assert_eq!(found(pieces).uuid, UUID_TEXT);
    }
    for bits in [16, 32] {
        let fat = found(fat(bits));
        assert_eq!(
            (fat.uuid.as_str(), fat.label.as_str()),
            ("1234-ABCD", "EFI")
        );
    }
    let ext4 = found(ext4());
    assert_eq!(
        (ext4.label.as_str(), ext4.written),
        ("root", Some(1_700_000_009))
    );
    assert_eq!(found(xfs()).label, "data");
    assert_eq!(found(lvm()).uuid, PV_TEXT);
    for version in 0..4 {
        let member = recognise_as(&Device::new(SIZE, md(version)), MEMBER).unwrap();
        assert_eq!(member.uuid, format!("{UUID_TEXT} device 3"));
    }
}

#[test]
fn what_was_a_member_once_is_what_it_is_now() {
    // A superblock at the end is left over, and a file system was made since.
    for version in [0, 3] {
        let device = Device::new(SIZE, [ext4(), md(version)].concat());
        assert_eq!(recognise(&device).unwrap().kind, "ext4");
        assert_eq!(recognise_as(&device, MEMBER).unwrap().kind, MEMBER);
    }
    // One that is a copy from another place is none.
    let mut moved = md(2);
    moved[0].0 = 0;
    let found = recognise_as(&Device::new(SIZE, moved), MEMBER).unwrap();
    assert_eq!(found.kind, "unknown");
}

#[test]
fn the_head_of_the_log_is_found_wherever_it_is() {
    // All of the log is of one round, or the head is near one of its ends: the places are a ring.
    let base = 1005 * 4096;
    for head in [0, 1, 100, 8000, 8191] {
        let mut pieces = xfs();
        pieces[1].1 = (0..8192u32)
            .flat_map(|sector| {
                let mut bytes = vec![0; 512];
                put(
                    &mut bytes,
                    0,
                    &(7 - u32::from(sector >= head)).to_be_bytes(),
                );
                bytes
            })
            .collect();
        let places = recognise(&Device::new(SIZE, pieces)).unwrap().places;
        let covered: u64 = places[1..]
            .iter()
            .map(|place| place.end - place.start)
            .sum();
        assert_eq!(covered, 256 << 10, "{head}");
        for sector in [head + 8191, head, head + 255, head + 8192 - 256] {
            let at = base + u64::from(sector % 8192) * 512;
            assert!(
                places[1..].iter().any(|place| place.contains(&at)),
                "{head}"
            );
        }
    }
}

/// The most that a device is read to recognise it.
const RECOGNITION: u64 = 128 << 10;

proptest! {
    #[test]
    fn whatever_a_device_claims_little_is_read(
        kind in 0..kinds().len(),
        changes in prop::collection::vec((0usize..1 << 16, any::<u8>()), 0..40),
        size in prop_oneof![0u64..1 << 16, Just(SIZE), Just(1 << 60), any::<u64>()],
    ) {
        let (name, mut pieces, _) = kinds().swap_remove(kind);
        for (at, byte) in changes {
            let piece = &mut pieces[0];
            let at = at % piece.1.len();
            piece.1[at] = byte;
        }
        let device = Device::new(size, pieces);
        let found = recognise_as(&device, name).unwrap();
        prop_assert!(device.read.get() <= RECOGNITION, "{}", device.read.get());
        prop_assert!(found.places.len() <= 300);
        device.read.set(0);
        found.digest(&device).unwrap();
        prop_assert!(device.read.get() <= MOST);
    }

    #[test]
    fn any_bytes_are_something(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        for kind in ["", MEMBER, ENCRYPTED] {
            let found = recognise_as(&bytes, kind).unwrap();
            found.digest(&bytes).unwrap();
        }
    }

    #[test]
    fn every_byte_of_a_place_counts(kind in 0..kinds().len(), which: prop::sample::Index, at: prop::sample::Index) {
        let (kind, mut pieces, _) = kinds().swap_remove(kind);
        let device = Device::new(SIZE, pieces.clone());
        let found = recognise_as(&device, kind).unwrap();
        let digest = found.digest(&device).unwrap();
        let place = which.get(&found.places).clone();
        let len = (place.end.min(SIZE)).saturating_sub(place.start);
        prop_assume!(len > 0);
        let at = place.start + at.index(len as usize) as u64;
        let mut byte = [0];
        device.read_exact_at(&mut byte, at).unwrap();
        pieces.push((at, vec![!byte[0]]));
        let device = Device::new(SIZE, pieces);
        prop_assert_ne!(recognise_as(&device, kind).unwrap().digest(&device).unwrap(), digest);
    }
}
