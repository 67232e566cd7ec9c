//! `docs/rfc-2007.md`: the steps of the mail, what one types today, and what that printed.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::lab::Kernel;
use crate::workspace;

/// A command, as it was run in a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Command {
    line: String,
    output: Vec<String>,
    /// Its exit status; `None` if the machine went elsewhere meanwhile.
    status: Option<u8>,
}

/// All that was run, by step of the mail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    steps: Vec<(u32, Vec<Command>)>,
    /// The last word of A.
    end: Option<String>,
}

/// The steps, in short, and what became of them.
const STEPS: [(u32, &str, &str); 13] = [
    (
        1,
        "Compile the kernel with `CONFIG_X86_32`, `RELOCATABLE`, `KEXEC`, `CRASH_DUMP`, `PM`, `KEXEC_JUMP`.",
        "No patch: `CONFIG_KEXEC_JUMP` is in mainline, on x86_64 too. Besides it takes `PROC_VMCORE` and \
         `RELOCATABLE`. `cargo xtask lab` builds such kernels.",
    ),
    (
        2,
        "Patch and compile kexec-tools.",
        "`cargo install --path examples --bin kexec`. Its `-l --load-preserve-context` takes the place of \
         `-p` where nothing is reserved.",
    ),
    (
        3,
        "Compile krestore.",
        "`cargo install --path examples --bin krestore`, and the module `oldmem/` for `/dev/oldmem`, which \
         the mail's second patch made writable and mainline has dropped since. (`krestore` works through \
         `/dev/mem` without.)",
    ),
    (
        4,
        "Prepare three root partitions, for A, B and C.",
        "A and C run from an initramfs here; B and D have one disk, for the core.",
    ),
    (
        5,
        "Boot kernel A, with `crashkernel=XXM@XXM`.",
        "Nothing is reserved: the jump swaps the memory of B with what A has there, and ACPI stays on. What \
         A has, and where:",
    ),
    (
        6,
        "Load kernel B: `kexec -p /boot/bzImage --elf64-core-headers --append=\"… kexec_jump_buf_pfn=…\"`.",
        "B learns the way back by `kexec_jump_back_entry=`, which the jump itself fills in.",
    ),
    (
        7,
        "Jump to B: `kexec -j`.",
        "The same. It returns when A is resumed.",
    ),
    (
        8,
        "In B: `cp /proc/vmcore .`, `cp /sys/kernel/kexec_jump_buf_pfn .`",
        "The same, with the address on B's command line in place of the file.",
    ),
    (9, "Power off.", "The same."),
    (10, "Boot kernel C.", "The same."),
    (
        11,
        "Load kernel D, almost as in step 6, and jump to it.",
        "The same. D must live where B did.",
    ),
    (
        12,
        "In D: `cp kexec_jump_buf_pfn /sys/kernel/kexec_jump_buf_pfn; krestore -b $backup_addr vmcore`.",
        "`-b` is for cores that hold the first 640 KiB, which the jump swaps like the rest now.",
    ),
    (
        13,
        "Jump back to A: `kexec -b`.",
        "The same, with the address from step 8. A goes on in step 7, where `kexec -j` returns:",
    ),
];

impl Record {
    /// Takes what a script said.
    pub(crate) fn add(&mut self, said: &str) {
        if let Some(step) = said.strip_prefix("step ") {
            if let Ok(step) = step.trim().parse() {
                self.steps.push((step, Vec::new()));
            }
        } else if let Some(end) = said.strip_prefix("A goes on: ") {
            self.end = Some(end.to_owned());
        } else if let Some((_, commands)) = self.steps.last_mut() {
            if let Some(line) = said.strip_prefix("$ ") {
                commands.push(Command {
                    line: line.to_owned(),
                    ..Command::default()
                });
            } else if let Some(command) = commands.last_mut() {
                if let Some(output) = said.strip_prefix("| ") {
                    command.output.push(output.to_owned());
                } else if let Some(status) = said.strip_prefix("= ") {
                    command.status = status.trim().parse().ok();
                }
            }
        }
    }

    /// All steps as Markdown.
    pub(crate) fn to_markdown(&self) -> String {
        let mut text = String::new();
        for (step, then, now) in STEPS {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "## {step}. {then}\n\n{}\n", wrapped(now));
            let commands: Vec<&Command> = self
                .steps
                .iter()
                .filter(|(number, _)| *number == step)
                .flat_map(|(_, commands)| commands)
                .collect();
            if commands.is_empty() {
                continue;
            }
            text.push_str("```console\n");
            for command in commands {
                let _ = writeln!(text, "# {}", command.line);
                for line in &command.output {
                    let _ = writeln!(text, "{line}");
                }
            }
            text.push_str("```\n\n");
        }
        text
    }

    /// The commands with what changes from run to run left out: what the document must agree with.
    fn commands(&self) -> Vec<(u32, String)> {
        self.steps
            .iter()
            .flat_map(|(step, commands)| {
                let line = |command: &Command| (*step, settled(&command.line));
                commands.iter().map(line).collect::<Vec<_>>()
            })
            .collect()
    }
}

/// A paragraph in lines of a width that is easy to read.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 108;
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

