//! Facts about this thread and the running kernel that tell why a call was refused.

use std::path::Path;
use std::{fmt, fs};

use crate::{KernelState, pseudo_file};

/// What could be observed of this thread and the running kernel. `None` is what could not: the file is
/// missing, cannot be read, or makes no sense.
///
/// [`Cause::diagnose`](crate::Cause::diagnose) makes a cause of it, without looking at anything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evidence {
    /// Whether the thread has `CAP_SYS_BOOT` in its effective set (`/proc/thread-self/status`,
    /// capabilities belong to threads).
    pub sys_boot: Option<bool>,
    /// Whether the thread lives in the user namespace that the machine booted with
    /// (`/proc/thread-self/ns/user`). Only there do capabilities count for loading.
    pub initial_user_namespace: Option<bool>,
    /// Whether the thread lives in the PID namespace that the machine booted with
    /// (`/proc/thread-self/ns/pid`). Only there does `reboot(2)` know all commands.
    pub initial_pid_namespace: Option<bool>,
    /// Whether loading was disabled until the next boot (`/proc/sys/kernel/kexec_load_disabled`).
    pub load_disabled: Option<bool>,
    /// How many loads for [`kexec`](crate::kexec) are left, -1 for any number
    /// (`/proc/sys/kernel/kexec_load_limit_reboot`, Linux 6.3).
    pub load_limit_reboot: Option<i32>,
    /// How many loads for crashes are left, -1 for any number
    /// (`/proc/sys/kernel/kexec_load_limit_panic`, Linux 6.3).
    pub load_limit_panic: Option<i32>,
    /// Whether the kernel is locked down (`/sys/kernel/security/lockdown`).
    pub lockdown: Option<Lockdown>,
    /// Whether an image for [`kexec`](crate::kexec) is loaded (`/sys/kernel/kexec_loaded`).
    pub loaded: Option<bool>,
    /// Memory reserved for an image for crashes, in bytes (`/sys/kernel/kexec_crash_size`).
    pub crash_size: Option<u64>,
    /// Memory that the kernel has to give out, in bytes (`MemTotal` in `/proc/meminfo`).
    pub mem_total: Option<u64>,
}

/// How far the kernel defends itself against its administrator (`kernel_lockdown(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lockdown {
    /// Not at all.
    None,
    /// Nobody may change the running kernel.
    Integrity,
    /// Nor read its secrets.
    Confidentiality,
}

/// As the kernel names the mode.
impl fmt::Display for Lockdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Integrity => "integrity",
            Self::Confidentiality => "confidentiality",
        })
    }
}

impl Evidence {
    /// Looks at the files below `root`, which is `/` but in tests.
    #[must_use]
    pub fn gather(root: &Path) -> Self {
        let proc = root.join("proc");
        let sysctl = proc.join("sys/kernel");
        let sys_kernel = root.join("sys/kernel");
        let thread = proc.join("thread-self");
        let state = KernelState::at(&sys_kernel);
        Self {
            sys_boot: text(&thread.join("status")).and_then(|text| has_sys_boot(&text)),
            initial_user_namespace: is_initial_namespace(&thread, "user", INITIAL_USER_NAMESPACE),
            initial_pid_namespace: is_initial_namespace(&thread, "pid", INITIAL_PID_NAMESPACE),
            load_disabled: number(&sysctl.join("kexec_load_disabled")).map(|number| number != 0),
            load_limit_reboot: number(&sysctl.join("kexec_load_limit_reboot")),
            load_limit_panic: number(&sysctl.join("kexec_load_limit_panic")),
            lockdown: text(&sys_kernel.join("security/lockdown"))
                .and_then(|text| parse_lockdown(&text)),
            loaded: state.kexec_loaded().ok(),
            crash_size: state.kexec_crash_size().ok(),
            mem_total: text(&proc.join("meminfo")).and_then(|text| parse_mem_total(&text)),
        }
    }
}

/// Inode number of the first user namespace (`PROC_USER_INIT_INO` in `include/linux/proc_ns.h`).
const INITIAL_USER_NAMESPACE: u32 = 0xEFFF_FFFD;

