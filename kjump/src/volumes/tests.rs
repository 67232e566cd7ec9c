use std::os::unix::fs::symlink;

use proptest::prelude::*;
use vmcore::image::Digest;

use super::*;

/// A folder that looks like the root of a machine.
struct Root(tempfile::TempDir);

impl Root {
    fn new(mountinfo: &str, swaps: &str) -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        root.write("proc/1/mountinfo", mountinfo.as_bytes());
        root.write(
            "proc/swaps",
            format!("Filename Type Size Used Priority\n{swaps}").as_bytes(),
        );
        root
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A block device, with what is on it.
    fn device(&self, name: &str, numbers: &str, bytes: &[u8]) {
        self.write(&format!("sys/class/block/{name}/dev"), numbers.as_bytes());
        self.write(&format!("dev/{}", name.replace('!', "/")), bytes);
        let links = self.0.path().join("sys/dev/block");
        fs::create_dir_all(&links).unwrap();
        symlink(format!("../../block/{name}"), links.join(numbers)).unwrap();
    }

    fn volumes(&self) -> Vec<(String, String, String)> {
        let volumes = in_use_at(self.0.path()).unwrap();
        volumes
            .into_iter()
            .map(|volume| (volume.device, volume.kind, volume.used))
            .collect()
    }
}

fn swap_space() -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    bytes[1024] = 1;
    bytes[1036] = 9;
    bytes[4086..4096].copy_from_slice(b"SWAPSPACE2");
    bytes
}

fn triple(device: &str, kind: &str, used: &str) -> (String, String, String) {
    (device.to_owned(), kind.to_owned(), used.to_owned())
}

#[test]
fn what_may_be_written_to_is_found() {
    let root = Root::new(
        "22 1 254:1 / / rw,relatime - ext4 /dev/root rw\n\
         23 22 254:1 /home /srv/my\\040home ro - ext4 /dev/root rw\n\
         24 22 254:2 / /media rw - vfat /dev/vda2 ro\n\
         25 22 0:5 / /dev rw - devtmpfs none rw\n\
         26 22 7:0 / /snap rw - ext4 /dev/loop0 rw\n\
         27 22 104:1 / /raid rw - xfs /dev/cciss/c0d0p1 rw\n",
        "/dev/vda3 partition 1 0 -2\n/swapfile file 1 0 -3\n",
    );
    root.device("vda1", "254:1", &[1; 4096]);
    root.device("vda2", "254:2", &[1; 4096]);
    root.device("vda3", "254:3", &swap_space());
    root.device("loop0", "7:0", &[1; 4096]);
    root.device("cciss!c0d0p1", "104:1", &[1; 4096]);
    assert_eq!(
        root.volumes(),
        [
            triple("/dev/cciss/c0d0p1", "unknown", "mounted at /raid"),
            triple(
                "/dev/vda1",
                "unknown",
                "mounted at /, mounted at /srv/my home"
            ),
            triple("/dev/vda3", "swap", "swap"),
        ]
    );
}

#[test]
fn all_devices_of_a_file_system_count() {
    let root = Root::new("22 1 0:30 / /data rw - btrfs /dev/sda rw,subvol=/\n", "");
    root.device("sda", "8:0", &[1; 4096]);
    root.device("sdb", "8:16", &[1; 4096]);
    root.device("sdc", "8:32", &[1; 4096]);
    for device in ["sda", "sdc"] {
        root.write(&format!("sys/fs/btrfs/some-uuid/devices/{device}"), b"");
    }
    assert_eq!(
        root.volumes(),
        ["/dev/sda", "/dev/sdc"].map(|device| triple(device, "unknown", "mounted at /data"))
    );
}

#[test]
fn what_is_made_of_other_devices_is_looked_through_or_told() {
    let root = Root::new(
        "22 1 253:0 / / rw - ext4 /dev/mapper/root rw\n22 1 253:1 / /lv rw - ext4 /dev/mapper/lv rw\n",
        "",
    );
    for (name, numbers, uuid) in [
        ("dm-0", "253:0", "CRYPT-LUKS2-abc-root"),
        ("dm-1", "253:1", "LVM-abc"),
    ] {
        root.device(name, numbers, &[1; 4096]);
        root.write(&format!("sys/class/block/{name}/dm/uuid"), uuid.as_bytes());
        root.write(&format!("sys/class/block/{name}/slaves/sda1"), b"");
    }
    root.device("sda1", "8:1", b"LUKS\xba\xbe\0\x02");
    let mut volumes = in_use_at(root.0.path()).unwrap();
    assert_eq!(
        root.volumes(),
        [
            triple("/dev/sda1", "unknown", "mounted at /"),
            triple("/dev/dm-1", "stacked", "mounted at /lv"),
        ]
    );
    let error = check_visible(&volumes).unwrap_err();
    assert!(
        error.to_string().contains("--allow-unread /dev/dm-1"),
        "{error}"
    );
    assert!(exempt(&mut volumes, &["/dev/none".into()]).is_err());
    exempt(&mut volumes, &["/dev/dm-1".into()]).unwrap();
    check_visible(&volumes).unwrap();
}

#[test]
fn a_machine_without_proc_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    assert!(in_use_at(root.path()).is_err());
    fs::create_dir(root.path().join("proc")).unwrap();
    assert!(in_use_at(root.path()).is_err());
}

/// A volume without a number, which is found by the name of its file.
fn volume(device: &Path) -> Volume {
    Volume {
        device: device.to_str().unwrap().to_owned(),
        used: "mounted at /".to_owned(),
        kind: "unknown".to_owned(),
        uuid: String::new(),
        size: fs::metadata(device).map_or(0, |file| file.len()),
        state: VolumeState::Pending,
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

proptest! {
    #[test]
    fn any_mountinfo_is_read(text in "[ -~\\n]{0,200}", dash in "[^\\n]{0,30} - [^\\n]{0,30}") {
        for line in text.lines().chain([dash.as_str()]) {
            Mount::parse(line);
        }
        unescape(&text);
    }

    #[test]
    fn blanks_come_through(path in "[a-z \\\\\\t]{0,20}") {
        let mangled: String = path
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' => char::from(byte).to_string(),
                _ => format!("\\{byte:03o}"),
            })
            .collect();
        prop_assert_eq!(unescape(&mangled), path);
    }
}
