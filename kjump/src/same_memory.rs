//! Whether the memory of the machine is as it was: in the window, where the restoring kernel has to lie, and
//! everywhere else.

use kexec_image::{CommandLine, window};
use vmcore::{IoMem, MemoryKind, PAGE_SIZE, PhysRange, RangeMap};

use crate::{Error, machine};

/// Checks that all of the `window` is RAM here, and tells what of the running kernel lies there.
///
/// That does no harm, the kernel's own code included: kexec puts the next kernel in its place when this one is
/// left. Nor does what is reserved for a crash kernel, which goes with it.
pub(crate) fn check_window(window: PhysRange, here: &IoMem) -> Result<String, Error> {
    let mut rest = RangeMap::new();
    rest.replace(window, ());
    if let Some(range) = whole_pages(rest.without(&here.ram())).ranges().next() {
        return Err(Error::WindowTaken {
            window,
            range,
            what: what_is_at(range, here),
            parameters: parameters_that_take(range),
        });
    }
    let mut names: Vec<&str> = here
        .entries()
        .iter()
        .filter(|entry| entry.depth > 0 && entry.range.overlaps(window))
        .map(|entry| entry.name.as_str())
        .collect();
    names.dedup();
    Ok(match names.as_slice() {
        [] => window.to_string(),
        names => format!(
            "{window}; what is there now goes with this kernel: {}",
            names.join(", ")
        ),
    })
}

/// Checks that there is the same RAM `here` as in the image.
pub(crate) fn check_ram(image: &RangeMap<MemoryKind>, here: &IoMem) -> Result<String, Error> {
    let image = whole_pages(image.filter_map(|kind| (*kind == MemoryKind::Ram).then_some(())));
    let here = whole_pages(here.ram());
    let first = |of: &RangeMap<()>, other: &RangeMap<()>| of.without(other).ranges().next();
    if let Some(range) = first(&image, &here) {
        return Err(Error::OtherMemory {
            range,
            in_image: true,
            parameters: parameters_that_take(range),
        });
    }
    match first(&here, &image) {
        Some(range) => Err(Error::OtherMemory {
            range,
            in_image: false,
            parameters: Vec::new(),
        }),
        None => Ok("the same".to_owned()),
    }
}

/// The pages of which all is in `ram`.
fn whole_pages(ram: RangeMap<()>) -> RangeMap<()> {
    ram.shrink_to(PAGE_SIZE)
}

/// What `/proc/iomem` has at the beginning of `range`, as exactly as it tells.
fn what_is_at(range: PhysRange, here: &IoMem) -> String {
    let entries = here.entries().iter();
    entries
        .filter(|entry| entry.range.contains(range.start()))
        .max_by_key(|entry| entry.depth)
        .map_or("nothing".to_owned(), |entry| entry.name.clone())
}

/// The parameters of the running kernel that take `range` from what the firmware says is RAM; none if it is
/// the firmware that does not say so.
fn parameters_that_take(range: PhysRange) -> Vec<String> {
    match (machine::command_line(), machine::firmware()) {
        (Ok(line), Ok(firmware)) => taking(&line, &firmware.memory, range),
        _ => Vec::new(),
    }
}

/// Of the command line `line`, the parameters that can take `range` from the RAM in `firmware`
/// (`Documentation/admin-guide/kernel-parameters.txt`, "mem=" and "memmap="). One that says of which addresses
/// it speaks is among them if these are some.
fn taking(line: &str, firmware: &RangeMap<MemoryKind>, range: PhysRange) -> Vec<String> {
    let is_ram = |(_, kind): (PhysRange, &MemoryKind)| *kind == MemoryKind::Ram;
    if !firmware.overlapping(range).any(is_ram) {
        return Vec::new();
    }
    let takes = |parameter: &str| match parameter.split_once('=') {
        // All above that.
        Some(("mem", size)) => {
            parse(size).is_none_or(|request: window::Request| range.end().get() > request.size)
        }
        // `SIZE$ADDRESS` and others, separated by commas.
        Some(("memmap", places)) => places.split(',').any(|place| {
            let place = place.replace(['$', '#', '!'], "@");
            match parse(&place) {
                Some(window::Request { size, at: Some(at) }) => {
                    PhysRange::from_len(at, size).is_none_or(|place| place.overlaps(range))
                }
                _ => true,
            }
        }),
        _ => false,
    };
    CommandLine::parameters(line)
        .filter(|parameter| takes(parameter))
        .map(ToOwned::to_owned)
        .collect()
}

