//! What takes one boot: a machine that only looks at itself, or jumps to B and right back.

use crate::course::Course;
use crate::lab::Kernel;
use crate::settings::Settings;

use super::judges::memory_is_spoilt;
use super::{Scenario, scenario};

pub(super) fn all() -> Vec<Scenario> {
    vec![
        scenario(
            "self-check",
            "what A holds is verified without a jump, and harm to any of it is noticed",
            Course::Alone("self-check"),
        )
        .on(Settings {
            churn: 40,
            ..Settings::default()
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
            ..Settings::default()
        }),
        scenario(
            "refusals",
            "requests that cannot be met are refused, and do no harm",
            Course::Alone("refusals"),
        )
        // Where the kernel lies decides which windows there is room for.
        .on(Settings {
            kaslr: false,
            ..Settings::default()
        }),
        scenario(
            "not-root",
            "a user without rights is told so",
            Course::Alone("not-root"),
        ),
        scenario("bounce", "A → B → A", Course::Bounce),
    ]
}
