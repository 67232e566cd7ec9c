//! The Debian packages that the lab needs, found by what they bring along.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::activity;

/// A Debian package, and how to see without apt that what it brings is there.
struct Package {
    name: &'static str,
    /// What the lab needs it for.
    why: &'static str,
    probe: Probe,
}

/// What there is where a package is installed.
enum Probe {
    /// A program on `PATH` or in a directory of the system's programs.
    Program(&'static str),
    /// A file that is one of these.
    File(&'static [&'static str]),
}

/// All that the lab needs beyond a minimal Debian 12 or 13 with Rust, which brings gcc's linker along
/// but not always what is needed to compile C.
const PACKAGES: &[Package] = &[
    Package {
        name: "qemu-system-x86",
        why: "runs the machines of the scenarios",
        probe: Probe::Program("qemu-system-x86_64"),
    },
    Package {
        name: "ovmf",
        why: "boots them by UEFI",
        probe: Probe::File(&[OVMF[0].0, OVMF[1].0]),
    },
    Package {
        name: "e2fsprogs",
        why: "makes their file systems",
        probe: Probe::Program("mkfs.ext4"),
    },
    Package {
        name: "xfsprogs",
        why: "makes their file systems",
        probe: Probe::Program("mkfs.xfs"),
    },
    Package {
        name: "btrfs-progs",
        why: "makes their file systems",
        probe: Probe::Program("mkfs.btrfs"),
    },
    Package {
        name: "dosfstools",
        why: "makes their file systems",
        probe: Probe::Program("mkfs.vfat"),
    },
    Package {
        name: "cpio",
        why: "reads our initramfs archives in a test",
        probe: Probe::Program("cpio"),
    },
    Package {
        name: "gcc",
        why: "builds the kernels",
        probe: Probe::Program("gcc"),
    },
    Package {
        name: "libc6-dev",
        why: "builds the kernels' tools, and static programs",
        probe: Probe::File(&[
            "/usr/lib/x86_64-linux-gnu/libc.a",
            "/usr/lib64/libc.a",
            "/usr/lib/libc.a",
        ]),
    },
    Package {
        name: "make",
        why: "builds the kernels",
        probe: Probe::Program("make"),
    },
    Package {
        name: "flex",
        why: "builds the kernels' configurator",
        probe: Probe::Program("flex"),
    },
    Package {
        name: "bison",
        why: "builds the kernels' configurator",
        probe: Probe::Program("bison"),
    },
    Package {
        name: "bc",
        why: "computes the kernels' time constants",
        probe: Probe::Program("bc"),
    },
    Package {
        name: "libelf-dev",
        why: "builds the kernels' objtool",
        probe: Probe::File(&["/usr/include/gelf.h"]),
    },
    Package {
        name: "xz-utils",
        why: "unpacks the kernels' sources",
        probe: Probe::Program("xz"),
    },
];

/// Code and variables of the UEFI firmware, as the package ovmf has them: Debian 12 and 13 in flash of
/// 4 MiB, older ones of 2 MiB.
const OVMF: [(&str, &str); 2] = [
    (
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    (
        "/usr/share/OVMF/OVMF_CODE.fd",
        "/usr/share/OVMF/OVMF_VARS.fd",
    ),
];

impl Package {
    /// Whether what the package brings is there, whoever brought it.
    fn is_there(&self) -> bool {
        match self.probe {
            Probe::Program(name) => find_program(name).is_some(),
            Probe::File(paths) => paths.iter().any(|path| Path::new(path).exists()),
        }
    }
}

/// The packages that are missing.
fn missing() -> Vec<&'static Package> {
    PACKAGES
        .iter()
        .filter(|package| !package.is_there())
        .collect()
}

/// Where the program `name` is: on `PATH`, or in the directories that only root has there.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Whether everything is there that the lab needs of the machine. Asks nobody but the file system.
pub(super) fn are_installed() -> bool {
    missing().is_empty()
}

/// Installs the packages that are missing. The file `log` takes apt's output, and stays if apt fails.
///
/// # Errors
///
/// If this needs root and the caller is not, with the command that does it; or if apt fails.
pub(super) fn install(log: &Path) -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    if find_program("apt-get").is_none() {
        bail!(
            "the lab needs what these Debian packages bring, and there is no apt-get to install \
             them with:\n{}",
            reasons(&missing)
        );
    }
    if !is_root()? {
        bail!(
            "the lab needs packages that only root can install:\n{}Run\n\n    \
             sudo apt-get update && sudo apt-get install --no-install-recommends {}\n\n\
             and then this again.",
            reasons(&missing),
            names.join(" ")
        );
    }

    eprint!(
        "The lab needs packages that are not installed yet:\n{}",
        reasons(&missing)
    );
    fs::write(log, "").with_context(|| format!("cannot write {}", log.display()))?;
    // What cannot be brought up to date may still be good enough; if not, the log has both outputs.
    let _ = activity::run(
        "packages: updating apt's lists",
        apt_get().arg("update"),
        log,
        activity::no_state,
    );
    let mut install = apt_get();
    install
        .args(["install", "-y", "--no-install-recommends"])
        .args(&names);
    activity::run(
        "packages: installing",
        &mut install,
        log,
        activity::no_state,
    )?;

    let still_missing: Vec<&str> = self::missing().iter().map(|package| package.name).collect();
    if !still_missing.is_empty() {
        bail!(
            "{} installed, but not what they should bring: is this a Debian 12 or 13?",
            still_missing.join(" ")
        );
    }
    fs::remove_file(log)?;
    Ok(())
}

/// One line for each package, with what it is for.
fn reasons(packages: &[&Package]) -> String {
    packages.iter().fold(String::new(), |mut text, package| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    {:<16} {}", package.name, package.why);
        text
    })
}

/// An `apt-get` that asks no questions, and waits for another one to finish.
fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C")
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"]);
    command
}

/// Whether this process may install packages.
fn is_root() -> Result<bool> {
    // The owner of a process' directory is its effective user (proc(5)).
    let process =
        fs::metadata("/proc/self").context("cannot look at /proc/self: is /proc mounted?")?;
    Ok(process.uid() == 0)
}

/// Code and variables of the UEFI firmware.
///
/// # Errors
///
/// If neither place that Debian has for them holds them.
pub(super) fn ovmf() -> Result<(PathBuf, PathBuf)> {
    OVMF.iter()
        .map(|(code, vars)| (PathBuf::from(code), PathBuf::from(vars)))
        .find(|(code, vars)| code.exists() && vars.exists())
        .context("no UEFI firmware in /usr/share/OVMF: reinstall the package ovmf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_on_the_path() {
        assert!(find_program("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find_program("no-program-of-this-name"), None);
    }

    #[test]
    fn any_of_several_files_will_do() {
        let package = |paths| Package {
            name: "x",
            why: "y",
            probe: Probe::File(paths),
        };
        assert!(package(&["/nonexistent", "/proc/self"]).is_there());
        assert!(!package(&["/nonexistent", "/proc/nonexistent"]).is_there());
        assert!(!package(&[]).is_there());
    }

    #[test]
    fn reasons_name_every_package() {
        let all: Vec<&Package> = PACKAGES.iter().collect();
        let text = reasons(&all);
        assert_eq!(text.lines().count(), PACKAGES.len());
        assert!(
            text.contains("    bc               computes the kernels' time constants\n"),
            "{text}"
        );
    }
}
