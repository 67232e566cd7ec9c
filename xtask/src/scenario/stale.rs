//! What must not be resumed is refused.

use std::time::Duration;

use crate::course::Course;
use crate::settings::Settings;

use super::judges::{has_4_levels, makes_room};
use super::{Scenario, scenario, small};

pub(super) fn all() -> Vec<Scenario> {
    vec![
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
            "stale-stacked",
            "ext4 on LUKS, LVM and RAID, set up with their own tools: what is only opened does no harm, and each use \
             is noticed on the disks that it was on, and on no others",
            Course::SaveThen("stale-stacked"),
        )
        .on(Settings {
            stacked: true,
            ..small()
        })
        .within(Duration::from_secs(300)),
    ]
}
