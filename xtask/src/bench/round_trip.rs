//! One machine that hibernates and is resumed, by kjump or by its own kernel, and how long that takes.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::place::Place;
use super::swsusp::{self, Compressor};
use crate::build::{self, Binaries};
use crate::console::{self, Line};
use crate::lab::{Kernel, Lab, Tools};
use crate::machine::{Fault, Machine, Platform};
use crate::qemu::Vm;
use crate::settings::Settings;
use crate::{disk, runs_folder};

/// What all content is made from.
const SEED: u32 = 4;

/// What A reports before and after, and must not change.
const UNCHANGED: [&str; 3] = ["boot-id", "memory", "tmpfs"];

/// The memory in MiB from which on there is room for the window that kjump chooses, besides the content and
/// what is loaded; machines that have less are given a small one.
const ROOMY: u32 = 512;

/// The window of those.
pub(crate) const SMALL_WINDOW: &str = "40M";

/// The window for a kernel that a boot loader starts in it: where a kernel lies that it does not move.
const IN_PLACE_WINDOW: &str = "64M@0x1000000";

/// How a machine is hibernated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By kjump, with the codec that is named, or its own choice.
    Kjump(Option<String>),
    /// The same with an encrypted image.
    KjumpSealed(Option<String>),
    /// The same as the first with free pages, for a core that has all memory.
    KjumpWhole,
    /// The same as the first, but resumed by a kernel that is started in the window, without another one
    /// before it.
    KjumpInPlace(Option<String>),
    /// By the kernel.
    Swsusp(Compressor),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kjump(None) => f.write_str("kjump"),
            Self::Kjump(Some(codec)) => write!(f, "kjump-{codec}"),
            Self::KjumpSealed(None) => f.write_str("kjump-sealed"),
            Self::KjumpSealed(Some(codec)) => write!(f, "kjump-sealed-{codec}"),
            Self::KjumpWhole => f.write_str("kjump-whole"),
            Self::KjumpInPlace(None) => f.write_str("kjump-in-place"),
            Self::KjumpInPlace(Some(codec)) => write!(f, "kjump-in-place-{codec}"),
            Self::Swsusp(compressor) => write!(f, "swsusp-{}", compressor.name()),
        }
    }
}

/// A machine, and what it holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest {
    /// Memory in MiB.
    pub(crate) memory: u32,
    /// Number of CPUs.
    pub(crate) cpus: u32,
    /// Whether the CPUs run at once, and not in turns.
    pub(crate) parallel: bool,
    /// How much of memory is filled, in percent.
    pub(crate) fill: u8,
    /// How much of that compresses, in percent.
    pub(crate) compressible: u8,
}

impl Guest {
    /// Size of its disk in MiB: memory that does not compress at all, and some room for what describes it.
    pub(crate) fn disk(&self) -> u64 {
        u64::from(self.memory) * 5 / 4
    }

    /// How long one of its boots may take.
    fn limit(&self) -> Duration {
        Duration::from_secs(180 + u64::from(self.memory) / 10)
    }
}

/// What machines are made of, and where.
pub(crate) struct Bed<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) binaries: &'a Binaries,
    pub(crate) place: &'a Place,
    /// What has another QEMU than the one that is installed, if that is to be taken.
    pub(crate) emulator: Option<&'a Tools>,
    pub(crate) verbose: bool,
}

/// A machine that is off.
pub(crate) struct Hibernated<'a> {
    bed: &'a Bed<'a>,
    guest: Guest,
    way: Way,
    /// From the command until the machine was off.
    pub(crate) took: Duration,
    /// What kjump told of saving.
    pub(crate) save: Work,
    /// What its image takes on the disk, in bytes.
    pub(crate) written: u64,
    /// Its disk.
    pub(crate) disk: PathBuf,
    initramfs: PathBuf,
    said: Vec<Line>,
}

/// What kjump tells of saving or restoring; the kernel itself tells nothing of that kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// How long it took.
    pub(crate) took: Option<Duration>,
    /// What its threads took of that for checksums or encryption, all together.
    pub(crate) protection: Option<Duration>,
}

