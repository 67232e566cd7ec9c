//! Devices that are not there, with what tells of them in `/proc`, `/sys` and `/dev`, for tests.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use vmcore::image::{Volume, VolumeState};

use super::in_use;
use crate::Error;
use crate::device_mapper::{Numbers, Target};

/// A folder that looks like the root of a machine.
pub(super) struct Root(
    pub(super) tempfile::TempDir,
    pub(super) Vec<(Numbers, Vec<Target>)>,
);

impl Root {
    pub(super) fn new(mountinfo: &str, swaps: &str) -> Self {
        let root = Self(tempfile::tempdir().unwrap(), Vec::new());
        root.write("proc/1/mountinfo", mountinfo.as_bytes());
        root.write(
            "proc/swaps",
            format!("Filename Type Size Used Priority\n{swaps}").as_bytes(),
        );
        root
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A block device, with what is on it.
    pub(super) fn device(&self, name: &str, numbers: &str, bytes: &[u8]) {
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
    pub(super) fn mapped(
        &mut self,
        name: &str,
        minor: u32,
        uuid: &str,
        bytes: &[u8],
        table: &[Target],
    ) {
        self.device(name, &format!("253:{minor}"), bytes);
        self.write(&format!("sys/class/block/{name}/dm/uuid"), uuid.as_bytes());
        self.1.push(((253, minor), table.to_vec()));
    }

    /// What a device is made of, by the names.
    pub(super) fn slaves(&self, name: &str, slaves: &[&str]) {
        for slave in slaves {
            self.write(&format!("sys/class/block/{name}/slaves/{slave}"), b"");
        }
    }

    pub(super) fn in_use(&self) -> Result<Vec<Volume>, Error> {
        let tables = self.1.clone();
        in_use::volumes(self.0.path(), &move |numbers| {
            let known = tables.iter().find(|(known, _)| *known == numbers);
            known
                .map(|(_, table)| table.clone())
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    pub(super) fn volumes(&self) -> Vec<(String, String, String)> {
        let volumes = self.in_use().unwrap();
        volumes
            .into_iter()
            .map(|volume| (volume.device, volume.kind, volume.used))
            .collect()
    }
}

pub(super) fn triple(device: &str, kind: &str, used: &str) -> (String, String, String) {
    (device.to_owned(), kind.to_owned(), used.to_owned())
}

/// A volume without a number, which is found by the name of its file.
pub(super) fn volume(device: &Path) -> Volume {
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

pub(super) fn swap_space() -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    bytes[1024] = 1;
    bytes[1036] = 9;
    bytes[4086..4096].copy_from_slice(b"SWAPSPACE2");
    bytes
}

pub(super) fn pv(number: u8) -> Vec<u8> {
    let mut bytes = vec![0; 64 << 10];
    bytes[512..520].copy_from_slice(b"LABELONE");
    bytes[532] = 32;
    bytes[536..544].copy_from_slice(b"LVM2 001");
    bytes[544..576].fill(number);
    bytes
}
