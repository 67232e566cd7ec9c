use std::fs;
use std::os::unix::fs::{FileExt as _, symlink};

use proptest::prelude::*;
use vmcore::ReadAt as _;
use vmcore::image::{Component, Digest, Segment, Stripe};

use super::in_use::{Mount, unescape};
use super::*;
use crate::device_mapper::{Mapped, Numbers, Target};

/// A folder that looks like the root of a machine.
struct Root(tempfile::TempDir, Vec<(Numbers, Vec<Target>)>);

impl Root {
    fn new(mountinfo: &str, swaps: &str) -> Self {
        let root = Self(tempfile::tempdir().unwrap(), Vec::new());
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
        let sectors = bytes.len() / 512;
        self.write(
            &format!("sys/class/block/{name}/size"),
            format!("{sectors}\n").as_bytes(),
        );
    }

    /// A device of the device mapper, which has 253 for its first number.
    fn mapped(&mut self, name: &str, minor: u32, uuid: &str, bytes: &[u8], table: &[Target]) {
        self.device(name, &format!("253:{minor}"), bytes);
        self.write(&format!("sys/class/block/{name}/dm/uuid"), uuid.as_bytes());
        self.1.push(((253, minor), table.to_vec()));
    }

    /// What a device is made of, by the names.
    fn slaves(&self, name: &str, slaves: &[&str]) {
        for slave in slaves {
            self.write(&format!("sys/class/block/{name}/slaves/{slave}"), b"");
        }
    }