impl Work {
    fn of(said: &[Line], phase: &str) -> Self {
        let behind = |words| {
            let find = |line: &'_ Line| Some(line.text.split_once(words)?.1.to_owned());
            said.iter().find_map(find)
        };
        let took = |phases: String| {
            let of = |one: &str| seconds(one.strip_prefix(phase)?.strip_prefix(' ')?);
            phases.split(", ").find_map(of)
        };
        Self {
            took: behind("kjump: phases: ").and_then(took),
            protection: behind("checksums or encryption took ")
                .and_then(|text| seconds(text.split(',').next()?)),
        }
    }
}

/// As in `0.662 s`.
fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.strip_suffix(" s")?.parse().ok()?).ok()
}

/// A machine that went on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resumed {
    /// From power on until A's process ran again.
    pub(crate) took: Duration,
    /// What kjump told of restoring.
    pub(crate) restore: Work,
    /// What was still in the swap area then, in MiB: the kernel writes it there when its image would be too
    /// large.
    pub(crate) swapped: u64,
}

impl Bed<'_> {
    /// Boots `guest`, and hibernates it.
    ///
    /// # Errors
    ///
    /// If it does not go off as it should, with the end of its console.
    pub(crate) fn hibernate(&self, guest: Guest, way: &Way) -> Result<Hibernated<'_>> {
        let (disk, initramfs) = (self.place.path("disk"), self.place.path("initramfs"));
        let kernel = self.lab.kernel(Kernel::V6_12);
        let role = match way {
            Way::Kjump(_) | Way::KjumpSealed(_) | Way::KjumpWhole | Way::KjumpInPlace(_) => {
                disk::create(&disk, guest.disk())?;
                build::initramfs(&initramfs, self.binaries, kernel, false)?;
                if let Way::KjumpInPlace(_) = way {
                    "bench-kjump-in-place"
                } else {
                    "bench-kjump"
                }
            }
            Way::Swsusp(_) => {
                swsusp::create_swap(&disk, guest.disk())?;
                build::bare_initramfs(&initramfs, self.binaries)?;
                "bench-swsusp"
            }
        };
        let mut hibernated = Hibernated {
            bed: self,
            guest,
            way: way.clone(),
            took: Duration::ZERO,
            save: Work::default(),
            written: 0,
            disk,
            initramfs,
            said: Vec::new(),
        };
        let (said, off) = hibernated.boot(role, 1)?;
        let ready =
            moment(&said, "ready").context("A did not say that it was ready to hibernate")?;
        hibernated.took = off.saturating_sub(ready);
        hibernated.written = allocated(&hibernated.disk)?;
        hibernated.save = Work::of(&said, "save");
        hibernated.said = said;
        Ok(hibernated)
    }
}

impl Hibernated<'_> {
    /// Switches the machine on again, until A went on and its content was compared.
    ///
    /// # Errors
    ///
    /// If A does not go on, or is not as it was; with the end of the console.
    pub(crate) fn resume(&self) -> Result<Resumed> {
        let role = match self.way {
            Way::Kjump(_) | Way::KjumpSealed(_) | Way::KjumpWhole => "bench-kjump-resume",
            Way::KjumpInPlace(_) => {
                build::own_initramfs(&self.initramfs, self.bed.binaries)?;
                // It needs no part to play: the command line that A told says what is to be done.
                ""
            }
            Way::Swsusp(_) => "bench-swsusp-resume",
        };
        let (said, _) = self.boot(role, 2)?;
        let back = moment(&said, "back").context("A did not say that it was back")?;
        ensure!(
            value(&said, "verdict") == Some("ok"),
            "A did not say that all was well"
        );
        for thing in UNCHANGED {
            let before = value(&self.said, &format!("before.{thing}"));
            let after = value(&said, &format!("after.{thing}"));
            ensure!(
                before.is_some() && before == after,
                "{thing} of A was {before:?}, and is {after:?}"
            );
        }
        let swapped =
            value(&said, "swapped").and_then(|value| value.strip_suffix(" MiB")?.parse().ok());
        Ok(Resumed {
            took: back,
            restore: Work::of(&said, "restore"),
            swapped: swapped.context("A did not say how much was swapped out")?,
        })
    }

    /// Runs the machine until it is off; returns what it said, and when it was off.
    fn boot(&self, role: &str, number: u32) -> Result<(Vec<Line>, Duration)> {
        let name = format!("bench-{}-{}-{number}.log", self.way, self.guest.memory);
        let log = runs_folder().join(name);
        let Bed {
            lab,
            emulator,
            verbose,
            ..
        } = self.bed;
        let machine = Machine {
            memory: self.guest.memory,
            cpus: self.guest.cpus,
            nodes: 1,
            cpu: Settings::default().cpu,
            parallel: self.guest.parallel,
            platform: Platform::Bios,
            disks: vec![self.disk.clone()],
            nvme: false,
            fault: Fault::None,
            control: None,
            logs: None,
            watchdog: false,
            product: "lab",
            kernel: lab.kernel(Kernel::V6_12).to_owned(),
            initramfs: self.initramfs.clone(),
            command_line: match value(&self.said, "boot-line") {
                Some(line) => format!("{line} panic=-1 no_timer_check"),
                None => command_line(&self.guest, &self.way, role, number),
            },
        };
        let limit = self.guest.limit();
        let mut vm = match emulator {
            Some(tools) => Vm::start_in(tools.qemu(), &machine, &log, limit, *verbose)?,
            None => Vm::start(&machine, &log, limit, *verbose)?,
        };
        let mut said = Vec::new();
        while let Some(line) = vm.next_line()? {
            if let Some(why) = console::failure(&line.text) {
                return Err(vm.failure(&format!("the guest failed:{why}")));
            }
            said.push(line);
        }
        let off = vm.age();
        let last = if number == 1 { "ready" } else { "verdict" };
        if value(&said, last).is_none() || !powered_off(&said) {
            return Err(vm.failure(WENT_OFF));
        }
        if number == 1 && value(&said, "back").is_some() {
            bail!("A was back before it was off; {} tells more", log.display());
        }
        Ok((said, off))
    }
}

