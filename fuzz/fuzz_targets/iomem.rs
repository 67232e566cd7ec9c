//! `/proc/iomem`: every address has the kind that the last entry says, and what is written is read.
#![no_main]

use std::fmt::Write as _;

use arbitrary::Arbitrary;
use kjump_fuzz::{Number, bounded, memory};
use libfuzzer_sys::fuzz_target;
use vmcore::{IoMem, MemoryKind, PhysAddr};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Built(Vec<(u8, Number, Number, Name)>),
    Raw(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Name {
    Ram,
    Virtio,
    Reserved,
    Tables,
    Nvs,
    Unusable,
    Persistent,
    Code,
    Data,
    Crash,
    Device,
}

impl Name {
    fn text(&self) -> &'static str {
        match self {
            Self::Ram => "System RAM",
            Self::Virtio => "System RAM (virtio_mem)",
            Self::Reserved => "Reserved",
            Self::Tables => "ACPI Tables",
            Self::Nvs => "ACPI Non-volatile Storage",
            Self::Unusable => "Unusable memory",
            Self::Persistent => "Persistent Memory",
            Self::Code => "Kernel code",
            Self::Data => "Kernel data",
            Self::Crash => "Crash kernel",
            Self::Device => "PCI Bus 0000:00",
        }
    }
}

/// The kind of memory that a name stands for, as the kernel's list has it.
fn kind(name: &str) -> Option<MemoryKind> {
    Some(match name {
        "System RAM" => MemoryKind::Ram,
        "Reserved" => MemoryKind::Reserved,
        "ACPI Tables" => MemoryKind::AcpiTables,
        "ACPI Non-volatile Storage" => MemoryKind::AcpiNvs,
        "Unusable memory" => MemoryKind::Unusable,
        "Persistent Memory" => MemoryKind::Persistent,
        _ if name.starts_with("System RAM (") => MemoryKind::Ram,
        _ => return None,
    })
}

fuzz_target!(|input: Input<'_>| {
    let (text, built) = match input {
        Input::Raw(text) => (text.to_owned(), false),
        Input::Built(lines) => {
            let mut text = String::new();
            for (depth, start, more, name) in lines {
                let start = start.get();
                let last = start.saturating_add(more.get()).clamp(1, u64::MAX - 1);
                let (start, depth) = (start.min(last), usize::from(depth % 8) * 2);
                let _ = writeln!(
                    text,
                    "{:depth$}{start:08x}-{last:08x} : {}",
                    "",
                    name.text()
                );
            }
            (text, true)
        }
    };
    let limit = 4096 + 64 * text.len();
    let parsed = bounded(limit, || IoMem::parse(&text));
    let iomem = match parsed {
        Ok(iomem) => iomem,
        Err(error) => {
            assert!(!built, "{error}");
            return;
        }
    };
    assert!(iomem.entries().len() <= text.lines().count());
    assert!(!built || iomem.entries().len() == text.lines().count());

    let map = bounded(limit, || iomem.memory());
    memory::check_order(&map);
    for entry in iomem.entries().iter().take(60) {
        let (start, end) = (entry.range.start().get(), entry.range.end().get());
        for addr in [start.saturating_sub(1), start, end - 1, end].map(PhysAddr::new) {
            let expected = iomem
                .entries()
                .iter()
                .rev()
                .filter(|entry| entry.range.contains(addr))
                .find_map(|entry| kind(&entry.name));
            assert_eq!(map.get(addr).map(|(_, kind)| *kind), expected, "at {addr}");
        }
        let ram = iomem.ram();
        assert!(ram.iter().all(|(range, ())| map.covers(range)));
    }
    if let Some(image) = iomem.kernel_image() {
        let parts = iomem.entries().iter().filter(|entry| {
            ["Kernel code", "Kernel rodata", "Kernel data", "Kernel bss"]
                .contains(&entry.name.as_str())
        });
        assert!(parts.clone().count() > 0);
        assert!(parts.clone().all(|part| image.covers(part.range)));
    }

    let mut again = String::new();
    for entry in iomem.entries() {
        let (start, last) = (entry.range.start(), entry.range.end().get() - 1);
        // A line that ends in this would lose it.
        if entry.name.ends_with('\r') {
            return;
        }
        let _ = writeln!(
            again,
            "{:1$}{start:x}-{last:x} : {2}",
            "",
            entry.depth * 2,
            entry.name
        );
    }
    assert_eq!(IoMem::parse(&again).as_ref(), Ok(&iomem));
});