/// A command without the numbers that are others each time.
fn settled(line: &str) -> String {
    line.split_whitespace()
        .map(|word| match word.split_once("--entry=") {
            Some(_) => "--entry=ADDR",
            None => word,
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// The commands of the steps in the document `text`.
fn documented(text: &str) -> Vec<(u32, String)> {
    let mut step = 0;
    let mut console = false;
    let mut commands = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            let number = title.split('.').next().unwrap_or_default();
            step = number.parse().unwrap_or(0);
        } else if line.starts_with("```") {
            console = line == "```console";
        } else if let Some(command) = line.strip_prefix("# ")
            && console
        {
            commands.push((step, settled(command)));
        }
    }
    commands
}

/// Fails unless the document has just the commands that were run.
pub(crate) fn agrees(record: &Record) -> Result<()> {
    let text =
        fs::read_to_string(path()).with_context(|| format!("reading {}", path().display()))?;
    // The steps of A come in another order: it ends in step 13.
    let sorted = |mut commands: Vec<(u32, String)>| {
        commands.sort_by_key(|(step, _)| *step);
        commands
    };
    let (documented, run) = (sorted(documented(&text)), sorted(record.commands()));
    ensure!(
        documented == run,
        "docs/rfc-2007.md is of other commands; cargo xtask rfc --write makes it anew:\n{documented:?}\n{run:?}"
    );
    Ok(())
}

fn path() -> PathBuf {
    workspace().join("docs/rfc-2007.md")
}

/// Writes the document.
pub(crate) fn write(record: &Record, kernel: Kernel) -> Result<()> {
    let source = format!(
        "\"[RFC][PATCH 0/2 -mm] kexec based hibernation\" (Huang Ying, 26 August 2007, kexec mailing list) ends \
         with thirteen steps. Here they are, in short, each with what one does on an unpatched kernel today \
         and what that printed: `cargo xtask rfc --write` went through them on Linux {kernel} in a virtual \
         machine, with busybox as the shell, and wrote this. Addresses, ids and sizes are of that run."
    );
    let reserved = "With `--crashkernel` it does the same with the window inside the memory that `crashkernel=` \
         reserves, as the mail did: steps 6 and 11 are `kexec -p --load-preserve-context …` then, which loads B \
         for `-j` and for panics alike. Where the kernel is one with the patches of the mail, `kexec` uses its \
         reboot commands; `kexec -d` says which way it jumps.";
    let text = format!(
        "# The 2007 mail, step by step, today\n\n{}\n\n{}\n\n{}",
        wrapped(&source),
        wrapped(reserved),
        record.to_markdown()
    );
    fs::write(path(), text.trim_end().to_owned() + "\n")
        .with_context(|| format!("writing {}", path().display()))
}

/// Fails unless all went as it has to; tells what A said in the end.
pub(crate) fn check(record: &Record) -> Result<String> {
    for step in 5..=13 {
        ensure!(
            record.steps.iter().any(|(number, _)| *number == step),
            "step {step} was not reached"
        );
    }
    let end = record.end.as_deref().context("A did not go on")?;
    ensure!(
        !record.commands().is_empty(),
        "no command was run in any step"
    );
    Ok(format!("A goes on, and holds what it held: {end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_becomes_a_document_with_the_same_commands() {
        let mut record = Record::default();
        for said in [
            "ready",
            "step 6",
            "$ kexec -l /boot/bzImage",
            "= 0",
            "step 13",
            "$ kexec -b --entry=0x1000",
            "step 7",
            "| late",
            "= 0",
            "A goes on: abc",
        ] {
            record.add(said);
        }
        let text = record.to_markdown();
        assert_eq!(documented(&text), record.commands());
        assert_eq!(
            documented(&text),
            [
                (6, "kexec -l /boot/bzImage".to_owned()),
                (13, "kexec -b --entry=ADDR".to_owned())
            ]
        );
        // Steps 5 to 13 are missing.
        assert!(check(&record).is_err());
    }

    #[test]
    fn the_document_has_every_step_and_what_the_scripts_run() {
        let text = fs::read_to_string(path()).unwrap();
        let commands = documented(&text);
        for (step, then, now) in STEPS {
            let now = wrapped(now);
            assert!(text.contains(&format!("## {step}. {then}\n\n{now}\n")));
            let there = commands.iter().any(|(number, _)| *number == step);
            assert!(there || step < 5, "step {step} has no command");
        }
        // What the scripts run today is what the document says.
        for part in ["A", "B", "C", "D"] {
            let script = fs::read_to_string(workspace().join("xtask/lab/rfc").join(part)).unwrap();
            for line in script.lines() {
                let Some((_, line)) = line.split_once("run \"") else {
                    continue;
                };
                // Up to the first word that the script puts in.
                let fixed = line.split(['$', '"']).next().unwrap_or_default().trim();
                let fixed = fixed.trim_end_matches('\\');
                assert!(
                    commands
                        .iter()
                        .any(|(_, command)| command.starts_with(fixed)),
                    "{fixed:?} of {part} is not in the document: cargo xtask rfc --write"
                );
            }
        }
    }
}
