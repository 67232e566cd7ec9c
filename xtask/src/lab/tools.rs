//! The tools that read saved memory: `crash`, `makedumpfile`, `gdb` and `drgn`, apart from the machine's.
//!
//! Only tools that are about as new as a kernel can read its memory, so those of Debian 12 or 13 will not
//! do. The lab takes newer ones, with all that they need down to the C library, into a directory of
//! their own, and runs them by the dynamic loader in there. Nothing is installed, and nobody has to be
//! root.

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

/// The packages that the tools are in.
const PACKAGES: [&str; 4] = ["crash", "gdb", "makedumpfile", "python3-drgn"];

/// Where they are taken from: one suite alone, for its packages go together; the second if the first
/// lacks one at that time.
const SUITES: [&[&str]; 2] = [&["testing"], &["sid"]];

/// The dynamic loader, in the tools' directory.
const LOADER: &str = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";

/// The libraries, in the tools' directory.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Where programs are, in the tools' directory.
const PROGRAMS: [&str; 2] = ["usr/bin", "usr/sbin"];

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
    pub(super) fn get(cache: &Path) -> Option<Self> {
        let packages = fs::read_to_string(record(cache))
            .ok()?
            .lines()
            .map(read_record)
            .collect::<Option<Vec<_>>>()?;
        let root = directory_of(cache, &packages);
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
    pub(super) fn make(cache: &Path) -> Result<()> {
        let log = cache.join("tools.log");
        fs::write(&log, "")?;
        let staging = Staging::new(cache.join("staging"))?;

        let (archive, packages) = find(&staging, &log)?;
        let directory = directory_of(cache, &packages);
        if !directory.exists() {
            let (debs, out) = (staging.directory("debs")?, staging.directory("out")?);
            archive.download_all("tools", &packages, &debs, &log)?;
            unpack(&debs, &out, &log)?;
            fs::write(out.join("recipe"), recipe(&packages))?;
            fs::rename(&out, &directory)?;
        }
        let records: String = packages.iter().map(write_record).collect();
        fs::write(record(cache), records)?;
        fs::remove_file(&log)?;
        Ok(())
    }

    /// A command that runs `program`, such as `crash` or `python3`, with the libraries and Python modules
    /// that came with it. A program that is not there is told of by the loader, when it is run.
    pub(crate) fn command(&self, program: &str) -> Command {
        let path = PROGRAMS
            .map(|directory| self.root.join(directory).join(program))
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_else(|| self.root.join(PROGRAMS[0]).join(program));
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

    /// The directory that the packages were unpacked in.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The packages that the tools themselves are in, without what they need.
    pub(crate) const fn packages() -> [&'static str; 4] {
        PACKAGES
    }
}

/// The archive that has the tools, and all the packages that it takes.
fn find(staging: &Staging, log: &Path) -> Result<(Archive, Vec<Package>)> {
    let mut refusal = None;
    for suites in SUITES {
        let directory = staging.directory(&format!("apt-{}", suites.join("-")))?;
        let archive = Archive::open(&directory, suites, log)?;
        match archive.closure(&PACKAGES) {
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
            r#"for deb in "$1"/*.deb; do dpkg-deb --extract "$deb" "$2"; done"#,
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
fn record(cache: &Path) -> PathBuf {
    cache.join("source-tools")
}

/// All that the tools are made of, as a text.
fn recipe(packages: &[Package]) -> String {
    let records: String = packages.iter().map(write_record).collect();
    format!("recipe {RECIPE}\n{records}")
}

/// Where the tools are if they were taken from `packages`.
fn directory_of(cache: &Path, packages: &[Package]) -> PathBuf {
    cache.join(format!("tools-{}", key(&recipe(packages))))
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
        let root = directory_of(cache, &packages);
        fs::create_dir_all(root.join(LIBRARIES)).unwrap();
        fs::write(root.join(LOADER), "").unwrap();
        let records: String = packages.iter().map(write_record).collect();
        fs::write(record(cache), records).unwrap();
        Tools { root, packages }
    }

    #[test]
    fn tools_are_there_once_their_record_and_their_directory_are() {
        let cache = tempfile::tempdir().unwrap();
        assert!(Tools::get(cache.path()).is_none());
        let made = cached(cache.path());
        let found = Tools::get(cache.path()).unwrap();
        assert_eq!(found.root(), made.root());
        assert_eq!(found.version("crash"), Some("9.0.2+~16.3-1"));
        assert_eq!(found.version("gdb"), None);

        fs::write(record(cache.path()), "crash 9\n").unwrap();
        assert!(Tools::get(cache.path()).is_none());
        let newer = write_record(&package("crash", "9.0.3-1"));
        fs::write(record(cache.path()), newer).unwrap();
        assert!(Tools::get(cache.path()).is_none());
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
        let place = |packages: &[Package]| directory_of(cache, packages);
        let base = [package("crash", "9"), package("gdb", "18")];
        assert_ne!(place(&base), place(&base[..1]));
        assert_ne!(
            place(&base),
            place(&[package("crash", "9"), package("gdb", "19")])
        );
    }
}