/// A size, and an address behind `@`.
fn parse(text: &str) -> Option<window::Request> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::new(start, end).unwrap()
    }

    /// RAM from 1 MiB up to `end`.
    fn ram(end: u64) -> RangeMap<MemoryKind> {
        RangeMap::from_unsorted(vec![(range(0x10_0000, end), MemoryKind::Ram)]).unwrap()
    }

    fn iomem(text: &str) -> IoMem {
        IoMem::parse(text).unwrap()
    }

    #[test]
    fn other_memory_is_noticed_both_ways() {
        let here = iomem("00100000-1fffffff : System RAM\n");
        assert!(check_ram(&ram(0x2000_0000), &here).is_ok());
        assert!(matches!(
            check_ram(&ram(0x4000_0000), &here),
            Err(Error::OtherMemory { in_image: true, range: missing, .. })
                if missing == range(0x2000_0000, 0x4000_0000)
        ));
        assert!(matches!(
            check_ram(&ram(0x1000_0000), &here),
            Err(Error::OtherMemory { in_image: false, range: more, .. })
                if more == range(0x1000_0000, 0x2000_0000)
        ));
    }

    #[test]
    fn parts_of_pages_and_other_kinds_do_not_matter() {
        let mut one = ram(0x2000_0000);
        one.insert(range(0x2000_0000, 0x2000_1000), MemoryKind::Reserved)
            .unwrap();
        let other = iomem("00100000-200003ff : System RAM\n");
        assert!(check_ram(&one, &other).is_ok());
    }

    #[test]
    fn a_window_that_is_taken_is_told_with_what_takes_it() {
        let here = iomem(
            "00100000-1fffffff : System RAM\n\
             \x20 01000000-01ffffff : Kernel code\n\
             \x20 02000000-02ffffff : Kernel data\n\
             \x20 03000000-05ffffff : Crash kernel\n\
             20000000-20ffffff : Reserved\n\
             \x20 20001000-200fffff : ramoops:dump(0/4)\n\
             21000000-3fffffff : System RAM\n",
        );
        let taken = |start, end| match check_window(range(start, end), &here) {
            Err(Error::WindowTaken { range, what, .. }) => (range, what),
            other => panic!("{other:?}"),
        };
        let (at, what) = taken(0x1000_0000, 0x3000_0000);
        assert_eq!(at, range(0x2000_0000, 0x2100_0000));
        assert_eq!(what, "Reserved");
        assert_eq!(taken(0x2000_2000, 0x3000_0000).1, "ramoops:dump(0/4)");
        assert_eq!(taken(0x3fff_0000, 0x5000_0000).1, "nothing");
        // What goes with this kernel is not in the way.
        let found = |start, end| check_window(range(start, end), &here).unwrap();
        assert_eq!(found(0x1000_0000, 0x1800_0000), "0x10000000-0x17ffffff");
        assert!(found(0x200_0000, 0x800_0000).ends_with(": Kernel data, Crash kernel"));
    }

    #[test]
    fn the_parameters_that_take_memory_are_named() {
        let firmware = ram(0x4000_0000);
        let line = "root=/dev/vda memmap=64M$0x4000000,1M#0x30000000 mem=1G memmap=exactmap nokaslr \
                    memmap=0x1000!0x9000000";
        let taking = |start, end| taking(line, &firmware, range(start, end)).join(" ");
        let (first, all) = ("memmap=64M$0x4000000,1M#0x30000000", "memmap=exactmap");
        assert_eq!(taking(0x700_0000, 0x701_0000), format!("{first} {all}"));
        assert_eq!(taking(0x3000_0000, 0x3000_1000), format!("{first} {all}"));
        assert_eq!(taking(0x800_0000, 0x801_0000), all);
        assert_eq!(
            taking(0x900_0000, 0x901_0000),
            format!("{all} memmap=0x1000!0x9000000")
        );
        // What is no RAM to the firmware, no parameter takes.
        assert_eq!(taking(0x4000_0000, 0x4001_0000), "");
        let short = "mem=512M";
        let taking = |start, end| super::taking(short, &firmware, range(start, end));
        assert_eq!(taking(0x2000_0000, 0x2001_0000), ["mem=512M"]);
        assert!(taking(0x1000_0000, 0x1001_0000).is_empty());
    }
}
