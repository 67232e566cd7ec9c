//! A kernel out of a Debian package: built from source, or taken as Debian built it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context, Result, bail};

use super::activity;
use super::fragment::Fragment;

/// Version of what this module does: to be raised whenever it makes another kernel out of the same
/// source and configuration.
pub(super) const RECIPE: u32 = 3;

/// What is kept of a build, and the names that it is kept under.
const PRODUCTS: [(&str, &str); 4] = [
    ("arch/x86/boot/bzImage", "bzImage"),
    ("vmlinux", "vmlinux"),
    (".config", "config"),
    ("System.map", "System.map"),
];

/// What `make M=…` needs of a built tree to build a module for its kernel
/// (`Documentation/kbuild/modules.rst`).
const HEADERS: [&str; 11] = [
    "Makefile",
    ".config",
    "Module.symvers",
    "include",
    "scripts",
    "arch/x86/include",
    "arch/x86/Makefile",
    "arch/x86/Makefile.postlink",
    "arch/x86/Makefile_32.cpu",
    "arch/x86/Makefile.um",
    "tools/objtool/objtool",
];

/// The compiler that kernels are built with, in the words of its first line about itself.
///
/// # Errors
///
/// If there is no gcc.
pub(super) fn compiler() -> Result<String> {
    let output = Command::new("gcc")
        .env("LC_ALL", "C")
        .arg("--version")
        .output()
        .context("cannot start gcc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// One kernel in the making.
pub(super) struct Build<'a> {
    /// What the kernel is called in messages.
    pub(super) name: &'a str,
    /// The package; it is removed as soon as it is unpacked.
    pub(super) deb: &'a Path,
    /// An empty directory to work in, with 2.5 GB of free space.
    pub(super) work: &'a Path,
    /// An empty directory that takes `bzImage`, `config` and, of a compiled kernel, `vmlinux`, `System.map`,
    /// the folder `modules`, and `headers.tar`.
    pub(super) out: &'a Path,
    /// What takes the output of all commands.
    pub(super) log: &'a Path,
}

impl Build<'_> {
    /// Builds the kernel from the package `linux-source-…`, with `make tinyconfig` and the options of
    /// `fragment`.
    ///
    /// The same source, fragment and tools make the same `bzImage`, bit by bit: user, host and time are
    /// fixed (`Documentation/kbuild/reproducible-builds.rst`).
    ///
    /// # Errors
    ///
    /// If a command fails, or if the source cannot have all that `fragment` asks for.
    pub(super) fn compile(&self, package: &str, fragment: &Fragment) -> Result<()> {
        let contents = self.unpack_package()?;
        let archive = contents.join(format!("usr/src/{package}.tar.xz"));
        let tree = self.work.join("tree");
        fs::create_dir(&tree)?;
        let mut tar = Command::new("tar");
        tar.arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(&tree)
            .arg("--strip-components=1");
        self.run("unpacking the source", &mut tar)?;
        fs::remove_dir_all(contents)?;

        self.configure(&tree, fragment)?;
        let what = format!("kernel {}: building", self.name);
        let jobs = available_parallelism().map_or(1, usize::from);
        let mut make = make(&tree);
        make.arg(format!("-j{jobs}")).args(["bzImage", "modules"]);
        activity::run(&what, &mut make, self.log, |log| {
            let objects = log.lines().filter(|line| line.starts_with("  CC ")).count();
            format!("{objects} files compiled")
        })?;

        for (product, name) in PRODUCTS {
            fs::copy(tree.join(product), self.out.join(name))
                .with_context(|| format!("the build of kernel {} left no {product}", self.name))?;
        }
        self.keep_modules(&tree)?;
        self.keep_headers(&tree)
    }

    /// Keeps the modules, without their debugging symbols, in one folder.
    fn keep_modules(&self, tree: &Path) -> Result<()> {
        let folder = self.out.join("modules");
        fs::create_dir(&folder)?;
        let order = fs::read_to_string(tree.join("modules.order"))
            .with_context(|| format!("the build of kernel {} left no modules.order", self.name))?;
        for module in order.lines() {
            let module = tree.join(module).with_extension("ko");
            let mut strip = Command::new("strip");
            strip.arg("--strip-debug").arg("-o");
            strip.arg(folder.join(module.file_name().unwrap_or_default()));
            self.run("keeping the modules", strip.arg(&module))?;
        }
        Ok(())
    }

    /// Keeps what modules for this kernel are built with, in one archive.
    fn keep_headers(&self, tree: &Path) -> Result<()> {
        // What a version does not have, its modules do not need.
        let headers = HEADERS.iter().filter(|path| tree.join(path).exists());
        let mut tar = Command::new("tar");
        tar.arg("-cf")
            .arg(self.out.join("headers.tar"))
            .arg("-C")
            .arg(tree)
            .args(["--exclude=*.o", "--exclude=*.cmd"])
            .args(headers);
        self.run("keeping what modules are built with", &mut tar)
    }

    /// Takes the kernel out of Debian's `package`, which is `linux-image-` and the kernel's release.
    ///
    /// # Errors
    ///
    /// If the package cannot be unpacked, is none of a kernel, or if the kernel's configuration is not
    /// what `expected` says.
    pub(super) fn take_image(&self, package: &str, expected: &Fragment) -> Result<()> {
        let boot = self.unpack_package()?.join("boot");
        let release = package.trim_start_matches("linux-image-");
        for (file, name) in [("vmlinuz", "bzImage"), ("config", "config")] {
            fs::copy(boot.join(format!("{file}-{release}")), self.out.join(name))
                .with_context(|| format!("the package {package} has no /boot/{file}-{release}"))?;
        }
        self.check(&fs::read_to_string(self.out.join("config"))?, expected)
    }

    /// Unpacks the package and removes it; returns the root of what was in it.
    fn unpack_package(&self) -> Result<PathBuf> {
        let contents = self.work.join("package");
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("--extract").arg(self.deb).arg(&contents);
        self.run("unpacking the package", &mut unpack)?;
        fs::remove_file(self.deb)?;
        Ok(contents)
    }

    /// Makes the `.config` of the source in `tree`.
    fn configure(&self, tree: &Path, fragment: &Fragment) -> Result<()> {
        self.run("make tinyconfig", make(tree).arg("tinyconfig"))?;
        let path = tree.join(".config");
        let config = fs::read_to_string(&path)?;
        // Of two lines for an option, kconfig takes the last.
        fs::write(&path, config + &fragment.to_config())?;
        self.run("make olddefconfig", make(tree).arg("olddefconfig"))?;
        self.check(&fs::read_to_string(&path)?, fragment)
    }

    /// Refuses a `config` that is not what `fragment` says.
    fn check(&self, config: &str, fragment: &Fragment) -> Result<()> {
        let unmet = fragment.unmet(config);
        if !unmet.is_empty() {
            bail!(
                "kernel {} cannot be configured as the lab needs it; these do not hold (an option that \
                 it depends on may be off):\n    {}",
                self.name,
                unmet.join("\n    ")
            );
        }
        Ok(())
    }

    /// Runs a step of the build that has nothing to tell but how long it takes.
    fn run(&self, step: &str, command: &mut Command) -> Result<()> {
        activity::run(
            &format!("kernel {}: {step}", self.name),
            command,
            self.log,
            activity::no_state,
        )
    }
}

/// `make` in `tree`, with nothing of this process' environment that could change what it makes.
fn make(tree: &Path) -> Command {
    let mut make = Command::new("make");
    make.env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "TMPDIR"))
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .env("KBUILD_BUILD_USER", "kjump")
        .env("KBUILD_BUILD_HOST", "lab")
        .env("KBUILD_BUILD_TIMESTAMP", "1970-01-01")
        .arg("-C")
        .arg(tree);
    make
}
