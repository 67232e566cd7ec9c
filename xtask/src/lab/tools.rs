//! Other people's programs, apart from the machine's own: collections of packages that are unpacked and
//! not installed, with all that they need down to the C library. They run by the dynamic loader that came
//! along. Nobody has to be root, no service starts, and no question is asked.
//!
//! * [`ANALYSIS`]: the tools that read saved memory, `crash`, `makedumpfile`, `gdb` and `drgn`. Only
//!   tools that are about as new as a kernel can read its memory, so those of Debian 12 or 13 will not do.
//! * [`REFERENCE`]: kexec-tools, to compare `kexec` with, and busybox, to run scripts in machines. They
//!   run in virtual machines only.
//! * [`EMULATOR`]: a newer QEMU than that of Debian 12, for machines that encrypt.
//! * [`STORAGE`]: the tools of LUKS, LVM, md and ext4, which set up disks in virtual machines only, too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::activity;
use super::apt::{Archive, Package};
use super::kernel::{Staging, key, read_record, write_record};

/// Version of what this module does: to be raised whenever it makes another directory out of the same
/// packages.
const RECIPE: u32 = 1;

/// Packages that are taken together.
#[derive(Debug)]
pub(super) struct Collection {
    /// What the cache calls it.
    name: &'static str,
    packages: &'static [&'static str],
    /// Where they are taken from: one suite alone, for its packages go together; the next if the first
    /// lacks one at that time.
    suites: &'static [&'static [&'static str]],
}

/// The tools that read saved memory.
pub(super) const ANALYSIS: Collection = Collection {
    name: "tools",
    packages: &["crash", "gdb", "makedumpfile", "python3-drgn"],
    suites: &[&["testing"], &["sid"]],
};

/// The programs to compare with, of the Debian that most scripts were written for.
pub(super) const REFERENCE: Collection = Collection {
    name: "reference",
    packages: &["busybox-static", "kexec-tools"],
    suites: &[&["bookworm"]],
};

/// The QEMU of Debian 13. It does the instructions for AES by those of the host
/// (`host/include/x86_64/host/crypto/aes-round.h`), where that of Debian 12 has a loop for each.
pub(super) const EMULATOR: Collection = Collection {
    name: "emulator",
    packages: &["qemu-system-x86"],
    suites: &[&["trixie"]],
};

/// The programs that put disks together, of the Debian that the default kernel is of.
pub(super) const STORAGE: Collection = Collection {
    name: "storage",
    packages: &["cryptsetup-bin", "e2fsprogs", "lvm2", "mdadm"],
    suites: &[&["trixie"]],
};

/// The dynamic loader, in the tools' directory.
const LOADER: &str = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";

/// The libraries, in the tools' directory.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Where programs are, in the tools' directory.
const PROGRAMS: [&str; 2] = ["usr/bin", "usr/sbin"];

/// Where QEMU's firmware is: its own, and its BIOS.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// Variables by which the caller's environment would lead the tools to other libraries, other modules,
/// or to a server of debugging symbols.
const STRAY: [&str; 6] = [
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "DEBUGINFOD_URLS",
    "GDBHISTFILE",
];

/// The tools, unpacked.
#[derive(Debug)]
pub(crate) struct Tools {
    root: PathBuf,
    packages: Vec<Package>,
}

impl Tools {
    /// The tools that `cache` has, if it has any.
    pub(super) fn get(cache: &Path, collection: &Collection) -> Option<Self> {
        let packages = fs::read_to_string(record(cache, collection))
            .ok()?
            .lines()
            .map(read_record)
            .collect::<Option<Vec<_>>>()?;
        let root = directory_of(cache, collection, &packages);
        root.join(LOADER)
            .exists()
            .then_some(Self { root, packages })
    }

    /// Takes the tools from the newest packages that Debian has of them into `cache`. The caller holds
    /// its lock.
    ///
    /// # Errors
    ///
    /// If Debian does not have all packages, or one cannot be unpacked; then the log stays in the cache.
    pub(super) fn make(cache: &Path, collection: &Collection) -> Result<()> {
        let log = cache.join(format!("{}.log", collection.name));
        fs::write(&log, "")?;
        let staging = Staging::new(cache.join("staging"))?;

        let (archive, packages) = find(collection, &staging, &log)?;
        let directory = directory_of(cache, collection, &packages);
        if !directory.exists() {
            let (debs, out) = (staging.directory("debs")?, staging.directory("out")?);
            archive.download_all(collection.name, &packages, &debs, &log)?;
            unpack(&debs, &out, &log)?;
            fs::write(out.join("recipe"), recipe(&packages))?;
            fs::rename(&out, &directory)?;
        }
        let records: String = packages.iter().map(write_record).collect();
        fs::write(record(cache, collection), records)?;
        fs::remove_file(&log)?;
        Ok(())
    }

