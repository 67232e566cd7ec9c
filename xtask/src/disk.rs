//! Disks of machines: sparse files.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Makes an empty disk of `mib` MiB, which takes no space until it is written.
pub(crate) fn create(path: &Path, mib: u64) -> Result<()> {
    File::create(path)
        .and_then(|file| file.set_len(mib << 20))
        .with_context(|| format!("creating {}", path.display()))
}

/// Copies a disk; what is zero in it takes no space.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("--sparse=always").arg(from).arg(to)).map(drop)
}

/// Makes a disk of `mib` MiB with an empty ext4 file system.
pub(crate) fn create_ext4(path: &Path, mib: u64) -> Result<()> {
    create(path, mib)?;
    run(Command::new("mkfs.ext4").arg("-q").arg(path)).map(drop)
}

/// Fails unless the ext4 file system on `disk` is clean and without errors.
pub(crate) fn check_ext4(disk: &Path) -> Result<()> {
    run(Command::new("e2fsck").arg("-fn").arg(disk)).map(drop)
}

/// Fails unless the file `path` in the file system on `disk` has the checksum `crc32`.
pub(crate) fn check_file(disk: &Path, path: &str, crc32: u32) -> Result<()> {
    let copy = disk.with_extension("copy");
    take_file(disk, path, &copy)?;
    let bytes = fs::read(&copy).with_context(|| format!("reading {}", copy.display()))?;
    fs::remove_file(&copy).with_context(|| format!("removing {}", copy.display()))?;
    let found = crc32fast::hash(&bytes);
    if found != crc32 {
        bail!("{path} has checksum {found:08x}, but the machine wrote {crc32:08x}");
    }
    Ok(())
}

/// Copies the file `path` in the file system on `disk` to `copy`.
pub(crate) fn take_file(disk: &Path, path: &str, copy: &Path) -> Result<()> {
    run(Command::new("debugfs")
        .arg("-R")
        .arg(format!("dump {path} {}", copy.display()))
        .arg(disk))?;
    // debugfs makes no copy of a file that is not there, and still ends well.
    copy.metadata()
        .with_context(|| format!("{path} is not on the disk"))?;
    Ok(())
}

/// Runs a command, and returns what it wrote if it ended well.
fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("starting {name} (from the package e2fsprogs)"))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if !output.status.success() {
        bail!("{name} failed: {}\n{text}", output.status);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_damaged_file_system_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        create_ext4(&disk, 16).unwrap();
        check_ext4(&disk).unwrap();
        assert!(check_file(&disk, "/none", 0).is_err());

        // The group descriptors are in the block behind the superblock's.
        let file = File::options().write(true).open(&disk).unwrap();
        file.write_all_at(&[0xff; 64], 2048).unwrap();
        file.write_all_at(&[0xff; 64], 4096).unwrap();
        assert!(check_ext4(&disk).is_err());
    }
}
