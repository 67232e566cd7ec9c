//! The page of boot parameters ("zero page") that a kernel is entered with.
//!
//! Offsets are those of `struct boot_params` and `struct setup_header`
//! (`arch/x86/include/uapi/asm/bootparam.h`, `Documentation/arch/x86/zero-page.rst`).

use byteorder::{ByteOrder, LE};
use vmcore::{MemoryKind, PhysAddr, PhysRange, RangeMap};

use crate::{PlanError, e820};

/// Size of the page.
pub(crate) const SIZE: usize = 4096;

/// Size of `struct screen_info`, which comes first.
pub(crate) const SCREEN_SIZE: usize = 0x40;

const ACPI_RSDP_ADDR: usize = 0x070;
const EXT_RAMDISK_IMAGE: usize = 0x0c0;
const EXT_RAMDISK_SIZE: usize = 0x0c4;
const EXT_CMD_LINE_PTR: usize = 0x0c8;
const E820_ENTRIES: usize = 0x1e8;
const SETUP_HEADER: usize = 0x1f1;
/// Where the place for the setup header ends.
pub(crate) const SETUP_HEADER_END: usize = 0x290;
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const E820_TABLE: usize = 0x2d0;

/// "A boot loader without an assigned number".
const LOADER_UNDEFINED: u8 = 0xff;

/// What a kernel is told when it is entered.
pub(crate) struct BootParams<'a> {
    /// The setup header of the kernel file, from offset 0x1f1 on.
    pub(crate) setup_header: &'a [u8],
    /// Where the command line lies.
    pub(crate) cmdline: PhysAddr,
    /// Where the initramfs lies.
    pub(crate) initramfs: Option<PhysRange>,
    /// Where the ACPI tables begin, on machines where the kernel does not find them by itself.
    pub(crate) rsdp: Option<PhysAddr>,
    /// All memory.
    pub(crate) memory: &'a RangeMap<MemoryKind>,
    /// `struct screen_info`, if there is a screen to go on with.
    pub(crate) screen: Option<&'a [u8; SCREEN_SIZE]>,
}

impl BootParams<'_> {
    /// The page as bytes.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, PlanError> {
        let mut page = vec![0; SIZE];
        page[SETUP_HEADER..][..self.setup_header.len()].copy_from_slice(self.setup_header);
        if let Some(screen) = self.screen {
            page[..SCREEN_SIZE].copy_from_slice(screen);
        }
        page[TYPE_OF_LOADER] = LOADER_UNDEFINED;
        split(
            &mut page,
            CMD_LINE_PTR,
            EXT_CMD_LINE_PTR,
            self.cmdline.get(),
        );
        if let Some(initramfs) = self.initramfs {
            split(
                &mut page,
                RAMDISK_IMAGE,
                EXT_RAMDISK_IMAGE,
                initramfs.start().get(),
            );
            split(&mut page, RAMDISK_SIZE, EXT_RAMDISK_SIZE, initramfs.len());
        }
        LE::write_u64(
            &mut page[ACPI_RSDP_ADDR..],
            self.rsdp.unwrap_or_default().get(),
        );
        page[E820_ENTRIES] = e820::write_table(self.memory, &mut page[E820_TABLE..])?;
        Ok(page)
    }
}

/// Writes a number whose lower and upper halves have their places apart.
fn split(page: &mut [u8], low: usize, high: usize, value: u64) {
    LE::write_u32(&mut page[low..], value as u32);
    LE::write_u32(&mut page[high..], (value >> 32) as u32);
}

/// A setup header for kernels that come without one: the marks by which a kernel knows that boot
/// parameters are what they are.
pub(crate) fn plain_setup_header() -> Vec<u8> {
    let mut page = vec![0; SETUP_HEADER_END];
    LE::write_u16(&mut page[BOOT_FLAG..], 0xaa55);
    page[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
    LE::write_u16(&mut page[VERSION..], 0x20f);
    page.split_off(SETUP_HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_kernel_looks() {
        let mut memory = RangeMap::new();
        memory
            .insert(PhysRange::new(0x1000, 0x9f000).unwrap(), MemoryKind::Ram)
            .unwrap();
        let page = BootParams {
            setup_header: &plain_setup_header(),
            cmdline: PhysAddr::new(0x1_2345_6000),
            initramfs: PhysRange::new(0x400_0000, 0x400_1234),
            rsdp: Some(PhysAddr::new(0x7fff_0014)),
            memory: &memory,
            screen: Some(&[7; SCREEN_SIZE]),
        }
        .encode()
        .unwrap();
        assert_eq!(page.len(), SIZE);
        assert_eq!(page[..0x40], [7; 0x40]);
        assert_eq!(LE::read_u32(&page[0x228..]), 0x2345_6000);
        assert_eq!(LE::read_u32(&page[0xc8..]), 1);
        assert_eq!(LE::read_u32(&page[0x218..]), 0x400_0000);
        assert_eq!(LE::read_u32(&page[0x21c..]), 0x1234);
        assert_eq!(LE::read_u64(&page[0x70..]), 0x7fff_0014);
        assert_eq!(page[0x210], 0xff);
        assert_eq!(&page[0x202..0x206], b"HdrS");
        assert_eq!(page[0x1e8], 1);
        assert_eq!(LE::read_u64(&page[0x2d0..]), 0x1000);
    }
}
