//! Saved memory, with its lowest part at another place.

use kjump::memory::{Memory, MemoryError, PageClass, RangeMap};
use kjump::{PhysAddr, PhysRange};

/// Memory whose part below a limit is found behind `backup` instead of behind address 0.
pub(crate) struct Relocated<M> {
    memory: M,
    contents: RangeMap<PageClass>,
    /// Where the low part is now, and how far from where it was.
    moved: Option<(PhysRange, u64)>,
}

/// There is low memory, and it is not known where it is to go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoBackup;

impl std::fmt::Display for NoBackup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("there is no place for it")
    }
}

impl std::error::Error for NoBackup {}

impl<M: Memory> Relocated<M> {
    /// `memory`, with all of it below `limit` at `backup`.
    ///
    /// # Errors
    ///
    /// [`NoBackup`] if there is memory below and no such place, or one at the end of the address space
    /// or amid the memory itself.
    pub(crate) fn new(memory: M, limit: u64, backup: Option<PhysAddr>) -> Result<Self, NoBackup> {
        let low = PhysRange::new(0, limit).ok_or(NoBackup)?;
        let below: Vec<(PhysRange, PageClass)> = memory
            .contents()
            .overlapping(low)
            .map(|(range, class)| (range, *class))
            .collect();
        let mut contents = memory.contents().clone();
        if below.is_empty() {
            return Ok(Self {
                memory,
                contents,
                moved: None,
            });
        }
        let backup = backup.ok_or(NoBackup)?;
        let place = PhysRange::from_len(backup, limit).ok_or(NoBackup)?;
        contents.remove(low);
        if contents.overlapping(place).next().is_some() {
            return Err(NoBackup);
        }
        for (range, class) in below {
            let end = range.end().get().min(limit);
            let start = backup.checked_add(range.start().get()).ok_or(NoBackup)?;
            let moved = PhysRange::from_len(start, end - range.start().get()).ok_or(NoBackup)?;
            contents.replace(moved, class);
        }
        Ok(Self {
            memory,
            contents,
            moved: Some((place, backup.get())),
        })
    }
}

impl<M: Memory> Memory for Relocated<M> {
    fn contents(&self) -> &RangeMap<PageClass> {
        &self.contents
    }

    fn read(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), MemoryError> {
        let at = match self.moved {
            Some((place, distance)) if place.contains(addr) => PhysAddr::new(addr.get() - distance),
            _ => addr,
        };
        self.memory.read(at, buf)
    }
}

#[cfg(test)]
mod tests {
    use kjump::memory::elf::{Core, CoreHeaders, Load};

    use super::*;

    /// A core with a page at each of these addresses, full of the address' page number.
    fn core(pages: &[u64]) -> Core<Vec<u8>> {
        let mut headers = CoreHeaders::new();
        let mut offset = CoreHeaders::size_of(pages.len());
        let mut data = Vec::new();
        for page in pages {
            headers.load(Load {
                memory: PhysRange::new(page * 4096, (page + 1) * 4096).unwrap(),
                offset,
                file_size: 4096,
                virt: 0,
            });
            offset += 4096;
            data.resize(data.len() + 4096, *page as u8);
        }
        Core::open([headers.encode(), data].concat()).unwrap()
    }

    #[test]
    fn low_memory_goes_to_the_backup_and_the_rest_stays() {
        let core = core(&[1, 0x9e, 0x200]);
        let backup = Some(PhysAddr::new(0x1000_0000));
        let memory = Relocated::new(&core, 1 << 20, backup).unwrap();
        let places: Vec<u64> = memory
            .contents()
            .ranges()
            .map(|range| range.start().get())
            .collect();
        assert_eq!(places, [0x20_0000, 0x1000_1000, 0x1009_e000]);
        for (addr, byte) in [(0x1000_1000, 1), (0x1009_e123, 0x9e), (0x20_0000, 0)] {
            let mut read = [0xff];
            memory.read(PhysAddr::new(addr), &mut read).unwrap();
            assert_eq!(read, [byte], "{addr:#x}");
        }
        assert!(memory.read(PhysAddr::new(0x1000), &mut [0]).is_ok());
    }

    #[test]
    fn low_memory_without_a_place_is_refused() {
        let low = core(&[1, 0x200]);
        for place in [None, Some(0x1f_0000), Some(u64::MAX)] {
            let place = place.map(PhysAddr::new);
            assert!(Relocated::new(&low, 1 << 20, place).is_err(), "{place:?}");
        }
        assert!(Relocated::new(&core(&[0x200]), 1 << 20, None).is_ok());
    }
}
