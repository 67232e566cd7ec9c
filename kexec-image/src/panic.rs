//! Plans for a kernel that waits in reserved memory for the running one to panic.
//!
//! It lives beside the other as a saving kernel does, with two differences. Nothing is swapped: its
//! segments go straight into the memory that `crashkernel=` reserved. And nothing is put aside for it:
//! low memory, which it will use, is copied to a *backup* in the reserved memory when it is entered, and
//! the core headers say that low memory is found there.
//!
//! The running kernel needs some of the reserved memory for page tables of its own, which it puts where
//! no segment is (`kimage_alloc_crash_control_pages` in `kernel/kexec_core.c`). So what is free between
//! the kernel and its initramfs stays without a segment.

use vmcore::image::Identity;
use vmcore::{PAGE_SIZE, PhysRange, RangeMap};

use crate::beside::{Boot, CoreBlock, all_low_memory, assemble, tail};
use crate::plan::{LoadPlan, PlannedSegment, Purpose};
use crate::trampoline::Backup;
use crate::{CommandLine, Machine, PlanError};

/// The parameter that tells where the backup of low memory is, in KiB with a `K` behind; the name is that
/// of the 2007 patches.
pub const BACKUP_KEY: &str = "kexec_backup";

impl<'a> LoadPlan<'a> {
    /// A kernel that is entered when the running one, which says `identity`, panics. The window is the
    /// memory that is reserved; `notes` is where each CPU will leave its registers.
    ///
    /// # Errors
    ///
    /// [`PlanError`] that says what does not fit or cannot be.
    pub fn catching(
        machine: &Machine,
        identity: &Identity,
        notes: &[PhysRange],
        boot: &Boot<'a>,
    ) -> Result<Self, PlanError> {
        let window = identity.window;
        let ram = all_low_memory(&machine.iomem);
        let low = whole(&ram)?;
        // Its size does not depend on where the backup is.
        let anywhere = Backup {
            from: low,
            to: window.start(),
        };
        let size = CoreBlock::new(machine, identity, notes, &ram, Some(anywhere)).size();
        let core_at = tail(window, size, "the core headers")?;
        let below =
            PhysRange::new(window.start().get(), core_at.start().get()).ok_or_else(|| {
                PlanError::WindowTooSmall {
                    window: window.len(),
                    what: "the core headers",
                    needed: size,
                }
            })?;
        let backup_at = tail(below, low.len(), "the backup of low memory")?;
        let backup = Backup {
            from: low,
            to: backup_at.start(),
        };
        let core = CoreBlock::new(machine, identity, notes, &ram, Some(backup));

        let mut cmdline = CommandLine::new();
        cmdline
            .append(&format!("elfcorehdr={:#x}", core_at.start()))
            .append(&format!("{BACKUP_KEY}={}K", backup_at.start().get() >> 10));
        let (entry, mut segments) = assemble(
            machine,
            identity,
            boot,
            backup_at.start(),
            cmdline,
            Some(backup),
        )?;
        reach(&mut segments, window, boot.kernel.memory());
        segments.push(PlannedSegment {
            what: "backup of low memory",
            memory: backup_at,
            bytes: b"".into(),
        });
        segments.push(PlannedSegment {
            what: "core headers",
            memory: core_at,
            bytes: core.encode(core_at.start()).into(),
        });
        Self::new(Purpose::Panic, entry, segments)
    }
}

/// From address 0 to the last page of low memory: what [`BACKUP_KEY`] has always been about.
fn whole(low: &RangeMap<()>) -> Result<PhysRange, PlanError> {
    let end = low.ranges().next_back().and_then(|last| {
        let end = last.end().align_up(PAGE_SIZE)?;
        PhysRange::new(0, end.get())
    });
    end.ok_or(PlanError::NoLowMemory)
}

