use std::fs;
use std::os::unix::fs::FileExt as _;

use vmcore::image::{Segment, Stripe};

use super::*;
use crate::Error;
use crate::volumes::fake_devices::{swap_space, volume};
use crate::volumes::{check, record};

/// Files for two devices, and a volume with three pieces on them that has `bytes` on it.
fn pieced(folder: &Path, bytes: &[u8]) -> Volume {
    let half = bytes.len() as u64 / 2;
    let component = |name: &str| {
        let path = folder.join(name);
        fs::write(&path, vec![3; 8 << 20]).unwrap();
        Component {
            device: path.to_str().unwrap().to_owned(),
            kind: "unknown".to_owned(),
            uuid: String::new(),
            size: 8 << 20,
        }
    };
    let components = vec![component("one"), component("two")];
    let striped = Segment {
        len: half,
        chunk: 4096,
        stripes: vec![
            Stripe {
                component: 1,
                start: 1 << 20,
            },
            Stripe {
                component: 0,
                start: 512,
            },
        ],
    };
    let linear = Segment::linear(half, 0, 5 << 20);
    let mapping = Mapping::new(components, vec![striped, linear]).unwrap();
    let volume = Volume {
        kind: "swap".to_owned(),
        uuid: "09000000-0000-0000-0000-000000000000".to_owned(),
        size: bytes.len() as u64,
        mapping: Some(mapping),
        ..volume(Path::new("/dev/dm-9"))
    };
    for (number, chunk) in bytes.chunks(4096).enumerate() {
        write(&volume, number as u64 * 4096, chunk);
    }
    volume
}

/// Writes to a volume at one place, as its mapping has it.
fn write(volume: &Volume, offset: u64, bytes: &[u8]) {
    let mapping = volume.mapping.as_ref().unwrap();
    let (stripe, len) = mapping.locate(offset).unwrap();
    assert!(len >= bytes.len() as u64);
    let device = &mapping.components()[stripe.component].device;
    let file = fs::OpenOptions::new().write(true).open(device).unwrap();
    file.write_all_at(bytes, stripe.start).unwrap();
}

#[test]
fn a_volume_is_read_where_its_pieces_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes: Vec<u8> = (0..2_u32 << 20).map(|at| (at / 7) as u8).collect();
    bytes[..8192].copy_from_slice(&swap_space());
    let mut volumes = [pieced(folder.path(), &bytes)];
    let contents = Contents::find(&volumes[0], Instant::now()).unwrap();
    for (start, end) in [
        (0, bytes.len()),
        (1, 2),
        (4095, 8193),
        ((1 << 20) - 3, (1 << 20) + 5000),
    ] {
        let mut read = vec![0; end - start];
        contents.read_exact_at(&mut read, start as u64).unwrap();
        assert!(read == bytes[start..end], "{start}");
    }
    let mut beyond = [0; 2];
    assert!(contents.read_exact_at(&mut beyond, (2 << 20) - 1).is_err());

    record(&mut volumes).unwrap();
    let check = |here: &[Volume]| check(&volumes[0], here, Path::new("/image"), Duration::ZERO);
    let place = check(&[]).unwrap();
    assert!(
        place.contains("one and ") && place.contains("two"),
        "{place}"
    );
    // Beside its pieces others may write.
    write(&volumes[0], 0, &bytes[..4096]);
    fs::OpenOptions::new()
        .write(true)
        .open(folder.path().join("one"))
        .unwrap()
        .write_all_at(b"another's", 7 << 20)
        .unwrap();
    check(&[]).unwrap();
    write(&volumes[0], 8192 + 5, b"\0");
    assert!(matches!(check(&[]), Err(Error::UsedVolume { .. })));

    // A volume on the same devices is no use of this one, unless it has bytes in common.
    let mapping = volumes[0].mapping.clone().unwrap();
    let at = |start| Volume {
        mapping: Mapping::new(
            mapping.components().to_vec(),
            vec![Segment::linear(4096, 0, start)],
        ),
        ..volumes[0].clone()
    };
    assert!(matches!(
        check(&[at(7 << 20)]),
        Err(Error::UsedVolume { .. })
    ));
    assert!(matches!(
        check(&[at(512)]),
        Err(Error::MountedVolume { .. })
    ));
}

#[test]
fn a_mapping_that_shows_something_else_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let mut volumes = [pieced(folder.path(), &[1; 2 << 20])];
    assert!(matches!(
        record(&mut volumes),
        Err(Error::UnreadVolume { .. })
    ));
    volumes[0].kind = "unknown".to_owned();
    volumes[0].uuid = String::new();
    record(&mut volumes).unwrap();
}
