//! The key of a sealed image, on its way from one kernel to the next.
//!
//! Who saves gets it in a segment, since the jump swaps that: nothing of it is left here. Who restores is loaded
//! by a plain kexec, which copies segments out of memory that it found somewhere, and leaves that as it is. So it
//! gets the key in a page of the process that leaves for it, where nothing is loaded to: nobody touches that
//! memory in between, and whoever takes the key knows where all of it is, and zeroes it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use kexec_image::CommandLine;
use krestore_core::{DevMem, Guard, Target};
use memmap2::MmapMut;
use vmcore::image::{Identity, Seal};
use vmcore::{PAGE_SIZE, PhysAddr, PhysRange, RangeMap};
use zeroize::{Zeroize, Zeroizing};

use crate::spare::FirstToGo;
use crate::{Error, machine};

/// Takes the key that the kernel before handed to this one, if it did: the page that it was in holds zeros
/// when this returns.
///
/// # Errors
///
/// [`Error::NoKey`] if there is none where the command line says so, or [`Error::Restore`] if that memory cannot be reached.
pub fn take_seal() -> Result<Option<Seal>, Error> {
    let line = machine::command_line()?;
    let no_key = |at: String| Error::NoKey { at };
    let Some(page) = CommandLine::key_page(&line).map_err(no_key)? else {
        return Ok(None);
    };
    let range = PhysRange::from_len(page, PAGE_SIZE).ok_or_else(|| no_key(page.to_string()))?;
    let path = Path::new(DevMem::PATH);
    let memory = DevMem::open(path, Guard::new(&machine::iomem()?)).map_err(Error::open(path))?;
    let bytes = Zeroizing::new(memory.read(range)?);
    memory.write(range, &[0; PAGE_SIZE as usize])?;
    match Seal::from_page(&bytes) {
        Some(seal) => Ok(Some(seal)),
        None => Err(no_key(page.to_string())),
    }
}

/// A page of this process that hands a seal to the restoring kernel. It holds zeros until that is left for, and
/// again when this is dropped.
#[derive(Debug)]
pub(crate) struct KeyPage {
    page: MmapMut,
    at: PhysAddr,
}

impl KeyPage {
    /// A page where no kernel is loaded to that restores the machine of `identity`, but that machine has memory.
    pub(crate) fn beside(identity: &Identity) -> Result<Self, Error> {
        let loaded = identity.low.bytes().saturating_add(identity.window.len());
        // Should memory run out meanwhile.
        let _first = FirstToGo::new();
        first_within(&identity.saved_memory(), loaded / PAGE_SIZE, Self::anywhere)
    }

    /// A page wherever the kernel has one.
    pub(crate) fn anywhere() -> Result<Self, Error> {
        let page = MmapMut::map_anon(PAGE_SIZE as usize).map_err(Error::Lock)?;
        // It is there from now on, and is never swapped out.
        page.lock().map_err(Error::Lock)?;
        let at = place_of(&page)?;
        Ok(Self { page, at })
    }

    /// Where in memory it is.
    pub(crate) fn at(&self) -> PhysAddr {
        self.at
    }

    /// Puts `seal` in, if the page is still where it was when this was made.
    pub(crate) fn put(&mut self, seal: &Seal) -> Result<(), Error> {
        self.page.copy_from_slice(&seal.to_page());
        // A page that is locked stays in memory, but may be moved there.
        if place_of(&self.page)? != self.at {
            return Err(Error::KeyPage {
                why: "the kernel has moved the page for it meanwhile. Nothing was changed; try again",
            });
        }
        Ok(())
    }
}

impl Drop for KeyPage {
    fn drop(&mut self) {
        self.page.zeroize();
    }
}

/// The first page in `memory` of those that come. Those that are elsewhere, of which there are `elsewhere` at most,
/// are kept until then, so that none comes twice.
fn first_within(
    memory: &RangeMap<()>,
    elsewhere: u64,
    mut next: impl FnMut() -> Result<KeyPage, Error>,
) -> Result<KeyPage, Error> {
    let mut kept = Vec::new();
    for _ in 0..=elsewhere {
        let page = next()?;
        if PhysRange::from_len(page.at, PAGE_SIZE).is_some_and(|range| memory.covers(range)) {
            return Ok(page);
        }
        kept.push(page);
    }
    Err(Error::KeyPage {
        why: "all memory that this kernel gives is where the restoring kernel is loaded to",
    })
}

/// Where in memory this page is.
fn place_of(page: &MmapMut) -> Result<PhysAddr, Error> {
    let path = Path::new("/proc/self/pagemap");
    let mut entry = [0; 8];
    // There are 64 bits for each page of the address space.
    let offset = page.as_ptr().addr() as u64 / PAGE_SIZE * 8;
    File::open(path)
        .and_then(|map| map.read_exact_at(&mut entry, offset))
        .map_err(|source| Error::PageMap { path, source })?;
    frame(u64::from_ne_bytes(entry))
}

