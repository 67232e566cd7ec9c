//! What happens to a machine in a scenario: boots, and the phases of each.

use anyhow::Result;

use crate::rfc::Stage;

/// What happens to a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Course {
    /// It boots once, as the guest's role of this name, and finds all well.
    Alone(&'static str),
    /// It does harm to itself, and finds that.
    Spoilt(&'static str),
    /// A jumps to B, which jumps right back.
    Bounce,
    /// A jumps to B, which saves it and powers off: an image to look at.
    Save,
    /// A jumps to B, which saves it and powers off; then C loads D, which restores A.
    Loop,
    /// Shell scripts play all parts; the function boots the machine as often as that takes, and tells what
    /// came of it.
    Play(fn(&Stage<'_>) -> Result<String>),
}

/// One boot of the machine, from power on to power off.
#[derive(Clone, Debug)]
pub(crate) struct Boot {
    /// Role of the guest's first process.
    pub(crate) role: &'static str,
    /// What has to happen, in this order.
    pub(crate) phases: Vec<Phase>,
}

/// Something that happens to a machine, and how to see that it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Phase {
    /// What happens.
    pub(crate) title: &'static str,
    /// A part of the line on the console that ends it.
    pub(crate) mark: &'static str,
}

const fn phase(title: &'static str, mark: &'static str) -> Phase {
    Phase { title, mark }
}

const FILL: Phase = phase("A boots and fills its memory", "lab: ready=");
const SAVE: [Phase; 3] = [
    phase("A loads B and jumps", "kjump: jumping to the saving kernel"),
    phase("B boots in A's memory", "kjump: saving"),
    phase("B saves A's memory", "kjump: image committed"),
];
const BOUNCE: [Phase; 3] = [
    phase("A jumps to B", "kjump: jumping to the saving kernel"),
    phase(
        "B boots in A's memory and jumps back",
        "kjump: jumping back",
    ),
    phase("A goes on", "kjump: resumed"),
];
const RESUME: [Phase; 7] = [
    phase("C boots", "lab: ready="),
    phase("C checks the image", "kjump: image accepted"),
    phase(
        "C loads D and jumps",
        "kjump: jumping to the restoring kernel",
    ),
    phase("D boots in C's memory", "kjump: restoring"),
    phase("D restores A's memory", "kjump: memory restored"),
    phase("D jumps back to A", "kjump: jumping back"),
    phase("A goes on", "kjump: resumed"),
];
const VERIFY: Phase = phase(
    "A compares what it holds with what it held",
    "lab: verdict=ok",
);
const LEAVE_AGAIN: Phase = phase(
    "A compares what it holds, and gets ready to leave again",
    "lab: ready=",
);
const OFF: Phase = phase("the machine powers off", "reboot: Power down");

impl Course {
    /// The boots that it takes to go through it `loops` times.
    pub(crate) fn boots(self, loops: u32) -> Vec<Boot> {
        let again = loops.saturating_sub(1);
        match self {
            // It boots by itself.
            Self::Play(_) => Vec::new(),
            Self::Alone(role) => {
                let well = phase("it boots and finds all well", "lab: verdict=ok");
                vec![Boot::new(role, &[&[well, OFF]])]
            }
            Self::Spoilt(_) => {
                let harm = phase("it boots and finds the harm", "lab: verdict=failed");
                vec![Boot::new("self-check", &[&[harm, OFF]])]
            }
            Self::Bounce => {
                let mut phases = vec![FILL];
                phases.extend(BOUNCE);
                for _ in 0..again {
                    phases.push(LEAVE_AGAIN);
                    phases.extend(BOUNCE);
                }
                vec![Boot::new("bounce", &[&phases, &[VERIFY, OFF]])]
            }
            Self::Save => vec![Boot::new("hibernate", &[&[FILL], &SAVE, &[OFF]])],
            Self::Loop => {
                let first = Boot::new("hibernate", &[&[FILL], &SAVE, &[OFF]]);
                let next = Boot::new("resume", &[&RESUME, &[LEAVE_AGAIN], &SAVE, &[OFF]]);
                let last = Boot::new("resume", &[&RESUME, &[VERIFY, OFF]]);
                let mut boots = vec![first];
                boots.extend((0..again).map(|_| next.clone()));
                boots.push(last);
                boots
            }
        }
    }

    /// What the guest is to spoil, if anything.
    pub(crate) fn spoil(self) -> Option<&'static str> {
        match self {
            Self::Spoilt(thing) => Some(thing),
            Self::Alone(_) | Self::Bounce | Self::Save | Self::Loop | Self::Play(_) => None,
        }
    }
}

impl Boot {
    fn new(role: &'static str, phases: &[&[Phase]]) -> Self {
        Self {
            role,
            phases: phases.concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(boots: &[Boot], mark: &str) -> usize {
        let phases = boots.iter().flat_map(|boot| &boot.phases);
        phases.filter(|phase| phase.mark == mark).count()
    }

    #[test]
    fn every_boot_ends_with_power_off() {
        let role = "refusals";
        for course in [
            Course::Alone(role),
            Course::Spoilt("disk"),
            Course::Bounce,
            Course::Save,
            Course::Loop,
        ] {
            for boot in course.boots(2) {
                assert_eq!(boot.phases.last(), Some(&OFF), "{course:?}");
            }
        }
    }

    #[test]
    fn a_loop_takes_a_boot_more_than_it_has_rounds() {
        for loops in 1..4 {
            let boots = Course::Loop.boots(loops);
            let loops = loops as usize;
            assert_eq!(boots.len(), loops + 1);
            assert_eq!(count(&boots, "kjump: image committed"), loops);
            assert_eq!(count(&boots, "kjump: memory restored"), loops);
            assert_eq!(count(&boots, "lab: verdict=ok"), 1);
        }
    }

    #[test]
    fn bounces_take_one_boot() {
        let boots = Course::Bounce.boots(3);
        assert_eq!(boots.len(), 1);
        assert_eq!(count(&boots, "kjump: resumed"), 3);
        assert_eq!(count(&boots, "lab: verdict=ok"), 1);
    }
}
