//! The scenarios: what happens to which machine, and what has to be seen on the way.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::check::{self, Checked};
use crate::course::{Change, Course, STUCK};
use crate::encrypted;
use crate::lab::Kernel;
use crate::rfc;
use crate::settings::{Secret, Settings};
use crate::transcript::Transcript;

/// Something that a machine goes through.
pub(crate) struct Scenario {
    /// What to call it.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) summary: &'static str,
    /// What happens.
    pub(crate) course: Course,
    /// The machine.
    pub(crate) settings: Settings,
    /// How long each boot of the machine may take.
    pub(crate) limit: Duration,
    /// Judges what the machine said, beyond what its course wants.
    pub(crate) judge: fn(&[Transcript]) -> Result<()>,
    /// Looks at the image that is there in the end, and tells in a line what it found.
    pub(crate) check: Option<fn(&Checked<'_>) -> Result<String>>,
    /// Kernels that it needs besides the machine's own.
    pub(crate) others: &'static [Kernel],
    /// Whether it takes so long that `cargo xtask test` runs it only if it is named.
    pub(crate) long: bool,
}

/// All scenarios.
pub(crate) fn all() -> Vec<Scenario> {
    let standard = Settings::default;
    vec![
        scenario(
            "self-check",
            "what A holds is verified without a jump, and harm to any of it is noticed",
            Course::Alone("self-check"),
        )
        .on(Settings {
            churn: 40,
            ..standard()
        }),
        scenario(
            "self-check-spoilt",
            "one wrong bit in A's memory fails a run",
            Course::Spoilt("memory"),
        )
        .judged_by(memory_is_spoilt),
        scenario(
            "doctor-yes",
            "the doctor finds that this kernel can hibernate",
            Course::Alone("doctor-yes"),
        ),
        scenario(
            "doctor-cloud",
            "the doctor finds what Debian's own kernel lacks",
            Course::Alone("doctor-no"),
        )
        .on(Settings {
            kernel: Kernel::DebianCloud,
            ..standard()
        }),
        scenario(
            "refusals",
            "requests that cannot be met are refused, and do no harm",
            Course::Alone("refusals"),
        )
        // Where the kernel lies decides which windows there is room for.
        .on(Settings {
            kaslr: false,
            ..standard()
        }),
        scenario(
            "not-root",
            "a user without rights is told so",
            Course::Alone("not-root"),
        ),
        Scenario {
            judge: came_back_unsaved,
            ..scenario(
                "save-fails",
                "B finds no device that A prepared, and jumps back",
                Course::Alone("save-fails"),
            )
        },
        scenario("bounce", "A → B → A", Course::Bounce),
        scenario(
            "image",
            "A → B, power off; with --keep, an image to look at",
            Course::Save,
        ),
        scenario("loop", "A → B, power off, C → D → A", Course::Loop),
        scenario(
            "stale",
            "what must not be resumed is refused: another machine, a window that is taken, disks that were used; \
             and what must be is resumed after all that",
            Course::Stale,
        )
        .on(Settings {
            // Where a kernel lies that is not moved.
            window: Some("64M@0x1000000".to_owned()),
            loops: 2,
            ..small()
        })
        .judged_by(makes_room),
        scenario(
            "stale-paging",
            "an image made with 4 levels of page tables is refused with 5, and resumed once with 4",
            Course::StalePaging,
        )
        .on(small())
        .judged_by(has_4_levels),
        scenario(
            "attempts",
            "D fails to restore A three times, once so that only the watchdog helps: C boots normally, and resumes A \
             only if it is forced",
            Course::Attempts,
        )
        .on(small()),
        scenario(
            "stale-kinds",
            "XFS, btrfs, FAT and swap that were used are noticed, each by itself",
            Course::SaveThen("stale-kinds"),
        )
        .on(Settings {
            kinds: true,
            ..small()
        }),
        scenario(
            "stale-mapped",
            "ext4 on a mapped device: its use is noticed where its pieces lie, and so are changes of the map",
            Course::SaveThen("stale-mapped"),
        )
        .on(Settings {
            mapped: true,
            ..small()
        }),
        scenario(
            "loop-mapped",
            "the loop with ext4 on a mapped device, which only A has set up",
            Course::Loop,
        )
        .on(Settings {
            mapped: true,
            ..small()
        }),
        scenario(
            "save-full",
            "the disk for the image is full: A hears of it, goes on, and hibernates to another",
            Course::SaveFails("save-full", Change::Nothing),
        )
        .on(small())
        .judged_by(|boots| shows(boots, 0, "No space left on device")),
        scenario(
            "save-io-error",
            "a write to the disk for an encrypted image fails: A hears of it, goes on without its key, and hibernates",
            Course::SaveFails("save-io-error", Change::WriteFails),
        )
        .on(Settings {
            secret: Some(Secret::KeyFile),
            ..small()
        })
        .judged_by(|boots| shows(boots, 0, "the machine was not saved: cannot write the image")),
        scenario(
            "save-vanishes",
            "the disk for the image is taken out while B saves: A hears of it, goes on, and hibernates to another",
            Course::SaveFails("save-vanishes", Change::Vanishes),
        )
        .on(small())
        .judged_by(|boots| shows(boots, 0, "the device is gone (")),
        scenario(
            "save-panics",
            "B panics: the machine restarts in time, and its image is refused",
            Course::Breakdown("save-panics", Change::Nothing, "Rebooting in 10 seconds"),
        )
        .on(small())
        .within(Duration::from_secs(120)),
        scenario(
            "save-hangs",
            "the disk for the image hangs: the machine restarts in time, and its image is refused",
            Course::Breakdown("save-hangs", Change::SlowDisk(16 << 10), "kjump: no progress for"),
        )
        .on(small())
        .within(Duration::from_secs(150)),
        scenario(
            "save-stuck",
            "the kernel B stands still with all that it runs: the watchdog restarts the machine, and its image is refused",
            Course::Breakdown("save-stuck", Change::Nmi, STUCK),
        )
        .on(small())
        .within(Duration::from_secs(120)),
        scenario(
            "loop-big",
            "the loop with 4 GiB, most of them full of random content",
            Course::Loop,
        )
        .on(Settings {
            memory: 4096,
            fill: 67,
            ..standard()
        })
        .within(Duration::from_secs(300)),
        scenario(
            "loop-4-level",
            "the loop with 4 levels of page tables",
            Course::Loop,
        )
        .on(Settings {
            cpu: "qemu64".to_owned(),
            ..standard()
        })
        .judged_by(has_4_levels),
        scenario(
            "loop-5-level",
            "the loop with 5 levels of page tables, and without KASLR",
            Course::Loop,
        )
        .on(Settings {
            kaslr: false,
            ..standard()
        })
        .judged_by(has_5_levels),
        scenario(
            "loop-uefi",
            "the loop on a machine with UEFI firmware and AHCI disks",
            Course::Loop,
        )
        .on(Settings {
            uefi: true,
            ..standard()
        }),
        scenario(
            "loop-smp",
            "the loop with 4 CPUs in all four kernels, and modules in B and D, one of which fails",
            Course::Loop,
        )
        .on(Settings {
            cpus: 4,
            modules: Some(format!("{MODULE_FOR_OTHERS},xfs")),
            ..standard()
        })
        .judged_by(|boots| {
            has_4_cpus(boots)?;
            loads_modules(boots)
        }),
        scenario(
            "loop-freed",
            "the loop with much memory that was used and freed: it need not be saved",
            Course::Loop,
        )
        .on(freed())
        .judged_by(leaves_out_what_is_free),
        scenario(
            "loop-init-on-free",
            "the same on kernels that count on free memory being zero",
            Course::Loop,
        )
        .on(Settings {
            append: "init_on_free=1".to_owned(),
            ..freed()
        })
        .within(Duration::from_secs(300))
        .judged_by(leaves_out_what_is_free),
        scenario(
            "loop-page-poison",
            "the same on kernels that check free memory, and what else may be harmed",
            Course::Loop,
        )
        .on(Settings {
            append: "page_poison=1 page_owner=on slub_debug=FZP".to_owned(),
            ..freed()
        })
        .within(Duration::from_secs(300))
        .judged_by(leaves_out_what_is_free),
        scenario(
            "loop-numa",
            "the same on a machine with two NUMA nodes and 2 GiB",
            Course::Loop,
        )
        .on(Settings {
            memory: 2048,
            nodes: 2,
            ..freed()
        })
        .within(Duration::from_secs(300))
        .judged_by(|boots| {
            shows(boots, 0, "lab: nodes=2")?;
            leaves_out_what_is_free(boots)
        }),
        scenario(
            "loop-twice",
            "two loops in a row from one boot of A",
            Course::Loop,
        )
        .on(Settings {
            loops: 2,
            ..standard()
        }),
        scenario(
            "loop-over",
            "the loop with a window over A's own kernel, none of which stays in place",
            Course::Loop,
        )
        .on(Settings {
            window: Some("kernel".to_owned()),
            ..standard()
        })
        .judged_by(chose_the_window),
        scenario(
            "loop-in-place",
            "A → B, power off; then a kernel that is started in the window restores A, without C",
            Course::InPlace,
        )
        .on(Settings {
            // Where a kernel lies that its boot loader did not move.
            window: Some("64M@0x1000000".to_owned()),
            ..standard()
        }),
        scenario(
            "loop-encrypted",
            "two loops with an encrypted image, which hides A; other keys and forged images are refused, no key is left",
            Course::Forged,
        )
        .on(Settings {
            loops: 2,
            secret: Some(Secret::KeyFile),
            ..small()
        })
        .judged_by(|boots| restored_nothing(boots, 2))
        .checked_by(encrypted::check),
        scenario(
            "loop-passphrase",
            "C, and then a kernel in the window, ask for a passphrase: a wrong one is refused, and nothing is left of either",
            Course::InPlace,
        )
        .on(Settings {
            window: Some("96M@0x1000000".to_owned()),
            loops: 2,
            secret: Some(Secret::Passphrase),
            ..small()
        })
        .judged_by(|boots| {
            shows(boots, 1, WRONG_KEY)?;
            shows(boots, 2, WRONG_KEY)
        }),
        scenario(
            "loop-keyring",
            "the loop with an image whose key the kernel keeps",
            Course::Loop,
        )
        .on(Settings {
            secret: Some(Secret::Keyring),
            ..small()
        }),
        scenario(
            "pages",
            "makedumpfile finds the same pages free, and the same pages zero",
            Course::Save,
        )
        .on(whole())
        .checked_by(check::pages),
        scenario(
            "pages-4-level",
            "the same with 4 levels of page tables",
            Course::Save,
        )
        .on(Settings {
            cpu: "qemu64".to_owned(),
            ..whole()
        })
        .judged_by(has_4_levels)
        .checked_by(check::pages),
        scenario(
            "pages-over",
            "the same with a window over A's own kernel, and without KASLR",
            Course::Save,
        )
        .on(Settings {
            kaslr: false,
            window: Some("96M@0x1000000".to_owned()),
            ..whole()
        })
        .checked_by(check::pages),
        scenario(
            "pages-numa",
            "the same on a machine with two NUMA nodes and 2 GiB",
            Course::Save,
        )
        .on(Settings {
            memory: 2048,
            nodes: 2,
            ..whole()
        })
        .judged_by(|boots| shows(boots, 0, "lab: nodes=2"))
        .checked_by(check::pages),
        scenario(
            "pages-big",
            "the same with 5 GiB, some of them above the gap below 4 GiB",
            Course::Save,
        )
        .on(Settings {
            memory: 5120,
            ..whole()
        })
        .within(Duration::from_secs(300))
        .checked_by(check::pages)
        .only_if_named(),
        scenario(
            "tools",
            "crash, drgn, gdb and makedumpfile find A in a core made of the image, and so does a restore",
            Course::Save,
        )
        .on(Settings {
            window: Some("kernel".to_owned()),
            ..freed()
        })
        .judged_by(chose_the_window)
        .checked_by(check::tools),
        scenario(
            "rfc",
            "the thirteen steps of the 2007 mail, by shell scripts with kexec and krestore",
            Course::Play(rfc::play),
        )
        .on(rfc::settings()),
        scenario(
            "rfc-crashkernel",
            "the same with B and D in memory that crashkernel= reserves",
            Course::Play(rfc::play_reserved),
        )
        .on(rfc::settings()),
        scenario(
            "kexec-cloud",
            "plain kexec, ours and kexec-tools', from one of Debian's own kernels to the next",
            Course::Play(rfc::scenes::cloud),
        )
        .with_kernels(&[Kernel::DebianCloud])
        .on(rfc::settings()),
        scenario(
            "kexec-cloud-uefi",
            "the same on a machine with UEFI firmware",
            Course::Play(rfc::scenes::cloud),
        )
        .with_kernels(&[Kernel::DebianCloud])
        .on(Settings {
            uefi: true,
            ..rfc::settings()
        }),
        scenario(
            "kexec-bounce",
            "what kexec-tools or ours loaded, the other jumps to, unloads and reports",
            Course::Play(rfc::scenes::bounce),
        )
        .on(rfc::settings()),
        scenario(
            "kexec-theirs",
            "what kexec-tools loads for a jump there and back takes the sleeping machine's memory",
            Course::Play(rfc::scenes::theirs),
        )
        .on(rfc::settings()),
        scenario(
            "kexec-panic",
            "a panic, and a core of it that is as kexec-tools' and opens in crash",
            Course::Play(rfc::scenes::panic),
        )
        .on(rfc::settings()),
        scenario(
            "oldmem-refuses",
            "the module refuses own memory, devices, and what is none",
            Course::Play(rfc::scenes::refused),
        )
        .on(rfc::settings()),
        scenario(
            "rfc-answers",
            "kexec-tools and our kexec answer the same, but where the table says otherwise",
            Course::Play(rfc::answers::play),
        )
        .on(rfc::settings()),
    ]
}

/// What everybody hears who gives another key than that of the image.
const WRONG_KEY: &str = "the key is not the one that the image was encrypted with";

/// A machine that takes little time.
fn small() -> Settings {
    Settings {
        memory: 512,
        fill: 20,
        ..Settings::default()
    }
}

/// A machine much of whose memory was used and is free.
fn freed() -> Settings {
    Settings {
        fill: 20,
        churn: 60,
        ..Settings::default()
    }
}

/// A machine that is saved with all of its memory, much of which was used and is free.
fn whole() -> Settings {
    Settings {
        churn: 30,
        keep_free: true,
        ..Settings::default()
    }
}

/// The scenario of this name.
pub(crate) fn find(name: &str) -> Result<Scenario> {
    let all = all();
    let names: Vec<&str> = all.iter().map(|scenario| scenario.name).collect();
    let names = names.join(", ");
    match all.into_iter().find(|scenario| scenario.name == name) {
        Some(scenario) => Ok(scenario),
        None => bail!("there is no scenario {name:?}; there are: {names}"),
    }
}

fn scenario(name: &'static str, summary: &'static str, course: Course) -> Scenario {
    Scenario {
        name,
        summary,
        course,
        settings: Settings::default(),
        limit: Duration::from_secs(180),
        judge: |_| Ok(()),
        check: None,
        others: &[],
        long: false,
    }
}

impl Scenario {
    fn on(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    fn judged_by(self, judge: fn(&[Transcript]) -> Result<()>) -> Self {
        Self { judge, ..self }
    }

    fn with_kernels(self, others: &'static [Kernel]) -> Self {
        Self { others, ..self }
    }

    fn only_if_named(self) -> Self {
        Self { long: true, ..self }
    }

    fn checked_by(self, check: fn(&Checked<'_>) -> Result<String>) -> Self {
        Self {
            check: Some(check),
            ..self
        }
    }
}

fn memory_is_spoilt(boots: &[Transcript]) -> Result<()> {
    shows(boots, 0, "lab: verdict=failed memory: 1 wrong pages")
}

fn has_4_levels(boots: &[Transcript]) -> Result<()> {
    shows(boots, 0, "lab: paging-levels=4")
}

/// The machine that was not interrupted has five levels, and C's own code lay where D had to.
fn makes_room(boots: &[Transcript]) -> Result<()> {
    shows(boots, 2, "lab: paging-levels=5")?;
    shows(boots, 8, "goes with this kernel: Kernel code, ")
}

fn has_5_levels(boots: &[Transcript]) -> Result<()> {
    shows(boots, 0, "lab: paging-levels=5")
}

/// A found out where its own kernel lies.
fn chose_the_window(boots: &[Transcript]) -> Result<()> {
    shows(boots, 0, "lab: window=")
}

/// B, and then D, have four CPUs.
fn has_4_cpus(boots: &[Transcript]) -> Result<()> {
    for boot in 0..boots.len() {
        shows(boots, boot, "kjump: 4 CPUs")?;
    }
    Ok(())
}

/// A module that refuses to be loaded where CPUs do not tell how warm they are, as QEMU's.
const MODULE_FOR_OTHERS: &str = "x86_pkg_temp_thermal";

/// B, and then D, have loaded XFS behind what it depends on, before they looked for their devices, and after
/// another module failed.
fn loads_modules(boots: &[Transcript]) -> Result<()> {
    let failed = format!("kjump: cannot load module {MODULE_FOR_OTHERS}: ENODEV");
    let next = ["kjump: saving", "kjump: restoring"];
    for (number, (boot, next)) in boots.iter().zip(next).enumerate() {
        let xfs = "kjump: loaded module xfs";
        for (before, after) in [
            (failed.as_str(), xfs),
            ("kjump: loaded module exportfs", xfs),
            (xfs, next),
        ] {
            ensure!(
                boot.shows_in_order(before, after),
                "boot {} did not say {before:?}, and then {after:?}",
                number + 1
            );
        }
    }
    Ok(())
}

/// B refused, and it was B that did.
fn came_back_unsaved(boots: &[Transcript]) -> Result<()> {
    shows(boots, 0, "nor any other block device holds the image")?;
    shows(boots, 0, "(/proc/vmcore is missing)")?;
    shows(boots, 0, "kjump: jumping back")
}

/// In this boot D did not get as far as to write memory.
fn restored_nothing(boots: &[Transcript], boot: usize) -> Result<()> {
    for written in [
        "kjump: verified",
        "kjump: restored",
        "kjump: memory restored",
    ] {
        ensure!(
            boots.get(boot).is_some_and(|boot| !boot.shows(written)),
            "D went on with a forged image: {written:?}"
        );
    }
    Ok(())
}

/// Each time that A was saved, what it had freed just before was not, or half of it at the least:
/// the window and the kernel take some.
fn leaves_out_what_is_free(boots: &[Transcript]) -> Result<()> {
    let freed: Vec<u64> = boots
        .iter()
        .flat_map(|boot| boot.values("before.freed"))
        .map(|value| {
            let (mib, _) = value
                .split_once(" MiB")
                .context("no size of what A freed")?;
            let mib: u64 = mib.parse().context("no size of what A freed")?;
            Ok(mib << 20)
        })
        .collect::<Result<_>>()?;
    let left_out: Vec<u64> = boots.iter().flat_map(Transcript::left_out).collect();
    ensure!(!freed.is_empty(), "A did not say what it freed");
    ensure!(
        left_out.len() == freed.len(),
        "{} times B said how much it left out, where A was saved {} times",
        left_out.len(),
        freed.len()
    );
    for (freed, left_out) in freed.into_iter().zip(left_out) {
        ensure!(
            left_out >= freed / 2,
            "B left out {} MiB where A had freed {} MiB",
            left_out >> 20,
            freed >> 20
        );
    }
    Ok(())
}

/// Fails unless some line of a boot has `text`.
fn shows(boots: &[Transcript], boot: usize, text: &str) -> Result<()> {
    let found = boots.get(boot).is_some_and(|boot| boot.shows(text));
    ensure!(found, "boot {} did not say {text:?}", boot + 1);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_found_by_their_names() {
        let names: Vec<&str> = all().iter().map(|scenario| scenario.name).collect();
        for (number, name) in names.iter().enumerate() {
            assert_eq!(find(name).unwrap().name, *name);
            assert!(!names[..number].contains(name), "{name} is there twice");
        }
        assert!(find("").is_err());
    }

    #[test]
    fn four_cpus_are_wanted_in_every_boot() {
        let two = Transcript::of(&["kjump: 2 CPUs"]);
        let four = Transcript::of(&["hello", "kjump: 4 CPUs"]);
        assert!(has_4_cpus(&[four, two]).is_err());
        let four = || Transcript::of(&["hello", "kjump: 4 CPUs"]);
        assert!(has_4_cpus(&[four(), four()]).is_ok());
    }

    #[test]
    fn modules_have_to_be_loaded_in_their_order() {
        let failed = "kjump: cannot load module x86_pkg_temp_thermal: ENODEV: No such device";
        let (xfs, other) = ("kjump: loaded module xfs", "kjump: loaded module exportfs");
        let (b, d) = ("kjump: saving to /dev/vdb", "kjump: restoring");
        let judged = |boots: &[&[&str]]| {
            let boots: Vec<_> = boots.iter().map(|lines| Transcript::of(lines)).collect();
            loads_modules(&boots).is_ok()
        };
        let good = [failed, other, xfs, b];
        assert!(judged(&[&good, &[failed, other, xfs, d]]));
        assert!(!judged(&[
            &[failed, xfs, other, b],
            &[failed, other, xfs, d]
        ]));
        assert!(!judged(&[&good, &[failed, other, d, xfs]]));
        assert!(!judged(&[&good, &[other, xfs, d]]));
        assert!(!judged(&[&good, &[d]]));
    }

    #[test]
    fn half_of_what_is_freed_has_to_be_left_out() {
        let judged = |boots: &[&[&str]]| {
            let boots: Vec<_> = boots.iter().map(|lines| Transcript::of(lines)).collect();
            leaves_out_what_is_free(&boots).is_ok()
        };
        let freed = "[    5.0] lab: before.freed=600 MiB filled and freed, 650 MiB free";
        let enough = "kjump: left out 300.0 MiB that were free, 12.0 MiB of zeros";
        let little = "kjump: left out 299.9 MiB that were free, 512.0 MiB of zeros";
        assert!(judged(&[&[freed, enough], &["lab: verdict=ok"]]));
        assert!(judged(&[&[freed, enough], &[freed, enough], &[]]));
        assert!(!judged(&[&[freed, little], &[]]));
        assert!(!judged(&[&[freed, enough], &[freed, little], &[]]));
        assert!(!judged(&[&[freed, enough], &[freed], &[]]));
        assert!(!judged(&[&[enough], &[]]));
        assert!(!judged(&[&["lab: before.freed=much", enough], &[]]));
        assert!(!judged(&[]));
    }

    #[test]
    fn no_scenario_wants_more_memory_than_there_is() {
        for scenario in all() {
            let settings = scenario.settings;
            assert!(settings.fill <= 95, "{}", scenario.name);
            assert!(
                settings.churn == 0 || settings.fill + settings.churn <= 90,
                "{}",
                scenario.name
            );
        }
    }
}
