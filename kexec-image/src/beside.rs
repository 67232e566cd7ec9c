//! Plans for a kernel that lives in the window beside a sleeping one: to save it, or to restore it.
//!
//! The window, from its start:
//!
//! | what | where |
//! | --- | --- |
//! | the kernel | at the start, with as much room as it asks for |
//! | free | what the kernel uses when it runs |
//! | initramfs | below the boot block |
//! | boot block | trampoline, boot parameters, command line |
//! | core headers | in whole pages that are reserved to the kernel; only when saving |
//! | key | at the end, in a page that is reserved too; only when saving to an image that is sealed |
//!
//! A jump swaps the page of the key with where that was loaded from. A plain kexec copies, and would leave the
//! key where nobody knows. So who restores is told of a page of the kernel before, outside of all that is loaded.

use vmcore::elf::{CoreHeaders, Load};
use vmcore::image::{Identity, ImageId, Paging, Seal};
use vmcore::{IoMem, MemoryKind, PAGE_SIZE, PhysAddr, PhysRange, RangeMap};

use crate::boot_block::{self, BootBlock};
use crate::cmdline::KEY_PAGE_KEY;
use crate::e820::{self, ONE_MIB};
use crate::kernel::Part;
use crate::plan::{LoadPlan, PlannedSegment, Purpose};
use crate::trampoline::Backup;
use crate::{CommandLine, Kernel, Machine, PlanError};

/// Zeros that end a segment of notes: the reader in the kernel looks for a note without a name
/// (`update_note_header_size_elf64` in `fs/proc/vmcore.c`).
const NOTES_END: usize = 16;

/// What is to be booted in the window.
#[derive(Clone, Debug)]
pub struct Boot<'a> {
    /// The kernel.
    pub kernel: &'a Kernel<'a>,
    /// Its initramfs, compressed or not.
    pub initramfs: &'a [u8],
    /// What its command line has besides what makes it work.
    pub append: &'a str,
}

/// All whole pages of RAM below 1 MiB: the kernel in the window starts its CPUs there.
#[must_use]
pub(crate) fn low_memory(iomem: &IoMem) -> RangeMap<()> {
    all_low_memory(iomem).shrink_to(PAGE_SIZE)
}

/// The memory map of a kernel in `window` on the machine with `iomem`, while all memory besides that and
/// low memory is a sleeping machine's.
#[must_use]
pub fn map_beside_sleeper(iomem: &IoMem, window: PhysRange) -> RangeMap<MemoryKind> {
    e820::map_beside_sleeper(&iomem.memory(), window, &low_memory(iomem))
}

/// All RAM below 1 MiB, parts of pages too.
#[must_use]
pub(crate) fn all_low_memory(iomem: &IoMem) -> RangeMap<()> {
    let mut low = iomem.ram();
    if let Some(above) = PhysRange::new(ONE_MIB, u64::MAX) {
        low.remove(above);
    }
    low
}

impl Machine {
    /// What this machine is to say of itself when it is saved by a kernel in `window`.
    ///
    /// # Errors
    ///
    /// [`PlanError::NoLowMemory`] if it has no RAM below 1 MiB.
    pub fn identity(&self, id: ImageId, window: PhysRange) -> Result<Identity, PlanError> {
        let low = low_memory(&self.iomem);
        if low.is_empty() {
            return Err(PlanError::NoLowMemory);
        }
        Ok(Identity {
            id,
            release: self.release.clone(),
            build_id: self.build_id.clone(),
            paging: self.paging,
            window,
            low,
            memory: self.iomem.memory(),
            free_fill: self.free_fill,
            uptime: self.uptime,
            platform: self.platform.clone(),
            volumes: self.volumes.clone(),
        })
    }
}

