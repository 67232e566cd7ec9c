//! What machines have to say in a scenario beyond what its course wants.

use anyhow::{Context, Result, ensure};

use crate::transcript::Transcript;

/// What everybody hears who gives another key than that of the image.
pub(super) const WRONG_KEY: &str = "the key is not the one that the image was encrypted with";

/// The harm to memory, and no more than that, was found.
pub(super) fn memory_is_spoilt(boots: &[Transcript]) -> Result<()> {
    shows(boots, 0, "lab: verdict=failed memory: 1 wrong pages")
}

/// The machine has 4 levels of page tables.
pub(super) fn has_4_levels(boots: &[Transcript]) -> Result<()> {
    shows(boots, 0, "lab: paging-levels=4")
}

/// The machine that was not interrupted has five levels, and C's own code lay where D had to.
pub(super) fn makes_room(boots: &[Transcript]) -> Result<()> {
    shows(boots, 2, "lab: paging-levels=5")?;
    shows(boots, 8, "goes with this kernel: Kernel code, ")
}

/// The machine has 5 levels of page tables.
pub(super) fn has_5_levels(boots: &[Transcript]) -> Result<()> {
    shows(boots, 0, "lab: paging-levels=5")
}

/// A found out where its own kernel lies.
pub(super) fn chose_the_window(boots: &[Transcript]) -> Result<()> {
    shows(boots, 0, "lab: window=")
}

/// B, and then D, have four CPUs.
pub(super) fn has_4_cpus(boots: &[Transcript]) -> Result<()> {
    for boot in 0..boots.len() {
        shows(boots, boot, "kjump: 4 CPUs")?;
    }
    Ok(())
}

/// A module that refuses to be loaded where CPUs do not tell how warm they are, as QEMU's.
pub(super) const MODULE_FOR_OTHERS: &str = "x86_pkg_temp_thermal";

/// B, and then D, have loaded XFS behind what it depends on, before they looked for their devices, and after
/// another module failed.
pub(super) fn loads_modules(boots: &[Transcript]) -> Result<()> {
    let failed = format!("kjump: cannot load module {MODULE_FOR_OTHERS}: ENODEV");
    say_before_their_work(boots, &[&failed, "kjump: loaded module xfs"])?;
    let needed = "kjump: loaded module exportfs";
    say_before_their_work(boots, &[needed, "kjump: loaded module xfs"])
}

/// B, and then D, have loaded the driver of NVMe behind what it depends on, before they looked for their devices.
pub(super) fn loads_nvme(boots: &[Transcript]) -> Result<()> {
    let modules = ["nvme_core", "nvme"].map(|name| format!("kjump: loaded module {name}"));
    say_before_their_work(boots, &modules.each_ref().map(String::as_str))
}

/// B, and then D, say `texts`, in this order, before they save and restore.
fn say_before_their_work(boots: &[Transcript], texts: &[&str]) -> Result<()> {
    let work = ["kjump: saving", "kjump: restoring"];
    for (number, (boot, work)) in boots.iter().zip(work).enumerate() {
        ensure!(
            boot.shows_in_order(&[texts, &[work]].concat()),
            "boot {} did not say {texts:?} in this order, and then {work:?}",
            number + 1
        );
    }
    Ok(())
}

/// B refused, and it was B that did.
pub(super) fn came_back_unsaved(boots: &[Transcript]) -> Result<()> {
    shows(boots, 0, "nor any other block device holds the image")?;
    shows(boots, 0, "(/proc/vmcore is missing)")?;
    shows(boots, 0, "kjump: jumping back")
}

/// In this boot D did not get as far as to write memory.
pub(super) fn restored_nothing(boots: &[Transcript], boot: usize) -> Result<()> {
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
pub(super) fn leaves_out_what_is_free(boots: &[Transcript]) -> Result<()> {
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
pub(super) fn shows(boots: &[Transcript], boot: usize, text: &str) -> Result<()> {
    let found = boots.get(boot).is_some_and(|boot| boot.shows(text));
    ensure!(found, "boot {} did not say {text:?}", boot + 1);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_driver_has_to_be_loaded_behind_what_it_needs() {
        let (core, nvme) = (
            "kjump: loaded module nvme_core",
            "kjump: loaded module nvme",
        );
        let judged =
            |b: &[&str], d: &[&str]| loads_nvme(&[Transcript::of(b), Transcript::of(d)]).is_ok();
        let d = [core, nvme, "kjump: restoring"];
        assert!(judged(&[core, nvme, "kjump: saving"], &d));
        assert!(!judged(&[nvme, core, "kjump: saving"], &d));
        assert!(!judged(&[core, "kjump: saving", nvme], &d));
        assert!(!judged(&["kjump: saving"], &d));
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
}
