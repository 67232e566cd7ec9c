//! What somebody makes of an encrypted image who has no key, but can read and write the disk.
//!
//! All that this goes by is in clear: docs/format.md.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::disk;

/// Where the first record is, and how records begin.
const RECORDS: u64 = 64 << 10;
const MAGIC: &[u8; 8] = b"KJRECORD";
const BLOCK: u64 = 4096;
/// Where a record has the id of its image.
const ID: usize = 16;

/// What records are.
const NOTES: u32 = 1;
const MEMORY: u32 = 2;
const INDEX: u32 = 3;

/// Forged images, in the order in which the guest finds them behind its other disks.
const FORGERIES: [&str; 4] = ["flipped-index", "spliced", "rolled-back", "flipped-memory"];

/// Where they are.
pub(crate) fn disks(folder: &Path) -> impl Iterator<Item = PathBuf> {
    FORGERIES.map(|name| folder.join(name)).into_iter()
}

/// Where an image is kept that the next one is written over.
fn earlier(folder: &Path) -> PathBuf {
    folder.join("earlier")
}

/// Keeps `image`, as it is now.
pub(crate) fn keep(image: &Path, folder: &Path) -> Result<()> {
    disk::copy(image, &earlier(folder))
}

/// Makes all of them out of `image` and the one that was [kept](keep), which are of the same machine and the
/// same owner.
pub(crate) fn make(image: &Path, folder: &Path) -> Result<()> {
    let earlier = earlier(folder);
    for path in disks(folder) {
        disk::copy(image, &path)?;
    }
    let [index, spliced, rolled_back, memory] = FORGERIES.map(|name| folder.join(name));
    flip(&index, INDEX)?;
    flip(&memory, MEMORY)?;
    splice(&spliced, &earlier)?;
    disk::copy(&earlier, &rolled_back)
}

/// The first record of this kind: where it is, and how long.
fn record(image: &File, kind: u32) -> Result<(u64, u64)> {
    let mut at = RECORDS;
    loop {
        let mut block = [0; 64];
        image.read_exact_at(&mut block, at)?;
        ensure!(block.starts_with(MAGIC), "no record at byte {at}");
        let payload = u64::from_le_bytes(block[40..48].try_into()?);
        let len = BLOCK + payload.next_multiple_of(BLOCK);
        if block[8..12] == kind.to_le_bytes() {
            return Ok((at, len));
        }
        at += len;
    }
}

/// Flips a bit in the middle of the first record of this kind.
fn flip(path: &Path, kind: u32) -> Result<()> {
    let image = File::options().read(true).write(true).open(path)?;
    let (at, len) = record(&image, kind)?;
    let mut byte = [0];
    image.read_exact_at(&mut byte, at + len / 2)?;
    byte[0] ^= 1;
    image
        .write_all_at(&byte, at + len / 2)
        .context("flipping a bit")
}

/// Puts the notes of the image `other` into the one at `path`, as if they belonged there.
fn splice(path: &Path, other: &Path) -> Result<()> {
    let image = File::options().read(true).write(true).open(path)?;
    let other = File::open(other)?;
    let place = record(&image, NOTES)?;
    ensure!(
        place == record(&other, NOTES)?,
        "the notes do not lie in both images where the other has them"
    );
    let (at, len) = place;
    let mut notes = vec![0; usize::try_from(len)?];
    let mut id = [0; 16];
    image.read_exact_at(&mut id, at + ID as u64)?;
    other.read_exact_at(&mut notes, at)?;
    ensure!(notes[ID..][..16] != id, "both images have one id");
    notes[ID..][..16].copy_from_slice(&id);
    image.write_all_at(&notes, at).context("splicing")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Records of these kinds with a page of payload each, all bytes of which are `fill`.
    fn image(path: &Path, kinds: &[u32], fill: u8) {
        let mut bytes = vec![0; RECORDS as usize];
        for kind in kinds {
            let mut record = vec![fill; 2 * BLOCK as usize];
            record[..8].copy_from_slice(MAGIC);
            record[8..12].copy_from_slice(&kind.to_le_bytes());
            record[40..48].copy_from_slice(&100_u64.to_le_bytes());
            bytes.extend(record);
        }
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn each_forgery_differs_in_what_it_is_named_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let kinds = [NOTES, MEMORY, MEMORY, INDEX];
        image(&path, &kinds, 1);
        keep(&path, folder.path()).unwrap();
        let old = fs::read(&path).unwrap();
        image(&path, &kinds, 2);
        let new = fs::read(&path).unwrap();
        make(&path, folder.path()).unwrap();
        let [index, spliced, rolled_back, memory] =
            FORGERIES.map(|name| fs::read(folder.path().join(name)).unwrap());
        let differing = |forged: &[u8]| -> Vec<usize> {
            let pairs = forged.iter().zip(&new).enumerate();
            pairs
                .filter_map(|(at, (a, b))| (a != b).then_some(at))
                .collect()
        };
        let record = |number: usize| RECORDS as usize + number * 2 * BLOCK as usize;
        assert_eq!(differing(&index), [record(3) + BLOCK as usize]);
        assert_eq!(differing(&memory), [record(1) + BLOCK as usize]);
        assert_eq!(rolled_back, old);
        let differing = differing(&spliced);
        assert!(
            differing
                .iter()
                .all(|at| (record(0)..record(1)).contains(at))
        );
        // The id is the image's own.
        assert!(
            differing
                .iter()
                .all(|at| !(record(0) + 16..record(0) + 32).contains(at))
        );
        assert!(differing.len() > BLOCK as usize);
    }
}
