//! What else is played by shell scripts: plain kexec, kernels that wait for a panic, and who sees what the
//! other loaded.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::Stage;
use crate::lab::Kernel;

/// Fails unless the scripts ended well.
fn ended_well(lines: &[String]) -> Result<()> {
    ensure!(
        lines.iter().any(|line| line == "verdict=ok"),
        "the machine went off before its end"
    );
    Ok(())
}

/// Debian's own kernel is loaded and entered: by our kexec, by kexec-tools what ours loaded, by ours what
/// kexec-tools loaded, and by `kexec_file_load(2)`.
pub(crate) fn cloud(stage: &Stage<'_>) -> Result<String> {
    let cloud = stage.lab.kernel(Kernel::DebianCloud);
    let cloud = fs::read(cloud).with_context(|| format!("reading {}", cloud.display()))?;
    let set = stage.set_with(&[("cloud", &cloud)])?;
    let lines = stage.boot(&set, 1, "cloud", "rfc.hop=1")?;
    ended_well(&lines)?;
    let hops: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("hop "))
        .collect();
    ensure!(hops.len() == 4, "four kernels have to run: {hops:?}");
    ensure!(
        hops.iter().skip(1).all(|hop| hop.contains("cloud")),
        "all but the first have to be Debian's: {hops:?}"
    );
    Ok(hops.join(", "))
}

/// What the one loaded, the other jumps to, unloads and reports.
pub(crate) fn bounce(stage: &Stage<'_>) -> Result<String> {
    let set = stage.set()?;
    let lines = stage.boot(&set, 1, "bounce", "crashkernel=128M@256M nokaslr")?;
    ended_well(&lines)?;
    let jumps = lines
        .iter()
        .filter(|line| line.as_str() == "| /tmp/work: OK")
        .count();
    ensure!(jumps == 3, "{jumps} of 3 jumps came back");
    Ok(format!("{jumps} jumps there and back"))
}

/// What kexec-tools loads for a jump there and back does not spare the machine that it jumped from.
pub(crate) fn theirs(stage: &Stage<'_>) -> Result<String> {
    let set = stage.set()?;
    let lines = stage.boot(&set, 1, "theirs-jump", "nokaslr")?;
    ended_well(&lines)?;
    let took = lines
        .iter()
        .find(|line| line.starts_with("theirs takes"))
        .context("it did not tell what it took")?;
    Ok(took.clone())
}

/// The module refuses all that is not memory of a sleeping machine.
pub(crate) fn refused(stage: &Stage<'_>) -> Result<String> {
    let set = stage.set()?;
    let lines = stage.boot(&set, 1, "refused", "nokaslr")?;
    ended_well(&lines)?;
    let count = lines
        .iter()
        .filter(|line| line.starts_with("refuse "))
        .count();
    ensure!(count >= 10, "{count} places were tried");
    Ok(format!("{count} places refused"))
}
