//! Kernels C and D in one: a kernel that a boot loader starts straight in the window.
//!
//! Its command line confines it to the window and low memory, as [`confinement`] says. So all other
//! memory of the machine is free for the sleeping machine's, and nothing has to be loaded and booted a
//! second time. What it cannot see any more, how much memory the machine has, the firmware's own map tells.

use std::fs;
use std::path::Path;

use kexec_image::{CommandLine, Machine};
use vmcore::image::Seal;
use vmcore::{IoMem, MemoryKind, PhysRange, RangeMap};

use crate::{Error, Restoration, Resumption, machine};

/// Where low memory ends.
const ONE_MIB: u64 = 1 << 20;

/// Parameters that confine a kernel to `window` and to the low memory of the machine with `iomem`. They are
/// for a kernel that the boot loader puts into the window: one that is not relocated lies at 16 MiB.
///
/// The map is the one that a restoring kernel gets that is loaded by [`Resumption`]: what firmware keeps
/// below 1 MiB is not in it, and all other RAM is reserved (`Documentation/admin-guide/
/// kernel-parameters.txt`, "memmap=").
///
/// ```
/// use kjump::{PhysRange, in_place};
/// use kjump::memory::IoMem;
///
/// let iomem = IoMem::parse("00001000-0009fbff : System RAM\n00100000-3ffdffff : System RAM\n")?;
/// let window = PhysRange::new(0x100_0000, 0x500_0000).unwrap();
/// assert_eq!(
///     in_place::confinement(&iomem, window),
///     "nokaslr memmap=exactmap memmap=0x9e000@0x1000 memmap=0xf00000$0x100000 \
///      memmap=0x4000000@0x1000000 memmap=0x3afe0000$0x5000000"
/// );
/// # Ok::<(), kjump::memory::IoMemError>(())
/// ```
#[must_use]
pub fn confinement(iomem: &IoMem, window: PhysRange) -> String {
    let mut line = CommandLine::new();
    line.append("nokaslr").append("memmap=exactmap");
    for (range, kind) in kexec_image::map_beside_sleeper(iomem, window).iter() {
        let sign = match kind {
            MemoryKind::Ram => '@',
            MemoryKind::AcpiTables => '#',
            _ => '$',
        };
        let (start, len) = (range.start().get(), range.len());
        line.append(&format!("memmap={len:#x}{sign}{start:#x}"));
    }
    line.as_str().to_owned()
}

/// Checks all of the image in the device at `path` that [`Resumption::open`] checks, and that the running
/// kernel keeps to the window; then marks the image with one attempt more. `seal` is what it takes to read one
/// that is sealed.
///
/// # Errors
///
/// As [`Resumption::open`], and [`Error::NotConfined`] if this kernel uses memory that the image is to be
/// restored to. Then the machine has to be started normally.
pub fn open(path: &Path, seal: Option<Seal>) -> Result<Restoration, Error> {
    let here = machine::read()?;
    let whole = Machine {
        iomem: firmware_memory(Path::new("/sys/firmware/memmap"), &here.iomem)?,
        ..here.clone()
    };
    let resumption = Resumption::open_with(&whole, path, seal.clone(), false)?;
    let identity = resumption.image().identity();
    keeps_to_window(&here.iomem, identity.window, &identity.low)?;
    resumption.mark_attempt()?;
    Restoration::open_with(path, seal.as_ref(), false)
}

/// Checks that all memory of the running kernel is where the kernels were that saved the machine.
fn keeps_to_window(iomem: &IoMem, window: PhysRange, low: &RangeMap<()>) -> Result<(), Error> {
    let mut outside = iomem.ram();
    for range in low.ranges().chain([window]) {
        outside.remove(range);
    }
    // Of pages of which firmware has a part, a kernel uses nothing.
    match outside.shrink_to(vmcore::PAGE_SIZE).ranges().next() {
        Some(owned) => Err(Error::NotConfined { owned, window }),
        None => Ok(()),
    }
}

