//! Can this machine hibernate by kexec? What is in the way, and what to do about it.

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use kexec_image::{Machine, window};
use kexec_sys::{Cause, Evidence, KernelState, LoadFlags, Lockdown, Segment};
use vmcore::PAGE_SIZE;
use vmcore::image::{Seal, Volume};

use crate::error::chain;
use crate::handover::KeyPage;
use crate::modules::{Index, Module, Need};
use crate::{BlockDevice, Resumption, machine, volumes};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// As it must be.
    Good,
    /// It may work; something could not be found out, or will be missing later.
    Warning,
    /// Hibernation does not work before this is changed.
    Obstacle,
}

/// Lower-case, as in the JSON that the command prints.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Obstacle => "obstacle",
        })
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was checked, in one word or two.
    pub check: Cow<'static, str>,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do about it, where there is something to do.
    pub remedy: Option<String>,
}

impl Finding {
    fn good(check: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self::new(check, Status::Good, detail, None)
    }

    fn warning(
        check: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        remedy: &str,
    ) -> Self {
        Self::new(check, Status::Warning, detail, Some(remedy.to_owned()))
    }

    fn obstacle(
        check: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        remedy: &str,
    ) -> Self {
        Self::new(check, Status::Obstacle, detail, Some(remedy.to_owned()))
    }

    fn new(
        check: impl Into<Cow<'static, str>>,
        status: Status,
        detail: impl Into<String>,
        remedy: Option<String>,
    ) -> Self {
        Self {
            check: check.into(),
            status,
            detail: detail.into(),
            remedy,
        }
    }
}

/// Examines the running machine.
///
/// If nothing is loaded for kexec, a page that does nothing is loaded and unloaded again: only the
/// kernel itself can tell whether it would take it.
#[must_use]
pub fn examine() -> Vec<Finding> {
    let root = Path::new("/");
    let mut findings = rights(&Evidence::gather(root));
    findings.push(jump());
    match machine::read() {
        Ok(machine) => findings.extend(
            memory(&machine)
                .into_iter()
                .chain([firmware(root, &machine)])
                .chain(machine.volumes.iter().map(volume)),
        ),
        Err(error) => findings.push(Finding::obstacle(
            "memory map",
            chain(&error),
            "run this as root, with /proc and /sys mounted",
        )),
    }
    findings.push(options(root));
    findings.push(drivers(root));
    findings.push(encryption());
    findings
}

/// Looks at what would happen if the image in the device or file at `path` were resumed now; with what it takes
/// to read one that is sealed.
#[must_use]
pub fn examine_image(path: &Path, seal: Option<&Seal>) -> Vec<Finding> {
    let machine = match machine::read() {
        Ok(machine) => machine,
        Err(error) => {
            return vec![Finding::obstacle(
                "memory map",
                chain(&error),
                "run this as root, with /proc and /sys mounted",
            )];
        }
    };
    Resumption::checks(&machine, path, seal)
        .into_iter()
        .map(|check| match check.result {
            Ok(found) => Finding::good(check.name, found),
            Err(error) => Finding::new(check.name, Status::Obstacle, chain(&error), None),
        })
        .collect()
}

/// Whether nothing is in the way.
#[must_use]
pub fn is_ready(findings: &[Finding]) -> bool {
    findings
        .iter()
        .all(|finding| finding.status < Status::Obstacle)
}

/// May this process load kernels? Each thing that forbids it is named, even if the kernel could not do it
/// anyway.
fn rights(evidence: &Evidence) -> Vec<Finding> {
    const CHECK: &str = "rights";
    let lockdown = evidence.lockdown.filter(|mode| *mode != Lockdown::None);
    let forbidding = [
        (evidence.sys_boot == Some(false)).then_some(Cause::NoCapability),
        (evidence.initial_user_namespace == Some(false)).then_some(Cause::UserNamespace),
        (evidence.initial_pid_namespace == Some(false)).then_some(Cause::PidNamespace),
        (evidence.load_disabled == Some(true)).then_some(Cause::LoadDisabled),
        lockdown.map(Cause::Lockdown),
    ];
    let obstacles: Vec<Finding> = forbidding
        .into_iter()
        .flatten()
        .map(|cause| Finding::new(CHECK, Status::Obstacle, cause.to_string(), None))
        .collect();
    if obstacles.is_empty() {
        return vec![Finding::good(CHECK, "this process may load kernels")];
    }
    obstacles
}

