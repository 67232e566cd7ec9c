//! Machines whose first process is a shell script.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kexec_image::initramfs::{Archive, DeviceKind};
use tempfile::TempDir;

use crate::build::Binaries;
use crate::lab::Lab;
use crate::machine::{Fault, Machine, Platform};
use crate::qemu::Vm;
use crate::settings::Settings;
use crate::{disk, module, runs_folder, workspace};

/// How long a boot may take, whatever happens in it.
const LIMIT: Duration = Duration::from_secs(600);

/// Size of the disk that cores go to, beyond the machine's memory, in MiB.
const DISK_ROOM: u64 = 160;

/// What a scene is played with.
pub(crate) struct Stage<'a> {
    /// What to call it, and its logs.
    pub(crate) label: &'a str,
    /// Kernels, firmware and packages.
    pub(crate) lab: &'a Lab,
    /// What runs inside the machines.
    pub(crate) binaries: &'a Binaries,
    /// The machine.
    pub(crate) settings: &'a Settings,
    /// Whether every line of the consoles is shown.
    pub(crate) verbose: bool,
}

/// How a boot has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// No kernel breaks down.
    Calm,
    /// The first kernel panics.
    Panic,
}

/// Files that a machine is made of.
pub(crate) struct Set {
    /// Where they are; gone with this value.
    _folder: TempDir,
    initramfs: PathBuf,
    /// The disk that cores go to.
    pub(crate) disk: PathBuf,
    platform: Platform,
}

