use std::fs;

use vmcore::image::{Component, Digest, Segment};

use super::fake_devices::{pv, volume};
use super::*;

#[test]
fn what_lies_below_others_is_not_in_use_itself() {
    let device = tempfile::NamedTempFile::new().unwrap();
    fs::write(device.path(), pv(b'a')).unwrap();
    let group = Volume {
        kind: "lvm".to_owned(),
        ..volume(device.path())
    };
    let component = Component {
        device: group.device.clone(),
        kind: group.kind.clone(),
        uuid: String::new(),
        size: group.size,
    };
    let other = Volume {
        mapping: Mapping::new(vec![component], vec![Segment::linear(4096, 0, 8192)]),
        ..volume(Path::new("/dev/dm-0"))
    };
    let known = Volume {
        uuid: String::new(),
        kind: "unknown".to_owned(),
        ..group.clone()
    };
    fs::write(device.path(), vec![1; 64 << 10]).unwrap();
    let mut volumes = [known];
    record(&mut volumes).unwrap();
    let check = |here: &[Volume]| check(&volumes[0], here, Path::new("/image"), Duration::ZERO);
    check(&[group.clone(), other]).unwrap();
    assert!(matches!(check(&[group]), Err(Error::MountedVolume { .. })));
}

#[test]
fn what_comes_into_use_later_is_not_known() {
    let device = Path::new("/dev/sda1");
    let exempt = Volume {
        state: VolumeState::Exempt,
        used: "mounted at /srv".to_owned(),
        ..volume(device)
    };
    check_known(&[volume(device)], &[exempt]).unwrap();
    check_known(&[], &[volume(device)]).unwrap();
    let grown = Volume {
        size: volume(device).size + 4096,
        ..volume(device)
    };
    for new in [volume(Path::new("/dev/sdb1")), grown] {
        let error = check_known(&[volume(device), new], &[volume(device)]).unwrap_err();
        assert!(matches!(error, Error::NewVolume { .. }), "{error}");
    }
}

#[test]
fn use_is_noticed() {
    let device = tempfile::NamedTempFile::new().unwrap();
    let check =
        |volumes: &[Volume; 1]| check(&volumes[0], &[], Path::new("/image"), Duration::ZERO);
    fs::write(device.path(), vec![7; 5 << 20]).unwrap();
    let mut volumes = [volume(device.path())];
    assert!(matches!(check(&volumes), Err(Error::UnreadVolume { .. })));
    record(&mut volumes).unwrap();
    check(&volumes).unwrap();

    let mut bytes = vec![7; 5 << 20];
    bytes[5 << 19] = 8;
    fs::write(device.path(), &bytes).unwrap();
    check(&volumes).unwrap();
    bytes[100] = 8;
    fs::write(device.path(), &bytes).unwrap();
    let error = check(&volumes).unwrap_err();
    assert!(matches!(error, Error::UsedVolume { .. }));
    let text = error.to_string();
    for words in [
        "mounted at /",
        "kjump discard /image",
        device.path().to_str().unwrap(),
    ] {
        assert!(text.contains(words), "{text}");
    }
    // What somebody answers for is not looked at.
    exempt(&mut volumes, &[device.path().to_owned()]).unwrap();
    check(&volumes).unwrap();
}

#[test]
fn what_is_gone_or_mounted_here_is_told() {
    let device = tempfile::NamedTempFile::new().unwrap();
    fs::write(device.path(), [7; 4096]).unwrap();
    let mut volumes = [volume(device.path())];
    record(&mut volumes).unwrap();
    let here = [volume(device.path())];
    let check = |here: &[Volume]| check(&volumes[0], here, Path::new("/image"), Duration::ZERO);
    assert!(matches!(check(&here), Err(Error::MountedVolume { .. })));
    // Another size, and it is not the same device.
    fs::write(device.path(), [7; 8192]).unwrap();
    assert!(matches!(check(&[]), Err(Error::UnreadVolume { .. })));
    drop(device);
    assert!(matches!(check(&[]), Err(Error::UnreadVolume { .. })));
}

#[test]
fn a_new_state_replaces_none_that_is_known() {
    let known = VolumeState::Known {
        digest: Digest([1; 32]),
        written: 0,
    };
    let mut volumes = [Volume {
        state: known,
        ..volume(Path::new("/nonexistent"))
    }];
    record(&mut volumes).unwrap();
    assert_eq!(volumes[0].state, known);
}
