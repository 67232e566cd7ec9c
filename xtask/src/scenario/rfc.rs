//! Shell scripts play all parts, with the tools of the 2007 mail and with those of others.

use crate::course::Course;
use crate::lab::Kernel;
use crate::rfc;
use crate::settings::Settings;

use super::{Scenario, scenario};

pub(super) fn all() -> Vec<Scenario> {
    vec![
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
