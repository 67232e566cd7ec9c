//! The trampoline, the boot parameters and the command line: what a kernel is entered with, as one
//! block of whole pages.

use vmcore::{MemoryKind, PAGE_SIZE, PhysAddr, PhysRange, RangeMap};

use crate::boot_params::BootParams;
use crate::trampoline::Backup;
use crate::{CommandLine, Kernel, PlanError, boot_params, trampoline};

/// What a kernel is entered with, apart from where the block itself will lie.
pub(crate) struct BootBlock<'a> {
    pub(crate) kernel: &'a Kernel<'a>,
    /// Where the kernel lies.
    pub(crate) base: PhysAddr,
    pub(crate) cmdline: &'a CommandLine,
    pub(crate) initramfs: Option<PhysRange>,
    pub(crate) rsdp: Option<PhysAddr>,
    pub(crate) memory: &'a RangeMap<MemoryKind>,
    /// What is copied before the kernel is entered.
    pub(crate) backup: Option<Backup>,
    /// What the running kernel was told of the screen.
    pub(crate) screen: Option<&'a [u8; boot_params::SCREEN_SIZE]>,
}

/// The trampoline has the first page, the boot parameters have the second.
const PARAMS: u64 = PAGE_SIZE;
/// The command line comes behind.
const CMDLINE: u64 = PARAMS + PAGE_SIZE;

const _: () = assert!(boot_params::SIZE as u64 == CMDLINE - PARAMS);

/// The size of the block for a kernel with this command line, in bytes.
pub(crate) fn size(cmdline: &CommandLine) -> u64 {
    (CMDLINE + cmdline.as_str().len() as u64 + 1).next_multiple_of(PAGE_SIZE)
}

impl BootBlock<'_> {
    /// The block for the place `at`. Its first byte is the first instruction.
    pub(crate) fn encode(&self, at: PhysRange) -> Result<Vec<u8>, PlanError> {
        let place = |offset: u64| {
            at.start()
                .checked_add(offset)
                .filter(|&addr| at.contains(addr))
                .ok_or(PlanError::WindowTooSmall {
                    window: at.len(),
                    what: "the boot block",
                    needed: offset,
                })
        };
        let cmdline = place(CMDLINE)?;
        let digits = self.cmdline.jump_back_digits();
        let digits = digits.map(|at| place(CMDLINE + at as u64)).transpose()?;
        let entry = self
            .base
            .checked_add(self.kernel.entry)
            .ok_or(PlanError::Malformed {
                what: "its entry",
                value: self.kernel.entry,
            })?;
        let params = BootParams {
            setup_header: &self.kernel.setup_header,
            cmdline,
            initramfs: self.initramfs,
            rsdp: self.rsdp,
            memory: self.memory,
            screen: self.screen,
        };
        let mut block = trampoline::boot(entry, place(PARAMS)?, digits, self.backup);
        block.resize(PARAMS as usize, 0);
        block.extend(params.encode()?);
        block.extend(self.cmdline.encode(self.kernel.cmdline_max)?);
        Ok(block)
    }
}
