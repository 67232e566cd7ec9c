//! The kernels that play the other parts: which kernel, which initramfs, which role.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use goblin::elf::Elf;
use goblin::elf::program_header::PT_INTERP;
use kjump::initramfs::{Archive, DeviceKind, gzip};
use kjump::modules::Module;
use kjump::{
    BlockDevice, Calibration, CommandLine, Kernel, PhysAddr, PhysRange, in_place, machine, window,
};

use crate::cli::{Initramfs, KernelOptions};
use crate::modules;

/// What the init of a loaded kernel is there for; told on its command line as `kjump.role=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Save the machine, and power off.
    Save,
    /// Restore the machine, and jump into it.
    Restore,
    /// Jump right back.
    Back,
    /// Restore the machine, and jump into it, in a kernel that a boot loader started in the window.
    Resume,
}

impl Role {
    pub(crate) const KEY: &str = "kjump.role";
    pub(crate) const IMAGE_KEY: &str = "kjump.image";
    /// Which image is to be restored: device names may differ from one kernel to the next.
    pub(crate) const ID_KEY: &str = "kjump.id";

    /// When the kernel before began to leave, as a [`Departure`](kjump::Departure).
    pub(crate) const CLOCK_KEY: &str = "kjump.clock";

    /// Whether an image is restored that was resumed already: `again`, or not.
    pub(crate) const FORCE_KEY: &str = "kjump.force";

    /// Whether the pages that were free are saved too: `keep`, or not.
    pub(crate) const FREE_KEY: &str = "kjump.free";

    /// How the image is compressed, and by how many threads.
    pub(crate) const CODEC_KEY: &str = "kjump.codec";
    pub(crate) const THREADS_KEY: &str = "kjump.threads";

    /// How much of the image is checked before memory is written: `index` or `full`.
    pub(crate) const VERIFY_KEY: &str = "kjump.verify";

    pub(crate) const ALL: [Self; 4] = [Self::Save, Self::Restore, Self::Back, Self::Resume];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Save => "save",
            Self::Restore => "restore",
            Self::Back => "back",
            Self::Resume => "resume",
        }
    }

    /// The role that the command line of the running kernel gives.
    pub(crate) fn from_command_line(line: &str) -> Option<Self> {
        let name = CommandLine::value(line, Self::KEY)?;
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// A kernel file and an initramfs, read, and the command line that goes with them.
pub(crate) struct Files {
    path: PathBuf,
    kernel: Vec<u8>,
    /// What the kernel unpacks itself to.
    vmlinux: Option<Vec<u8>>,
    pub(crate) initramfs: Vec<u8>,
    pub(crate) append: String,
}

impl Files {
    /// The kernel.
    pub(crate) fn kernel(&self) -> Result<Kernel<'_>> {
        Kernel::parse(&self.kernel)
            .and_then(|kernel| match &self.vmlinux {
                Some(vmlinux) => kernel.with_vmlinux(vmlinux),
                None => Ok(kernel),
            })
            .with_context(|| format!("cannot load {}", self.path.display()))
    }
}

/// Reads the files that `options` name, for a kernel in `role` with the image at this path. It is to see
/// `devices`; `release` is that of the running kernel.
pub(crate) fn files(
    options: &KernelOptions,
    release: &str,
    role: Role,
    image: Option<&Path>,
    devices: impl FnOnce() -> Result<Vec<BlockDevice>>,
) -> Result<Files> {
    let path = match &options.kernel {
        Some(path) => path.clone(),
        None => machine::installed_kernel(release).ok_or_else(|| {
            anyhow!("no kernel /boot/vmlinuz-{release}; say which one to load with --kernel")
        })?,
    };
    let kernel =
        fs::read(&path).with_context(|| format!("cannot read the kernel {}", path.display()))?;
    let (vmlinux, its_release) = match Kernel::parse(&kernel) {
        Ok(kernel) => (kernel.unpack(), kernel.release().map(str::to_owned)),
        // This will be told when it is to be loaded.
        Err(_) => (None, None),
    };
    let initramfs = match &options.initrd {
        Some(path) => fs::read(path)
            .with_context(|| format!("cannot read the initramfs {}", path.display()))?,
        None => own_initramfs(&modules::choose(
            &devices()?,
            &options.module,
            its_release.as_deref(),
            release,
        )?)?,
    };
    // A kernel of the running one's release has its clocks tick as that has.
    let known = Calibration::read().parameters(its_release.as_deref() == Some(release));
    let more = unless_said(&known, &options.append);
    Ok(Files {
        path,
        kernel,
        vmlinux,
        initramfs,
        append: append(role, image, &machine::command_line()?, &more)?,
    })
}