    fn in_use(&self) -> Result<Vec<Volume>, Error> {
        let tables = self.1.clone();
        in_use::volumes(self.0.path(), &move |numbers| {
            let known = tables.iter().find(|(known, _)| *known == numbers);
            known
                .map(|(_, table)| table.clone())
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    fn volumes(&self) -> Vec<(String, String, String)> {
        let volumes = self.in_use().unwrap();
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

fn linear(len: u64, device: Numbers, start: u64) -> Target {
    let mapped = Mapped::Linear(device, start);
    Target { len, mapped }
}

fn crypt(len: u64, device: Numbers, start: u64) -> Target {
    let mapped = Mapped::Crypt(device, start);
    Target { len, mapped }
}

fn pv(number: u8) -> Vec<u8> {
    let mut bytes = vec![0; 64 << 10];
    bytes[512..520].copy_from_slice(b"LABELONE");
    bytes[532] = 32;
    bytes[536..544].copy_from_slice(b"LVM2 001");
    bytes[544..576].fill(number);
    bytes
}

fn luks() -> Vec<u8> {
    let mut bytes = vec![0; 64 << 10];
    bytes[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
    bytes[104..108].copy_from_slice(&4_u32.to_be_bytes());
    bytes[168..172].copy_from_slice(b"some");
    bytes
}

fn member(number: u8) -> Vec<u8> {
    let mut bytes = vec![0; 64 << 10];
    let superblock = &mut bytes[4096..];
    superblock[..4].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
    superblock[4] = 1;
    superblock[16] = 7;
    superblock[144] = 8;
    superblock[160] = number;
    bytes
}

/// The pieces of a volume, as names, places and lengths.
fn pieces(volume: &Volume) -> Vec<(&str, u64, u64)> {
    let mapping = volume.mapping.as_ref().expect("it is made of others");
    mapping
        .ranges()
        .map(|(component, range)| {
            let device = mapping.components()[component].device.as_str();
            (device, range.start, range.end - range.start)
        })
        .collect()
}

const ROOT: &str = "22 1 253:0 / / rw - ext4 /dev/mapper/root rw\n";

#[test]
fn a_logical_volume_has_pieces_and_metadata() {
    let mut root = Root::new(ROOT, "/dev/dm-1 partition 1 0 -2\n");
    root.device("sda2", "8:2", &pv(b'a'));
    root.device("sdb", "8:16", &pv(b'b'));
    let table = [
        linear(4096, (8, 16), 8192),
        linear(4096, (8, 2), 16384),
        linear(8192, (8, 2), 4096),
    ];
    root.mapped("dm-0", 0, "LVM-root", &[1; 16384], &table);
    let striped = Target {
        len: 16384,
        mapped: Mapped::Striped(4096, vec![((8, 2), 32768), ((8, 16), 20480)]),
    };
    root.mapped(
        "dm-1",
        1,
        "LVM-swap",
        &[swap_space(), swap_space()].concat(),
        &[striped],
    );
    root.slaves("dm-0", &["sda2", "sdb"]);
    root.slaves("dm-1", &["sda2", "sdb"]);
    assert_eq!(
        root.volumes(),
        [
            triple("/dev/dm-0", "unknown", "mounted at /"),
            triple("/dev/sdb", "lvm", "mounted at /, swap"),
            triple("/dev/sda2", "lvm", "mounted at /, swap"),
            triple("/dev/dm-1", "swap", "swap"),
        ]
    );
    let volumes = root.in_use().unwrap();
    check_visible(&volumes).unwrap();
    assert_eq!(
        pieces(&volumes[0]),
        [
            ("/dev/sdb", 8192, 4096),
            ("/dev/sda2", 16384, 4096),
            ("/dev/sda2", 4096, 8192)
        ]
    );
    assert_eq!(
        pieces(&volumes[3]),
        [("/dev/sda2", 32768, 8192), ("/dev/sdb", 20480, 8192)]
    );
    assert_eq!(volumes[1].uuid, "bbbbbb-bbbb-bbbb-bbbb-bbbb-bbbb-bbbbbb");
    let text = describe(&volumes[0]);
    assert!(
        text.contains("3 pieces of /dev/sdb and /dev/sda2"),
        "{text}"
    );
    assert_eq!(volumes[3].size, 16384);
}

#[test]
fn what_is_encrypted_is_known_by_what_lies_on_the_disk() {
    // A volume on what is encrypted, and one that is encrypted itself, on a volume.
    let mut root = Root::new(
        "22 1 253:1 / / rw - ext4 /dev/mapper/root rw\n22 1 253:3 / /a rw - ext4 /dev/mapper/a rw\n\
         22 1 253:4 / /b rw - ext4 /dev/mapper/b rw\n",
        "",
    );
    root.device("sda1", "8:1", &luks());
    root.device("sda2", "8:2", &pv(b'a'));
    root.device("sda3", "8:3", &luks());
    root.mapped(
        "dm-0",
        0,
        "CRYPT-LUKS1-x",
        &pv(b'c'),
        &[crypt(32768, (8, 1), 2048)],
    );
    root.slaves("dm-0", &["sda1"]);
    root.mapped(
        "dm-1",
        1,
        "LVM-root",
        &[1; 8192],
        &[linear(8192, (253, 0), 4096)],
    );
    root.slaves("dm-1", &["dm-0"]);
    root.mapped(
        "dm-2",
        2,
        "LVM-a",
        &luks()[..8192],
        &[linear(8192, (8, 2), 4096)],
    );
    root.slaves("dm-2", &["sda2"]);
    root.mapped(
        "dm-3",
        3,
        "CRYPT-LUKS1-a",
        &[1; 4096],
        &[crypt(4096, (253, 2), 2048)],
    );
    root.slaves("dm-3", &["dm-2"]);
    // Nothing but a file system in what is encrypted.
    root.mapped(
        "dm-4",
        4,
        "CRYPT-LUKS1-b",
        &[1; 4096],
        &[crypt(4096, (8, 3), 2048)],
    );
    root.slaves("dm-4", &["sda3"]);
    assert_eq!(
        root.volumes(),
        [
            triple("/dev/dm-1", "encrypted", "mounted at /"),
            triple("/dev/sda1", "luks1", "mounted at /"),
            triple("/dev/dm-2", "luks1", "mounted at /a"),
            triple("/dev/sda2", "lvm", "mounted at /a"),
            triple("/dev/sda3", "luks1", "mounted at /b"),
        ]
    );
    let volumes = root.in_use().unwrap();
    assert_eq!(pieces(&volumes[0]), [("/dev/sda1", 2048 + 4096, 8192)]);
    assert_eq!(pieces(&volumes[2]), [("/dev/sda2", 4096, 8192)]);
}

#[test]
fn an_array_counts_as_its_members() {
    // On it: a file system in a partition, and a volume in another array.
    let mut root = Root::new(
        "22 1 259:0 / / rw - ext4 /dev/md0p1 rw\n22 1 253:0 / /lv rw - ext4 /dev/mapper/lv rw\n",
        "",
    );
    for (name, numbers, bytes) in [
        ("sda1", "8:1", member(0)),
        ("sdb1", "8:17", member(1)),
        ("sdc1", "8:33", member(2)),
        ("sdd1", "8:49", vec![0; 4096]),
        ("md0", "9:0", vec![1; 16384]),
        ("md1", "9:1", pv(b'a')),
    ] {
        root.device(name, numbers, &bytes);
    }
    root.slaves("md0", &["sda1", "sdb1", "sdd1"]);
    root.slaves("md1", &["sdc1"]);
    for array in ["md0", "md1"] {
        root.write(&format!("sys/class/block/{array}/md/level"), b"raid1\n");
    }
    root.write(
        "sys/class/block/md0/md/dev-sdd1/state",
        b"faulty,write_error\n",
    );
    root.device("md0p1", "259:0", &[1; 8192]);
    let class = root.0.path().join("sys/class/block");
    root.write("sys/class/block/md0p1/partition", b"1\n");
    root.write("sys/class/block/md0p1/start", b"2\n");
    fs::rename(class.join("md0p1"), class.join("md0/md0p1")).unwrap();
    symlink("md0/md0p1", class.join("md0p1")).unwrap();
    root.mapped(
        "dm-0",
        0,
        "LVM-lv",
        &[1; 4096],
        &[linear(4096, (9, 1), 4096)],
    );
    root.slaves("dm-0", &["md1"]);
    assert_eq!(
        root.volumes(),
        [
            triple("/dev/sdc1", "md", "mounted at /lv"),
            triple("/dev/sda1", "md", "mounted at /"),
            triple("/dev/sdb1", "md", "mounted at /"),
        ]
    );
    // Firmware keeps superblocks of its own.
    root.write("dev/sda1", &[0; 8192]);
    let error = check_visible(&root.in_use().unwrap()).unwrap_err();
    assert!(error.to_string().contains("IMSM"), "{error}");
    // One that does not tell of writes.
    root.write("dev/sda1", &member(0));
    root.write("sys/class/block/md0/md/level", b"linear\n");
    let error = check_visible(&root.in_use().unwrap()).unwrap_err();
    assert!(error.to_string().contains("md-linear"), "{error}");
}

#[test]
fn an_array_without_redundancy_is_read_through() {
    let root = Root::new("22 1 9:0 / / rw - ext4 /dev/md0 rw\n", "");
    root.device("md0", "9:0", &[1; 32768]);
    root.slaves("md0", &["sda1", "sdb1"]);
    let md = |file: &str, text: &str| {
        root.write(&format!("sys/class/block/md0/md/{file}"), text.as_bytes());
    };
    md("level", "raid0\n");
    md("raid_disks", "2\n");
    md("chunk_size", "4096\n");
    for (slot, name) in ["sdb1", "sda1"].into_iter().enumerate() {
        root.device(name, &format!("8:{slot}"), &member(slot as u8));
        md(&format!("dev-{name}/offset"), "32\n");
        // Some of it makes no whole chunk.
        md(&format!("dev-{name}/size"), "18\n");
        let link = root
            .0
            .path()
            .join(format!("sys/class/block/md0/md/rd{slot}"));
        symlink(format!("dev-{name}"), link).unwrap();
    }
    let volumes = root.in_use().unwrap();
    check_visible(&volumes).unwrap();
    assert_eq!(
        pieces(&volumes[0]),
        [("/dev/sdb1", 16384, 16384), ("/dev/sda1", 16384, 16384)]
    );
    let kinds: Vec<&str> = volumes.iter().map(|volume| volume.kind.as_str()).collect();
    assert_eq!(kinds, ["unknown", "md", "md"]);
    // Of two sizes: what is longer on one goes on there alone.
    md("dev-sda1/size", "24\n");
    assert!(check_visible(&root.in_use().unwrap()).is_err());
}

#[test]
fn what_cannot_be_looked_at_is_told() {
    let of = |target: &str| Target {
        len: 4096,
        mapped: Mapped::Other(target.to_owned()),
    };
    let table = |target: Target| {
        let mut root = Root::new(ROOT, "");
        root.device("sda1", "8:1", &[1; 8192]);
        root.mapped("dm-0", 0, "LVM-abc", &[1; 4096], &[target]);
        root.slaves("dm-0", &["sda1"]);
        root
    };
    for (target, words) in [
        (of("thin"), "thin volume"),
        (of("cache"), "--uncache"),
        (of("snapshot-origin"), "lvremove"),
        (of("multipath"), "several paths"),
        (of("raid"), "mdadm"),
        (of("era"), "dm-era"),
        // Beyond the end of the device, not the size of the volume, and on no device.
        (linear(4096, (8, 1), 4608), "pieces"),
        (linear(2048, (8, 1), 0), "pieces"),
        (linear(4096, (8, 9), 0), "tells nothing"),
        (linear(4096, (253, 0), 0), "pieces"),
        (
            Target {
                len: 4096,
                mapped: Mapped::Striped(0, vec![((8, 1), 0)]),
            },
            "pieces",
        ),
    ] {
        let root = table(target);
        let volumes = root.in_use().unwrap();
        let error = check_visible(&volumes).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
        assert!(error.contains("--allow-unread /dev/dm-0"), "{error}");
    }
    let root = table(linear(4096, (8, 1), 512));
    check_visible(&root.in_use().unwrap()).unwrap();

    // The kernel does not tell.
    let mut root = table(of("thin"));
    root.1.clear();
    let mut volumes = root.in_use().unwrap();
    assert!(check_visible(&volumes).is_err());
    assert!(exempt(&mut volumes, &["/dev/none".into()]).is_err());
    exempt(&mut volumes, &["/dev/dm-0".into()]).unwrap();
    check_visible(&volumes).unwrap();

    let root = Root::new("22 1 0:40 / /tank rw - zfs tank/data rw\n", "");
    let error = check_visible(&root.in_use().unwrap()).unwrap_err();
    assert!(error.to_string().contains("tank/data"), "{error}");

    for name in ["zd0", "nbd1p2", "rbd0"] {
        let root = Root::new("22 1 230:0 / / rw - ext4 /dev/any rw\n", "");
        root.device(name, "230:0", &[1; 4096]);
        assert!(check_visible(&root.in_use().unwrap()).is_err(), "{name}");
    }

    let root = Root::new("22 1 252:0 / / rw - ext4 /dev/bcache0 rw\n", "");
    root.device("bcache0", "252:0", &[1; 4096]);
    root.write("sys/class/block/bcache0/bcache/state", b"clean");
    assert!(check_visible(&root.in_use().unwrap()).is_err());
}

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
        mapping: None,
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
