//! The module `oldmem`, built for a kernel of the lab and kept in its cache.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::lab::{Kernel, Lab};
use crate::workspace;

/// What the module is built from.
const SOURCES: [&str; 2] = ["Kbuild", "oldmem.c"];

/// The module for `kernel`, built if the cache does not have it from these sources for this very kernel.
///
/// # Errors
///
/// If the lab has nothing to build modules with for `kernel`, as for Debian's own; or if the build fails.
pub(crate) fn oldmem(lab: &Lab, kernel: Kernel) -> Result<PathBuf> {
    let folder = workspace().join("oldmem");
    let mut digest = Sha256::new();
    // The kernel's folder is named by all that went into it.
    let home = lab.kernel(kernel).with_file_name("");
    digest.update(home.as_os_str().as_encoded_bytes());
    for source in SOURCES {
        let path = folder.join(source);
        digest.update(fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
    }
    let key: String = digest
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let place = lab.cache().join(format!("oldmem-{kernel}-{key}.ko"));
    if place.exists() {
        return Ok(place);
    }

    let headers = home.join("headers.tar");
    if !headers.exists() {
        bail!(
            "the lab has nothing to build modules for kernel {kernel} with: there is no {}",
            headers.display()
        );
    }
    let work = tempfile::tempdir_in(lab.cache()).context("making a folder to build in")?;
    let (tree, module) = (work.path().join("tree"), work.path().join("module"));
    for directory in [&tree, &module] {
        fs::create_dir(directory)?;
    }
    for source in SOURCES {
        fs::copy(folder.join(source), module.join(source))?;
    }
    run(Command::new("tar")
        .arg("-xf")
        .arg(&headers)
        .arg("-C")
        .arg(&tree))?;
    run(Command::new("make")
        .arg("-C")
        .arg(&tree)
        .arg(format!("M={}", module.display()))
        .arg("modules"))?;
    let built = module.join("oldmem.ko");
    run(Command::new("strip").arg("--strip-debug").arg(&built))?;
    // Into place by one step: others may look for it.
    let beside = place.with_extension(format!("{}", std::process::id()));
    fs::copy(&built, &beside).with_context(|| format!("the build left no {}", built.display()))?;
    fs::rename(&beside, &place)?;
    Ok(place)
}

/// Runs a command, and shows what it printed if it fails.
fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("starting {name}"))?;
    if !output.status.success() {
        bail!(
            "{name} failed: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_the_module_is_made_of_is_there() {
        let folder = workspace().join("oldmem");
        for file in SOURCES
            .into_iter()
            .chain(["dkms.conf", "README.md", "COPYING"])
        {
            assert!(folder.join(file).exists(), "{file}");
        }
    }
}
