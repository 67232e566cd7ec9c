//! Which pages of a core makedumpfile takes for free, and which for zero.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use vmcore::elf::Load;
use vmcore::{PAGE_SIZE, ReadAt};

use crate::analysis::{Desk, absolute, open, source};
use crate::lab::Tools;

/// Size of the descriptor of a page (`page_desc_t` of makedumpfile's `diskdump_mod.h`): its data's
/// offset (64 bits), size and flags (32 bits each), and the page's flags (64 bits).
const DESCRIPTOR: usize = 24;

/// What makedumpfile did with the pages of a core, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filtered {
    /// All of the core.
    pub(crate) all: BTreeSet<u64>,
    /// Those that are not in what it wrote.
    pub(crate) left_out: BTreeSet<u64>,
    /// Those that share one page of zeros there.
    pub(crate) zero: BTreeSet<u64>,
}

/// Has `makedumpfile` leave out pages of `core` as its dump level `level` says.
///
/// It finds `mem_section` by the page tables, so a core that lacks those, or has them elsewhere, fails.
/// Of kernels newer than itself it says that they are not supported, and goes on. Its own format is
/// read, for in an ELF file it leaves out only long runs of pages. There, pages of zeros (level 1) are
/// not left out: they are told as pages that all have one content. Pages are not compressed, which
/// changes nothing but the time it takes.
///
/// # Errors
///
/// If it fails or takes too long, with the end of its output; if what it writes is not its format, or has
/// memory that `core` does not have.
pub(crate) fn filter(tools: &Tools, core: &Path, level: u8) -> Result<Filtered> {
    let desk = Desk::new()?;
    let filtered = desk.path("filtered");
    let mut makedumpfile = tools.command("makedumpfile");
    makedumpfile
        .arg("-d")
        .arg(level.to_string())
        .arg(absolute(core)?)
        .arg(&filtered);
    desk.run("makedumpfile", &mut makedumpfile)?;
    let all = pages(open(core)?.loads());
    let dump = Dump::read(&source(&filtered)?)?;
    if let Some(page) = dump.kept.difference(&all).next() {
        bail!(
            "makedumpfile wrote the page at {:#x}, which {} does not have",
            page.saturating_mul(PAGE_SIZE),
            core.display()
        );
    }
    let zero = match level & 1 {
        0 => BTreeSet::new(),
        _ => dump.zero(&source(&filtered)?)?,
    };
    let left_out = &all - &dump.kept;
    Ok(Filtered {
        all,
        left_out,
        zero,
    })
}

/// A file of makedumpfile's own format (`IMPLEMENTATION` and `diskdump_mod.h` of makedumpfile): a header
/// block, blocks of other headers, two bitmaps of the same length, and descriptors of the pages that
/// the second bitmap tells.
struct Dump {
    kept: BTreeSet<u64>,
    descriptors: u64,
}

impl Dump {
    fn read(dump: &impl ReadAt) -> Result<Self> {
        let mut header = [0; 444];
        dump.read_exact_at(&mut header, 0)
            .context("cannot read the header of what makedumpfile wrote")?;
        if !header.starts_with(b"KDUMP   ") {
            bail!("makedumpfile wrote something that does not begin with `KDUMP`");
        }
        let field = |at| u64::from(u32_at(&header, at));
        let (block_size, header_blocks, bitmap_blocks) = (field(428), field(432), field(436));
        if block_size != PAGE_SIZE {
            bail!("makedumpfile wrote blocks of {block_size} bytes, not of a page");
        }
        // None of this overflows: two of the numbers have 32 bits, the third is small.
        let len = bitmap_blocks / 2 * block_size;
        let start = (1 + header_blocks) * block_size + len;
        let descriptors = start + len;
        if descriptors > dump.size() {
            bail!("what makedumpfile wrote ends before its bitmaps do");
        }
        let mut bitmap = vec![0; usize::try_from(len)?];
        dump.read_exact_at(&mut bitmap, start)
            .context("cannot read the bitmaps of what makedumpfile wrote")?;
        let kept = (0_u64..)
            .step_by(8)
            .zip(bitmap)
            .flat_map(|(first, byte)| {
                (0..8_u64)
                    .filter(move |bit| byte >> bit & 1 == 1)
                    .map(move |bit| first + bit)
            })
            .collect();
        Ok(Self { kept, descriptors })
    }

    /// The pages that have one content in common, which is zeros.
    fn zero(&self, dump: &impl ReadAt) -> Result<BTreeSet<u64>> {
        let count = self.kept.len();
        let len = count.checked_mul(DESCRIPTOR).context("too many pages")?;
        // So it is not the bitmap that says how much memory this takes.
        ensure!(
            self.descriptors
                .checked_add(len as u64)
                .is_some_and(|end| end <= dump.size()),
            "what makedumpfile wrote ends before its descriptors of {count} pages do"
        );
        let mut descriptors = vec![0; len];
        dump.read_exact_at(&mut descriptors, self.descriptors)
            .context("cannot read the descriptors of what makedumpfile wrote")?;
        let offsets: Vec<u64> = descriptors
            .chunks_exact(DESCRIPTOR)
            .map(|descriptor| u64_at(descriptor, 0))
            .collect();
        // The page of zeros is written before all others.
        let Some(first) = offsets
            .iter()
            .position(|at| Some(at) == offsets.iter().min())
        else {
            return Ok(BTreeSet::new());
        };
        let shared = offsets[first];
        let descriptor = &descriptors[first * DESCRIPTOR..][..DESCRIPTOR];
        let (size, flags) = (u32_at(descriptor, 8), u32_at(descriptor, 12));
        let mut page = vec![1; PAGE_SIZE as usize];
        if u64::from(size) == PAGE_SIZE && flags == 0 {
            dump.read_exact_at(&mut page, shared)
                .context("cannot read a page of what makedumpfile wrote")?;
        }
        let (zero, others): (Vec<_>, Vec<_>) = self
            .kept
            .iter()
            .zip(&offsets)
            .partition(|(_, at)| **at == shared && page.iter().all(|byte| *byte == 0));
        let distinct: BTreeSet<u64> = others.iter().map(|(_, at)| **at).collect();
        ensure!(
            distinct.len() == others.len(),
            "pages share a content in what makedumpfile wrote, and it is not zeros"
        );
        Ok(zero.into_iter().map(|(page, _)| *page).collect())
    }
}

