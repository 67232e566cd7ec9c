//! A is saved and comes back, on one machine after the other.

use std::time::Duration;

use crate::course::Course;
use crate::encrypted;
use crate::settings::{Secret, Settings};

use super::judges::{
    MODULE_FOR_OTHERS, WRONG_KEY, chose_the_window, has_4_cpus, has_4_levels, has_5_levels,
    leaves_out_what_is_free, loads_modules, loads_nvme, restored_nothing, shows,
};
use super::{Scenario, freed, scenario, small};

pub(super) fn all() -> Vec<Scenario> {
    vec![
        scenario("loop", "A → B, power off, C → D → A", Course::Loop),
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
            "loop-stacked",
            "the loop with ext4 on LUKS, LVM and RAID, which only A has set up, with their own tools",
            Course::Loop,
        )
        .on(Settings {
            stacked: true,
            ..small()
        }),
        scenario(
            "loop-nvme",
            "the loop on NVMe disks, whose driver is a module that B and D get by themselves",
            Course::Loop,
        )
        .on(Settings {
            nvme: true,
            ..small()
        })
        .judged_by(loads_nvme),
        scenario(
            "loop-big",
            "the loop with 4 GiB, most of them full of random content",
            Course::Loop,
        )
        .on(Settings {
            memory: 4096,
            fill: 67,
            ..Settings::default()
        })
        .within(Duration::from_secs(300)),
        scenario(
            "loop-4-level",
            "the loop with 4 levels of page tables",
            Course::Loop,
        )
        .on(Settings {
            cpu: "qemu64".to_owned(),
            ..Settings::default()
        })
        .judged_by(has_4_levels),
        scenario(
            "loop-5-level",
            "the loop with 5 levels of page tables, and without KASLR",
            Course::Loop,
        )
        .on(Settings {
            kaslr: false,
            ..Settings::default()
        })
        .judged_by(has_5_levels),
        scenario(
            "loop-uefi",
            "the loop on a machine with UEFI firmware and AHCI disks",
            Course::Loop,
        )
        .on(Settings {
            uefi: true,
            ..Settings::default()
        }),
        scenario(
            "loop-smp",
            "the loop with 4 CPUs in all four kernels, and modules in B and D, one of which fails",
            Course::Loop,
        )
        .on(Settings {
            cpus: 4,
            modules: Some(format!("{MODULE_FOR_OTHERS},xfs")),
            ..Settings::default()
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
            ..Settings::default()
        }),
        scenario(
            "loop-over",
            "the loop with a window over A's own kernel, none of which stays in place",
            Course::Loop,
        )
        .on(Settings {
            window: Some("kernel".to_owned()),
            ..Settings::default()
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
            ..Settings::default()
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
    ]
}
