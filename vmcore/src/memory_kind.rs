//! What a range of physical memory is for.

use std::fmt;

/// What firmware says a range of physical memory is for, as an E820 map names it.
///
/// The numbers are those of the ACPI specification 6.5, table 15.4 ("Address Range Types"), and of
/// `arch/x86/include/asm/e820/types.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemoryKind {
    /// Memory that the kernel may use.
    Ram,
    /// Memory that firmware or a device uses.
    Reserved,
    /// ACPI tables, which may be used as memory once they were read.
    AcpiTables,
    /// Memory that ACPI wants kept while the machine sleeps.
    AcpiNvs,
    /// Memory in which errors were found.
    Unusable,
    /// Persistent memory, such as NVDIMMs.
    Persistent,
    /// A kind that has a number only.
    Custom(u32),
}

impl MemoryKind {
    /// The kind that has `number` in an E820 map.
    #[must_use]
    pub const fn from_e820(number: u32) -> Self {
        match number {
            1 => Self::Ram,
            2 => Self::Reserved,
            3 => Self::AcpiTables,
            4 => Self::AcpiNvs,
            5 => Self::Unusable,
            7 => Self::Persistent,
            other => Self::Custom(other),
        }
    }

    /// The number of the kind in an E820 map.
    ///
    /// ```
    /// use vmcore::MemoryKind;
    ///
    /// assert_eq!(MemoryKind::AcpiNvs.to_e820(), 4);
    /// assert_eq!(MemoryKind::from_e820(4), MemoryKind::AcpiNvs);
    /// ```
    #[must_use]
    pub const fn to_e820(self) -> u32 {
        match self {
            Self::Ram => 1,
            Self::Reserved => 2,
            Self::AcpiTables => 3,
            Self::AcpiNvs => 4,
            Self::Unusable => 5,
            Self::Persistent => 7,
            Self::Custom(number) => number,
        }
    }
}

/// The name that `/proc/iomem` has for the kind (`e820_type_to_string` in `arch/x86/kernel/e820.c`).
impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ram => f.write_str("System RAM"),
            Self::Reserved => f.write_str("Reserved"),
            Self::AcpiTables => f.write_str("ACPI Tables"),
            Self::AcpiNvs => f.write_str("ACPI Non-volatile Storage"),
            Self::Unusable => f.write_str("Unusable memory"),
            Self::Persistent => f.write_str("Persistent Memory"),
            Self::Custom(number) => write!(f, "memory of kind {number}"),
        }
    }
}
