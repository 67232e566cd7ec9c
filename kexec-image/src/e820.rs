//! E820 memory maps: how a boot loader tells a kernel what memory there is.

use byteorder::{ByteOrder, LE};
use vmcore::{MemoryKind, PhysRange, RangeMap};

use crate::PlanError;

/// Entries that the boot parameters have room for (`E820_MAX_ENTRIES_ZEROPAGE`).
const MAX_ENTRIES: u8 = 128;
/// Size of `struct boot_e820_entry`: address, size, kind.
const ENTRY_SIZE: usize = 8 + 8 + 4;

/// Where the memory that firmware keeps for itself on a PC ends, and ordinary memory begins.
pub(crate) const ONE_MIB: u64 = 1 << 20;

/// The map for a kernel that lives in `usable` and `low` while the rest of the memory of `machine`
/// holds a sleeping one.
///
/// All other RAM is reserved. As a hole it would not do: Linux makes a busy "RAM buffer" behind the
/// window that `/dev/mem` refuses to map, and may place devices there. What firmware reserved below
/// 1 MiB is left out, which the kernel keeps off anyway (`arch/x86/kernel/setup.c`,
/// `trim_bios_range`): it would become one with the reserved RAM from 1 MiB on, and what starts below
/// 1 MiB is marked busy (`e820__reserve_resources`), so that `/dev/mem` refuses all of it.
pub(crate) fn map_beside_sleeper(
    machine: &RangeMap<MemoryKind>,
    usable: PhysRange,
    low: &RangeMap<()>,
) -> RangeMap<MemoryKind> {
    let mut map = machine.filter_map(|kind| {
        Some(match kind {
            MemoryKind::Ram => MemoryKind::Reserved,
            other => *other,
        })
    });
    if let Some(first_mib) = PhysRange::new(0, ONE_MIB) {
        map.remove(first_mib);
    }
    for range in low.ranges().chain([usable]) {
        map.replace(range, MemoryKind::Ram);
    }
    map
}

/// Writes `map` into the table of the boot parameters; returns the number of entries.
pub(crate) fn write_table(map: &RangeMap<MemoryKind>, table: &mut [u8]) -> Result<u8, PlanError> {
    let count = u8::try_from(map.len())
        .ok()
        .filter(|&count| count <= MAX_ENTRIES && usize::from(count) * ENTRY_SIZE <= table.len())
        .ok_or(PlanError::TooManyRanges { count: map.len() })?;
    for (entry, (range, kind)) in table.chunks_exact_mut(ENTRY_SIZE).zip(map.iter()) {
        LE::write_u64(entry, range.start().get());
        LE::write_u64(&mut entry[8..], range.len());
        LE::write_u32(&mut entry[16..], kind.to_e820());
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::new(start, end).unwrap()
    }

    #[test]
    fn the_sleeper_is_reserved_and_nothing_below_1_mib_is() {
        let machine = RangeMap::from_unsorted(vec![
            (range(0x0, 0x1000), MemoryKind::Reserved),
            (range(0x1000, 0x9fc00), MemoryKind::Ram),
            (range(0x9fc00, 0xa0000), MemoryKind::Reserved),
            (range(0xf0000, 0x10_0000), MemoryKind::Reserved),
            (range(0x10_0000, 0x3ffe_0000), MemoryKind::Ram),
            (range(0x3ffe_0000, 0x4000_0000), MemoryKind::AcpiTables),
        ])
        .unwrap();
        let mut low = RangeMap::new();
        low.insert(range(0x1000, 0x9f000), ()).unwrap();
        let expected = RangeMap::from_unsorted(vec![
            (range(0x1000, 0x9f000), MemoryKind::Ram),
            (range(0x10_0000, 0x400_0000), MemoryKind::Reserved),
            (range(0x400_0000, 0x9ff_0000), MemoryKind::Ram),
            (range(0x9ff_0000, 0x3ffe_0000), MemoryKind::Reserved),
            (range(0x3ffe_0000, 0x4000_0000), MemoryKind::AcpiTables),
        ])
        .unwrap();
        assert_eq!(
            map_beside_sleeper(&machine, range(0x400_0000, 0x9ff_0000), &low),
            expected
        );
    }

    #[test]
    fn a_map_that_is_too_long_is_refused() {
        let mut map = RangeMap::new();
        for index in 0..129 {
            let start = index * 0x2000;
            map.insert(range(start, start + 0x1000), MemoryKind::Ram)
                .unwrap();
        }
        let mut table = vec![0; 4096];
        assert!(matches!(
            write_table(&map, &mut table),
            Err(PlanError::TooManyRanges { count: 129 })
        ));
    }
}
