//! Plans for a kernel that has the machine to itself: what plain kexec boots.

use vmcore::{MemoryKind, PAGE_SIZE, PhysAddr, PhysRange, RangeMap};

use crate::beside::{Boot, allowed, kernel_part};
use crate::boot_block::{self, BootBlock};
use crate::e820::ONE_MIB;
use crate::panic::reach;
use crate::plan::{LoadPlan, PlannedSegment, Purpose};
use crate::{CommandLine, Machine, PlanError};

/// The end of what all fields of the boot protocol can address (`initrd_addr_max` of all kernels).
const HIGHEST: u64 = 0x8000_0000;

/// What the firmware and the boot loader told the running kernel, and the next one has to know too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// All memory by kind, as the firmware has it.
    pub memory: RangeMap<MemoryKind>,
    /// What the running kernel was told of the screen, if there is one to go on with: the first bytes of
    /// the boot parameters, `struct screen_info`.
    pub screen: Option<[u8; 64]>,
}

impl<'a> LoadPlan<'a> {
    /// A kernel that gets all of the machine, with no way back. It and what it boots with are put into
    /// RAM of `area`.
    ///
    /// EFI runtime services are not handed on: the kernel finds the ACPI tables, and goes on without.
    ///
    /// # Errors
    ///
    /// [`PlanError`] that says what does not fit or cannot be.
    pub fn booting(
        machine: &Machine,
        firmware: &Firmware,
        boot: &Boot<'a>,
        area: PhysRange,
    ) -> Result<Self, PlanError> {
        let mut cmdline = CommandLine::new();
        cmdline.append(boot.append);
        let mut room = Room::new(machine, area);

        let kernel = boot.kernel;
        let (lowest, align) = kernel.placement();
        let kernel_at = room.first(kernel.memory(), lowest, align)?;
        kernel.check_base(kernel_at)?;
        let block_at = room.last(boot_block::size(&cmdline))?;
        let size = boot.initramfs.len() as u64;
        let initramfs_at = match size {
            0 => None,
            size => Some(room.last(size)?),
        };

        let block = BootBlock {
            kernel,
            base: kernel_at.start(),
            cmdline: &cmdline,
            initramfs: initramfs_at.and_then(|at| PhysRange::from_len(at.start(), size)),
            rsdp: machine.rsdp,
            memory: &firmware.memory,
            backup: None,
            screen: firmware.screen.as_ref(),
        };
        let mut segments = vec![PlannedSegment {
            what: "boot block",
            memory: block_at,
            bytes: block.encode(block_at)?.into(),
        }];
        for part in &kernel.parts {
            segments.push(kernel_part(kernel, part, kernel_at)?);
        }
        reach(&mut segments, kernel_at, kernel.memory());
        if let Some(memory) = initramfs_at {
            segments.push(PlannedSegment {
                what: "initramfs",
                memory,
                bytes: boot.initramfs.into(),
            });
        }
        allowed(
            machine,
            Self::new(Purpose::Boot, block_at.start(), segments)?,
        )
    }
}

/// RAM that is left to be used.
struct Room(RangeMap<()>);

impl Room {
    /// All RAM of `area` that the boot protocol can address, without what is reserved for a crash kernel.
    fn new(machine: &Machine, area: PhysRange) -> Self {
        let mut ram = machine.iomem.ram();
        let outside = [
            PhysRange::new(0, area.start().get().max(ONE_MIB)),
            PhysRange::new(area.end().get().min(HIGHEST), u64::MAX),
        ];
        for range in outside
            .into_iter()
            .flatten()
            .chain(machine.iomem.crash_kernel())
        {
            ram.remove(range);
        }
        Self(ram.shrink_to(PAGE_SIZE))
    }

    /// Takes the lowest place from `lowest` on.
    fn first(&mut self, size: u64, lowest: PhysAddr, align: u64) -> Result<PhysRange, PlanError> {
        let size = whole_pages(size)?;
        let place = self.0.ranges().find_map(|range| {
            let start = range.start().max(lowest).align_up(align)?;
            PhysRange::from_len(start, size).filter(|place| range.covers(*place))
        });
        self.take(place, size, lowest)
    }

    /// Takes the highest place.
    fn last(&mut self, size: u64) -> Result<PhysRange, PlanError> {
        let size = whole_pages(size)?;
        let place = self.0.ranges().rev().find_map(|range| {
            let start = range.end().get().checked_sub(size)?;
            PhysRange::new(start, range.end().get()).filter(|place| range.covers(*place))
        });
        self.take(place, size, PhysAddr::new(ONE_MIB))
    }

    fn take(
        &mut self,
        place: Option<PhysRange>,
        size: u64,
        low: PhysAddr,
    ) -> Result<PhysRange, PlanError> {
        let place = place.ok_or(PlanError::NoRoom { size, low })?;
        self.0.remove(place);
        Ok(place)
    }
}

fn whole_pages(size: u64) -> Result<u64, PlanError> {
    size.max(1)
        .checked_next_multiple_of(PAGE_SIZE)
        .ok_or(PlanError::NoRoom {
            size,
            low: PhysAddr::new(ONE_MIB),
        })
}
