use std::fs;

use proptest::prelude::*;

use super::*;
use crate::volumes::fake_devices::{Root, swap_space, triple};
use crate::volumes::in_use_at;

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
fn a_machine_without_proc_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    assert!(in_use_at(root.path()).is_err());
    fs::create_dir(root.path().join("proc")).unwrap();
    assert!(in_use_at(root.path()).is_err());
}

#[test]
fn a_machine_without_sys_is_an_error_and_not_one_without_devices() {
    let root = Root::new("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n", "");
    assert!(matches!(root.in_use(), Err(Error::Read { .. })));
    // That device is gone.
    root.device("sdb", "8:16", &[1; 4096]);
    assert_eq!(root.volumes(), []);
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