/// Asks the kernel whether it would take an image to jump to and come back from.
fn jump() -> Finding {
    const CHECK: &str = "kexec jump";
    if let Ok(true) = KernelState::new().kexec_loaded() {
        return Finding::warning(
            CHECK,
            "something is loaded already, so the kernel was not asked",
            "if it is not yours, unload it (kexec -u) and ask again",
        );
    }
    // Never entered: it is unloaded at once. Any address of RAM will do.
    let probe = Segment::new(&[], 16 << 20, PAGE_SIZE)
        .and_then(|page| kexec_sys::load(page.mem(), &[page], LoadFlags::PRESERVE_CONTEXT))
        .and_then(|()| kexec_sys::unload(LoadFlags::empty()));
    match probe {
        Ok(()) => Finding::good(
            CHECK,
            "the kernel takes an image and would come back from it",
        ),
        Err(error) => Finding::obstacle(
            CHECK,
            error.to_string(),
            "hibernation by kexec needs kexec_load with KEXEC_PRESERVE_CONTEXT (CONFIG_KEXEC and CONFIG_KEXEC_JUMP), CAP_SYS_BOOT, and a kernel that is not locked down",
        ),
    }
}

/// Is there memory for a window?
fn memory(machine: &Machine) -> Vec<Finding> {
    const CHECK: &str = "memory";
    let ram = machine.iomem.ram().bytes();
    let window = window::Request::default().size;
    let mib = |bytes: u64| bytes >> 20;
    let room = if ram / 2 < window {
        Finding::obstacle(
            CHECK,
            format!("{} MiB of RAM", mib(ram)),
            "a window of 96 MiB may take no more than half of RAM; try a smaller one (--window 64M)",
        )
    } else {
        Finding::good(
            CHECK,
            format!("{} MiB of RAM, {}", mib(ram), machine.paging),
        )
    };
    let readable = match (machine.direct_map, machine.vmcoreinfo) {
        (Some(_), Some(_)) => Finding::good(
            "analysis",
            "cores will be readable by crash and makedumpfile",
        ),
        _ => Finding::warning(
            "analysis",
            "the kernel does not tell where it maps memory, or has no VMCOREINFO",
            "hibernation works, but crash and makedumpfile will not read its cores; CONFIG_PROC_KCORE and CONFIG_VMCORE_INFO change that",
        ),
    };
    vec![room, readable]
}

/// Will another kernel find the firmware's tables?
fn firmware(root: &Path, machine: &Machine) -> Finding {
    const CHECK: &str = "firmware";
    let uefi = root.join("sys/firmware/efi").exists();
    match (uefi, machine.rsdp) {
        (true, None) => Finding::obstacle(
            CHECK,
            "UEFI, and the kernel does not tell where the ACPI tables are",
            "mount sysfs, and read /sys/firmware/efi/systab as root",
        ),
        (true, Some(rsdp)) => Finding::good(CHECK, format!("UEFI, ACPI tables at {rsdp}")),
        (false, _) => Finding::good(CHECK, "BIOS"),
    }
}

/// Will other kernels see whether somebody uses this device while the machine sleeps, and by what?
fn volume(volume: &Volume) -> Finding {
    const CHECK: &str = "volume";
    match volumes::is_visible(volume) {
        Ok(()) => Finding::good(CHECK, volumes::describe(volume)),
        Err(error) => Finding::new(CHECK, Status::Obstacle, error.to_string(), None),
    }
}

/// What a kernel needs to save and to restore; the running one is the usual choice.
const OPTIONS: [(&str, &str); 5] = [
    ("CONFIG_KEXEC_JUMP", "to jump away and come back"),
    (
        "CONFIG_PROC_VMCORE",
        "to see the memory of the machine that is saved",
    ),
    ("CONFIG_DEVMEM", "to write that memory back"),
    ("CONFIG_RELOCATABLE", "to run in the window"),
    ("CONFIG_BLK_DEV_INITRD", "to boot from an initramfs"),
];

