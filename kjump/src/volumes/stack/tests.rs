use std::os::unix::fs::symlink;

use super::*;
use crate::volumes::fake_devices::{Root, pv, swap_space, triple};
use crate::volumes::{check_visible, describe, exempt};

const ROOT: &str = "22 1 253:0 / / rw - ext4 /dev/mapper/root rw\n";

fn linear(len: u64, device: Numbers, start: u64) -> Target {
    let mapped = Mapped::Linear(device, start);
    Target { len, mapped }
}

fn crypt(len: u64, device: Numbers, start: u64) -> Target {
    let mapped = Mapped::Crypt(device, start);
    Target { len, mapped }
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
