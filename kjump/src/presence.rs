//! Whether the hardware behind a block device is still there.
//!
//! A device that is taken away while another kernel runs leaves the sleeping one with a driver that knows
//! nothing of it. Some drivers then hold back what is asked of the device, for ever; so it must be known
//! before anything is.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

/// Whether a PCI device that the block device at `device` hangs on is gone. Of what hangs on none, or has no
/// such name in sysfs, nothing is known, and it counts as there.
pub(crate) fn is_gone(device: &Path) -> bool {
    is_gone_at(Path::new("/sys"), device)
}

/// As [`is_gone`], with sysfs at `sys`.
fn is_gone_at(sys: &Path, device: &Path) -> bool {
    // Names in /dev may be links, as those in /dev/disk are.
    let device = fs::canonicalize(device).unwrap_or_else(|_| device.to_owned());
    let Some(name) = device.strip_prefix("/dev").ok().and_then(Path::to_str) else {
        return false;
    };
    // Where the name of a device has a slash, sysfs has an exclamation mark.
    let class = sys.join("class/block").join(name.replace('/', "!"));
    let Ok(place) = fs::canonicalize(class) else {
        return false;
    };
    place
        .ancestors()
        .take_while(|place| *place != sys)
        .any(answers_nothing)
}

/// Whether the folder is that of a PCI device, and reading its configuration space gets no answer: then all
/// bits are set, in the vendor's number too, which is no vendor's (PCI Local Bus Specification 3.0, 6.1).
fn answers_nothing(folder: &Path) -> bool {
    let mut vendor = [0; 2];
    folder.join("vendor").exists()
        && File::open(folder.join("config"))
            .and_then(|mut config| config.read_exact(&mut vendor))
            .is_ok_and(|()| vendor == [0xff; 2])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn hardware_that_does_not_answer_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let sys = fs::canonicalize(folder.path()).unwrap();
        let function = sys.join("devices/pci0000:00/0000:00:04.0");
        let disk = function.join("virtio1/block/vdb");
        fs::create_dir_all(disk.join("vdb1")).unwrap();
        fs::create_dir_all(sys.join("class/block")).unwrap();
        symlink(&disk, sys.join("class/block/vdb")).unwrap();
        symlink(disk.join("vdb1"), sys.join("class/block/vdb1")).unwrap();
        let gone = |name: &str| is_gone_at(&sys, Path::new(name));
        let say = |file: &str, bytes: &[u8]| fs::write(function.join(file), bytes).unwrap();

        // No PCI device, or one that does not let itself be read.
        assert!(!gone("/dev/vdb"));
        say("vendor", b"0x1af4\n");
        assert!(!gone("/dev/vdb"));
        say("config", &[0xf4, 0x1a, 0x01, 0x10]);
        assert!(!gone("/dev/vdb") && !gone("/dev/vdb1"));
        say("config", &[0xff; 64]);
        assert!(gone("/dev/vdb") && gone("/dev/vdb1"));
        for other in ["/dev/vda", "/tmp/vdb", "vdb", "/dev"] {
            assert!(!gone(other), "{other}");
        }
    }
}