impl<'a> LoadPlan<'a> {
    /// A kernel that saves the running one, as `identity` says, and can jump back into it. It is handed
    /// `seal`, if the image is to be sealed.
    ///
    /// # Errors
    ///
    /// [`PlanError`] that says what does not fit or cannot be.
    pub fn saving(
        machine: &Machine,
        identity: &Identity,
        boot: &Boot<'a>,
        seal: Option<&Seal>,
    ) -> Result<Self, PlanError> {
        let mut cmdline = CommandLine::new();
        let key = key_segment(identity.window, seal, &mut cmdline)?;
        let window = below(identity.window, key.as_ref())?;
        let core = CoreBlock::new(machine, identity, &[], &RangeMap::new(), None);
        let core_at = tail(window, core.size(), "the core headers")?;
        cmdline
            .append(&format!("elfcorehdr={:#x}", core_at.start()))
            .push_jump_back_entry();
        let (entry, mut segments) =
            assemble(machine, identity, boot, core_at.start(), cmdline, None)?;
        segments.push(PlannedSegment {
            what: "core headers",
            memory: core_at,
            bytes: core.encode(core_at.start()).into(),
        });
        segments.extend(key);
        let segments = cover(identity, segments)?;
        allowed(machine, LoadPlan::new(Purpose::Save, entry, segments)?)
    }

    /// A kernel that restores the sleeping one of `identity`. It is told that the page at `key_page` hands the
    /// key of the image on, if that is sealed. No part of the plan has the key.
    ///
    /// # Errors
    ///
    /// [`PlanError`] that says what does not fit or cannot be; [`PlanError::KeyPage`] if that page is not in the
    /// memory that the sleeping machine has besides window and low memory.
    pub fn restoring(
        machine: &Machine,
        identity: &Identity,
        boot: &Boot<'a>,
        key_page: Option<PhysAddr>,
    ) -> Result<Self, PlanError> {
        let mut cmdline = CommandLine::new();
        if let Some(page) = key_page {
            PhysRange::from_len(page, PAGE_SIZE)
                .filter(|range| range.is_aligned(PAGE_SIZE))
                .filter(|range| identity.saved_memory().covers(*range))
                .ok_or(PlanError::KeyPage { page })?;
            name_key_page(page, &mut cmdline);
        }
        let end = identity.window.end();
        let (entry, segments) = assemble(machine, identity, boot, end, cmdline, None)?;
        let segments = cover(identity, segments)?;
        allowed(machine, LoadPlan::new(Purpose::Restore, entry, segments)?)
    }
}

/// The page at the end of `window` that hands `seal` on; `cmdline` tells where it is.
fn key_segment(
    window: PhysRange,
    seal: Option<&Seal>,
    cmdline: &mut CommandLine,
) -> Result<Option<PlannedSegment<'static>>, PlanError> {
    let Some(seal) = seal else { return Ok(None) };
    let memory = tail(window, PAGE_SIZE, "the key")?;
    name_key_page(memory.start(), cmdline);
    Ok(Some(PlannedSegment {
        what: PlannedSegment::KEY,
        memory,
        bytes: std::mem::take(&mut *seal.to_page()).into(),
    }))
}

/// Tells on `cmdline` that the key is in `page`.
fn name_key_page(page: PhysAddr, cmdline: &mut CommandLine) {
    cmdline.append(&format!("{KEY_PAGE_KEY}={page:#x}"));
}

/// What of `window` is below this segment at its end.
fn below(window: PhysRange, segment: Option<&PlannedSegment<'_>>) -> Result<PhysRange, PlanError> {
    let end = segment.map_or(window.end(), |segment| segment.memory.start());
    PhysRange::new(window.start().get(), end.get()).ok_or(PlanError::WindowTooSmall {
        window: window.len(),
        what: "the key",
        needed: PAGE_SIZE,
    })
}

/// The last `size` bytes of `room`, in whole pages.
pub(crate) fn tail(room: PhysRange, size: u64, what: &'static str) -> Result<PhysRange, PlanError> {
    size.checked_next_multiple_of(PAGE_SIZE)
        .and_then(|size| room.end().get().checked_sub(size))
        .and_then(|start| PhysRange::new(start, room.end().get()))
        .filter(|tail| room.covers(*tail))
        .ok_or(PlanError::WindowTooSmall {
            window: room.len(),
            what,
            needed: size,
        })
}

