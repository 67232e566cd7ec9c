//! The physical memory of the running machine, as `/proc/iomem` shows it.

use crate::{MemoryKind, PhysRange, RangeMap};

/// One line of `/proc/iomem`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoMemEntry {
    /// How deep the entry is nested; 0 for those that lie in no other.
    pub depth: usize,
    /// The addresses.
    pub range: PhysRange,
    /// What lies there, such as `System RAM` or `Kernel code`.
    pub name: String,
}

/// What lies where in the physical address space of the running machine: the content of `/proc/iomem`
/// (`kernel/resource.c`).
///
/// ```
/// use vmcore::{IoMem, MemoryKind, PhysRange};
///
/// let iomem = IoMem::parse("\
/// 00001000-0009fbff : System RAM
/// 00100000-3ffdffff : System RAM
///   01000000-01bfffff : Kernel code
///   02000000-020fffff : Kernel bss
/// fee00000-fee00fff : Reserved
/// ")?;
/// assert_eq!(iomem.kernel_image(), PhysRange::new(0x100_0000, 0x210_0000));
/// assert_eq!(iomem.memory().len(), 3);
/// # Ok::<(), vmcore::IoMemError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoMem {
    entries: Vec<IoMemEntry>,
}

/// Why the content of `/proc/iomem` is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IoMemError {
    /// The kernel shows addresses as zeros to those who lack `CAP_SYS_ADMIN`.
    #[error("/proc/iomem hides its addresses: run this as root (with CAP_SYS_ADMIN)")]
    Hidden,
    /// A line is not of the form `START-END : NAME`.
    #[error("line {line} of /proc/iomem makes no sense: {text:?}")]
    Malformed {
        /// Number of the line, from 1.
        line: usize,
        /// The line.
        text: String,
    },
}

impl IoMem {
    /// Reads the text of `/proc/iomem`.
    ///
    /// # Errors
    ///
    /// [`IoMemError::Hidden`] if there are no addresses in it, [`IoMemError::Malformed`] if it is no
    /// such text.
    pub fn parse(text: &str) -> Result<Self, IoMemError> {
        let mut entries = Vec::new();
        let mut hidden = 0;
        for (index, text) in text.lines().enumerate() {
            let malformed = || IoMemError::Malformed {
                line: index + 1,
                text: text.to_owned(),
            };
            let line = text.trim_start();
            let (range, name) = line.split_once(" : ").ok_or_else(malformed)?;
            let (start, last) = range.split_once('-').ok_or_else(malformed)?;
            let address = |digits| u64::from_str_radix(digits, 16).map_err(|_| malformed());
            let (start, last) = (address(start)?, address(last)?);
            if last == 0 {
                hidden += 1;
                continue;
            }
            // The last byte of the address space is in no range; no memory is there.
            let Some(range) = PhysRange::new(start, last.saturating_add(1)) else {
                return Err(malformed());
            };
            entries.push(IoMemEntry {
                depth: (text.len() - line.len()) / 2,
                range,
                name: name.to_owned(),
            });
        }
        if entries.is_empty() && hidden > 0 {
            return Err(IoMemError::Hidden);
        }
        Ok(Self { entries })
    }

    /// All entries, in the order of the file.
    #[must_use]
    pub fn entries(&self) -> &[IoMemEntry] {
        &self.entries
    }

    /// The machine's memory by kind. Entries that are no memory, such as devices, are left out; of what
    /// the kernel splits, as it does with RAM that holds what a boot loader left, the parts are one
    /// again.
    #[must_use]
    pub fn memory(&self) -> RangeMap<MemoryKind> {
        let mut memory = RangeMap::new();
        for entry in &self.entries {
            if let Some(kind) = kind_of(&entry.name) {
                memory.replace(entry.range, kind);
            }
        }
        memory
    }

    /// The memory that the kernel uses as such.
    #[must_use]
    pub fn ram(&self) -> RangeMap<()> {
        self.memory()
            .filter_map(|kind| (*kind == MemoryKind::Ram).then_some(()))
    }

    /// The memory from the first to the last byte of the running kernel's code and data.
    #[must_use]
    pub fn kernel_image(&self) -> Option<PhysRange> {
        let parts = ["Kernel code", "Kernel rodata", "Kernel data", "Kernel bss"];
        self.named(&parts).reduce(|low, high| {
            let start = low.start().min(high.start());
            let end = low.end().max(high.end());
            PhysRange::new(start.get(), end.get()).unwrap_or(low)
        })
    }

    /// The memory reserved for a crash kernel, if there is any.
    pub fn crash_kernel(&self) -> impl Iterator<Item = PhysRange> {
        self.named(&["Crash kernel"])
    }

    fn named(&self, names: &[&str]) -> impl Iterator<Item = PhysRange> {
        self.entries
            .iter()
            .filter(|entry| names.contains(&entry.name.as_str()))
            .map(|entry| entry.range)
    }
}

/// The kind of memory that an entry's name stands for.
fn kind_of(name: &str) -> Option<MemoryKind> {
    // Hot-plugged memory has a word behind, such as `System RAM (virtio_mem)`.
    if name == "System RAM" || name.starts_with("System RAM (") {
        return Some(MemoryKind::Ram);
    }
    [
        MemoryKind::Reserved,
        MemoryKind::AcpiTables,
        MemoryKind::AcpiNvs,
        MemoryKind::Unusable,
        MemoryKind::Persistent,
    ]
    .into_iter()
    .find(|kind| kind.to_string() == name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn memory_split_at_odd_addresses_is_one_again() {
        let iomem = IoMem::parse(
            "00100000-007fffff : System RAM\n\
             00800000-00800017 : System RAM\n\
             00800018-3fffffff : System RAM\n\
             40000000-400fffff : ACPI Non-volatile Storage\n\
             80000000-feffffff : PCI Bus 0000:00\n\
             \x20 e0000000-efffffff : Reserved\n\
             100000000-13fffffff : System RAM (virtio_mem)\n",
        )
        .unwrap();
        let range = |start, end| PhysRange::new(start, end).unwrap();
        let expected = [
            (range(0x10_0000, 0x4000_0000), &MemoryKind::Ram),
            (range(0x4000_0000, 0x4010_0000), &MemoryKind::AcpiNvs),
            (range(0xe000_0000, 0xf000_0000), &MemoryKind::Reserved),
            (range(0x1_0000_0000, 0x1_4000_0000), &MemoryKind::Ram),
        ];
        assert_eq!(iomem.memory().iter().collect::<Vec<_>>(), expected);
        assert_eq!(iomem.kernel_image(), None);
        assert_eq!(iomem.entries()[5].depth, 1);
    }

    #[test]
    fn hidden_addresses_are_an_error_of_their_own() {
        let text = "00000000-00000000 : System RAM\n  00000000-00000000 : Kernel code\n";
        assert_eq!(IoMem::parse(text), Err(IoMemError::Hidden));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read(text in "([0-9a-f]{1,17}-[0-9a-f]{1,17} : [A-Z]{1,3}\n|[ -~]{0,20}\n){0,5}") {
            if let Ok(iomem) = IoMem::parse(&text) {
                let _ = iomem.memory();
            }
        }
    }
}
