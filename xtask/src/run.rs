//! Takes a machine through a scenario.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::build::{self, Binaries};
use crate::check::Checked;
use crate::console::is_prompt;
use crate::course::{Boot, Change, Course, Phase};
use crate::encrypted;
use crate::forge;
use crate::judge::judge;
use crate::keys::{MISTYPED, PASSPHRASE};
use crate::lab::{Kernel, Lab};
use crate::lookout::Lookout;
use crate::machine::{Fault, Machine, Platform};
use crate::qemu::Vm;
use crate::rfc::Stage;
use crate::scenario::Scenario;
use crate::settings::Settings;
use crate::transcript::{Step, Transcript};
use crate::{control, depmod, disk, runs_folder};

/// Size of the disk that A's file system is on, in MiB.
const DATA_DISK: u64 = 64;

/// Size of the disk that is too small for an image, in MiB.
const SMALL_DISK: u64 = 16;

/// Runs scenarios.
pub(crate) struct Runner<'a> {
    /// Kernels and firmware.
    pub(crate) lab: &'a Lab,
    /// What runs inside the machines.
    pub(crate) binaries: &'a Binaries,
    /// Whether disks are kept.
    pub(crate) keep: bool,
    /// Whether every line of the consoles is shown.
    pub(crate) verbose: bool,
}

/// A scenario to run, and on what.
pub(crate) struct Run {
    /// What to call it, and its logs.
    pub(crate) label: String,
    /// What happens.
    pub(crate) scenario: Scenario,
    /// The machine; that of the scenario, or another one.
    pub(crate) settings: Settings,
}

