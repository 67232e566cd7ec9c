//! `krestore`: the tool of step 12 of the 2007 mail. A core that was saved by `cp /proc/vmcore` goes back
//! to where its memory was; jumping there is for `kexec -b`.
#![forbid(unsafe_code)]

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use kjump::image::BACKUP_KEY;
use kjump::memory::image::Codec;
use kjump::memory::{Memory, PageClass, ReadFile, SavedFile};
use kjump::restore::{Plan, check, restore};
use kjump::{CommandLine, PhysAddr, machine, memory_device, open_memory, threads_for};
use kjump_examples::Meter;

mod relocated;

use relocated::Relocated;

/// Write a saved machine's memory back to where it was.
///
/// Runs in a kernel that was loaded beside that machine's memory: every range is checked against
/// /proc/iomem before the first byte is written. Afterwards, `kexec -b --entry=ADDR` jumps into the
/// machine, with the address that kexec_jump_back_entry= named in the kernel that saved it.
#[derive(Debug, Parser)]
#[command(
    name = "krestore",
    version,
    after_help = "Exit status: 0 done, 1 failed, 2 wrong usage."
)]
struct Cli {
    /// Where the first 640 KiB of the machine go, in bytes, or in KiB with a K behind
    ///
    /// For cores that hold them, as those of kernels that were loaded for panics do. Without it, the
    /// value of kexec_backup= on this kernel's command line counts.
    #[arg(short, long, value_name = "ADDR", value_parser = address)]
    backup: Option<u64>,
    /// What to restore to: /dev/oldmem, /dev/mem, or a plain file [default: /dev/oldmem if it is there]
    #[arg(long, value_name = "MEMORY")]
    target: Option<PathBuf>,
    /// Check everything and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// An ELF core, as `cp /proc/vmcore` makes it
    vmcore: PathBuf,
}

/// What is below belongs to the kernel that restores, whatever it is.
const LOW: u64 = 1 << 20;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("krestore: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let path = &cli.vmcore;
    let source = File::open(path)
        .and_then(ReadFile::new)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let file = SavedFile::open(source).with_context(|| format!("cannot use {}", path.display()))?;
    let machine = &file.machine;
    let raw = machine
        .raw()
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("cannot use {}", path.display()))?;
    let backup = match cli.backup {
        Some(backup) => Some(backup),
        None => backup_of(&machine::command_line()?)?,
    };
    let memory = Relocated::new(&raw, LOW, backup.map(PhysAddr::new)).with_context(|| {
        format!(
            "{} holds memory below 1 MiB, which this kernel uses itself; say where it is to go: \
             krestore -b ADDR, with the address that {BACKUP_KEY}= names",
            path.display()
        )
    })?;

    let target = cli.target.as_deref().unwrap_or_else(|| memory_device());
    let old = open_memory(target)?;
    let mut places = memory
        .contents()
        .filter_map(|class| (*class != PageClass::Free).then_some(()));
    let mut fill = None;
    if let Some(identity) = machine.identity() {
        for range in identity.saved_memory().ranges() {
            places.replace(range, ());
        }
        fill = identity.free_fill;
    }
    let plan = Plan {
        machine: &places,
        fill,
    };
    if cli.dry_run {
        let summary = check(&memory, plan, old.as_ref())?;
        println!(
            "krestore: {} bytes can be restored to {}; nothing was written",
            summary.total(),
            target.display()
        );
        return Ok(());
    }
    let mut meter = Meter::new("krestore", "restoring", || ());
    let summary = restore(
        &memory,
        plan,
        old.as_ref(),
        threads_for(Codec::None),
        &mut |at| meter.update(at),
    )?;
    meter.finish("restored");
    println!(
        "krestore: restored {} bytes to {}",
        summary.total(),
        target.display()
    );
    Ok(())
}

/// An address as the command line of a kernel has it: in bytes, or in KiB with a K behind; hexadecimal
/// behind 0x.
fn address(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is no address; say bytes, or KiB with a K behind, such as 36864K");
    let (digits, shift) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 10),
        None => (text, 0),
    };
    let value = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    value
        .ok()
        .and_then(|value| value.checked_mul(1 << shift))
        .ok_or_else(wrong)
}

/// The address of the backup on a kernel's command line.
fn backup_of(line: &str) -> Result<Option<u64>> {
    CommandLine::value(line, BACKUP_KEY)
        .map(|value| address(value).map_err(anyhow::Error::msg))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_backup_is_found_as_the_mail_found_it() {
        assert_eq!(address("36864K"), Ok(36 << 20));
        assert_eq!(address("0x2400000"), Ok(36 << 20));
        assert_eq!(address("4096"), Ok(4096));
        for wrong in ["", "K", "1M", "-1K", "18014398509481984K"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
        let line = "root=/dev/hdb kexec_backup=36864K single";
        assert_eq!(backup_of(line).unwrap(), Some(36 << 20));
        assert_eq!(backup_of("root=/dev/hdb").unwrap(), None);
        assert!(backup_of("kexec_backup=x").is_err());
    }
}
