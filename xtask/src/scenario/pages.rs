//! A is saved, and other tools look at what was: which pages, and what is in them.

use std::time::Duration;

use crate::check;
use crate::course::Course;
use crate::settings::Settings;

use super::judges::{chose_the_window, has_4_levels, shows};
use super::{Scenario, freed, scenario, whole};

pub(super) fn all() -> Vec<Scenario> {
    vec![
        scenario(
            "image",
            "A → B, power off; with --keep, an image to look at",
            Course::Save,
        ),
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
    ]
}
