//! Page tables that may be anything: every address leads where a plain walk leads, or nowhere.
#![no_main]

use arbitrary::Arbitrary;
use kjump_fuzz::bounded;
use kjump_fuzz::machine::{DIRECT, Fake, IMAGE, MachineSpec};
use libfuzzer_sys::fuzz_target;
use vmcore::{AddressSpace, Memory, PhysAddr};

#[derive(Arbitrary, Debug)]
struct Input {
    machine: MachineSpec,
    addresses: Vec<Address>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Address {
    Image(u32),
    Direct(u32),
    Indices([u16; 5], u16),
    Any(u64),
}

impl Address {
    fn get(self, five: bool) -> u64 {
        match self {
            Self::Image(within) => IMAGE + u64::from(within % (1 << 20)),
            Self::Direct(within) => DIRECT[usize::from(five)] + u64::from(within % (1 << 20)),
            Self::Indices(indices, within) => {
                let low = indices
                    .iter()
                    .fold(0, |virt, index| virt << 9 | u64::from(index % 512));
                let virt = low << 12 | u64::from(within % 4096);
                let unused = if five { 7 } else { 16 };
                ((virt << unused).cast_signed() >> unused).cast_unsigned()
            }
            Self::Any(virt) => virt,
        }
    }
}

/// The walk as the manual has it: the physical address, if there is one and all tables can be read.
fn walk(memory: &Fake, root: u64, levels: u32, mask: u64, virt: u64) -> Option<u64> {
    let top = 12 + 9 * levels;
    let sign = virt.cast_signed() >> (top - 1);
    if sign != 0 && sign != -1 {
        return None;
    }
    let mut table = root;
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let mut page = [0; 4096];
        memory.read(PhysAddr::new(table), &mut page).ok()?;
        let index = (virt >> shift) as usize % 512;
        let entry = u64::from_le_bytes(page[index * 8..][..8].try_into().expect("8 bytes"));
        if entry & 1 == 0 {
            return None;
        }
        let address = entry & 0x000f_ffff_ffff_f000 & !mask;
        let large = level > 0 && entry & 0x80 != 0;
        if large && level > 2 {
            return None;
        }
        if large || level == 0 {
            let address = if large { address & !0x1000 } else { address };
            let within = (1 << shift) - 1;
            return (address & within == 0).then_some(address | virt & within);
        }
        table = address;
    }
    None
}

fuzz_target!(|input: Input| {
    let (memory, info) = input.machine.build();
    let opened = bounded(64 << 10, || AddressSpace::open(&memory, &info));
    let Ok(space) = opened else {
        assert!(!input.machine.is_sound(), "{:?}", opened.err());
        return;
    };
    let top = info.symbol("swapper_pg_dir").expect("it was opened");
    let base = info.number("phys_base").expect("it was opened");
    let root = (top - IMAGE).wrapping_add_signed(base);
    let mask = info.number("sme_mask").unwrap_or(0).cast_unsigned();
    for address in input.addresses.iter().take(64) {
        let virt = address.get(space.levels() == 5);
        let expected = walk(&memory, root, space.levels(), mask, virt);
        let found = space.translate(virt);
        assert_eq!(
            found.as_ref().ok().map(|mapping| mapping.phys.get()),
            expected
        );
        let Ok(found) = found else { continue };
        assert!(found.len > 0 && (virt + (found.len - 1)) >> 30 == virt >> 30);
        // What is read is what is there, across pages.
        let mut bytes = [0; 6000];
        if bounded(64 << 10, || space.read(virt, &mut bytes)).is_ok() {
            let first = usize::try_from(found.len).map_or(6000, |len| len.min(6000));
            let mut there = vec![0; first];
            memory
                .read(found.phys, &mut there)
                .expect("it was just read");
            assert_eq!(bytes[..first], there);
            if first < 6000 {
                let next = walk(&memory, root, space.levels(), mask, virt + found.len)
                    .expect("it was just read");
                let mut byte = [0];
                memory
                    .read(PhysAddr::new(next), &mut byte)
                    .expect("it was just read");
                assert_eq!(bytes[first], byte[0]);
            }
        }
    }
    let offset = bounded(64 << 10, || space.page_offset());
    if let Ok(offset) = offset {
        assert!(offset % (1 << 30) == 0 && offset >> 63 == 1);
        // Of the memory that it was tried with, some is there.
        assert!(memory.contents.ranges().any(|range| {
            [range.start().get(), (range.end().get() - 1) & !0xfff]
                .iter()
                .any(|&at| walk(&memory, root, space.levels(), mask, offset + at) == Some(at))
        }));
    } else {
        assert!(!input.machine.is_sound(), "{offset:?}");
    }
});