/// The entry, and the segments of kernel, initramfs and boot block, for a kernel that may use the
/// window up to `usable_end`, after `backup` was made.
pub(crate) fn assemble<'a>(
    machine: &Machine,
    identity: &Identity,
    boot: &Boot<'a>,
    usable_end: PhysAddr,
    mut cmdline: CommandLine,
    backup: Option<Backup>,
) -> Result<(PhysAddr, Vec<PlannedSegment<'a>>), PlanError> {
    let kernel = boot.kernel;
    let window = identity.window;
    kernel.check_base(window)?;
    // The kernel must have the page tables that the sleeping one had, and must not move itself out of
    // the window.
    cmdline.append("nokaslr");
    match identity.paging {
        Paging::FiveLevel if !kernel.five_level => return Err(PlanError::No5Level),
        Paging::FiveLevel => {}
        Paging::FourLevel => {
            cmdline.append("no5lvl");
        }
    }
    cmdline.append(boot.append);

    let too_small = |what, needed| PlanError::WindowTooSmall {
        window: window.len(),
        what,
        needed,
    };
    let usable = PhysRange::new(window.start().get(), usable_end.get())
        .ok_or(too_small("the core headers", window.len()))?;
    let block_at = tail(usable, boot_block::size(&cmdline), "the boot block")?;
    let initramfs_size = boot.initramfs.len() as u64;
    let below_block = PhysRange::new(usable.start().get(), block_at.start().get());
    let initramfs_at = match below_block {
        Some(room) if initramfs_size > 0 => Some(tail(room, initramfs_size, "the initramfs")?),
        _ => None,
    };
    let free_end = initramfs_at.unwrap_or(block_at).start();
    let kernel_room = free_end.offset_from(usable.start()).unwrap_or(0);
    if kernel.memory() > kernel_room {
        let others = usable.len() - kernel_room;
        return Err(too_small(
            "the kernel with its initramfs",
            kernel.memory().saturating_add(others),
        ));
    }

    let memory = e820::map_beside_sleeper(&identity.memory, usable, &identity.low);
    let block = BootBlock {
        kernel,
        base: window.start(),
        cmdline: &cmdline,
        initramfs: initramfs_at.and_then(|at| PhysRange::from_len(at.start(), initramfs_size)),
        rsdp: machine.rsdp,
        memory: &memory,
        backup,
        screen: None,
    };
    let mut segments = vec![PlannedSegment {
        what: "boot block",
        memory: block_at,
        bytes: block.encode(block_at)?.into(),
    }];
    for part in &kernel.parts {
        segments.push(kernel_part(kernel, part, window)?);
    }
    if let Some(memory) = initramfs_at {
        segments.push(PlannedSegment {
            what: "initramfs",
            memory,
            bytes: boot.initramfs.into(),
        });
    }
    Ok((block_at.start(), segments))
}

/// The segment of a part of the kernel. Parts need not be whole pages, or begin at one.
pub(crate) fn kernel_part<'a>(
    kernel: &Kernel<'a>,
    part: &Part,
    window: PhysRange,
) -> Result<PlannedSegment<'a>, PlanError> {
    let malformed = PlanError::Malformed {
        what: "the place of a segment",
        value: part.offset,
    };
    let bytes = &kernel.file[part.bytes.clone()];
    let memory = window
        .start()
        .checked_add(part.offset)
        .filter(|start| start.is_aligned(PAGE_SIZE))
        .and_then(|start| {
            let len = (bytes.len() as u64).max(1).next_multiple_of(PAGE_SIZE);
            PhysRange::from_len(start, len)
        })
        .filter(|memory| window.covers(*memory))
        .ok_or(malformed)?;
    Ok(PlannedSegment {
        what: "kernel",
        memory,
        bytes: bytes.into(),
    })
}