    /// A command that runs `program`, such as `crash` or `python3`, with the libraries and Python modules
    /// that came with it. A program that is not there is told of by the loader, when it is run.
    pub(crate) fn command(&self, program: &str) -> Command {
        let path = self.program(program);
        let mut command = Command::new(self.root.join(LOADER));
        command
            .arg("--library-path")
            .arg(self.root.join(LIBRARIES))
            .arg(path)
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "dumb")
            .env("PYTHONHOME", self.root.join("usr"))
            // The directory is shared by all who use the cache, and stays as it was unpacked.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONNOUSERSITE", "1");
        for name in STRAY {
            command.env_remove(name);
        }
        command
    }

    /// The program `name`, which needs the loader and the libraries that come with it.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        PROGRAMS
            .map(|directory| self.root.join(directory).join(name))
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_else(|| self.root.join(PROGRAMS[0]).join(name))
    }

    /// The libraries that `program` needs, the loader among them: where they are for it, and where they
    /// are here. Nothing of it is run.
    ///
    /// # Errors
    ///
    /// If the loader does not tell.
    pub(crate) fn libraries(&self, name: &str) -> Result<Vec<(String, PathBuf)>> {
        let mut list = Command::new(self.root.join(LOADER));
        list.arg("--library-path")
            .arg(self.root.join(LIBRARIES))
            .arg("--list")
            .arg(self.program(name));
        let output = list.output().context("starting the loader")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut libraries = vec![(
            "/lib64/ld-linux-x86-64.so.2".to_owned(),
            self.root.join(LOADER),
        )];
        // Lines such as `libc.so.6 => /somewhere/libc.so.6 (0x7f…)`.
        for line in text.lines() {
            if let Some((name, rest)) = line.trim().split_once(" => ")
                && let Some((path, _)) = rest.rsplit_once(" (")
                && !name.contains('/')
            {
                libraries.push((format!("/usr/lib/x86_64-linux-gnu/{name}"), path.into()));
            }
        }
        anyhow::ensure!(libraries.len() > 1, "the loader names no library of {name}");
        Ok(libraries)
    }

    /// The Debian version of the package `name`, if it is one of those that were unpacked.
    pub(crate) fn version(&self, name: &str) -> Option<&str> {
        self.packages
            .iter()
            .find(|package| package.name == name)
            .map(|package| &*package.version)
    }

    /// A library that came with them, by the name of its file.
    pub(crate) fn library(&self, name: &str) -> PathBuf {
        self.root.join(LIBRARIES).join(name)
    }

    /// The emulator, with the firmware that came with it: by itself it would look for that beside the loader.
    pub(crate) fn qemu(&self) -> Command {
        let mut command = self.command("qemu-system-x86_64");
        for folder in FIRMWARE {
            command.arg("-L").arg(self.root.join(folder));
        }
        command
    }

    /// The directory that the packages were unpacked in.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The packages that the tools of analysis themselves are in, without what they need.
    pub(crate) const fn packages() -> &'static [&'static str] {
        ANALYSIS.packages
    }
}