/// Inode number of the first PID namespace (`PROC_PID_INIT_INO` in `include/linux/proc_ns.h`).
const INITIAL_PID_NAMESPACE: u32 = 0xEFFF_FFFC;

/// Number of `CAP_SYS_BOOT` (`include/uapi/linux/capability.h`).
const CAP_SYS_BOOT: u32 = 22;

fn text(path: &Path) -> Option<String> {
    pseudo_file::read(path).ok()
}

fn number(path: &Path) -> Option<i32> {
    text(path)?.trim_end().parse().ok()
}

/// The rest of the line that starts with `key` and a colon.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .map(str::trim)
}

/// From the text of `status`: `CapEff:` and 16 hexadecimal digits (`proc_pid_status(5)`).
fn has_sys_boot(status: &str) -> Option<bool> {
    let effective = u64::from_str_radix(value(status, "CapEff")?, 16).ok()?;
    Some(effective & (1 << CAP_SYS_BOOT) != 0)
}

/// Namespaces are links that read `user:[4026531837]` (`namespaces(7)`).
fn is_initial_namespace(thread: &Path, kind: &str, initial: u32) -> Option<bool> {
    let link = fs::read_link(thread.join("ns").join(kind)).ok()?;
    let inode = link
        .to_str()?
        .strip_prefix(kind)?
        .strip_prefix(":[")?
        .strip_suffix(']')?
        .parse::<u32>()
        .ok()?;
    Some(inode == initial)
}

/// All modes are listed, and the one in brackets is in force: `none [integrity] confidentiality`
/// (`lockdown_read` in `security/lockdown/lockdown.c`).
fn parse_lockdown(text: &str) -> Option<Lockdown> {
    let mode = text
        .split_whitespace()
        .find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']'))?;
    match mode {
        "none" => Some(Lockdown::None),
        "integrity" => Some(Lockdown::Integrity),
        "confidentiality" => Some(Lockdown::Confidentiality),
        _ => None,
    }
}