/// The 32-bit number at `at`, or 0 where the bytes end before it does.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    u32::from_le_bytes(bytes.copied().unwrap_or_default())
}

/// The 64-bit number at `at`, or 0 where the bytes end before it does.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    u64::from_le_bytes(bytes.copied().unwrap_or_default())
}

/// The pages of which a core's file holds anything, as makedumpfile counts them.
fn pages(loads: &[Load]) -> BTreeSet<u64> {
    loads
        .iter()
        .flat_map(|load| {
            let start = load.memory.start().get();
            // Cores are read by `Core`, which has checked that the file is as long as it says.
            let end = start.saturating_add(load.file_size.min(load.memory.len()));
            start / PAGE_SIZE..end.div_ceil(PAGE_SIZE)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmcore::{PhysAddr, PhysRange};

    use super::*;

    fn load(start: u64, len: u64, file_size: u64) -> Load {
        Load {
            memory: PhysRange::from_len(PhysAddr::new(start), len).unwrap(),
            offset: 0,
            file_size,
            virt: 0,
        }
    }

    #[test]
    fn pages_are_those_that_the_file_holds() {
        let loads = [
            load(0x1000, 0x3000, 0x2000),
            load(0x8400, 0x2000, 0x2000),
            load(0x2_0000, 0x1000, 0),
        ];
        assert_eq!(pages(&loads), BTreeSet::from([1, 2, 8, 9, 10]));
        assert_eq!(pages(&[]), BTreeSet::new());
    }

    /// A dump of makedumpfile's with one block of other headers, this as the second bitmap, and a page of
    /// zeros, one of ones, and one of twos.
    fn dump(bitmap: &[u8], offsets: &[u64]) -> Vec<u8> {
        let mut dump = vec![0; 5 * 4096];
        dump[..8].copy_from_slice(b"KDUMP   ");
        for (at, value) in [(428, 4096_u32), (432, 1), (436, 2)] {
            dump[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        dump[2 * 4096..3 * 4096].fill(0xff);
        dump[3 * 4096..][..bitmap.len()].copy_from_slice(bitmap);
        for (number, offset) in offsets.iter().enumerate() {
            let at = 4 * 4096 + number * DESCRIPTOR;
            dump[at..][..8].copy_from_slice(&offset.to_le_bytes());
            dump[at + 8..][..4].copy_from_slice(&4096_u32.to_le_bytes());
        }
        for byte in 0..3 {
            dump.resize(dump.len() + 4096, byte);
        }
        dump
    }

    /// Where the pages of such a dump are.
    const PAGES: [u64; 3] = [5 * 4096, 6 * 4096, 7 * 4096];

    #[test]
    fn the_second_bitmap_tells_the_pages_of_a_dump() {
        let kept = |dump: &[u8]| Dump::read(&dump.to_vec()).map(|dump| dump.kept);
        assert_eq!(
            kept(&dump(&[0b1000_0001, 0, 0b10], &[])).unwrap(),
            BTreeSet::from([0, 7, 17])
        );
        let whole = dump(&[], &[]);
        for (bad, named) in [
            (b"\x7fELF".repeat(4096), "KDUMP"),
            (whole[..100].to_vec(), "header"),
            (whole[..4 * 4096 - 1].to_vec(), "bitmaps"),
        ] {
            let error = kept(&bad).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn zero_pages_are_those_that_share_the_page_of_zeros() {
        let zero = |offsets: &[u64]| {
            let dump = dump(&[0b1110_0001], offsets);
            Dump::read(&dump)?.zero(&dump)
        };
        let [zeros, ones, twos] = PAGES;
        assert_eq!(
            zero(&[ones, zeros, twos, zeros]).unwrap(),
            BTreeSet::from([5, 7])
        );
        assert_eq!(
            zero(&[zeros, ones, twos, twos + 4096]).unwrap(),
            BTreeSet::from([0])
        );
        // A page of ones is first, and none is zero.
        assert_eq!(
            zero(&[twos + 4096, ones, twos, twos + 8192]).unwrap(),
            BTreeSet::new()
        );
        assert!(zero(&[zeros, ones, twos, ones]).is_err());
        assert!(zero(&[ones, ones, twos, twos + 4096]).is_err());
    }

    proptest! {
        #[test]
        fn any_dump_is_read_or_refused(
            numbers: [u32; 3], at in 0..4_usize, bitmap: [u8; 8], offsets: [u64; 4],
        ) {
            let mut bytes = dump(&bitmap, &offsets);
            for (field, number) in [428, 432, 436].into_iter().zip(numbers).skip(at) {
                bytes[field..field + 4].copy_from_slice(&number.to_le_bytes());
            }
            if let Ok(dump) = Dump::read(&bytes) {
                let _ = dump.zero(&bytes);
            }
        }
    }
}
