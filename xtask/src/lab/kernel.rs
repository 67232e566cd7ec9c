//! The kernels of the lab: which there are, and the cache that keeps them.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use sha2::{Digest, Sha256};

use super::apt::{Archive, Package};
use super::build::{self, Build};
use super::fragment::Fragment;

/// What the lab's own kernels are to have on top of `make tinyconfig`.
const FRAGMENT: &str = include_str!("../../lab/kernel.config");

/// What scenarios count on with Debian's own kernel: that it cannot do what they ask for.
const DEBIAN_EXPECTED: &str = "# CONFIG_KEXEC_JUMP is not set\n";

/// A kernel that the lab can boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kernel {
    /// The long-term kernel of Debian 13: what scenarios run on unless they say otherwise.
    V6_12,
    /// The long-term kernel of Debian 12, the oldest that is supported: it comes back from a jump with
    /// an empty GDT.
    V6_1,
    /// The newest that Debian has.
    V7_3,
    /// Debian's own build for virtual machines. It can kexec but not jump.
    DebianCloud,
}

impl Kernel {
    /// All of them, the default first.
    pub(crate) const ALL: [Self; 4] = [Self::V6_12, Self::V6_1, Self::V7_3, Self::DebianCloud];

    /// The name that the command line and the cache have for it.
    const fn name(self) -> &'static str {
        match self {
            Self::V6_12 => "6.12",
            Self::V6_1 => "6.1",
            Self::V7_3 => "7.3",
            Self::DebianCloud => "debian-cloud",
        }
    }

    /// The Debian package that it comes from.
    const fn package(self) -> &'static str {
        match self {
            Self::V6_12 => "linux-source-6.12",
            Self::V6_1 => "linux-source-6.1",
            Self::V7_3 => "linux-source-7.3",
            Self::DebianCloud => "linux-image-cloud-amd64",
        }
    }

    /// The suites of Debian's archives that have the package, in its newest version.
    const fn suites(self) -> &'static [&'static str] {
        match self {
            Self::V6_12 | Self::DebianCloud => &["trixie-security"],
            Self::V6_1 => &["bookworm-security"],
            Self::V7_3 => &["trixie-backports", "sid"],
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kernel {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kernel| kernel.name() == name)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                anyhow!("the lab has no kernel `{name}`, only {names}")
            })
    }
}

/// The kernels that are there, and what it takes to make others.
///
/// Each kernel has a directory of its own, named by all that went into it. So nothing is made twice,
/// nothing stale is used, and what is there can be told without apt and without the network: of the
/// packages that kernels come from, the cache remembers version and hash.
pub(super) struct Cache {
    directory: PathBuf,
    compiler: String,
    fragment: Fragment,
}