/// The machine's memory as its firmware told it (`Documentation/ABI/testing/sysfs-firmware-memmap`), and
/// below 1 MiB, where every kernel leaves out what firmware may use, as the running kernel has it.
fn firmware_memory(folder: &Path, running: &IoMem) -> Result<IoMem, Error> {
    let mut map = RangeMap::new();
    for entry in fs::read_dir(folder).map_err(Error::read(folder))? {
        let entry = entry.map_err(Error::read(folder))?.path();
        let text = |name: &str| {
            let path = entry.join(name);
            fs::read_to_string(&path).map_err(Error::read(&path))
        };
        let kind = text("type")?.trim().to_owned();
        let number = |text: String| u64::from_str_radix(text.trim().trim_start_matches("0x"), 16);
        if let (Ok(start), Ok(last)) = (number(text("start")?), number(text("end")?))
            && let Some(range) = PhysRange::new(start, last.saturating_add(1))
        {
            map.replace(range, kind);
        }
    }
    if let Some(low) = PhysRange::new(0, ONE_MIB) {
        map.remove(low);
        for entry in running.entries() {
            if entry.depth == 0 && low.covers(entry.range) {
                map.replace(entry.range, entry.name.clone());
            }
        }
    }
    let lines = map.iter().map(|(range, kind)| {
        let last = range.end().get() - 1;
        format!("{:x}-{last:x} : {kind}\n", range.start().get())
    });
    Ok(IoMem::parse(&lines.collect::<String>())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::new(start, end).unwrap()
    }

    const CONFINED: &str = "\
00001000-0009efff : System RAM
00100000-00ffffff : Reserved
01000000-04ffffff : System RAM
05000000-3ffdffff : Reserved
";

    #[test]
    fn a_kernel_that_uses_more_than_the_window_is_refused() {
        let whole =
            IoMem::parse("00001000-0009efff : System RAM\n00100000-3ffdffff : System RAM\n");
        let mut low = RangeMap::new();
        low.insert(range(0x1000, 0x9f000), ()).unwrap();
        let confined = IoMem::parse(CONFINED).unwrap();
        let keeps = |iomem: &IoMem, end| keeps_to_window(iomem, range(0x100_0000, end), &low);
        assert!(keeps(&confined, 0x500_0000).is_ok());
        assert!(keeps(&confined, 0x600_0000).is_ok());
        assert!(keeps(&confined, 0x4ff_f000).is_err());
        assert!(matches!(
            keeps(&whole.unwrap(), 0x500_0000),
            Err(Error::NotConfined { owned, .. }) if owned.start().get() == 0x10_0000
        ));
        assert!(
            keeps_to_window(&confined, range(0x100_0000, 0x500_0000), &RangeMap::new()).is_err()
        );
    }

    #[test]
    fn the_firmware_tells_what_memory_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let entries = [
            ("0x0", "0x9fbff", "System RAM"),
            ("0x100000", "0x3ffdffff", "System RAM"),
            ("0x3ffe0000", "0x3fffffff", "ACPI Tables"),
        ];
        for (number, (start, end, kind)) in entries.into_iter().enumerate() {
            let entry = folder.path().join(number.to_string());
            fs::create_dir(&entry).unwrap();
            for (name, text) in [("start", start), ("end", end), ("type", kind)] {
                fs::write(entry.join(name), format!("{text}\n")).unwrap();
            }
        }
        let running = IoMem::parse(CONFINED).unwrap();
        let memory = firmware_memory(folder.path(), &running).unwrap();
        let ram: Vec<_> = memory.ram().ranges().collect();
        assert_eq!(ram, [range(0x1000, 0x9f000), range(0x10_0000, 0x3ffe_0000)]);
        assert!(firmware_memory(&folder.path().join("none"), &running).is_err());
    }
}
