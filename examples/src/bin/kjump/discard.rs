//! Give an image up.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use kjump::memory::image::{self, ImageError};
use kjump::{DeviceReader, Moment};

use crate::report::{plain, say};

/// `kjump discard`
pub(crate) fn run(target: &Path, yes: bool) -> Result<()> {
    let reader =
        DeviceReader::open(target).with_context(|| format!("cannot open {}", target.display()))?;
    let nothing = || format!("nothing to discard in {}", target.display());
    // Without its key, if it has one: nothing of that is needed to give it up.
    let (header, resumable) = image::glance(&reader).with_context(nothing)?;
    if let Err(
        reason @ (ImageError::Prepared | ImageError::Failed { .. } | ImageError::Uncommitted),
    ) = resumable
    {
        return Err(reason).with_context(nothing);
    }
    let identity = &header.identity;
    say!(
        "image {} of {} {}, saved {}",
        identity.id,
        plain(&identity.platform.product),
        plain(&identity.release),
        Moment(identity.platform.time)
    );
    if let Err(reason) = resumable {
        say!("it cannot be resumed as it is: {reason}");
    }
    if !yes && !confirmed()? {
        say!("nothing was done");
        return Ok(());
    }
    let file = OpenOptions::new()
        .write(true)
        .open(target)
        .with_context(|| format!("cannot open {} for writing", target.display()))?;
    image::discard(&reader, &file)
        .with_context(|| format!("cannot write to {}", target.display()))?;
    say!("discarded: what that machine had not saved is lost, and its file systems may be used");
    Ok(())
}

/// Asks whoever sits at the terminal.
fn confirmed() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("there is nobody to ask; say --yes");
    }
    print!("kjump: discard it for ever? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