impl Cache {
    /// The cache in `directory`, for the compiler that the machine has now.
    ///
    /// # Errors
    ///
    /// If there is no compiler, or if the lab's kernel configuration is no fragment.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        Ok(Self {
            directory: directory.to_owned(),
            compiler: build::compiler()?,
            fragment: Fragment::parse(FRAGMENT)?,
        })
    }

    /// The `bzImage` of `kernel`, if the cache has it as it would be built now.
    pub(super) fn get(&self, kernel: Kernel) -> Option<PathBuf> {
        let package = read_record(&fs::read_to_string(self.record(kernel)).ok()?)?;
        let image = self
            .directory_of(kernel, &self.recipe(kernel, &package))
            .join("bzImage");
        image.exists().then_some(image)
    }

    /// Makes `kernel` out of its newest package, unless the cache has just that. The caller holds the
    /// lock of the cache.
    ///
    /// # Errors
    ///
    /// If Debian does not have the package, or if the build fails; then the log stays in the cache.
    pub(super) fn make(&self, kernel: Kernel) -> Result<()> {
        let log = self.directory.join(format!("kernel-{kernel}.log"));
        fs::write(&log, "")?;
        let staging = Staging::new(self.directory.join("staging"))?;

        let archive = Archive::open(&staging.directory("apt")?, kernel.suites(), &log)?;
        let package = match kernel {
            Kernel::DebianCloud => archive.package_behind(kernel.package(), "linux-image-")?,
            _ => archive.package(kernel.package())?,
        };
        let recipe = self.recipe(kernel, &package);
        let directory = self.directory_of(kernel, &recipe);
        if !directory.exists() {
            let (work, out) = (staging.directory("work")?, staging.directory("out")?);
            let build = Build {
                name: kernel.name(),
                deb: &archive.download(&package, &work, &log)?,
                work: &work,
                out: &out,
                log: &log,
            };
            match kernel {
                Kernel::DebianCloud => {
                    build.take_image(&package.name, &Fragment::parse(DEBIAN_EXPECTED)?)?;
                }
                _ => build.compile(&package.name, &self.fragment)?,
            }
            fs::write(out.join("recipe"), recipe)?;
            fs::rename(&out, &directory)?;
        }
        fs::write(self.record(kernel), write_record(&package))?;
        fs::remove_file(&log)?;
        Ok(())
    }

    /// The file that remembers the package of which `kernel` was last made.
    fn record(&self, kernel: Kernel) -> PathBuf {
        self.directory.join(format!("source-{kernel}"))
    }

    /// All that goes into `kernel`, as a text.
    fn recipe(&self, kernel: Kernel, package: &Package) -> String {
        let Package {
            name,
            version,
            sha256,
        } = package;
        let source = format!(
            "recipe {}\npackage {name} {version}\nsha256 {sha256}\n",
            build::RECIPE
        );
        match kernel {
            Kernel::DebianCloud => source,
            _ => format!(
                "{source}compiler {}\n\n{}",
                self.compiler,
                self.fragment.to_config()
            ),
        }
    }

    /// Where `kernel` is if it was made by `recipe`.
    fn directory_of(&self, kernel: Kernel, recipe: &str) -> PathBuf {
        self.directory
            .join(format!("kernel-{kernel}-{}", key(recipe)))
    }
}

/// A directory for what is in the making, beside its later place, so that it gets there by a rename.
/// It is removed when it is dropped.
pub(super) struct Staging(PathBuf);

