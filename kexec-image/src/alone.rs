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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmcore::IoMem;
    use vmcore::image::{Paging, Platform};

    use super::*;
    use crate::Kernel;
    use crate::bzimage::tests::sample;

    fn machine() -> Machine {
        let iomem = "00001000-0009fbff : System RAM\n\
                     00100000-3ffdffff : System RAM\n\
                     \x20 30000000-37ffffff : Crash kernel\n\
                     100000000-13fffffff : System RAM\n";
        Machine {
            release: "6.12.1".into(),
            build_id: vec![1],
            iomem: IoMem::parse(iomem).unwrap(),
            paging: Paging::FiveLevel,
            rsdp: Some(PhysAddr::new(0x3ffe_0014)),
            direct_map: None,
            free_fill: None,
            uptime: 1,
            vmcoreinfo: None,
            platform: Platform::default(),
            volumes: Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn all_lies_in_ram_of_the_area(
            min in 0..0x30u64,
            len in 1..0x40u64,
            initramfs in 0..(20usize << 20),
        ) {
            let file = sample(3_000_000);
            let kernel = Kernel::parse(&file).unwrap();
            let machine = machine();
            let firmware = Firmware { memory: machine.iomem.memory(), screen: None };
            let initramfs = vec![1; initramfs];
            let boot = Boot { kernel: &kernel, initramfs: &initramfs, append: "quiet" };
            let area = PhysRange::new(min << 24, (min + len) << 24).unwrap();
            match LoadPlan::booting(&machine, &firmware, &boot, area) {
                Ok(plan) => {
                    let ram = machine.iomem.ram();
                    let crash = PhysRange::new(0x3000_0000, 0x3800_0000).unwrap();
                    for segment in plan.segments() {
                        prop_assert!(area.covers(segment.memory) && ram.covers(segment.memory));
                        prop_assert!(!crash.overlaps(segment.memory));
                    }
                    prop_assert_eq!(plan.flags(), kexec_sys::LoadFlags::empty());
                    let kernel_at = plan.segments().iter().find(|s| s.what == "kernel").unwrap();
                    prop_assert_eq!(kernel_at.memory.len(), kernel.memory());
                }
                // 24 MiB for the kernel, 20 at most for its initramfs.
                Err(PlanError::NoRoom { .. }) => prop_assert!(min >= 0x2c || len < 4),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn the_firmware_is_handed_on_as_it_is() {
        let file = sample(5000);
        let kernel = Kernel::parse(&file).unwrap();
        let machine = machine();
        let mut memory = RangeMap::new();
        let tables = PhysRange::new(0x3ffe_0000, 0x4000_0000).unwrap();
        memory.insert(tables, MemoryKind::AcpiTables).unwrap();
        let firmware = Firmware {
            memory,
            screen: Some([9; 64]),
        };
        let boot = Boot {
            kernel: &kernel,
            initramfs: b"",
            append: "quiet",
        };
        let all = PhysRange::new(0, u64::MAX).unwrap();
        let plan = LoadPlan::booting(&machine, &firmware, &boot, all).unwrap();
        let block = plan
            .segments()
            .iter()
            .find(|s| s.what == "boot block")
            .unwrap();
        assert_eq!(plan.entry(), block.memory.start());
        let params = &block.bytes[4096..8192];
        assert_eq!(params[..64], [9; 64]);
        assert_eq!(params[0x1e8], 1);
        assert_eq!(params[0x2d0..0x2d8], 0x3ffe_0000_u64.to_le_bytes());
        assert_eq!(params[0x70..0x78], 0x3ffe_0014_u64.to_le_bytes());
        assert_eq!(&block.bytes[8192..8198], b"quiet\0");
    }
}
