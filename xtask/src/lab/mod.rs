//! The lab: what scenarios need before the first machine can boot.
//!
//! [`Lab::set_up`] takes a machine with Debian 12 or 13 and Rust to where QEMU boots the lab's kernels:
//! it installs packages, and builds kernels that have kexec jump, which Debian's own lack. What it makes
//! is kept in `$XDG_CACHE_HOME/kjump` or `~/.cache/kjump`, and a lab that is there is found in the time
//! that it takes to look for a dozen files.

mod activity;
mod apt;
mod build;
mod fragment;
mod kernel;
mod packages;
mod tools;

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use self::kernel::Cache;
pub(crate) use self::kernel::Kernel;
use self::tools::Collection;
pub(crate) use self::tools::Tools;

/// How `cargo xtask lab` is used.
const USAGE: &str = "\
Usage: cargo xtask lab [--refresh] [KERNEL]...

Sets up what scenarios need: packages, and the kernels that are named, or else 6.12.

  KERNEL     6.12, 6.1, 7.3 or debian-cloud
  --refresh  take the newest packages that Debian has of these kernels
  --help     print this
";

/// A lab that is set up.
#[derive(Debug)]
pub(crate) struct Lab {
    cache: PathBuf,
    kernels: BTreeMap<Kernel, PathBuf>,
    ovmf: (PathBuf, PathBuf),
    tools: OnceLock<Tools>,
    reference: OnceLock<Tools>,
    emulator: OnceLock<Tools>,
    storage: OnceLock<Tools>,
}

impl Lab {
    /// Sets up what is missing: packages, and those of `kernels` that the cache does not have.
    ///
    /// # Errors
    ///
    /// If packages are missing and the caller is not root, with the command that installs them; if
    /// apt, the network or a build fails.
    pub(crate) fn set_up(kernels: &[Kernel]) -> Result<Self> {
        Self::set_up_or_refresh(kernels, false)
    }

    fn set_up_or_refresh(kernels: &[Kernel], refresh: bool) -> Result<Self> {
        let cache = cache_directory()?;
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        if !packages::are_installed() {
            let _lock = lock(&cache)?;
            packages::install(&cache.join("packages.log"))?;
        }
        let ovmf = packages::ovmf()?;

        let there = Cache::open(&cache)?;
        for &kernel in kernels {
            if refresh || there.get(kernel).is_none() {
                let _lock = lock(&cache)?;
                // While this process waited, another one may have made it.
                if refresh || there.get(kernel).is_none() {
                    there.make(kernel)?;
                }
            }
        }
        let kernels = Kernel::ALL
            .into_iter()
            .filter_map(|kernel| Some((kernel, there.get(kernel)?)))
            .collect();
        Ok(Self {
            cache,
            kernels,
            ovmf,
            tools: OnceLock::new(),
            reference: OnceLock::new(),
            emulator: OnceLock::new(),
            storage: OnceLock::new(),
        })
    }

    /// The `bzImage` of `kernel`.
    ///
    /// # Panics
    ///
    /// If `kernel` is none of those that the lab was set up with.
    pub(crate) fn kernel(&self, kernel: Kernel) -> &Path {
        self.kernels
            .get(&kernel)
            .unwrap_or_else(|| panic!("the lab was not set up with kernel {kernel}"))
    }

    /// The `vmlinux` of `kernel`, with debugging symbols.
    ///
    /// # Errors
    ///
    /// If the lab has none of this kernel: Debian's own build comes without.
    ///
    /// # Panics
    ///
    /// If `kernel` is none of those that the lab was set up with.
    pub(crate) fn vmlinux(&self, kernel: Kernel) -> Result<PathBuf> {
        let vmlinux = self.kernel(kernel).with_file_name("vmlinux");
        if !vmlinux.exists() {
            bail!(
                "the lab has no debugging symbols of kernel {kernel}: there is no {}",
                vmlinux.display()
            );
        }
        Ok(vmlinux)
    }

    /// The tools that read saved memory, which are fetched when they are asked for and the cache does not
    /// have them.
    ///
    /// # Errors
    ///
    /// If apt or the network fails.
    pub(crate) fn tools(&self) -> Result<&Tools> {
        self.collection(&self.tools, &tools::ANALYSIS)
    }

