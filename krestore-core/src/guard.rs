//! The guard of the running kernel's own memory.

use vmcore::{IoMem, MemoryKind, PhysRange, RangeMap};

use crate::RestoreError;

/// Knows which memory may be written: that which the running kernel does not own and which is nothing
/// else either.
///
/// The kernel that restores sees the RAM of the sleeping machine as reserved, and its own as RAM. So
/// what `/proc/iomem` calls anything but `Reserved` is not to be written. What it does not mention at
/// all may be: some boot loaders hide the memory of a sleeping machine that way.
///
/// ```
/// use krestore_core::Guard;
/// use vmcore::{IoMem, PhysRange};
///
/// let guard = Guard::new(&IoMem::parse("\
/// 00100000-03ffffff : Reserved
/// 04000000-09ffffff : System RAM
/// 0a000000-3fffffff : Reserved
/// ")?);
/// assert!(guard.check(PhysRange::new(0x10_0000, 0x400_0000).unwrap()).is_ok());
/// assert!(guard.check(PhysRange::new(0x10_0000, 0x400_0001).unwrap()).is_err());
/// # Ok::<(), vmcore::IoMemError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Guard {
    ram: RangeMap<()>,
    others: Vec<(PhysRange, String)>,
}

impl Guard {
    /// The guard of the kernel with this `/proc/iomem`.
    #[must_use]
    pub fn new(iomem: &IoMem) -> Self {
        let reserved = MemoryKind::Reserved.to_string();
        Self {
            ram: iomem.ram(),
            others: iomem
                .entries()
                .iter()
                .filter(|entry| entry.name != reserved)
                .map(|entry| (entry.range, entry.name.clone()))
                .collect(),
        }
    }

    /// Checks that all of `range` may be written.
    ///
    /// # Errors
    ///
    /// [`RestoreError::OwnMemory`] or [`RestoreError::Occupied`] with what is in the way.
    pub fn check(&self, range: PhysRange) -> Result<(), RestoreError> {
        if let Some((owned, ())) = self.ram.overlapping(range).next() {
            return Err(RestoreError::OwnMemory { range, owned });
        }
        match self.others.iter().find(|(other, _)| other.overlaps(range)) {
            Some((occupied, name)) => Err(RestoreError::Occupied {
                range,
                occupied: *occupied,
                name: name.clone(),
            }),
            None => Ok(()),
        }
    }
}
