//! What must be known of a machine to plan for it.

use vmcore::image::{Paging, Platform, Volume};
use vmcore::{IoMem, PhysAddr, PhysRange};

/// The facts of the running machine that a plan is made from.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The running kernel's release, as `uname -r` prints it.
    pub release: String,
    /// The running kernel's GNU build id; empty if it has none.
    pub build_id: Vec<u8>,
    /// What lies where in the physical address space.
    pub iomem: IoMem,
    /// Depth of the running kernel's page tables.
    pub paging: Paging,
    /// Where the ACPI tables begin, if the firmware does not let a kernel find them by looking: on
    /// UEFI machines.
    pub rsdp: Option<PhysAddr>,
    /// The virtual address at which the running kernel maps physical address 0, if that is known. It is
    /// random with `CONFIG_RANDOMIZE_MEMORY`.
    pub direct_map: Option<u64>,
    /// What the running kernel counts on finding in each byte of its free pages, if it looks.
    pub free_fill: Option<u8>,
    /// For how many seconds it has run, the time asleep included.
    pub uptime: u64,
    /// The hardware, as far as the running kernel counts on it.
    pub platform: Platform,
    /// The devices that are mounted for writing or swapped on.
    pub volumes: Vec<Volume>,
    /// Where the running kernel keeps its VMCOREINFO note.
    pub vmcoreinfo: Option<PhysRange>,
}