/// The archive that has the tools, and all the packages that it takes.
fn find(collection: &Collection, staging: &Staging, log: &Path) -> Result<(Archive, Vec<Package>)> {
    let mut refusal = None;
    for suites in collection.suites {
        let directory = staging.directory(&format!("apt-{}", suites.join("-")))?;
        let archive = Archive::open(&directory, suites, log)?;
        match archive.closure(collection.packages) {
            Ok(packages) => return Ok((archive, packages)),
            // What the first suite lacks tells most.
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.context("there is no suite to take the tools from")?)
}

/// Unpacks all packages of the directory `debs` into `root`, without running what they bring along.
fn unpack(debs: &Path, root: &Path, log: &Path) -> Result<()> {
    let mut unpack = Command::new("sh");
    unpack
        .args([
            "-e",
            "-c",
            // Debian 12 still has some directories both in the root and in usr.
            r#"for deb in "$1"/*.deb; do dpkg-deb --extract "$deb" "$2"; done
            for dir in bin sbin lib lib64; do
                if [ -d "$2/$dir" ] && [ ! -L "$2/$dir" ]; then
                    mkdir -p "$2/usr/$dir"
                    cp -a "$2/$dir/." "$2/usr/$dir/"
                    rm -r "${2:?}/$dir"
                fi
            done"#,
        ])
        .arg("unpack")
        .args([debs, root]);
    activity::run("tools: unpacking", &mut unpack, log, activity::no_state)?;
    let loader = root.join(LOADER);
    fs::metadata(&loader).with_context(|| {
        format!("the package libc6 brought no {LOADER}, by which the tools are run")
    })?;
    Ok(())
}

/// The file that remembers the packages that the tools were last taken from.
fn record(cache: &Path, collection: &Collection) -> PathBuf {
    cache.join(format!("source-{}", collection.name))
}

/// All that the tools are made of, as a text.
fn recipe(packages: &[Package]) -> String {
    let records: String = packages.iter().map(write_record).collect();
    format!("recipe {RECIPE}\n{records}")
}

/// Where the tools are if they were taken from `packages`.
fn directory_of(cache: &Path, collection: &Collection, packages: &[Package]) -> PathBuf {
    cache.join(format!("{}-{}", collection.name, key(&recipe(packages))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            sha256: "8f".repeat(32),
        }
    }

    /// A cache that has tools without any program, and the tools.
    fn cached(cache: &Path) -> Tools {
        let packages = vec![
            package("crash", "9.0.2+~16.3-1"),
            package("libc6", "2.43-7"),
        ];
        let root = directory_of(cache, &ANALYSIS, &packages);
        fs::create_dir_all(root.join(LIBRARIES)).unwrap();
        fs::write(root.join(LOADER), "").unwrap();
        let records: String = packages.iter().map(write_record).collect();
        fs::write(record(cache, &ANALYSIS), records).unwrap();
        Tools { root, packages }
    }

    #[test]
    fn tools_are_there_once_their_record_and_their_directory_are() {
        let cache = tempfile::tempdir().unwrap();
        assert!(Tools::get(cache.path(), &ANALYSIS).is_none());
        let made = cached(cache.path());
        let found = Tools::get(cache.path(), &ANALYSIS).unwrap();
        assert_eq!(found.root(), made.root());
        assert_eq!(found.version("crash"), Some("9.0.2+~16.3-1"));
        assert_eq!(found.version("gdb"), None);

        fs::write(record(cache.path(), &ANALYSIS), "crash 9\n").unwrap();
        assert!(Tools::get(cache.path(), &ANALYSIS).is_none());
        let newer = write_record(&package("crash", "9.0.3-1"));
        fs::write(record(cache.path(), &ANALYSIS), newer).unwrap();
        assert!(Tools::get(cache.path(), &ANALYSIS).is_none());
    }

    #[test]
    fn programs_run_by_the_loader_that_came_with_them() {
        let cache = tempfile::tempdir().unwrap();
        let tools = cached(cache.path());
        let sbin = tools.root().join("usr/sbin");
        fs::create_dir_all(&sbin).unwrap();
        fs::write(sbin.join("makedumpfile"), "").unwrap();
        for (program, place) in [("makedumpfile", "usr/sbin"), ("nothing", "usr/bin")] {
            let command = tools.command(program);
            assert_eq!(
                command.get_program(),
                tools.root().join(LOADER).into_os_string()
            );
            let path = tools.root().join(place).join(program);
            assert_eq!(command.get_args().last(), Some(path.as_os_str()));
        }
    }

    #[test]
    fn the_callers_libraries_and_modules_are_not_used() {
        let cache = tempfile::tempdir().unwrap();
        let command = cached(cache.path()).command("python3");
        for name in STRAY {
            assert!(
                command
                    .get_envs()
                    .any(|(key, value)| key == name && value.is_none()),
                "{name}"
            );
        }
    }

    #[test]
    fn all_that_goes_into_the_tools_changes_their_place() {
        let cache = Path::new("/cache");
        let place = |packages: &[Package]| directory_of(cache, &ANALYSIS, packages);
        let base = [package("crash", "9"), package("gdb", "18")];
        assert_ne!(place(&base), place(&base[..1]));
        assert_ne!(
            place(&base),
            place(&[package("crash", "9"), package("gdb", "19")])
        );
    }
}
