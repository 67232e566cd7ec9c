//! Requests that must be refused, each with a reason that helps.

use std::fs::{self, File};
use std::io::Read;

use anyhow::{Context, Result, bail, ensure};

use crate::kjump::{self, KERNEL};
use crate::{console, disk, machine};

/// A request, and what has to be in the answer.
pub(crate) struct Refusal {
    /// What is wrong with it.
    name: &'static str,
    /// Makes the files that it needs.
    prepare: fn() -> Result<()>,
    /// Arguments of `kjump`; `DATA`, `IMAGE` and `SMALL` stand for the three disks, `LONG` for a long
    /// word.
    arguments: &'static [&'static str],
    /// Who asks.
    uid: u32,
    /// The exit status: 1 for what failed, 2 for what makes no sense.
    status: i32,
    /// Words that the answer has to have, in lower case.
    answer: &'static [&'static str],
}

/// A user who may do nothing.
const NOBODY: u32 = 65534;

/// Where files for the requests are.
const SCRATCH: &str = "/tmp/refusals";

/// What a kernel answers that cannot do this at all.
pub(crate) const WITHOUT_KEXEC_JUMP: &[Refusal] = &[refusal(
    "a kernel without KEXEC_JUMP",
    &["doctor"],
    &["config_kexec_jump"],
)];

/// What a user gets who is not root.
pub(crate) const NOT_ROOT: &[Refusal] = &[
    Refusal {
        uid: NOBODY,
        ..refusal("doctor without rights", &["doctor"], &["root"])
    },
    Refusal {
        uid: NOBODY,
        ..refusal(
            "load without rights",
            &["load", "--kernel", KERNEL],
            &["root"],
        )
    },
];

/// What root gets who asks for the impossible.
pub(crate) const BAD_REQUESTS: &[Refusal] = &[
    refusal(
        "kernel missing",
        &["load", "--kernel", "/tmp/refusals/none"],
        &["/tmp/refusals/none"],
    ),
    Refusal {
        prepare: || write("text", &b"not a kernel\n".repeat(8192)),
        ..refusal(
            "kernel is a text",
            &["load", "--kernel", "/tmp/refusals/text"],
            &["bzimage"],
        )
    },
    Refusal {
        prepare: || {
            let kernel = fs::read(KERNEL)?;
            write("half", &kernel[..kernel.len() / 2])
        },
        ..refusal(
            "kernel truncated",
            &["load", "--kernel", "/tmp/refusals/half"],
            &["truncated"],
        )
    },
    Refusal {
        prepare: || write("initrd", &vec![7; 80 << 20]),
        ..refusal(
            "initrd larger than the window",
            &[
                "load",
                "--kernel",
                KERNEL,
                "--initrd",
                "/tmp/refusals/initrd",
                "--window",
                "64M",
            ],
            &["window", "initramfs", "too small"],
        )
    },
    refusal(
        "command line too long",
        &["load", "--kernel", KERNEL, "--append", "LONG"],
        &["command line"],
    ),
    Refusal {
        status: 2,
        ..refusal(
            "window that is no size",
            &["load", "--kernel", KERNEL, "--window", "large"],
            &["--window"],
        )
    },
    refusal(
        "window where no memory is",
        &["load", "--kernel", KERNEL, "--window", "64M@0x10000000000"],
        &["window"],
    ),
    refusal(
        "window of more than half of memory",
        &["load", "--kernel", KERNEL, "--window", "600M"],
        &["window", "half"],
    ),
    refusal(
        "image on a mounted disk",
        &["hibernate", "--kernel", KERNEL, "--image", "DATA"],
        &["mounted"],
    ),
    refusal(
        "image disk too small",
        &["hibernate", "--kernel", KERNEL, "--image", "SMALL"],
        &["an image of this machine takes"],
    ),
    refusal(
        "jump with nothing loaded",
        &["jump"],
        &["nothing is loaded"],
    ),
    refusal(
        "resume of no image",
        &["resume", "--image", "IMAGE", "--kernel", KERNEL],
        &["no hibernation image"],
    ),
    Refusal {
        prepare: || write("zeros", &[0; 1 << 20]),
        ..refusal(
            "restore of no image",
            &["restore", "--image", "/tmp/refusals/zeros"],
            &["/tmp/refusals/zeros", "no hibernation image"],
        )
    },
    // Leaves a kernel loaded.
    Refusal {
        prepare: || {
            let image = disk::image_disk()?;
            kjump::run(&["load", "--kernel", KERNEL, "--image", &image])
        },
        ..refusal(
            "restore of an uncommitted image",
            &["restore", "--image", "IMAGE"],
            &["image"],
        )
    },
    // Leaves little memory.
    Refusal {
        prepare: || leave(80 << 20),
        ..refusal(
            "load with too little memory",
            &["load", "--kernel", KERNEL],
            &["loading a kernel takes", "to spare", "--window"],
        )
    },
];