impl Staging {
    /// An empty directory at `path`. What is there was left by a process that was killed.
    pub(super) fn new(path: PathBuf) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// A new directory in it.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays is removed by the next one.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Sixteen hexadecimal digits that stand for `recipe`.
pub(super) fn key(recipe: &str) -> String {
    Sha256::digest(recipe)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A package as a line of the cache.
pub(super) fn write_record(package: &Package) -> String {
    format!("{} {} {}\n", package.name, package.version, package.sha256)
}

/// The package in a line that [`write_record`] wrote.
pub(super) fn read_record(line: &str) -> Option<Package> {
    let [name, version, sha256] = line
        .split_whitespace()
        .collect::<Vec<_>>()
        .try_into()
        .ok()?;
    let [name, version, sha256] = [name, version, sha256].map(str::to_owned);
    Some(Package {
        name,
        version,
        sha256,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn package() -> Package {
        Package {
            name: "linux-source-6.12".to_owned(),
            version: "6.12.117-1".to_owned(),
            sha256: "8f".repeat(32),
        }
    }

    fn cache(directory: &Path) -> Cache {
        Cache {
            directory: directory.to_owned(),
            compiler: "gcc 12.2.0".to_owned(),
            fragment: Fragment::parse(FRAGMENT).unwrap(),
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for kernel in Kernel::ALL {
            assert_eq!(kernel.to_string().parse::<Kernel>().unwrap(), kernel);
        }
        let error = "6.13".parse::<Kernel>().unwrap_err().to_string();
        assert!(
            error.contains("6.13") && error.contains("6.12, 6.1, 7.3, debian-cloud"),
            "{error}"
        );
    }

    #[test]
    fn all_that_goes_into_a_kernel_changes_its_key() {
        let base = cache(Path::new("/cache"));
        let recipe = |cache: &Cache, package: &Package| cache.recipe(Kernel::V6_12, package);
        let with_fragment = |text: &str| Cache {
            fragment: Fragment::parse(text).unwrap(),
            ..cache(Path::new("/cache"))
        };
        let recipes = [
            recipe(&base, &package()),
            recipe(
                &base,
                &Package {
                    name: "linux-source-6.13".to_owned(),
                    ..package()
                },
            ),
            recipe(
                &base,
                &Package {
                    version: "6.12.118-1".to_owned(),
                    ..package()
                },
            ),
            recipe(
                &base,
                &Package {
                    sha256: "8e".repeat(32),
                    ..package()
                },
            ),
            recipe(
                &Cache {
                    compiler: "gcc 14.2.0".to_owned(),
                    ..cache(Path::new("/cache"))
                },
                &package(),
            ),
            recipe(&with_fragment("CONFIG_SMP=y"), &package()),
            recipe(&with_fragment("# CONFIG_SMP is not set"), &package()),
            recipe(&base, &package()).replacen("recipe ", "recipe 1", 1),
        ];
        let keys: HashSet<String> = recipes.iter().map(|recipe| key(recipe)).collect();
        assert_eq!(keys.len(), recipes.len());
        assert!(keys.iter().all(|key| key.len() == 16));
    }

    #[test]
    fn words_about_the_configuration_do_not_change_a_key() {
        let commented = Cache {
            fragment: Fragment::parse(&format!("# For a reason.\n\n{FRAGMENT}")).unwrap(),
            ..cache(Path::new("/cache"))
        };
        assert_eq!(
            commented.recipe(Kernel::V6_12, &package()),
            cache(Path::new("/cache")).recipe(Kernel::V6_12, &package())
        );
    }

    #[test]
    fn a_compiler_does_not_matter_to_a_kernel_that_is_not_compiled() {
        let other = Cache {
            compiler: "gcc 14.2.0".to_owned(),
            ..cache(Path::new("/cache"))
        };
        assert_eq!(
            other.recipe(Kernel::DebianCloud, &package()),
            cache(Path::new("/cache")).recipe(Kernel::DebianCloud, &package())
        );
    }

    #[test]
    fn a_kernel_is_there_once_its_record_and_its_image_are() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(directory.path());
        assert_eq!(cache.get(Kernel::V6_12), None);

        fs::write(cache.record(Kernel::V6_12), write_record(&package())).unwrap();
        assert_eq!(cache.get(Kernel::V6_12), None);

        let made = cache.directory_of(Kernel::V6_12, &cache.recipe(Kernel::V6_12, &package()));
        fs::create_dir(&made).unwrap();
        fs::write(made.join("bzImage"), "").unwrap();
        assert_eq!(cache.get(Kernel::V6_12), Some(made.join("bzImage")));
        assert_eq!(cache.get(Kernel::V6_1), None);

        let newer = Package {
            version: "6.12.118-1".to_owned(),
            ..package()
        };
        fs::write(cache.record(Kernel::V6_12), write_record(&newer)).unwrap();
        assert_eq!(cache.get(Kernel::V6_12), None);
    }

    #[test]
    fn records_are_read_as_they_are_written() {
        assert_eq!(read_record(&write_record(&package())), Some(package()));
        for line in ["", "linux-source-6.12 6.12.117-1", "a b c d"] {
            assert_eq!(read_record(line), None, "{line}");
        }
    }

    #[test]
    fn what_a_killed_process_left_is_cleared_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("staging");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("left"), "").unwrap();
        let staging = Staging::new(path.clone()).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        assert!(staging.directory("out").unwrap().is_dir());
        drop(staging);
        assert!(!path.exists());
    }
}