/// Does the running kernel's own configuration have what the saving and restoring kernel need?
fn options(root: &Path) -> Finding {
    const CHECK: &str = "kernel options";
    let Some((path, config)) = read_config(root) else {
        return Finding::warning(
            CHECK,
            "the configuration of the running kernel is not to be found",
            "whichever kernel you pass with --kernel needs CONFIG_PROC_VMCORE, CONFIG_DEVMEM and CONFIG_RELOCATABLE",
        );
    };
    let missing: Vec<String> = OPTIONS
        .iter()
        .filter(|(option, _)| !config.lines().any(|line| line == format!("{option}=y")))
        .map(|(option, why)| format!("{option} ({why})"))
        .collect();
    if missing.is_empty() {
        return Finding::good(CHECK, format!("all there, says {}", path.display()));
    }
    let detail = format!("{} lacks {}", path.display(), missing.join(", "));
    // Whether this kernel can jump was asked of the kernel itself.
    Finding::warning(
        CHECK,
        detail,
        "build a kernel that has them, for this machine to run or to pass with --kernel",
    )
}

/// Will the saving and the restoring kernel see the disks?
fn drivers(root: &Path) -> Finding {
    const CHECK: &str = "drivers";
    const REMEDY: &str = "install the modules of the running kernel (make modules_install, or its package) and \
        run depmod; or give the kernels that save and restore an initramfs that finds the disks (--initrd)";
    let disks = BlockDevice::disks_at(root);
    let needs: Vec<Need> = disks.iter().flat_map(BlockDevice::drivers).collect();
    let names: Vec<String> = disks.iter().map(BlockDevice::name).collect();
    let names = names.join(", ");
    if disks.is_empty() {
        let remedy = "mount sysfs; hibernation needs a disk for the image";
        return Finding::warning(CHECK, "this machine has no disks", remedy);
    }
    let modules = machine::release_at(root)
        .and_then(|release| Index::read_at(root, release.trim())?.select(&needs));
    let modules = match modules {
        Ok(modules) => modules,
        Err(error) => return Finding::warning(CHECK, chain(&error), REMEDY),
    };
    let listed = |modules: &mut dyn Iterator<Item = &Module>| {
        let names: Vec<&str> = modules.map(|module| module.name.as_str()).collect();
        names.join(", ")
    };
    let missing = listed(&mut modules.iter().filter(|module| !module.path.exists()));
    if !missing.is_empty() {
        let detail = format!("{names} need {missing}, whose files are not there");
        return Finding::warning(CHECK, detail, REMEDY);
    }
    let detail = match listed(&mut modules.iter()) {
        all if all.is_empty() => format!("{names} need no modules"),
        all => format!("{names} need the modules {all}, which are there"),
    };
    Finding::good(CHECK, detail)
}

/// Could this kernel hand the key of an encrypted image to the one that restores it?
fn encryption() -> Finding {
    const CHECK: &str = "encryption";
    match KeyPage::anywhere() {
        Ok(_) => Finding::good(CHECK, "the key of an image can be handed on"),
        Err(error) => Finding::warning(
            CHECK,
            chain(&error),
            "images that are not encrypted can be resumed by this kernel, those that are cannot",
        ),
    }
}

/// The configuration of the running kernel, and where it was found.
fn read_config(root: &Path) -> Option<(PathBuf, String)> {
    const MAX: u64 = 16 << 20;
    let proc = root.join("proc/config.gz");
    if let Ok(file) = fs::File::open(&proc) {
        let mut text = String::new();
        let mut config = flate2::read::GzDecoder::new(file).take(MAX);
        config.read_to_string(&mut text).ok()?;
        return Some((proc, text));
    }
    let release = fs::read_to_string(root.join("proc/sys/kernel/osrelease")).ok()?;
    let boot = root.join(format!("boot/config-{}", release.trim()));
    Some((boot.clone(), fs::read_to_string(boot).ok()?))
}

#[cfg(test)]
mod tests {
    use vmcore::image::VolumeState;

    use super::*;

