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
use vmcore::{PAGE_SIZE, PhysRange};

use crate::beside::{Boot, CoreBlock, assemble, tail};
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
        let low = whole(identity)?;
        // Its size does not depend on where the backup is.
        let anywhere = Backup {
            from: low,
            to: window.start(),
        };
        let size = CoreBlock::new(machine, identity, notes, Some(anywhere)).size();
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
        let core = CoreBlock::new(machine, identity, notes, Some(backup));

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

/// From address 0 to the last byte of low memory: what [`BACKUP_KEY`] has always been about.
fn whole(identity: &Identity) -> Result<PhysRange, PlanError> {
    let last = identity.low.ranges().next_back();
    last.and_then(|last| PhysRange::new(0, last.end().get()))
        .ok_or(PlanError::NoLowMemory)
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