/// What is refused in C, where an image of another machine is.
pub(crate) const BEFORE_RESUME: &[Refusal] = &[
    refusal(
        "restore over the running kernel",
        &["restore", "--image", "IMAGE"],
        &["running kernel"],
    ),
    Refusal {
        prepare: || write("cut", &start_of_image()?),
        ..refusal(
            "resume of a truncated image",
            &["resume", "--image", "/tmp/refusals/cut", "--kernel", KERNEL],
            &["truncated"],
        )
    },
    Refusal {
        prepare: || {
            let mut image = start_of_image()?;
            image[100] ^= 1;
            write("damaged", &image)
        },
        ..refusal(
            "resume of a damaged image",
            &[
                "resume",
                "--image",
                "/tmp/refusals/damaged",
                "--kernel",
                KERNEL,
            ],
            &["damaged"],
        )
    },
];

/// What is refused in A, after it was resumed.
pub(crate) const AFTER_RESUME: &[Refusal] = &[
    refusal(
        "second resume of an image",
        &["resume", "--image", "IMAGE", "--kernel", KERNEL],
        &["resumed"],
    ),
    refusal("second jump", &["jump"], &["nothing is loaded"]),
];

const fn refusal(
    name: &'static str,
    arguments: &'static [&'static str],
    answer: &'static [&'static str],
) -> Refusal {
    Refusal {
        name,
        prepare: || Ok(()),
        arguments,
        uid: 0,
        status: 1,
        answer,
    }
}

/// Makes each of the requests, and sees that it is refused and leaves nothing behind.
pub(crate) fn ask(requests: &[Refusal]) -> Result<()> {
    fs::create_dir_all(SCRATCH)?;
    let mut wrong = Vec::new();
    for request in requests {
        (request.prepare)().with_context(|| format!("preparing {}", request.name))?;
        let mut arguments = Vec::new();
        for &argument in request.arguments {
            arguments.push(match argument {
                "DATA" => disk::data_disk()?,
                "IMAGE" => disk::image_disk()?,
                "SMALL" => disk::small_disk()?,
                "LONG" => "x".repeat(5000),
                other => other.to_owned(),
            });
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match refused(&arguments, request) {
            Ok(answer) => console::report(
                &format!("refused.{}", request.name.replace(' ', "-")),
                &answer,
            ),
            Err(error) => wrong.push(format!("{}: {error:#}", request.name)),
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}", wrong.join("; "))
}

/// Makes a request; the answer, if it is the one that is wanted.
fn refused(arguments: &[&str], request: &Refusal) -> Result<String> {
    let loaded = || fs::read_to_string("/sys/kernel/kexec_loaded").unwrap_or_default();
    let loaded_before = loaded();
    let outcome = kjump::try_run(arguments, request.uid)?;
    let answer = outcome.output;
    ensure!(
        outcome.status == Some(request.status),
        "exit status {:?} instead of {}: {answer}",
        outcome.status,
        request.status
    );
    let lower = answer.to_lowercase();
    for words in request.answer {
        ensure!(
            lower.contains(words),
            "no {words:?} in the answer: {answer}"
        );
    }
    ensure!(!answer.contains("panicked"), "a panic: {answer}");
    ensure!(loaded() == loaded_before, "it loaded a kernel: {answer}");
    Ok(answer)
}

fn write(name: &str, bytes: &[u8]) -> Result<()> {
    fs::write(format!("{SCRATCH}/{name}"), bytes).with_context(|| format!("writing {name}"))
}

/// Takes all memory but so many bytes, for as long as the machine runs.
fn leave(bytes: u64) -> Result<()> {
    let taken = machine::available_memory()?.saturating_sub(bytes);
    Box::leak(vec![1_u8; usize::try_from(taken)?].into_boxed_slice());
    Ok(())
}

/// The first MiB of the disk that holds the image.
fn start_of_image() -> Result<Vec<u8>> {
    let path = disk::image_disk()?;
    let mut start = Vec::new();
    File::open(&path)
        .and_then(|disk| disk.take(1 << 20).read_to_end(&mut start))
        .with_context(|| format!("reading {path}"))?;
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        for requests in [
            WITHOUT_KEXEC_JUMP,
            NOT_ROOT,
            BAD_REQUESTS,
            BEFORE_RESUME,
            AFTER_RESUME,
        ] {
            for (number, request) in requests.iter().enumerate() {
                let name = request.name;
                assert!(!request.answer.is_empty(), "{name}");
                let lower = |words: &&str| *words == words.to_lowercase();
                assert!(request.answer.iter().all(lower), "{name}");
                assert!(requests[..number].iter().all(|other| other.name != name));
            }
        }
    }
}