/// Lets the segments cover all of the window, and adds low memory.
fn cover<'a>(
    identity: &Identity,
    mut segments: Vec<PlannedSegment<'a>>,
) -> Result<Vec<PlannedSegment<'a>>, PlanError> {
    let window = identity.window;
    segments.sort_by_key(|segment| segment.memory);
    // Each segment reaches up to the next one, the last one to the end of the window. The first one
    // begins where the window does.
    let ends: Vec<PhysAddr> = segments
        .iter()
        .skip(1)
        .map(|segment| segment.memory.start())
        .chain([window.end()])
        .collect();
    for (index, (segment, end)) in segments.iter_mut().zip(ends).enumerate() {
        let start = if index == 0 {
            window.start()
        } else {
            segment.memory.start()
        };
        segment.memory = PhysRange::new(start.get(), end.get())
            .filter(|memory| memory.covers(segment.memory) && segment.memory.start() == start)
            .ok_or(PlanError::Malformed {
                what: "the place of a segment",
                value: segment.memory.start().get(),
            })?;
    }
    for memory in identity.low.ranges() {
        segments.push(PlannedSegment {
            what: "low memory",
            memory,
            bytes: b"".into(),
        });
    }
    Ok(segments)
}

/// Checks that the machine takes a plan of this size (`sanity_check_segment_list` in
/// `kernel/kexec_core.c`).
pub(crate) fn allowed<'a>(
    machine: &Machine,
    plan: LoadPlan<'a>,
) -> Result<LoadPlan<'a>, PlanError> {
    let half = machine.iomem.ram().bytes() / 2;
    if plan.bytes() > half {
        return Err(PlanError::MoreThanHalf {
            needed: plan.bytes(),
            half,
        });
    }
    Ok(plan)
}

/// What the saving kernel makes `/proc/vmcore` of: headers of a core, and the note that says whose.
pub(crate) struct CoreBlock {
    /// Memory, where it will be found, and the virtual address that its kernel has for it.
    memory: Vec<(PhysRange, PhysAddr, u64)>,
    /// Notes in the memory of the running kernel.
    notes: Vec<PhysRange>,
    note: Vec<u8>,
}

impl CoreBlock {
    /// Of the machine that says `identity`, with `notes` of its CPUs. Of the low memory `low` there is what
    /// `backup` has, if that is made.
    pub(crate) fn new(
        machine: &Machine,
        identity: &Identity,
        notes: &[PhysRange],
        low: &RangeMap<()>,
        backup: Option<Backup>,
    ) -> Self {
        let virt = |range: PhysRange| {
            let base = machine.direct_map?;
            base.checked_add(range.start().get())
        };
        let saved = identity.saved_memory();
        let in_place = saved.ranges().map(|range| (range, range.start()));
        let put_aside = low.ranges().filter_map(|range| {
            let backup = backup?;
            let distance = range.start().offset_from(backup.from.start())?;
            Some((range, backup.to.checked_add(distance)?))
        });
        let mut note = identity.to_note();
        note.resize(note.len() + NOTES_END, 0);
        Self {
            memory: put_aside
                .chain(in_place)
                .map(|(range, at)| (range, at, virt(range).unwrap_or(0)))
                .collect(),
            notes: notes.iter().copied().chain(machine.vmcoreinfo).collect(),
            note,
        }
    }

    /// The headers, if the note lies at `note_at`.
    fn headers(&self, note_at: u64) -> CoreHeaders {
        let mut headers = CoreHeaders::new();
        headers.notes(note_at, self.note.len() as u64);
        for notes in &self.notes {
            headers.notes(notes.start().get(), notes.len());
        }
        for (range, at, virt) in &self.memory {
            headers.load(Load {
                memory: *range,
                offset: at.get(),
                file_size: range.len(),
                virt: *virt,
            });
        }
        headers
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.headers(0).size() + self.note.len() as u64
    }

    /// The block for the place `at`.
    pub(crate) fn encode(&self, at: PhysAddr) -> Vec<u8> {
        // The block lies in the window, so that no address in it overflows.
        let note_at = at.get().saturating_add(self.headers(0).size());
        let mut bytes = self.headers(note_at).encode();
        bytes.extend_from_slice(&self.note);
        bytes
    }
}

#[cfg(test)]
mod tests;
