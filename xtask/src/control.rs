//! Commands to a QEMU that runs.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Takes the disk that is removable out of its machine, with its controller (QEMU's QMP reference,
/// `device_del`). It is gone when the machine's kernel has let go of it.
pub(crate) fn unplug(control: &Path) -> Result<()> {
    command(
        control,
        r#"{"execute": "device_del", "arguments": {"id": "removable"}}"#,
    )
}

/// Interrupts the machine by an NMI, as a button of servers does (`inject-nmi`).
pub(crate) fn inject_nmi(control: &Path) -> Result<()> {
    command(control, r#"{"execute": "inject-nmi"}"#)
}

/// Writes all memory of a machine to `file`, as an ELF core without notes of its CPUs' page tables, while
/// the machine stands still (`dump-guest-memory`).
pub(crate) fn dump(control: &Path, file: &Path) -> Result<()> {
    let file = file.display();
    command(
        control,
        &format!(
            r#"{{"execute": "dump-guest-memory", "arguments": {{"paging": false, "protocol": "file:{file}"}}}}"#
        ),
    )
}

/// Sends one command, and waits for the answer.
fn command(control: &Path, command: &str) -> Result<()> {
    let stream = UnixStream::connect(control).context("connecting to QEMU")?;
    let mut lines = BufReader::new(stream.try_clone().context("connecting to QEMU")?).lines();
    let mut next = || {
        lines
            .next()
            .context("QEMU hung up")?
            .context("hearing QEMU")
    };
    next()?;
    for line in [r#"{"execute": "qmp_capabilities"}"#, command] {
        writeln!(&stream, "{line}").context("talking to QEMU")?;
        // Events may come between.
        loop {
            let answer = next()?;
            if answer.contains("\"error\"") {
                bail!("QEMU refused {line}: {answer}");
            }
            if answer.contains("\"return\"") {
                break;
            }
        }
    }
    Ok(())
}
