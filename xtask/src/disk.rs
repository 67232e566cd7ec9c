//! Disks of machines: sparse files.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
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

/// Makes `disk`, which is as it was when QEMU began to write `log`, what it is after a power cut: all that was
/// flushed is there, and nothing that was not. Returns how many writes were lost.
///
/// The log is that of QEMU's driver `blklogwrites`, which is that of Linux's dm-log-writes
/// (`Documentation/admin-guide/device-mapper/log-writes.rst`, `drivers/md/dm-log-writes.c`): a block that
/// tells how many entries count, and then for each entry a block and its data.
pub(crate) fn replay(log: &Path, disk: &Path) -> Result<u64> {
    const BLOCK: u64 = 512;
    const DISCARD: u64 = 4;
    let log_file = File::open(log).with_context(|| format!("opening {}", log.display()))?;
    let size = log_file.metadata()?.len();
    let target = File::options().write(true).open(disk)?;
    let words = |at: u64| -> Result<[u64; 4]> {
        let mut bytes = [0; 32];
        log_file.read_exact_at(&mut bytes, at)?;
        let (words, _) = bytes.as_chunks();
        Ok(std::array::from_fn(|number| {
            u64::from_le_bytes(words[number])
        }))
    };
    if size < BLOCK {
        // Nothing was written.
        return Ok(0);
    }
    let [_, _, count, _] = words(0)?;
    let (mut at, mut number, mut lost) = (BLOCK, 0, 0);
    while at + BLOCK <= size {
        let [sector, sectors, flags, _] = words(at)?;
        at += BLOCK;
        let len = if flags & DISCARD == 0 {
            sectors * BLOCK
        } else {
            0
        };
        if number < count {
            let mut data = vec![0; usize::try_from(len)?];
            log_file.read_exact_at(&mut data, at)?;
            target.write_all_at(&data, sector * BLOCK)?;
        } else if sectors > 0 {
            lost += 1;
        }
        at += len;
        number += 1;
    }
    Ok(lost)
}

/// Makes a disk of `mib` MiB with an empty ext4 file system.
pub(crate) fn create_ext4(path: &Path, mib: u64) -> Result<()> {
    create(path, mib)?;
    run(Command::new("mkfs.ext4").arg("-q").arg(path)).map(drop)
}

/// Makes of `whole`, a disk of `mib` MiB, the disk `to` as LVM might: in the first MiB is a label, then comes the
/// second half, and then the first one. The guest puts them together.
pub(crate) fn divide(whole: &Path, to: &Path, mib: u64) -> Result<()> {
    let (mut first, second) = halves(whole, 0, mib)?;
    let mut bytes = vec![0; 1 << 20];
    // As `filesystem/lvm.rs` of kjump has it: one place of data, and one of metadata.
    bytes[512..520].copy_from_slice(b"LABELONE");
    for (at, word) in [
        (520, 1),
        (532, 32),
        (584, 1 << 20),
        (616, 4096),
        (624, (1 << 20) - 4096),
    ] {
        bytes[at..at + 8].copy_from_slice(&u64::to_le_bytes(word));
    }
    bytes[536..544].copy_from_slice(b"LVM2 001");
    bytes[544..576].copy_from_slice(b"labLabLabLabLabLabLabLabLabLabLa");
    bytes.extend(second);
    bytes.append(&mut first);
    fs::write(to, bytes).with_context(|| format!("writing {}", to.display()))
}

/// Makes `whole` again of the disk `from`, as [`divide`] has it.
pub(crate) fn join(from: &Path, whole: &Path, mib: u64) -> Result<()> {
    let (second, first) = halves(from, 1, mib)?;
    fs::write(whole, [first, second].concat())
        .with_context(|| format!("writing {}", whole.display()))
}

