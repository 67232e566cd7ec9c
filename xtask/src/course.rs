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
    /// As [`Course::Loop`]; but before the last time C is offered images that were forged, and refuses them, or
    /// D does. It takes two loops at least, since an older image is among them.
    Forged,
    /// A jumps to B, which saves it and powers off; then a kernel that is started in the window restores A.
    /// All loops but the last are as in [`Course::Loop`].
    InPlace,
    /// Saving fails in this guest's role, and A goes on; then all goes well, as in [`Course::Loop`].
    SaveFails(&'static str, Change),
    /// B breaks down in this guest's role and says this, the machine restarts, and C finds no image.
    Breakdown(&'static str, Change, &'static str),
    /// A is saved, and D fails to restore it three times, once because it stands still: C gives up, unless it is
    /// forced.
    Attempts,
    /// A is saved, and this guest's role finds what it looks for.
    SaveThen(&'static str),
    /// A is saved, and C refuses to resume it on what is no longer the same machine; then it does on the same
    /// one, A is saved again, and C refuses to resume it when its file system was used.
    Stale,
    /// A is saved by kernels with four levels of page tables, and C refuses to resume it with five; then it does
    /// with four, and never again.
    StalePaging,
    /// Shell scripts play all parts; the function boots the machine as often as that takes, and tells what
    /// came of it.
    Play(fn(&Stage<'_>) -> Result<String>),
}

/// One boot of the machine, from power on to power off.
#[derive(Clone, Debug)]
pub(crate) struct Boot {
    /// Role of the guest's first process.
    pub(crate) role: &'static str,
    /// Words that `kjump resume` has to say where it is to refuse, and `kjump doctor` where it is not.
    pub(crate) expect: Option<&'static str>,
    /// What has to happen, in this order.
    pub(crate) phases: Vec<Phase>,
    /// Whether the power is cut when all of that has happened.
    pub(crate) cut: bool,
    /// How the machine differs from that of the other boots.
    pub(crate) change: Change,
    /// Whether it has a watchdog.
    pub(crate) watchdog: bool,
    /// Whether a kernel may break down in it, or seem to.
    pub(crate) crash: bool,
}

/// How a machine differs in one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Not at all.
    Nothing,
    /// It has 64 MiB less memory.
    Memory,
    /// It is another product, by what its firmware says.
    Product,
    /// Its CPUs lack something.
    Cpu,
    /// Its kernel has these parameters besides.
    Append(&'static str),
    /// The disk for the image takes so many bytes a second.
    SlowDisk(u64),
    /// A write to the disk for the image fails, once.
    WriteFails,
    /// On disks that were empty are forged images.
    Forged,
    /// There is one more disk, which is taken out while B saves to it.
    Vanishes,
    /// B gets an NMI while it saves, or D while it restores; it panics of that and stays there, and the watchdog waits
    /// for 15 s.
    Nmi,
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
/// The last words of a kernel that panics of an NMI and stays there.
pub(crate) const STUCK: &str = "end Kernel panic - not syncing: NMI";
const REFUSED: Phase = phase("C refuses to resume", "lab: verdict=ok");
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
            Self::Stale => {
                let saving = phase("B has saved a part of A's memory", " s left");
                let interrupted = Boot {
                    cut: true,
                    change: Change::SlowDisk(8 << 20),
                    ..Boot::new("hibernate", &[&[FILL, SAVE[0], saving]])
                };
                vec![
                    interrupted,
                    refusing(Change::Nothing, "saving was interrupted"),
                    Boot::new("hibernate", &[&[FILL], &SAVE, &[OFF]]),
                    refusing(Change::Memory, "made with other memory"),
                    refusing(Change::Product, "made on another machine"),
                    refusing(Change::Cpu, "which the kernel in the image uses"),
                    refusing(Change::Append("no5lvl"), "boot it without no5lvl"),
                    refusing(
                        Change::Append("memmap=16M$0x4000000"),
                        "boot this kernel without memmap=16M$0x4000000",
                    ),
                    // What can make room in the window does.
                    Boot {
                        change: Change::Append("nokaslr crashkernel=16M@0x4000000"),
                        expect: Some("Crash kernel"),
                        ..Boot::new("resume", &[&RESUME, &[LEAVE_AGAIN], &SAVE, &[OFF]])
                    },
                    Boot::new("stale", &[&[REFUSED, OFF]]),
                ]
            }
            Self::StalePaging => {
                let four = Change::Append("no5lvl");
                let of_four = |boot| Boot {
                    change: four,
                    ..boot
                };
                vec![
                    of_four(Boot::new("hibernate", &[&[FILL], &SAVE, &[OFF]])),
                    refusing(Change::Nothing, "boot it with no5lvl"),
                    of_four(Boot::new("resume", &[&RESUME, &[VERIFY, OFF]])),
                    refusing(four, "resumed already"),
                ]
            }
            Self::SaveFails(role, change) => {
                let failing = [
                    phase("B fails to save A, and jumps back", "kjump: jumping back"),
                    phase("A goes on, and hears why", "lab: refused."),
                    phase(
                        "A compares what it holds with what it held",
                        "lab: unharmed=",
                    ),
                ];
                let first = Boot {
                    change,
                    // A's driver warns of a controller that does not answer, with all that a crash has.
                    crash: change == Change::Vanishes,
                    ..Boot::new(role, &[&[FILL], &failing, &SAVE, &[OFF]])
                };
                // The firmware keeps memory for the controller, which has to be the same.
                let last = Boot {
                    change: match change {
                        Change::Vanishes => change,
                        _ => Change::Nothing,
                    },
                    ..Boot::new("resume", &[&RESUME, &[VERIFY, OFF]])
                };
                vec![first, last]
            }
            Self::Breakdown(role, change, mark) => {
                let restart = phase("B breaks down, and the machine restarts", mark);
                let first = Boot {
                    change,
                    watchdog: true,
                    crash: true,
                    ..Boot::new(role, &[&[FILL, SAVE[0], restart]])
                };
                vec![first, refusing(Change::Nothing, "")]
            }
            Self::Attempts => {
                let fails = Boot {
                    cut: true,
                    ..Boot::new("resume", &[&RESUME[..4]])
                };
                let restart = phase("D stands still, and the machine restarts", STUCK);
                let stuck = Boot {
                    change: Change::Nmi,
                    watchdog: true,
                    crash: true,
                    ..Boot::new("resume", &[&RESUME[..4], &[restart]])
                };
                vec![
                    Boot::new("hibernate", &[&[FILL], &SAVE, &[OFF]]),
                    fails.clone(),
                    fails,
                    stuck,
                    refusing(Change::Nothing, "the machine never went on"),
                    Boot::new("resume-again", &[&RESUME, &[VERIFY, OFF]]),
                ]
            }
            Self::SaveThen(role) => {
                let well = phase("it boots and finds all as it must be", "lab: verdict=ok");
                vec![
                    Boot::new("hibernate", &[&[FILL], &SAVE, &[OFF]]),
                    Boot::new(role, &[&[well, OFF]]),
                ]
            }
            Self::Save => vec![Boot::new("hibernate", &[&[FILL], &SAVE, &[OFF]])],
            Self::InPlace => {
                let resume = [
                    phase("D boots in the window", "kjump: image accepted"),
                    phase("D begins", "kjump: restoring"),
                ];
                let first = Boot::new("hibernate-in-place", &[&[FILL], &SAVE, &[OFF]]);
                let next = Boot::new("resume", &[&RESUME, &[LEAVE_AGAIN], &SAVE, &[OFF]]);
                let last = Boot::new(Boot::IN_PLACE, &[&resume, &RESUME[4..], &[VERIFY, OFF]]);
                let mut boots = vec![first];
                boots.extend((0..again).map(|_| next.clone()));
                boots.push(last);
                boots
            }
            Self::Forged => {
                let forged = [
                    phase("C refuses forged images", "lab: ready="),
                    RESUME[1],
                    RESUME[2],
                    RESUME[3],
                    phase(
                        "D finds a forged piece of memory",
                        "tampered with: a piece of memory",
                    ),
                    phase(
                        "the machine boots again",
                        "kjump: the machine was not restored",
                    ),
                ];
                let mut boots = Self::Loop.boots(loops.max(2));
                let last = boots.len() - 1;
                boots.insert(
                    last,
                    Boot {
                        change: Change::Forged,
                        ..Boot::new("forged", &[&forged])
                    },
                );
                boots
            }
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
            Self::Alone(_)
            | Self::Bounce
            | Self::Save
            | Self::Loop
            | Self::Forged
            | Self::InPlace
            | Self::Stale
            | Self::StalePaging
            | Self::SaveThen(_)
            | Self::Attempts
            | Self::SaveFails(..)
            | Self::Breakdown(..)
            | Self::Play(_) => None,
        }
    }
}

impl Boot {
    /// Role of a boot without a guest: `kjump` itself is the first process, and has the command line that the
    /// guest told before.
    pub(crate) const IN_PLACE: &str = "in-place";

    pub(crate) fn new(role: &'static str, phases: &[&[Phase]]) -> Self {
        Self {
            role,
            expect: None,
            phases: phases.concat(),
            cut: false,
            change: Change::Nothing,
            watchdog: false,
            crash: false,
        }
    }
}

/// A boot of the machine with `change`, in which `kjump resume` has to refuse and say `expect`.
fn refusing(change: Change, expect: &'static str) -> Boot {
    Boot {
        change,
        expect: Some(expect),
        ..Boot::new("refused", &[&[REFUSED, OFF]])
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
            Course::InPlace,
            Course::Stale,
            Course::StalePaging,
        ] {
            for boot in course.boots(2).iter().filter(|boot| !boot.cut) {
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