    /// The programs to compare with, fetched in the same way: kexec-tools, and busybox. They are for
    /// virtual machines only.
    ///
    /// # Errors
    ///
    /// If apt or the network fails.
    pub(crate) fn reference(&self) -> Result<&Tools> {
        self.collection(&self.reference, &tools::REFERENCE)
    }

    /// A newer QEMU than the machine's own may be, fetched in the same way.
    ///
    /// # Errors
    ///
    /// If apt or the network fails.
    pub(crate) fn emulator(&self) -> Result<&Tools> {
        self.collection(&self.emulator, &tools::EMULATOR)
    }

    /// The programs that put disks together, fetched in the same way: those of LUKS, LVM, md and ext4. They are
    /// for virtual machines only.
    ///
    /// # Errors
    ///
    /// If apt or the network fails.
    pub(crate) fn storage(&self) -> Result<&Tools> {
        self.collection(&self.storage, &tools::STORAGE)
    }

    fn collection<'a>(
        &self,
        place: &'a OnceLock<Tools>,
        collection: &Collection,
    ) -> Result<&'a Tools> {
        if let Some(tools) = place.get() {
            return Ok(tools);
        }
        let tools = match Tools::get(&self.cache, collection) {
            Some(tools) => tools,
            None => {
                let _lock = lock(&self.cache)?;
                // While this process waited, another one may have fetched them.
                if Tools::get(&self.cache, collection).is_none() {
                    Tools::make(&self.cache, collection)?;
                }
                Tools::get(&self.cache, collection)
                    .context("the tools that were fetched are not there")?
            }
        };
        Ok(place.get_or_init(|| tools))
    }

    /// The UEFI firmware: its code, and the variables that a new machine starts with, which it needs a
    /// copy of its own of.
    pub(crate) fn ovmf(&self) -> (PathBuf, PathBuf) {
        self.ovmf.clone()
    }

    /// The directory that keeps what takes long to make. What others put there should have names that
    /// do not begin with `kernel-`, `source-`, `tools-`, `reference-`, `emulator-` or `storage-`.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }
}

/// Runs `cargo xtask lab` with `args`, which follow that name: sets up, and prints what is where.
///
/// # Errors
///
/// If an argument is none of the usage, and those of [`Lab::set_up`].
pub(crate) fn main(args: impl IntoIterator<Item = String>) -> Result<()> {
    let mut kernels = Vec::new();
    let mut refresh = false;
    for arg in args {
        match arg.as_str() {
            "--refresh" => refresh = true,
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(());
            }
            _ if arg.starts_with('-') => bail!("no option {arg}\n\n{USAGE}"),
            name => kernels.push(name.parse()?),
        }
    }
    if kernels.is_empty() {
        kernels.push(Kernel::ALL[0]);
    }

    let lab = Lab::set_up_or_refresh(&kernels, refresh)?;
    for kernel in Kernel::ALL {
        if lab.kernels.contains_key(&kernel) {
            println!("kernel {kernel:<13} {}", lab.kernel(kernel).display());
        } else {
            println!("kernel {kernel:<13} not there: `cargo xtask lab {kernel}` makes it");
        }
    }
    let (code, vars) = lab.ovmf();
    println!("UEFI code            {}", code.display());
    println!("UEFI variables       {}", vars.display());
    println!("cache                {}", lab.cache().display());
    Ok(())
}

/// Where the lab keeps what takes long to make (XDG Base Directory Specification, `$XDG_CACHE_HOME`).
fn cache_directory() -> Result<PathBuf> {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".cache")))
        .map(|caches| caches.join("kjump"))
        .context("no place for the lab's cache: set HOME or XDG_CACHE_HOME")
}

/// Keeps other processes from setting up the lab until the file is dropped.
fn lock(cache: &Path) -> Result<File> {
    let path = cache.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!(
                "waiting for another process that sets up the lab ({})",
                path.display()
            );
            file.lock()
                .with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_keeps_others_out_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path()).unwrap();
        let other = File::open(directory.path().join("lock")).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        other.try_lock().unwrap();
    }

    #[test]
    fn wrong_arguments_are_refused_before_anything_is_done() {
        for (arg, named) in [("--fresh", "Usage:"), ("5.4", "6.12, 6.1, 7.3")] {
            let error = main([arg.to_owned()]).unwrap_err().to_string();
            assert!(error.contains(arg) && error.contains(named), "{error}");
        }
    }
}