/// Two halves of `mib` MiB, from the MiB `start` of `disk` on.
fn halves(disk: &Path, start: usize, mib: u64) -> Result<(Vec<u8>, Vec<u8>)> {
    let half = usize::try_from(mib / 2)? << 20;
    let bytes = fs::read(disk).with_context(|| format!("reading {}", disk.display()))?;
    let bytes = bytes.get(start << 20..).unwrap_or_default();
    let (first, second) = bytes
        .split_at_checked(half)
        .context("the disk is too small")?;
    Ok((first.to_vec(), second.to_vec()))
}

/// Makes disks with file systems of other kinds than ext4, and one for swap, as files in `folder`: in the
/// order in which the guest looks for them.
pub(crate) fn create_kinds(folder: &Path) -> Result<Vec<PathBuf>> {
    [
        ("xfs", 320, "mkfs.xfs", "-q"),
        ("btrfs", 128, "mkfs.btrfs", "-q"),
        ("vfat", 64, "mkfs.vfat", "-F32"),
        ("swap", 192, "mkswap", "-q"),
    ]
    .into_iter()
    .map(|(name, mib, program, option)| {
        let path = folder.join(name);
        create(&path, mib)?;
        run(Command::new(program).arg(option).arg(&path))?;
        Ok(path)
    })
    .collect()
}

/// The programs with which the guest puts disks together, and makes and checks file systems on them.
pub(crate) const STACKING: [&str; 5] = ["cryptsetup", "e2fsck", "lvm", "mdadm", "mkfs.ext4"];

/// Makes empty disks for the guest to put together, as files in `folder`: in the order in which it looks for
/// them.
pub(crate) fn create_stacked(folder: &Path) -> Result<Vec<PathBuf>> {
    [
        ("luks", 40),
        ("luks-lvm", 32),
        ("lvm-1", 32),
        ("lvm-2", 32),
        ("raid1-1", 24),
        ("raid1-2", 24),
        ("raid5-1", 24),
        ("raid5-2", 24),
        ("raid5-3", 24),
    ]
    .into_iter()
    .map(|(name, mib)| {
        let path = folder.join(name);
        create(&path, mib)?;
        Ok(path)
    })
    .collect()
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
    use super::*;

    #[test]
    fn what_was_not_flushed_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let (log, disk) = (folder.path().join("log"), folder.path().join("disk"));
        fs::write(&disk, [1; 4096]).unwrap();
        let block = |words: [u64; 4]| {
            let mut block = words.map(u64::to_le_bytes).concat();
            block.resize(512, 0);
            block
        };
        let entry = |sector, byte: u8| [block([sector, 2, 0, 0]), vec![byte; 1024]].concat();
        let flush = block([0, 0, 1, 0]);
        let begin = block([0x6a73_6677_7368_7200, 1, 2, 512]);
        let whole = [begin, entry(0, 7), flush, entry(4, 8), entry(6, 9)].concat();
        fs::write(&log, &whole).unwrap();
        assert_eq!(replay(&log, &disk).unwrap(), 2);
        let bytes = fs::read(&disk).unwrap();
        assert!(bytes == [vec![7; 1024], vec![1; 3072]].concat());
        fs::write(&log, []).unwrap();
        assert_eq!(replay(&log, &disk).unwrap(), 0);
    }

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

    #[test]
    fn a_divided_disk_is_joined_again() {
        let folder = tempfile::tempdir().unwrap();
        let [whole, disk, joined] =
            ["whole", "disk", "joined"].map(|name| folder.path().join(name));
        let bytes: Vec<u8> = (0..4_u32 << 20).map(|at| (at / 4096) as u8).collect();
        fs::write(&whole, &bytes).unwrap();
        divide(&whole, &disk, 4).unwrap();
        let divided = fs::read(&disk).unwrap();
        assert!(divided[1 << 20..] == [&bytes[2 << 20..], &bytes[..2 << 20]].concat());
        join(&disk, &joined, 4).unwrap();
        assert!(fs::read(&joined).unwrap() == bytes);
        assert!(join(&whole, &joined, 8).is_err());
    }
}