/// Lets the kernel's last segment have all the memory that the kernel uses before it knows of any other:
/// nobody else may have it.
pub(crate) fn reach(segments: &mut [PlannedSegment<'_>], base: PhysRange, memory: u64) {
    let end = base
        .start()
        .checked_add(memory)
        .and_then(|end| end.align_up(PAGE_SIZE));
    let last = segments
        .iter_mut()
        .filter(|segment| segment.what == "kernel")
        .max_by_key(|segment| segment.memory);
    if let (Some(end), Some(last)) = (end, last)
        && let Some(memory) = PhysRange::new(last.memory.start().get(), end.get())
        && memory.covers(last.memory)
    {
        last.memory = memory;
    }
}

#[cfg(test)]
mod tests {
    use vmcore::IoMem;
    use vmcore::image::{ImageId, Paging};

    use super::*;
    use crate::bzimage::tests::sample;
    use crate::{Kernel, window};

    fn machine() -> Machine {
        let iomem = "00001000-0009fbff : System RAM\n\
                     00100000-3ffdffff : System RAM\n\
                     \x20 10000000-17ffffff : Crash kernel\n";
        Machine {
            release: "6.12.1".into(),
            build_id: vec![1],
            iomem: IoMem::parse(iomem).unwrap(),
            paging: Paging::FourLevel,
            rsdp: None,
            direct_map: Some(0xffff_8880_0000_0000),
            free_fill: None,
            uptime: 1,
            vmcoreinfo: PhysRange::new(0x3f00_0000, 0x3f00_1024),
            platform: vmcore::image::Platform::default(),
            volumes: Vec::new(),
        }
    }

    #[test]
    fn all_lies_in_reserved_memory_and_leaves_room_for_page_tables() {
        let file = sample(5000);
        let kernel = Kernel::parse(&file).unwrap();
        let machine = machine();
        let window = window::reserved(&machine.iomem, &kernel).unwrap();
        let identity = machine.identity(ImageId([1; 16]), window).unwrap();
        let notes = [PhysRange::new(0x3e00_0000, 0x3e00_0180).unwrap()];
        let boot = Boot {
            kernel: &kernel,
            initramfs: b"initramfs",
            append: "quiet",
        };
        let plan = LoadPlan::catching(&machine, &identity, &notes, &boot).unwrap();
        assert_eq!(plan.flags(), kexec_sys::LoadFlags::ON_CRASH);
        let segments = plan.segments();
        assert!(segments.iter().all(|s| window.covers(s.memory)));
        let find = |what: &str| segments.iter().find(|s| s.what == what).unwrap();
        // The kernel has all that it unpacks itself into; behind that is the room.
        assert_eq!(find("kernel").memory.len(), kernel.memory());
        assert!(
            find("initramfs").memory.start().get() - find("kernel").memory.end().get() > 1 << 20
        );

        // The headers say that low memory is where the backup is, and all else where it always was.
        let backup = find("backup of low memory").memory;
        assert_eq!(backup.len(), 0xa0000);
        let headers = &find("core headers").bytes;
        let word = |at: usize| u64::from_le_bytes(headers[at..at + 8].try_into().unwrap());
        let programs: Vec<(u64, u64, u64)> = (0..6)
            .map(|index| 64 + 56 * index)
            .map(|at| (word(at) & 0xffff_ffff, word(at + 8), word(at + 24)))
            .collect();
        let loads: Vec<_> = programs.iter().filter(|(kind, ..)| *kind == 1).collect();
        assert_eq!(*loads[0], (1, backup.start().get() + 0x1000, 0x1000));
        assert_eq!(*loads[1], (1, 0x10_0000, 0x10_0000));
        assert_eq!(*loads[2], (1, 0x1800_0000, 0x1800_0000));
        // One note of ours, one of the CPU, and VMCOREINFO.
        let notes = programs.iter().filter(|(kind, ..)| *kind == 4);
        assert_eq!(notes.count(), 3);
    }

    #[test]
    fn the_command_line_tells_where_the_backup_is() {
        let file = sample(5000);
        let kernel = Kernel::parse(&file).unwrap();
        let machine = machine();
        let window = window::reserved(&machine.iomem, &kernel).unwrap();
        let identity = machine.identity(ImageId([1; 16]), window).unwrap();
        let boot = Boot {
            kernel: &kernel,
            initramfs: b"",
            append: "quiet",
        };
        let plan = LoadPlan::catching(&machine, &identity, &[], &boot).unwrap();
        let find = |what: &str| plan.segments().iter().find(|s| s.what == what).unwrap();
        let block = String::from_utf8_lossy(&find("boot block").bytes).into_owned();
        let backup = find("backup of low memory").memory.start().get() >> 10;
        let core = find("core headers").memory.start();
        assert!(block.contains(&format!(
            "elfcorehdr={core:#x} kexec_backup={backup}K nokaslr"
        )));
        // 16 MiB are too few for a kernel that unpacks itself into 24.
        let small = PhysRange::new(0x1000_0000, 0x1100_0000).unwrap();
        let identity = machine.identity(ImageId([1; 16]), small).unwrap();
        assert!(matches!(
            LoadPlan::catching(&machine, &identity, &[], &boot),
            Err(PlanError::WindowTooSmall { .. })
        ));
    }
}