/// From the text of `meminfo`: `MemTotal:        8053064 kB`, in units of 1024 bytes.
fn parse_mem_total(meminfo: &str) -> Option<u64> {
    value(meminfo, "MemTotal")?
        .strip_suffix(" kB")?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    const FILES: [&str; 8] = [
        "proc/thread-self/status",
        "proc/sys/kernel/kexec_load_disabled",
        "proc/sys/kernel/kexec_load_limit_reboot",
        "proc/sys/kernel/kexec_load_limit_panic",
        "sys/kernel/security/lockdown",
        "sys/kernel/kexec_loaded",
        "sys/kernel/kexec_crash_size",
        "proc/meminfo",
    ];

    fn write(root: &Path, name: &str, bytes: impl AsRef<[u8]>) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn link(root: &Path, kind: &str, target: &str) {
        let dir = root.join("proc/thread-self/ns");
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(kind);
        let _ = fs::remove_file(&path);
        symlink(target, path).unwrap();
    }

    /// A machine on which all is well, and nothing is loaded.
    fn machine() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (name, text) in FILES.into_iter().zip([
            "Name:\tkjump\nCapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n",
            "0\n",
            "-1\n",
            "-1\n",
            "[none] integrity confidentiality\n",
            "0\n",
            "0\n",
            "MemTotal:        8053064 kB\nMemFree:         1 kB\n",
        ]) {
            write(root, name, text);
        }
        link(root, "user", "user:[4026531837]");
        link(root, "pid", "pid:[4026531836]");
        dir
    }

    fn well() -> Evidence {
        Evidence {
            sys_boot: Some(true),
            initial_user_namespace: Some(true),
            initial_pid_namespace: Some(true),
            load_disabled: Some(false),
            load_limit_reboot: Some(-1),
            load_limit_panic: Some(-1),
            lockdown: Some(Lockdown::None),
            loaded: Some(false),
            crash_size: Some(0),
            mem_total: Some(8_053_064 * 1024),
        }
    }

    #[test]
    fn a_machine_on_which_all_is_well() {
        assert_eq!(Evidence::gather(machine().path()), well());
    }

    #[test]
    fn without_proc_and_sys_nothing_is_known() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Evidence::gather(dir.path()), Evidence::default());
    }

    #[test]
    fn each_fact_comes_from_its_own_file() {
        let dir = machine();
        let root = dir.path();
        let mut expected = well();

        write(root, FILES[0], "CapEff:\t000001ffffbfffff\n");
        expected.sys_boot = Some(false);
        assert_eq!(Evidence::gather(root), expected);
        write(root, FILES[1], "1\n");
        expected.load_disabled = Some(true);
        assert_eq!(Evidence::gather(root), expected);
        write(root, FILES[2], "0\n");
        expected.load_limit_reboot = Some(0);
        assert_eq!(Evidence::gather(root), expected);
        write(root, FILES[3], "3\n");
        expected.load_limit_panic = Some(3);
        assert_eq!(Evidence::gather(root), expected);
        write(root, FILES[4], "none [integrity] confidentiality\n");
        expected.lockdown = Some(Lockdown::Integrity);
        assert_eq!(Evidence::gather(root), expected);
        write(root, FILES[4], "none integrity [confidentiality]\n");
        expected.lockdown = Some(Lockdown::Confidentiality);
        assert_eq!(Evidence::gather(root), expected);
        write(root, FILES[5], "1\n");
        expected.loaded = Some(true);
        assert_eq!(Evidence::gather(root), expected);
        write(root, FILES[6], "4096\n");
        expected.crash_size = Some(4096);
        assert_eq!(Evidence::gather(root), expected);
        link(root, "user", "user:[4026532215]");
        expected.initial_user_namespace = Some(false);
        assert_eq!(Evidence::gather(root), expected);
        link(root, "pid", "pid:[4026532216]");
        expected.initial_pid_namespace = Some(false);
        assert_eq!(Evidence::gather(root), expected);
    }

    #[test]
    fn a_name_cannot_pass_for_a_capability() {
        assert_eq!(
            has_sys_boot("Name:\tCapEff:\t400000\nCapEff:\t0\n"),
            Some(false)
        );
        assert_eq!(has_sys_boot("CapEffort:\t400000\n"), None);
        assert_eq!(has_sys_boot("CapEff:\t400000\n"), Some(true));
        assert_eq!(has_sys_boot("CapEff:\t3fffff\n"), Some(false));
        assert_eq!(has_sys_boot("CapEff:\n"), None);
    }

    #[test]
    fn memory_that_cannot_be_counted_is_unknown() {
        assert_eq!(parse_mem_total("MemTotal: 18014398509481984 kB\n"), None);
        assert_eq!(parse_mem_total("MemTotal: 1\n"), None);
        assert_eq!(parse_mem_total("MemTotal: -1 kB\n"), None);
        assert_eq!(parse_mem_total("SwapTotal: 1 kB\n"), None);
    }

    #[test]
    fn this_thread_can_be_observed() {
        let evidence = Evidence::gather(Path::new("/"));
        assert!(evidence.sys_boot.is_some());
        assert!(evidence.initial_user_namespace.is_some());
        assert!(evidence.initial_pid_namespace.is_some());
        assert!(evidence.mem_total.is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_bad_file_hides_only_its_own_fact(index in 0..FILES.len(), bytes: Vec<u8>) {
            let dir = machine();
            write(dir.path(), FILES[index], bytes);
            let mut seen = Evidence::gather(dir.path());
            let well = well();
            match index {
                0 => seen.sys_boot = well.sys_boot,
                1 => seen.load_disabled = well.load_disabled,
                2 => seen.load_limit_reboot = well.load_limit_reboot,
                3 => seen.load_limit_panic = well.load_limit_panic,
                4 => seen.lockdown = well.lockdown,
                5 => seen.loaded = well.loaded,
                6 => seen.crash_size = well.crash_size,
                _ => seen.mem_total = well.mem_total,
            }
            prop_assert_eq!(seen, well);
        }

        #[test]
        fn a_link_that_is_no_namespace_tells_nothing(target in "[a-z:\\[\\]]{1,20}") {
            let dir = machine();
            link(dir.path(), "user", &target);
            prop_assert_eq!(Evidence::gather(dir.path()).initial_user_namespace, None);
        }
    }
}