/// The command line of a kernel that restores the image in this device by itself, if a boot loader starts
/// it in the window that is asked for.
pub(crate) fn in_place_line(window: window::Request, image: &Path) -> Result<String> {
    let iomem = machine::iomem()?;
    let window = window
        .at
        .and_then(|at| PhysRange::from_len(at, window.size))
        .ok_or_else(|| {
            anyhow!(
                "say where the window is to be, such as {}",
                window::Request {
                    at: Some(PhysAddr::new(16 << 20)),
                    ..window
                }
            )
        })?;
    let confinement = in_place::confinement(&iomem, window);
    // By the time of the boot, the kernel may be one of another release.
    let known = Calibration::read().parameters(false);
    append(
        Role::Resume,
        Some(image),
        &machine::command_line()?,
        &format!("{confinement} {known}"),
    )
}

/// The parameters `own` that the user did not name, and then the user's.
fn unless_said(own: &str, users: &str) -> String {
    fn name(parameter: &str) -> &str {
        parameter.split('=').next().unwrap_or_default()
    }
    let said = |own: &str| CommandLine::parameters(users).any(|users| name(users) == name(own));
    let mut line = CommandLine::new();
    for parameter in CommandLine::parameters(own).filter(|own| !said(own)) {
        line.append(parameter);
    }
    line.append(users);
    line.as_str().to_owned()
}

/// What the command line of a kernel in `role` has besides what makes it work. A panic must not leave
/// the machine standing there. Of what the kernel itself has to say, errors are shown and nothing below:
/// on a serial line, all of it takes longer than the rest of the boot.
fn append(role: Role, image: Option<&Path>, running: &str, more: &str) -> Result<String> {
    let mut line = CommandLine::new();
    for parameter in CommandLine::parameters(running) {
        let name = parameter.split('=').next().unwrap_or_default();
        if matches!(name, "console" | "earlycon" | "earlyprintk") {
            line.append(parameter);
        }
    }
    line.append("quiet panic=10")
        .append(&format!("{}={}", Role::KEY, role.name()));
    if let Some(image) = image {
        let image = image
            .to_str()
            .filter(|image| !image.contains(['"', ' ', '\n']))
            .ok_or_else(|| {
                anyhow!(
                    "the path {} cannot stand on a kernel command line",
                    image.display()
                )
            })?;
        line.append(&format!("{}={image}", Role::IMAGE_KEY));
    }
    line.append(more);
    Ok(line.as_str().to_owned())
}

/// An initramfs that holds the running binary as `/init`, and `modules`.
fn own_initramfs(modules: &[Module]) -> Result<Vec<u8>> {
    let own = Path::new("/proc/self/exe");
    let binary = fs::read(own).context("cannot read this program's own binary")?;
    check_static(&binary)?;
    let mut archive = Archive::new();
    archive.device("dev/console", 0o600, DeviceKind::Character, 5, 1)?;
    for directory in ["proc", "sys"] {
        archive.directory(directory, 0o755)?;
    }
    archive.file("init", 0o755, &binary)?;
    modules::add(&mut archive, modules)?;
    Ok(archive.finish())
}

/// Refuses a binary that needs libraries, which an initramfs does not have.
fn check_static(binary: &[u8]) -> Result<()> {
    let elf = Elf::parse(binary).context("this program's own binary is no ELF file")?;
    if elf
        .program_headers
        .iter()
        .any(|program| program.p_type == PT_INTERP)
    {
        bail!(
            "this binary needs shared libraries and cannot be an init; build it with \
             RUSTFLAGS='-C target-feature=+crt-static' and --target x86_64-unknown-linux-gnu, or pass --initrd"
        );
    }
    Ok(())
}

/// `kjump initramfs`
pub(crate) fn write_initramfs(options: &Initramfs) -> Result<()> {
    let out = &options.out;
    let archive = own_initramfs(&modules::choose_for(options)?)?;
    let archive = if out.extension() == Some(OsStr::new("gz")) {
        gzip(&archive)
    } else {
        archive
    };
    fs::write(out, archive).with_context(|| format!("cannot write {}", out.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_are_handed_on_and_roles_read_back() {
        let running = "root=/dev/vda console=tty0 quiet console=ttyS0,115200";
        let image = Path::new("/dev/vdb");
        for role in Role::ALL {
            let line = append(role, Some(image), running, "loglevel=7").unwrap();
            assert!(line.starts_with("console=tty0 console=ttyS0,115200 quiet panic=10 "));
            assert!(line.ends_with(" kjump.image=/dev/vdb loglevel=7"));
            assert_eq!(Role::from_command_line(&line), Some(role));
        }
        assert!(append(Role::Save, Some(Path::new("/dev/a b")), "", "").is_err());
    }

    #[test]
    fn what_the_user_says_counts() {
        let own = "tsc_early_khz=2596105 lpj=10380132 acpi=noirq";
        assert_eq!(unless_said(own, ""), own);
        assert_eq!(
            unless_said(own, "acpi=force loglevel=7 lpj=1"),
            "tsc_early_khz=2596105 acpi=force loglevel=7 lpj=1"
        );
    }

    #[test]
    fn this_test_is_no_init() {
        // Test binaries are linked dynamically.
        let error = check_static(&fs::read("/proc/self/exe").unwrap()).unwrap_err();
        assert!(error.to_string().contains("crt-static"));
    }
}