impl Stage<'_> {
    /// Makes what the machine is made of.
    pub(crate) fn set(&self) -> Result<Set> {
        self.set_with(&[])
    }

    /// The same, with more files for the scripts, in `/parts`.
    pub(crate) fn set_with(&self, more: &[(&str, &[u8])]) -> Result<Set> {
        let runs = runs_folder();
        fs::create_dir_all(&runs).with_context(|| format!("creating {}", runs.display()))?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-", self.label))
            .tempdir_in(&runs)
            .with_context(|| format!("creating a folder in {}", runs.display()))?;
        let path = |name| folder.path().join(name);
        let initramfs = path("initramfs");
        let inner = self.archive(None, &[])?;
        fs::write(&initramfs, self.archive(Some(&inner), more)?)
            .with_context(|| format!("writing {}", initramfs.display()))?;
        let disk = path("disk");
        disk::create_ext4(&disk, u64::from(self.settings.memory) + DISK_ROOM)?;
        let platform = if self.settings.uefi {
            let (code, template) = self.lab.ovmf();
            let variables = path("uefi-variables");
            fs::copy(&template, &variables).context("copying the UEFI variables")?;
            Platform::Uefi { code, variables }
        } else {
            Platform::Bios
        };
        Ok(Set {
            initramfs,
            disk,
            platform,
            _folder: folder,
        })
    }

    /// An initramfs with busybox, the scripts, our tools, theirs, and the module; of A and C also with
    /// the kernel and the initramfs `inner` that B and D get.
    fn archive(&self, inner: Option<&[u8]>, more: &[(&str, &[u8])]) -> Result<Vec<u8>> {
        let read =
            |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
        let mut archive = Archive::new();
        for folder in [
            "/dev", "/proc", "/sys", "/tmp", "/mnt", "/bin", "/lib", "/parts",
        ] {
            archive.directory(folder, 0o755)?;
        }
        archive.device("/dev/console", 0o600, DeviceKind::Character, 5, 1)?;
        let reference = self.lab.reference()?;
        archive.file("/bin/busybox", 0o755, &read(&reference.program("busybox"))?)?;
        for applet in APPLETS {
            archive.symlink(&format!("/bin/{applet}"), "/bin/busybox")?;
        }
        let binaries = self.binaries;
        for (name, path) in [
            ("kexec", &binaries.kexec),
            ("krestore", &binaries.krestore),
            ("kjump", &binaries.kjump),
        ] {
            archive.file(&format!("/bin/{name}"), 0o755, &read(path)?)?;
        }
        archive.file("/their/kexec", 0o755, &read(&reference.program("kexec"))?)?;
        for (place, path) in reference.libraries("kexec")? {
            archive.file(&place, 0o755, &read(&path)?)?;
        }
        // Debian's own kernel takes no module of ours.
        if let Ok(module) = module::oldmem(self.lab, self.settings.kernel) {
            archive.file("/lib/oldmem.ko", 0o644, &read(&module)?)?;
        }
        let scripts = workspace().join("xtask/lab/rfc");
        archive.file("/init", 0o755, &read(&scripts.join("init"))?)?;
        for entry in fs::read_dir(&scripts)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "init" {
                archive.file(&format!("/parts/{name}"), 0o644, &read(&entry.path())?)?;
            }
        }
        for (name, bytes) in more {
            archive.file(&format!("/parts/{name}"), 0o644, bytes)?;
        }
        if let Some(inner) = inner {
            let kernel = self.lab.kernel(self.settings.kernel);
            archive.file("/boot/bzImage", 0o644, &read(kernel)?)?;
            archive.file("/boot/initramfs", 0o644, inner)?;
        }
        Ok(archive.finish())
    }

    /// The log of the boot with this number.
    pub(crate) fn log(&self, number: u32) -> PathBuf {
        runs_folder().join(format!("{}-{number}.log", self.label))
    }

    /// Boots the machine to play `part`, to its end. Returns what the scripts said, without `rfc: `.
    ///
    /// # Errors
    ///
    /// If the machine breaks down, is late, or says that it failed.
    pub(crate) fn boot(
        &self,
        set: &Set,
        number: u32,
        part: &str,
        parameters: &str,
    ) -> Result<Vec<String>> {
        self.boot_to(set, number, part, parameters, Course::Calm)
    }

    /// The same, with the end that `course` says.
    ///
    /// # Errors
    ///
    /// As [`boot`](Self::boot).
    pub(crate) fn boot_to(
        &self,
        set: &Set,
        number: u32,
        part: &str,
        parameters: &str,
        course: Course,
    ) -> Result<Vec<String>> {
        let settings = self.settings;
        let mut words = vec![
            "console=ttyS0 panic=-1 loglevel=4 no_timer_check retain_initrd".to_owned(),
            format!("rfc.part={part}"),
            parameters.to_owned(),
            settings.append.clone(),
        ];
        if !settings.kaslr {
            words.push("nokaslr".to_owned());
        }
        let machine = Machine {
            memory: settings.memory,
            cpus: settings.cpus,
            nodes: settings.nodes,
            cpu: settings.cpu.clone(),
            parallel: settings.parallel,
            platform: set.platform.clone(),
            disks: vec![set.disk.clone()],
            nvme: false,
            fault: Fault::None,
            control: None,
            logs: None,
            watchdog: false,
            product: "lab",
            kernel: self.lab.kernel(settings.kernel).to_owned(),
            initramfs: set.initramfs.clone(),
            command_line: words.join(" "),
        };
        let mut vm = Vm::start(&machine, &self.log(number), LIMIT, self.verbose)?;
        if course == Course::Panic {
            vm.tolerate_crashes();
        }
        let mut lines = Vec::new();
        while let Some(line) = vm.next_line()? {
            let Some((_, said)) = line.text.split_once("rfc: ") else {
                continue;
            };
            if let Some(why) = said.strip_prefix("verdict=failed") {
                return Err(vm.failure(&format!("the script failed{why}")));
            }
            lines.push(said.to_owned());
        }
        Ok(lines)
    }
}

/// Programs of busybox that the scripts use.
const APPLETS: [&str; 38] = [
    "sh",
    "chmod",
    "ln",
    "mv",
    "setuidgid",
    "awk",
    "cat",
    "cmp",
    "cp",
    "cut",
    "date",
    "dd",
    "grep",
    "head",
    "hexdump",
    "ifconfig",
    "insmod",
    "kill",
    "ls",
    "mkdir",
    "mount",
    "od",
    "poweroff",
    "printf",
    "rm",
    "rmmod",
    "sed",
    "seq",
    "sha256sum",
    "sleep",
    "stat",
    "sync",
    "tail",
    "tr",
    "umount",
    "uname",
    "wc",
    "xargs",
];
