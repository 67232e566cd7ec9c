//! What devices of the device mapper are made of (`Documentation/admin-guide/device-mapper`).
//!
//! Structures and numbers are those of `include/uapi/linux/dm-ioctl.h`: version 4 of the interface, whose
//! later minor versions only add to it.

#![allow(unsafe_code, reason = "ioctl(2) takes a pointer")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

/// Size of `struct dm_ioctl`, which is followed by what the kernel answers.
const HEADER: usize = 312;
/// Offsets in it.
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const FLAGS: usize = 28;
const DEV: usize = 40;
/// `DM_STATUS_TABLE_FLAG`: the table is asked for, not how its targets do.
const STATUS_TABLE: u32 = 1 << 4;
/// `DM_BUFFER_FULL_FLAG`: the answer did not fit.
const BUFFER_FULL: u32 = 1 << 8;
/// `DM_NOFLUSH_FLAG`: nothing is to be written out for the answer.
const NO_FLUSH: u32 = 1 << 11;
/// `DM_SECURE_DATA_FLAG`: the kernel zeroes its own copy.
const SECURE_DATA: u32 = 1 << 15;
/// `DM_TABLE_STATUS`, which is `_IOWR(0xfd, 12, struct dm_ioctl)` (`include/uapi/asm-generic/ioctl.h`).
const TABLE_STATUS: u32 = 3 << 30 | (HEADER as u32) << 16 | 0xfd << 8 | 12;
/// The largest answer that is taken: some thousands of targets.
const MOST: usize = 1 << 20;

/// What the kernel answers about a device of the device mapper: a target with each part of it. It is zeroed
/// when it is dropped, for dm-crypt tells keys.
pub struct DeviceMapperTable {
    bytes: Vec<u8>,
    /// How many targets there are.
    pub count: u32,
}

impl DeviceMapperTable {
    /// Asks the kernel for the table of the device with these numbers.
    ///
    /// # Errors
    ///
    /// What opening `/dev/mapper/control` says: `ENOENT` if the kernel has no device mapper, `EACCES` without
    /// rights. Or what the kernel answers: `ENXIO` if there is no such device.
    pub fn read(major: u32, minor: u32) -> io::Result<Self> {
        let path = Path::new("/dev/mapper/control");
        let control = OpenOptions::new().read(true).write(true).open(path)?;
        let mut size = 16 << 10;
        loop {
            let mut table = Self {
                bytes: vec![0; size],
                count: 0,
            };
            table.put(0, 4);
            // No truncation: it is `MOST` at most.
            table.put(DATA_SIZE, size as u32);
            table.put(DATA_START, HEADER as u32);
            table.put(FLAGS, STATUS_TABLE | NO_FLUSH | SECURE_DATA);
            // As `new_encode_dev` has it (`include/linux/kdev_t.h`).
            let dev = (major & 0xfff) << 8 | (minor & 0xff) | (minor & 0xf_ff00) << 12;
            table.put(DEV, dev);
            // SAFETY: the kernel reads and writes as many bytes of the buffer at most as its field says that there
            // are, which is all of them. Nothing else has a reference to it, and any bytes may be in it.
            let result = unsafe {
                libc::ioctl(
                    control.as_raw_fd(),
                    libc::Ioctl::from(TABLE_STATUS),
                    table.bytes.as_mut_ptr(),
                )
            };
            if result < 0 {
                return Err(io::Error::last_os_error());
            }
            if table.get(FLAGS) & BUFFER_FULL == 0 {
                table.count = table.get(TARGET_COUNT);
                return Ok(table);
            }
            size *= 2;
            if size > MOST {
                return Err(io::Error::other("the table is too long"));
            }
        }
    }

    /// The targets, each a `struct dm_target_spec` and a text behind it.
    #[must_use]
    pub fn targets(&self) -> &[u8] {
        let start = usize::try_from(self.get(DATA_START)).unwrap_or(usize::MAX);
        self.bytes.get(start..).unwrap_or_default()
    }

    fn put(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn get(&self, at: usize) -> u32 {
        let bytes = self.bytes.get(at..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }
}

impl Drop for DeviceMapperTable {
    fn drop(&mut self) {
        self.bytes.fill(0);
        // So that the compiler does not leave it out.
        std::hint::black_box(&mut self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_none_is_an_error() {
        assert!(DeviceMapperTable::read(0xfff, 0xf_ffff).is_err());
    }

    #[test]
    fn the_number_of_the_request_is_the_kernels() {
        // As C has it for this architecture.
        assert_eq!(TABLE_STATUS, 0xc138_fd0c);
    }
}
