//! Memory to spare, and who is to suffer where there is not enough.
//!
//! `kexec_load(2)` takes a page for each page of its segments (`kimage_load_normal_segment` in
//! `kernel/kexec_core.c`), and where there is none left the kernel kills a process to get some: in a
//! machine that is to be kept as it is, the worst thing to happen. So it is asked first whether there is
//! enough, and should that change meanwhile, it is the process that loads which is killed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// Memory that can be had without harm, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spare {
    /// What is free, or is a copy of what a disk has.
    pub(crate) available: u64,
    /// Room for what other processes have, so that their memory can be had.
    swap: u64,
}

impl Spare {
    /// What the running kernel has; `None` if it does not tell.
    pub(crate) fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/meminfo").ok()?)
    }

    /// From `MemAvailable` and `SwapFree` (`Documentation/filesystems/proc.rst`).
    fn parse(meminfo: &str) -> Option<Self> {
        let field = |name| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
            kib.checked_mul(1024)
        };
        Some(Self {
            available: field("MemAvailable:")?,
            swap: field("SwapFree:").unwrap_or(0),
        })
    }

    /// Refuses to take `needed` bytes where nobody could spare them.
    pub(crate) fn check(self, needed: u64) -> Result<(), Error> {
        let available = self.available.saturating_add(self.swap);
        if needed > available {
            return Err(Error::NoMemory { needed, available });
        }
        Ok(())
    }
}

/// As long as this lives, the process is the first that the kernel kills for want of memory
/// (`oom_score_adj` in `Documentation/filesystems/proc.rst`).
#[derive(Debug)]
pub(crate) struct FirstToGo {
    path: PathBuf,
    before: Option<String>,
}

impl FirstToGo {
    pub(crate) fn new() -> Self {
        Self::at(Path::new("/proc/self/oom_score_adj"))
    }

    fn at(path: &Path) -> Self {
        // Where it cannot be said, it is as it would be without.
        let before = fs::read_to_string(path).ok();
        Self {
            before: before.filter(|_| fs::write(path, "1000").is_ok()),
            path: path.to_owned(),
        }
    }
}

impl Drop for FirstToGo {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // A process that stays the first to go has lost nothing yet.
            let _ = fs::write(&self.path, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_can_spare_is_not_taken() {
        let meminfo = "MemTotal: 98304 kB\nMemFree: 1 kB\nMemAvailable:   32768 kB\n";
        let spare = Spare::parse(meminfo).unwrap();
        assert_eq!(spare.available, 32 << 20);
        assert!(spare.check(32 << 20).is_ok());
        let text = spare.check((32 << 20) + 1).unwrap_err().to_string();
        assert!(
            text.contains("32 MiB") && text.contains("--window"),
            "{text}"
        );
        let spare = Spare::parse(&format!("{meminfo}SwapFree: 1024 kB\n")).unwrap();
        assert!(spare.check(33 << 20).is_ok());
        assert!(spare.check(u64::MAX).is_err());
        assert_eq!(Spare::parse("MemAvailable: much kB\n"), None);
        assert!(Spare::now().is_some());
    }

    #[test]
    fn the_process_is_the_first_to_go_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("oom_score_adj");
        fs::write(&path, "-17\n").unwrap();
        {
            let _first = FirstToGo::at(&path);
            assert_eq!(fs::read_to_string(&path).unwrap(), "1000");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "-17\n");
        drop(FirstToGo::at(&folder.path().join("none")));
        assert!(!folder.path().join("none").exists());
    }
}