/// How an error begins that tells of a machine which went off without a word.
const WENT_OFF: &str = "the machine went off too early";

/// Whether QEMU is to blame, which fails now and then with CPUs that run at once: `Machine::parallel` tells
/// how. A guest that went off without a word may be one of those.
pub(crate) fn is_emulators_fault(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    text.contains("int3: 0000") || text.contains(WENT_OFF)
}

/// What the C library of our programs is told, in the environment, which Linux makes of words of the command line
/// that it does not know.
///
/// It copies and fills by `rep movsb` and `rep stosb` from 2 KiB on, which is what real CPUs do best. QEMU does it
/// byte by byte, at a tenth of the speed of its other ways.
const TUNABLES: &str = "GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=0x40000000:\
                        glibc.cpu.x86_rep_stosb_threshold=0x40000000";

fn command_line(guest: &Guest, way: &Way, role: &str, number: u32) -> String {
    let mut words = vec![
        // As in scenarios, but that lines of little weight stay off the serial port, which is slow.
        "console=ttyS0 panic=-1 printk.devkmsg=on loglevel=6 no_timer_check".to_owned(),
        format!("lab.append=panic=-1,no_timer_check,{TUNABLES}"),
        TUNABLES.to_owned(),
        format!("lab.role={role}"),
        format!("lab.seed={SEED}"),
        format!("lab.fill={}", guest.fill),
        format!("lab.compressible={}", guest.compressible),
    ];
    if let Way::KjumpInPlace(_) = way {
        words.push(format!("lab.window={IN_PLACE_WINDOW}"));
    } else if guest.memory < ROOMY {
        words.push(format!("lab.window={SMALL_WINDOW}"));
    }
    if let Way::Kjump(Some(codec))
    | Way::KjumpSealed(Some(codec))
    | Way::KjumpInPlace(Some(codec)) = way
    {
        words.push(format!("lab.codec={codec}"));
    }
    match way {
        Way::Kjump(_) | Way::KjumpInPlace(_) => {}
        Way::KjumpSealed(_) => words.push("lab.secret=key-file".to_owned()),
        Way::KjumpWhole => words.push("lab.keep_free=1".to_owned()),
        Way::Swsusp(compressor) => {
            words.push(format!("hibernate.compressor={}", compressor.name()));
            if number == 2 {
                words.push("resume=/dev/vda".to_owned());
            }
        }
    }
    words.join(" ")
}

/// Whether the machine was switched off, as the kernel tells whatever its console is set to
/// (`kernel_power_off`, `kernel/reboot.c`), and did not just reset.
fn powered_off(said: &[Line]) -> bool {
    said.iter()
        .any(|line| line.text.contains("reboot: Power down"))
}

