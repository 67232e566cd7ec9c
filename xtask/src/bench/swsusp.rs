//! What the kernel's own hibernation needs: a swap area, and words on the command line.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::disk;

/// Size of a page, and of the header of a swap area.
const PAGE: u64 = 4096;

/// What the kernel can compress its image with (`hibernate.compressor=`,
/// `Documentation/admin-guide/kernel-parameters.txt`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compressor {
    Lz4,
    Lzo,
}

impl Compressor {
    /// All of them: which one is the better depends on the content.
    pub(crate) const ALL: [Self; 2] = [Self::Lz4, Self::Lzo];

    /// Its name, as the kernel has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Lzo => "lzo",
        }
    }
}

/// Makes a disk of `mib` MiB that is a swap area, as mkswap(8) does.
pub(crate) fn create_swap(path: &Path, mib: u64) -> Result<()> {
    disk::create(path, mib)?;
    let header = header(mib << 20)?;
    File::options()
        .write(true)
        .open(path)
        .and_then(|file| file.write_all_at(&header, 0))
        .with_context(|| format!("writing {}", path.display()))
}

/// The first page of a swap area of `bytes` (`union swap_header`, `include/linux/swap.h`): from 1024 on,
/// the version, the last page, and the number of bad pages; at its end the magic.
fn header(bytes: u64) -> Result<Vec<u8>> {
    let pages = u32::try_from(bytes / PAGE).context("a swap area has less than 2^32 pages")?;
    // The kernel wants one page at least besides the header.
    ensure!(pages >= 2, "a swap area of {bytes} bytes is too small");
    let mut header = vec![0; PAGE as usize];
    header[1024..1028].copy_from_slice(&1_u32.to_le_bytes());
    header[1028..1032].copy_from_slice(&(pages - 1).to_le_bytes());
    header[4086..].copy_from_slice(b"SWAPSPACE2");
    Ok(header)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn others_take_it_for_a_swap_area() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("swap");
        create_swap(&path, 8).unwrap();
        let output = Command::new("blkid")
            .args(["-p", "-o", "value", "-s", "TYPE"])
            .arg(&path)
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            "swap",
            "{output:?}"
        );
    }

    #[test]
    fn the_last_page_is_within_the_area() {
        let header = header(8 << 20).unwrap();
        assert_eq!(header.len(), 4096);
        assert_eq!(header[1028..1032], 2047_u32.to_le_bytes());
        assert!(super::header(4096).is_err());
        assert!(super::header(u64::MAX).is_err());
    }
}
