//! `/proc/kcore`: the running kernel's own memory, as a core.

use goblin::elf64::program_header::PT_LOAD;

use super::CoreError;
use super::core::{read_file_header, read_program_headers};
use crate::ReadAt;

/// The virtual address from which on the kernel maps itself (`__START_KERNEL_map` in
/// `arch/x86/include/asm/page_64_types.h`); the map of all memory lies below.
pub(super) const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// The virtual address at which the kernel of `kcore` maps physical address 0, told by the program
/// headers of `/proc/kcore`: those of RAM have both addresses, those of other areas have the physical
/// address -1 (`get_kcore_size` and `read_kcore_iter` in `fs/proc/kcore.c`).
///
/// Only headers are read: nothing is said about the memory that they speak of, most of which lies
/// beyond any physical address.
///
/// # Errors
///
/// [`CoreError`] if it is no core.
pub fn direct_map_base(kcore: &impl ReadAt) -> Result<Option<u64>, CoreError> {
    let header = read_file_header(kcore)?;
    Ok(read_program_headers(kcore, &header)?
        .iter()
        .filter(|program| program.p_type == PT_LOAD && program.p_paddr != u64::MAX)
        .filter(|program| program.p_vaddr < KERNEL_MAP)
        .find_map(|program| program.p_vaddr.checked_sub(program.p_paddr)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PhysRange;
    use crate::elf::CoreHeaders;

    #[test]
    fn the_map_of_ram_tells() {
        let range = |start, end| PhysRange::new(start, end).unwrap();
        let mut headers = CoreHeaders::new();
        headers
            .load_in_place(range(0x100_0000, 0x200_0000), 0xffff_ffff_8100_0000)
            .load_in_place(range(0x1000, 0x9f000), 0xffff_9a80_0000_1000);
        assert_eq!(
            direct_map_base(&headers.encode()).unwrap(),
            Some(0xffff_9a80_0000_0000)
        );
        assert_eq!(direct_map_base(&CoreHeaders::new().encode()).unwrap(), None);
        assert!(direct_map_base(&b"junk".to_vec()).is_err());
    }
}