/// When the guest first reported `key`, from power on.
fn moment(said: &[Line], key: &str) -> Option<Duration> {
    let line = said
        .iter()
        .find(|line| console::value(&line.text, key).is_some())?;
    Some(line.at)
}

/// What the guest first reported of `key`.
fn value<'a>(said: &'a [Line], key: &str) -> Option<&'a str> {
    said.iter().find_map(|line| console::value(&line.text, key))
}

/// What the sparse file at `path` takes, in bytes.
pub(crate) fn allocated(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?;
    // Blocks of 512 bytes, whatever the file system's are (stat(2)).
    Ok(metadata.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Guest = Guest {
        memory: 512,
        cpus: 2,
        parallel: true,
        fill: 40,
        compressible: 50,
    };

    fn said(lines: &[(u64, &str)]) -> Vec<Line> {
        let line = |&(seconds, text): &(u64, &str)| Line {
            at: Duration::from_secs(seconds),
            text: text.to_owned(),
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn the_first_report_is_the_moment() {
        let said = said(&[
            (1, "ready to run"),
            (2, "[    1.9] lab: already=no"),
            (3, "[    2.9] lab: ready=to hibernate"),
            (4, "lab: ready=again"),
        ]);
        assert_eq!(moment(&said, "ready"), Some(Duration::from_secs(3)));
        assert_eq!(value(&said, "ready"), Some("to hibernate"));
        assert_eq!(moment(&said, "back"), None);
        assert!(!powered_off(&said));
        assert!(powered_off(&self::said(&[(
            9,
            "[    8.9] reboot: Power down"
        )])));
    }

    #[test]
    fn phases_are_read_by_name() {
        let said = said(&[
            (1, "kjump: saving"),
            (
                8,
                "kjump: checksums or encryption took 0.070 s, of all threads together",
            ),
            (
                9,
                "kjump: phases: load and jump 1.013 s, boot 0.812 s, save 0.662 s, together 2.487 s",
            ),
        ]);
        let save = Work {
            took: Some(Duration::from_millis(662)),
            protection: Some(Duration::from_millis(70)),
        };
        assert_eq!(Work::of(&said, "save"), save);
        assert_eq!(Work::of(&said, "restore").took, None);
        assert_eq!(Work::of(&said[..1], "save"), Work::default());
    }

    #[test]
    fn only_the_second_boot_of_swsusp_resumes() {
        let way = Way::Swsusp(Compressor::Lzo);
        let words = |number| command_line(&GUEST, &way, "role", number);
        assert!(words(1).contains("hibernate.compressor=lzo"));
        assert!(!words(1).contains("resume=") && words(2).contains("resume=/dev/vda"));
        let codec = Way::Kjump(Some("zstd:3".to_owned()));
        let words = command_line(&GUEST, &codec, "role", 1);
        assert!(words.contains("lab.codec=zstd:3") && !words.contains("hibernate."));
        assert!(words.contains("lab.fill=40 lab.compressible=50"));
        assert!(!words.contains("lab.window") && !words.contains("lab.secret"));
        let sealed = Way::KjumpSealed(Some("none".to_owned()));
        for number in [1, 2] {
            let words = command_line(&GUEST, &sealed, "role", number);
            assert!(words.contains("lab.codec=none") && words.contains("lab.secret=key-file"));
        }
        // For A and C, and for B and D.
        assert_eq!(words.matches("GLIBC_TUNABLES=").count(), 2);
        let small = Guest {
            memory: 256,
            ..GUEST
        };
        assert!(command_line(&small, &codec, "role", 1).contains("lab.window=40M"));
    }

    #[test]
    fn only_what_qemu_does_is_repeated() {
        let fault =
            |text: &'static str| is_emulators_fault(&anyhow::anyhow!(text).context("boot 1"));
        assert!(fault(
            "a crash: [    1.2] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI"
        ));
        assert!(fault(WENT_OFF));
        assert!(!fault(
            "a crash: [ 1.2] Oops: general protection fault: 0000"
        ));
        assert!(!fault("the guest failed: memory: 1 wrong pages"));
        assert!(!fault("not done after 180 s"));
    }

    #[test]
    fn a_sparse_file_takes_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        disk::create(&path, 64).unwrap();
        assert_eq!(allocated(&path).unwrap(), 0);
        fs::write(&path, vec![1; 1 << 20]).unwrap();
        assert!(allocated(&path).unwrap() >= 1 << 20);
    }
}