/// The place that an entry of a page map tells (`Documentation/admin-guide/mm/pagemap.rst`).
fn frame(entry: u64) -> Result<PhysAddr, Error> {
    /// The page is in memory.
    const PRESENT: u64 = 1 << 63;
    /// The bits of its number, if it is.
    const NUMBER: u64 = (1 << 55) - 1;

    let why = match (
        entry & PRESENT != 0,
        (entry & NUMBER).checked_mul(PAGE_SIZE),
    ) {
        (true, Some(at)) if at != 0 => return Ok(PhysAddr::new(at)),
        (true, Some(_)) => {
            "the kernel does not tell where a page is. Run this as root, with CAP_SYS_ADMIN, and not in a container"
        }
        (true, None) => "the kernel tells of a page where no memory can be",
        (false, _) => "the page for it is not kept in memory",
    };
    Err(Error::KeyPage { why })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmcore::image::{ImageId, Secret};

    use super::*;

    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;

    #[test]
    fn entries_that_tell_no_place_are_refused() {
        // Soft-dirty, mapped once, and of a file: none of these is part of the number.
        for flags in [0, 1 << 55, 1 << 56, 1 << 57, 1 << 58, 1 << 61] {
            let place = frame(PRESENT | flags | 0x12345).unwrap();
            assert_eq!(place, PhysAddr::new(0x1234_5000));
            let text = frame(PRESENT | flags).unwrap_err().to_string();
            assert!(text.contains("root"), "{text}");
        }
        for entry in [0, 0x12345, SWAPPED, SWAPPED | 0x12345, !PRESENT] {
            let text = frame(entry).unwrap_err().to_string();
            assert!(text.contains("not kept in memory"), "{text}");
        }
        assert!(frame(PRESENT | ((1 << 52) - 1)).is_ok());
        for entry in [PRESENT | (1 << 52), u64::MAX] {
            let text = frame(entry).unwrap_err().to_string();
            assert!(text.contains("no memory can be"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn places_are_pages(entry in any::<u64>()) {
            if let Ok(place) = frame(entry) {
                prop_assert!(place.is_aligned(PAGE_SIZE) && place.get() != 0);
                prop_assert_eq!(place.get() / PAGE_SIZE, entry & ((1 << 55) - 1));
            }
        }

        /// No page where the restoring kernel is loaded to is taken, and whatever order pages come in, there is
        /// one after those.
        #[test]
        fn the_page_is_where_nothing_is_loaded(
            mut frames in Just((0..40u64).collect::<Vec<_>>()).prop_shuffle(),
            loaded in prop::collection::btree_set(0..40u64, 0..20),
            come in 0..41usize,
        ) {
            frames.truncate(come);
            let mut memory = RangeMap::new();
            for number in (0..40).filter(|number| !loaded.contains(number)) {
                let range = PhysRange::from_len(PhysAddr::new(number * PAGE_SIZE), PAGE_SIZE);
                memory.replace(range.unwrap(), ());
            }
            let good = frames.iter().find(|number| !loaded.contains(number)).copied();
            let mut frames = frames.into_iter();
            let found = first_within(&memory, loaded.len() as u64, || {
                let number = frames.next().ok_or(Error::KeyPage { why: "no more" })?;
                let page = MmapMut::map_anon(PAGE_SIZE as usize).map_err(Error::Lock)?;
                Ok(KeyPage { page, at: PhysAddr::new(number * PAGE_SIZE) })
            });
            match found {
                Ok(page) => prop_assert_eq!(Some(page.at.get() / PAGE_SIZE), good),
                Err(error) => {
                    prop_assert_eq!(good, None);
                    prop_assert!(error.to_string().contains("no more"));
                }
            }
        }
    }

    #[test]
    fn a_kernel_with_no_other_memory_is_given_up() {
        let mut asked = 0;
        let found = first_within(&RangeMap::new(), 7, || {
            asked += 1;
            let page = MmapMut::map_anon(PAGE_SIZE as usize).map_err(Error::Lock)?;
            Ok(KeyPage {
                page,
                at: PhysAddr::new(asked * PAGE_SIZE),
            })
        });
        assert!(matches!(found, Err(Error::KeyPage { .. })));
        assert_eq!(asked, 8);
    }

    fn seal() -> Seal {
        let secret = Secret::key(vec![7; 32]).unwrap();
        Seal::new(&secret, ImageId([3; 16])).unwrap()
    }

    #[test]
    fn a_page_has_a_place_that_it_keeps() {
        let mut page = match KeyPage::anywhere() {
            Ok(page) => page,
            // Who has no rights is told that, and that is all that can be seen then.
            Err(error) => {
                let text = error.to_string();
                return assert!(
                    !nix::unistd::geteuid().is_root() && text.contains("root"),
                    "{text}"
                );
            }
        };
        assert!(page.at().is_aligned(PAGE_SIZE));
        assert!(page.page.iter().all(|&byte| byte == 0));
        let seal = seal();
        page.put(&seal).unwrap();
        let taken = Seal::from_page(&page.page).unwrap();
        assert_eq!(taken.key.bytes(), seal.key.bytes());

        // One that was moved meanwhile.
        page.at = PhysAddr::new(page.at.get() ^ PAGE_SIZE);
        let text = page.put(&seal).unwrap_err().to_string();
        assert!(text.contains("moved"), "{text}");
    }
}
