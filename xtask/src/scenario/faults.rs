//! Something fails while A is saved or resumed.

use std::time::Duration;

use crate::course::{Change, Course, STUCK};
use crate::settings::{Secret, Settings};

use super::judges::{came_back_unsaved, shows};
use super::{Scenario, scenario, small};

pub(super) fn all() -> Vec<Scenario> {
    vec![
        scenario(
            "save-fails",
            "B finds no device that A prepared, and jumps back",
            Course::Alone("save-fails"),
        )
        .judged_by(came_back_unsaved),
        scenario(
            "attempts",
            "D fails to restore A three times, once so that only the watchdog helps: C boots normally, and resumes A \
             only if it is forced",
            Course::Attempts,
        )
        .on(small()),
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
    ]
}
