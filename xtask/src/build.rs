//! What runs inside the machines: static binaries, and initramfs archives made of them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use kexec_image::initramfs::{Archive, DeviceKind};

use crate::lab::Tools;
use crate::{depmod, workspace};

/// The one target that kexec jump exists on, as Rust names it.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The binaries that run inside the machines.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    /// The command under test.
    pub(crate) kjump: PathBuf,
    /// First process of A and C.
    pub(crate) guest: PathBuf,
    /// The tools of the 2007 mail.
    pub(crate) kexec: PathBuf,
    /// The other one.
    pub(crate) krestore: PathBuf,
}

/// Builds the binaries, in a target folder of their own: they are linked another way than the rest,
/// which would otherwise be built anew each time.
pub(crate) fn binaries() -> Result<Binaries> {
    let folder = workspace().join("target/initramfs");
    let status = Command::new(env!("CARGO"))
        .current_dir(workspace())
        .env("CARGO_TARGET_DIR", &folder)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .args([
            "build",
            "--quiet",
            "--profile",
            "initramfs",
            "--target",
            TARGET,
        ])
        .args(["--package", "kjump-examples", "--bin", "kjump"])
        .args(["--bin", "kexec", "--bin", "krestore"])
        .args(["--package", "lab-guest", "--bin", "lab-guest"])
        .status()
        .context("starting cargo")?;
    if !status.success() {
        bail!("the binaries for the machines did not build: {status}");
    }
    let built = folder.join(TARGET).join("initramfs");
    Ok(Binaries {
        kjump: built.join("kjump"),
        guest: built.join("lab-guest"),
        kexec: built.join("kexec"),
        krestore: built.join("krestore"),
    })
}

/// Writes the initramfs of A and C to `path`: the guest's first process, the command under test, and
/// the kernel that it is to boot; its modules too, in the order in which they are to be loaded, if they are asked for.
///
/// It is not compressed: an emulated CPU takes longer to inflate it than to copy it.
pub(crate) fn initramfs(
    path: &Path,
    binaries: &Binaries,
    kernel: &Path,
    modules: bool,
) -> Result<()> {
    let mut archive = guest_alone(binaries)?;
    archive.directory("/boot", 0o755)?;
    archive.file("/bin/kjump", 0o755, &read(&binaries.kjump)?)?;
    archive.file("/boot/bzImage", 0o644, &read(kernel)?)?;
    if modules {
        archive.directory("/modules", 0o755)?;
        for (number, module) in depmod::modules(kernel)?.into_iter().enumerate() {
            let place = format!("/modules/{number:02}-{}", module.file);
            archive.file(&place, 0o644, &module.bytes)?;
        }
    }
    write(path, archive)
}

/// Adds programs that came with `tools` to the initramfs at `path`, in `/bin`, with the libraries that they need.
pub(crate) fn add_programs(path: &Path, tools: &Tools, names: &[&str]) -> Result<()> {
    let mut archive = Archive::new();
    let mut libraries = BTreeMap::new();
    for name in names {
        archive.file(&format!("/bin/{name}"), 0o755, &read(&tools.program(name))?)?;
        libraries.extend(tools.libraries(name)?);
    }
    for (place, library) in libraries {
        archive.file(&place, 0o755, &read(&library)?)?;
    }
    // Archives that lie one behind the other are one initramfs.
    let mut file = File::options().append(true).open(path)?;
    file.write_all(&archive.finish())
        .with_context(|| format!("writing {}", path.display()))
}

/// Writes an initramfs to `path` with nothing but the guest's first process: for a machine that is
/// hibernated by its own kernel.
pub(crate) fn bare_initramfs(path: &Path, binaries: &Binaries) -> Result<()> {
    write(path, guest_alone(binaries)?)
}

/// Writes an initramfs to `path` with the command under test as the first process, as it makes that itself.
pub(crate) fn own_initramfs(path: &Path, binaries: &Binaries) -> Result<()> {
    let status = Command::new(&binaries.kjump)
        .args([
            OsStr::new("initramfs"),
            OsStr::new("--out"),
            path.as_os_str(),
        ])
        .status()
        .context("starting kjump")?;
    if !status.success() {
        bail!("kjump made no initramfs: {status}");
    }
    Ok(())
}

fn guest_alone(binaries: &Binaries) -> Result<Archive> {
    let mut archive = Archive::new();
    for folder in ["/dev", "/proc", "/sys", "/tmp", "/mnt", "/bin"] {
        archive.directory(folder, 0o755)?;
    }
    // Without it, the first process has no standard output.
    archive.device("/dev/console", 0o600, DeviceKind::Character, 5, 1)?;
    archive.file("/init", 0o755, &read(&binaries.guest)?)?;
    Ok(archive)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn write(path: &Path, archive: Archive) -> Result<()> {
    fs::write(path, archive.finish()).with_context(|| format!("writing {}", path.display()))
}