/// Something that a caller may want to tell of while a scenario runs.
pub(crate) enum Event<'a> {
    /// The machine is switched on, for the nth time.
    PowerOn(usize),
    /// A phase is done, and took this long.
    Done(&'a Phase, Duration),
    /// The machine said something.
    Said(&'a str),
    /// This was found in the image.
    Found(&'a str),
}

/// Files that a machine is made of.
pub(crate) struct Parts {
    /// Where they are; gone with this value.
    pub(crate) folder: TempDir,
    initramfs: PathBuf,
    /// A's file system, the image, a disk that is too small for an image, and those for other kinds of
    /// file systems.
    pub(crate) disks: Vec<PathBuf>,
    platform: Platform,
    /// A disk that can be taken out, for an image too.
    removable: PathBuf,
    /// What `blkdebug` is to do.
    rules: PathBuf,
    /// Where QEMU listens for commands.
    control: PathBuf,
}

impl Run {
    /// A run of `scenario` as it is.
    pub(crate) fn of(scenario: Scenario) -> Self {
        Self {
            label: scenario.name.to_owned(),
            settings: scenario.settings.clone(),
            scenario,
        }
    }

    /// All kernels that it needs.
    pub(crate) fn kernels(&self) -> Vec<Kernel> {
        let others = self.scenario.others.iter().copied();
        others.chain([self.settings.kernel]).collect()
    }
}

impl Runner<'_> {
    /// Takes a machine through `run`, and returns what it said in each boot if all was well. `watch`
    /// hears what happens. An error names the log of the boot that failed.
    pub(crate) fn run(
        &self,
        run: &Run,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<Vec<Transcript>> {
        if let Course::Play(play) = run.scenario.course {
            let stage = Stage {
                label: &run.label,
                lab: self.lab,
                binaries: self.binaries,
                settings: &run.settings,
                verbose: self.verbose,
            };
            watch(Event::Found(&play(&stage)?));
            return Ok(Vec::new());
        }
        let parts = self.make_parts(run)?;
        let mut boots = Vec::new();
        let mut lookout = run.settings.secret.map(|secret| {
            let folder = parts.folder.path();
            Lookout::new(secret, &parts.control, &parts.disks[1], folder)
        });
        for (boot, number) in run
            .scenario
            .course
            .boots(run.settings.loops)
            .iter()
            .zip(1..)
        {
            watch(Event::PowerOn(number));
            let mut machine = self.machine(run, boot, &parts);
            if boot.role == Boot::IN_PLACE {
                let line = boots
                    .iter()
                    .find_map(|boot: &Transcript| boot.values("boot-line").first().copied())
                    .context("the guest told no command line")?;
                machine.command_line = format!("{line} panic=-1 no_timer_check");
                machine.initramfs = parts.folder.path().join("in-place");
                build::own_initramfs(&machine.initramfs, self.binaries)?;
            }
            if boot.change == Change::Forged {
                forge::make(&parts.disks[1], parts.folder.path())?;
            }
            let log = runs_folder().join(format!("{}-{number}.log", run.label));
            let mut vm = Vm::start(&machine, &log, run.scenario.limit, self.verbose)?;
            if boot.crash {
                vm.tolerate_crashes();
            }
            let transcript = follow(&mut vm, boot, &machine, lookout.as_mut(), watch)?;
            drop(vm);
            boots.push(transcript);
            if matches!(run.scenario.course, Course::Forged) && number == 1 {
                forge::keep(&parts.disks[1], parts.folder.path())?;
            }
            if let Some(lookout) = &mut lookout {
                encrypted::keep_header(&parts.disks[1], parts.folder.path(), number)?;
                for found in lookout.look().context("looking at memory")? {
                    watch(Event::Found(&found));
                }
            }
        }
        let mut data = parts.disks[0].clone();
        if run.settings.mapped {
            data = parts.folder.path().join("joined");
            disk::join(&parts.disks[0], &data, DATA_DISK)?;
        }
        judge(run, &boots, &data).with_context(|| {
            let logs = runs_folder().join(&run.label);
            format!("judged by {}-*.log", logs.display())
        })?;
        if let Some(check) = run.scenario.check {
            let checked = Checked {
                image: &parts.disks[1],
                folder: parts.folder.path(),
                kjump: &self.binaries.kjump,
                lab: self.lab,
                settings: &run.settings,
                boots: &boots,
            };
            let found = check(&checked).context("looking at the image")?;
            watch(Event::Found(&found));
        }
        Ok(boots)
    }

    /// Makes new disks, and all else that a machine needs.
    pub(crate) fn make_parts(&self, run: &Run) -> Result<Parts> {
        let settings = &run.settings;
        let runs = runs_folder();
        fs::create_dir_all(&runs).with_context(|| format!("creating {}", runs.display()))?;
        let mut folder = tempfile::Builder::new()
            .prefix(&format!("{}-", run.label))
            .tempdir_in(&runs)
            .with_context(|| format!("creating a folder in {}", runs.display()))?;
        if self.keep {
            folder.disable_cleanup(true);
            println!("disks: {}", folder.path().display());
        }
        let path = |name| folder.path().join(name);
        let initramfs = path("initramfs");
        build::initramfs(
            &initramfs,
            self.binaries,
            self.lab.kernel(settings.kernel),
            settings.kinds || settings.stacked || settings.nvme,
        )?;
        if settings.modules.is_some() || settings.nvme {
            depmod::install(&initramfs, self.lab.kernel(settings.kernel))?;
        }
        if settings.stacked {
            build::add_programs(&initramfs, self.lab.storage()?, &disk::STACKING)?;
        }
        let data = path("data");
        if settings.mapped {
            let whole = path("whole");
            disk::create_ext4(&whole, DATA_DISK)?;
            disk::divide(&whole, &data, DATA_DISK)?;
        } else {
            disk::create_ext4(&data, DATA_DISK)?;
        }
        let (image, removable) = (path("image"), path("removable"));
        for disk in [&image, &removable] {
            // Memory that does not compress at all, and some room for what describes it.
            disk::create(disk, u64::from(settings.memory) * 5 / 4)?;
        }
        let small = path("small");
        disk::create(&small, SMALL_DISK)?;
        let mut disks = vec![data, image, small];
        if settings.kinds {
            disks.extend(disk::create_kinds(folder.path())?);
        }
        if settings.stacked {
            disks.extend(disk::create_stacked(folder.path())?);
        }
        if let Course::Forged = run.scenario.course {
            // From the beginning: with other devices a machine has other memory.
            for path in forge::disks(folder.path()) {
                disk::create(&path, u64::from(settings.memory) * 5 / 4)?;
                disks.push(path);
            }
        }
        let platform = if settings.uefi {
            let (code, template) = self.lab.ovmf();
            let variables = path("uefi-variables");
            fs::copy(&template, &variables).context("copying the UEFI variables")?;
            Platform::Uefi { code, variables }
        } else {
            Platform::Bios
        };
        let rules = path("blkdebug");
        fs::write(&rules, Fault::WRITE).context("writing the rules of blkdebug")?;
        Ok(Parts {
            control: path("control"),
            removable,
            rules,
            folder,
            initramfs,
            disks,
            platform,
        })
    }

    /// The machine in this boot.
    pub(crate) fn machine(&self, run: &Run, boot: &Boot, parts: &Parts) -> Machine {
        let settings = &run.settings;
        let mut words = vec![
            // A kernel that panics resets the machine, which ends it; the guest's reports, which go
            // through the log of the kernel, are not held back.
            "console=ttyS0 panic=-1 printk.devkmsg=on".to_owned(),
            format!("lab.role={}", boot.role),
            format!("lab.seed={}", crc32fast::hash(run.scenario.name.as_bytes())),
            format!("lab.fill={}", settings.fill),
            format!("lab.loops={}", settings.loops),
            format!("lab.churn={}", settings.churn),
            format!("lab.keep_free={}", u8::from(settings.keep_free)),
            format!("lab.kinds={}", u8::from(settings.kinds)),
            format!("lab.mapped={}", u8::from(settings.mapped)),
            format!("lab.stacked={}", u8::from(settings.stacked)),
            // An emulated timer may come late when the host is busy; the kernel's check of it would
            // panic then.
            "no_timer_check".to_owned(),
            match boot.change {
                // Without it, the watchdog would wait for 30 s.
                Change::Nmi => {
                    "lab.append=panic=0,no_timer_check,unknown_nmi_panic,i6300esb.heartbeat=15"
                }
                _ => "lab.append=panic=-1,no_timer_check",
            }
            .to_owned(),
        ];
        if !settings.kaslr {
            words.push("nokaslr".to_owned());
        }
        if let Some(secret) = settings.secret {
            words.push(format!("lab.secret={secret}"));
        }
        if let Some(window) = &settings.window {
            words.push(format!("lab.window={window}"));
        }
        if let Some(modules) = &settings.modules {
            words.push(format!("lab.modules={modules}"));
        }
        if let Some(thing) = run.scenario.course.spoil() {
            words.push(format!("lab.spoil={thing}"));
        }
        if !settings.append.is_empty() {
            words.push(settings.append.clone());
        }
        if let Some(expect) = boot.expect {
            // Parameters have no blanks.
            let expect = expect.replace(' ', ",");
            words.push(format!("lab.expect={expect}"));
        }
        let mut memory = settings.memory;
        let mut cpu = settings.cpu.clone();
        let mut product = "lab";
        let mut fault = Fault::None;
        match boot.change {
            Change::Nothing | Change::Forged => {}
            Change::Memory => memory -= 64,
            Change::Product => product = "another",
            Change::Cpu => cpu.push_str(",avx2=off"),
            Change::Append(more) => words.push(more.to_owned()),
            Change::Nmi => fault = Fault::Slow(16 << 20),
            Change::SlowDisk(bytes) => fault = Fault::Slow(bytes),
            Change::WriteFails => fault = Fault::Write(parts.rules.clone()),
            Change::Vanishes => fault = Fault::Removable(parts.removable.clone()),
        }
        if boot.role != "resume" {
            words.push("ip=10.0.2.15::10.0.2.2:255.255.255.0:lab:eth0:off".to_owned());
        }
        Machine {
            memory,
            cpus: settings.cpus,
            nodes: settings.nodes,
            cpu,
            parallel: settings.parallel,
            platform: parts.platform.clone(),
            disks: parts.disks.clone(),
            nvme: settings.nvme,
            product,
            fault,
            control: (matches!(boot.change, Change::Vanishes | Change::Nmi)
                || settings.secret.is_some())
            .then(|| parts.control.clone()),
            logs: None,
            watchdog: boot.watchdog,
            kernel: self.lab.kernel(settings.kernel).to_owned(),
            initramfs: parts.initramfs.clone(),
            command_line: words.join(" "),
        }
    }
}

/// Sees a machine through all of its phases, to its end; or to where its power is to be cut, which happens
/// when the machine is dropped.
fn follow(
    vm: &mut Vm,
    boot: &Boot,
    machine: &Machine,
    mut lookout: Option<&mut Lookout<'_>>,
    watch: &mut dyn FnMut(Event<'_>),
) -> Result<Transcript> {
    // Whoever is asked for a passphrase that is known already mistypes it once.
    let mut slips = !boot.role.starts_with("hibernate");
    let mut done = false;
    let mut transcript = Transcript::new(&boot.phases);
    while let Some(line) = vm.next_line()? {
        watch(Event::Said(&line.text));
        if let Some(lookout) = &mut lookout {
            lookout.hear(&line.text)?;
        }
        if is_prompt(line.text.as_bytes()) {
            vm.type_line(if slips { MISTYPED } else { PASSPHRASE })?;
            slips = false;
        }
        if let Some(control) = &machine.control
            && !done
        {
            // At the start of a line it is B or D that says so, and not the guest that tells what another said.
            let saves = line.text.starts_with("kjump: saving ") && line.text.contains(" s left");
            let restores = line.text.starts_with("kjump: restoring ");
            match boot.change {
                Change::Vanishes if saves => control::unplug(control)?,
                Change::Nmi if saves || restores => control::inject_nmi(control)?,
                _ => {}
            }
            done = saves || restores;
        }
        match transcript.add(line) {
            Step::Same => {}
            Step::Done(phase, took) => watch(Event::Done(&phase, took)),
            Step::Failed(why) => return Err(vm.failure(&format!("the guest failed:{why}"))),
        }
        if boot.cut && transcript.missing().is_none() {
            return Ok(transcript);
        }
    }
    match transcript.missing() {
        None => Ok(transcript),
        Some(phase) => Err(vm.failure(&format!(
            "the machine went off before this was done: {} ({:?} on the console)",
            phase.title, phase.mark,
        ))),
    }
}