    #[test]
    fn missing_options_are_named() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(options(root.path()).status, Status::Warning);
        fs::create_dir_all(root.path().join("boot")).unwrap();
        fs::create_dir_all(root.path().join("proc/sys/kernel")).unwrap();
        fs::write(root.path().join("proc/sys/kernel/osrelease"), "6.1\n").unwrap();
        let all: String = OPTIONS
            .iter()
            .map(|(option, _)| format!("{option}=y\n"))
            .collect();
        let config = root.path().join("boot/config-6.1");
        fs::write(&config, &all).unwrap();
        assert_eq!(options(root.path()).status, Status::Good);
        fs::write(
            &config,
            all.replace("CONFIG_PROC_VMCORE=y", "# CONFIG_PROC_VMCORE is not set"),
        )
        .unwrap();
        let finding = options(root.path());
        assert_eq!(finding.status, Status::Warning);
        assert!(
            finding.detail.contains("CONFIG_PROC_VMCORE (") && !finding.detail.contains("DEVMEM")
        );
    }

    #[test]
    fn modules_of_disks_are_looked_for() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let link = |name: &str, to: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::create_dir_all(root.path().join(to)).unwrap();
            std::os::unix::fs::symlink(root.path().join(to), path).unwrap();
        };
        let found = || drivers(root.path());
        write("proc/sys/kernel/osrelease", "6.12\n");
        assert!(found().detail.contains("no disks"));

        let device = "sys/devices/pci0000:00/0000:03:00.0";
        link(
            "sys/class/block/nvme0n1",
            &format!("{device}/nvme/nvme0/nvme0n1"),
        );
        link(&format!("{device}/driver"), "sys/bus/pci/drivers/nvme");
        link("sys/bus/pci/drivers/nvme/module", "sys/module/nvme");
        assert_eq!(found().detail, "nvme0n1 need no modules");

        write("sys/module/nvme/initstate", "live\n");
        assert_eq!(found().status, Status::Warning);
        assert!(
            found().detail.contains("nvme (for nvme0n1)"),
            "{:?}",
            found()
        );
        let folder = "lib/modules/6.12/";
        write(
            &format!("{folder}modules.dep"),
            "nvme.ko.xz: core.ko.xz\ncore.ko.xz:\n",
        );
        write(&format!("{folder}nvme.ko.xz"), "");
        assert!(
            found().detail.contains("need core, whose files"),
            "{:?}",
            found()
        );
        write(&format!("{folder}core.ko.xz"), "");
        assert_eq!(found().status, Status::Good);
        assert!(found().detail.contains("core, nvme"));
    }

    #[test]
    fn a_container_without_rights_is_told_so() {
        let mut evidence = Evidence::gather(tempfile::tempdir().unwrap().path());
        assert_eq!(rights(&evidence)[0].status, Status::Good);
        evidence.sys_boot = Some(false);
        evidence.initial_pid_namespace = Some(false);
        evidence.lockdown = Some(Lockdown::Integrity);
        let details: Vec<_> = rights(&evidence)
            .into_iter()
            .map(|found| found.detail)
            .collect();
        assert_eq!(details.len(), 3);
        assert!(details[0].contains("CAP_SYS_BOOT") && details[1].contains("container"));
    }

    #[test]
    fn volumes_are_told_and_what_is_looked_at() {
        let at = |kind: &str| Volume {
            device: "/dev/vda2".to_owned(),
            used: "mounted at /srv".to_owned(),
            kind: kind.to_owned(),
            uuid: "a-number".to_owned(),
            size: 1 << 30,
            mapping: None,
            state: VolumeState::Pending,
        };
        let good = volume(&at("ext4"));
        assert_eq!(good.status, Status::Good);
        for words in ["ext4 a-number", "/dev/vda2", "/srv", "journal"] {
            assert!(good.detail.contains(words), "{good:?}");
        }
        let bad = volume(&at("on dm-thin"));
        assert_eq!(bad.status, Status::Obstacle);
        assert!(bad.detail.contains("--allow-unread /dev/vda2"), "{bad:?}");
    }

    #[test]
    fn warnings_do_not_stop_and_obstacles_do() {
        let findings = [Finding::good("a", ""), Finding::warning("b", "", "")];
        assert!(is_ready(&findings));
        assert!(!is_ready(&[Finding::obstacle("c", "", "")]));
    }
}
