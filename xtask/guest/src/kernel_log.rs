//! The kernel's log, which must not tell of harm.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::witness::Witness;

/// Where the log is (`Documentation/ABI/testing/dev-kmsg`).
const PATH: &str = "/dev/kmsg";

/// More than the longest record (`PRINTK_MESSAGE_MAX`, in `kernel/printk/internal.h`; 2048 bytes, or
/// four times that before Linux 6.5).
const LONGEST_RECORD: usize = 16 << 10;

/// What a kernel writes that found its memory or its own data harmed.
const HARM: [&str; 8] = [
    "BUG",
    "corruption",
    "corrupted",
    "Poison overwritten",
    "Redzone overwritten",
    "pagealloc:",
    "Bad page state",
    "Oops",
];

/// The kernel's log from some moment on.
pub(crate) struct KernelLog {
    log: File,
}

impl KernelLog {
    /// Opens the log.
    pub(crate) fn open() -> Result<Self> {
        let log = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(PATH)
            .with_context(|| format!("opening {PATH}"))?;
        Ok(Self { log })
    }

    /// The next record, if there is one by now.
    fn next(&mut self) -> Result<Option<String>> {
        let mut record = vec![0; LONGEST_RECORD];
        loop {
            match self.log.read(&mut record) {
                Ok(length) => {
                    record.truncate(length);
                    return Ok(Some(String::from_utf8_lossy(&record).into_owned()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                // Records were overwritten before they were read; the next one is there.
                Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => {}
                Err(error) => bail!("reading {PATH}: {error}"),
            }
        }
    }
}

impl Witness for KernelLog {
    fn name(&self) -> &'static str {
        "log"
    }

    fn before(&mut self) -> Result<String> {
        self.log
            .seek(SeekFrom::End(0))
            .with_context(|| format!("seeking the end of {PATH}"))?;
        Ok("read to its end".to_owned())
    }

    fn verify(&mut self) -> Result<String> {
        let mut records = 0_u64;
        while let Some(record) = self.next()? {
            records += 1;
            ensure!(
                !tells_of_harm(&record),
                "the kernel says: {}",
                record.trim_end()
            );
        }
        Ok(format!("{records} records, no harm among them"))
    }

    fn spoil(&mut self) -> Result<()> {
        // Level 7 (debug) does not get to the console, where the lab would take it for a crash.
        self.log
            .write_all(b"<7>pagealloc: memory corruption (made up)\n")
            .with_context(|| format!("writing {PATH}"))
    }
}

/// Whether a record is from the kernel and tells of harm. What this process reports does not count.
fn tells_of_harm(record: &str) -> bool {
    let Some((_, message)) = record.split_once(';') else {
        return false;
    };
    !message.starts_with("lab: ") && HARM.iter().any(|harm| message.contains(harm))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harm_is_told_from_reports_and_other_messages() {
        for record in [
            "3,339,5140900,-;BUG kmalloc-64 (Not tainted): Poison overwritten\n",
            "1,340,5140901,-;pagealloc: memory corruption\n SUBSYSTEM=mm\n",
            "1,341,5140902,-;BUG: Bad page state in process init  pfn:1234\n",
        ] {
            assert!(tells_of_harm(record), "{record}");
        }
        for record in [
            "",
            "nothing",
            "5,342,5140903,-;lab: noticed.log=the kernel says: pagealloc: memory corruption\n",
            "6,343,5140904,-;ata1: SATA link up 1.5 Gbps\n",
        ] {
            assert!(!tells_of_harm(record), "{record}");
        }
    }
}
