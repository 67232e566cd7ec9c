//! Commands to a QEMU that runs.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Gives the disk for the image another size, as its machine sees it (QEMU's QMP reference,
/// `block_resize`).
pub(crate) fn resize(control: &Path, bytes: u64) -> Result<()> {
    command(
        control,
        &format!(
            r#"{{"execute": "block_resize", "arguments": {{"device": "disk1", "size": {bytes}}}}}"#
        ),
    )
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
