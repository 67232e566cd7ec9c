//! The way back into the machine that jumped here, for a kernel that knows nothing of it but the address to jump to.

use std::convert::Infallible;

use kexec_image::{CommandLine, LoadPlan};
use krestore_core::Target;
use vmcore::{MemoryError, PAGE_SIZE, PhysAddr, PhysRange};

use crate::restoration::open_memory;
use crate::{Error, jump, machine, memory_device, take_seal};

/// Where RAM ends that Linux may use at any time, to start CPUs.
const ONE_MIB: u64 = 1 << 20;

/// What leads back into the machine that jumped here.
///
/// [`Sleeper`](crate::Sleeper) knows more, and leaves nothing of this kernel in that machine.
#[derive(Clone, Debug)]
pub struct WayBack {
    entry: PhysAddr,
    /// What is in the page of the entry.
    page: Vec<u8>,
    /// Memory that this kernel has for what it loads.
    own: PhysRange,
}

impl WayBack {
    /// Finds what leads back by the jump-back entry `entry`. The machine's memory is read through `memory`.
    ///
    /// # Errors
    ///
    /// [`Error::Restore`] if the page of the entry cannot be read, [`Error::NoSleeper`] if this kernel has no memory
    /// that it could jump from.
    pub fn find(entry: PhysAddr, memory: &dyn Target) -> Result<Self, Error> {
        let own = machine::iomem()?
            .ram()
            .ranges()
            .filter(|range| range.start().get() >= ONE_MIB)
            .max_by_key(|range| range.len())
            .ok_or(Error::NoSleeper {
                what: "memory of this kernel's own",
            })?;
        let page = PhysRange::from_len(entry.align_down(PAGE_SIZE), PAGE_SIZE)
            .ok_or(MemoryError::Absent { addr: entry })?;
        Ok(Self {
            entry,
            page: memory.read(page)?,
            own,
        })
    }

    /// What is to be loaded, to jump back.
    ///
    /// # Errors
    ///
    /// [`Error::Plan`] if the entry cannot be right.
    pub fn plan(&self) -> Result<LoadPlan<'_>, Error> {
        Ok(LoadPlan::returning(self.entry, &self.page, self.own)?)
    }
}

/// Jumps back into the machine that jumped here, though this kernel cannot see it in `/proc/vmcore`: by the entry on
/// the command line. A key that was handed on is zeroed before; what else this kernel has in its memory, the machine
/// gets among its free pages.
///
/// # Errors
///
/// [`Error::NoSleeper`] if no machine jumped here, else as [`WayBack::find`] and [`WayBack::plan`], and
/// [`Error::Kexec`] if the kernel refused.
pub fn jump_back_unseen() -> Result<Infallible, Error> {
    let entry = CommandLine::jump_back_entry(&machine::command_line()?);
    let entry = entry.ok_or(Error::NO_ENTRY)?;
    let back = WayBack::find(entry, open_memory(memory_device())?.as_ref())?;
    drop(take_seal()?);
    jump::load(&back.plan()?)?;
    jump::leave()
}
