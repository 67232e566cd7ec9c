//! The bzImage: a compressed kernel behind the setup header of the x86 boot protocol.
//!
//! Offsets and meanings are those of `Documentation/arch/x86/boot.rst` ("The Real-Mode Kernel Header").

use std::io::Read;

use byteorder::{ByteOrder, LE};
use flate2::read::GzDecoder;
use vmcore::PhysAddr;

use crate::kernel::{Kernel, KernelFormat, Part};
use crate::{PlanError, boot_params};

const SETUP_SECTS: usize = 0x1f1;
const SYSSIZE: usize = 0x1f4;
const BOOT_FLAG: usize = 0x1fe;
const JUMP_LENGTH: usize = 0x201;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const KERNEL_VERSION: usize = 0x20e;
const KERNEL_ALIGNMENT: usize = 0x230;
const RELOCATABLE: usize = 0x234;
const XLOADFLAGS: usize = 0x236;
const CMDLINE_SIZE: usize = 0x238;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;
/// The end of the last field above: no header that is used here is shorter.
const HEADER_END: usize = 0x264;

/// The 64-bit entry of a kernel with such an entry lies so far behind its base.
const ENTRY_64: u64 = 0x200;
/// `xloadflags`: the kernel has the 64-bit entry.
const XLF_KERNEL_64: u16 = 1 << 0;
/// `xloadflags`: five-level page tables are built in.
const XLF_5LEVEL_ENABLED: u16 = 1 << 6;

/// Reads a bzImage.
pub(crate) fn parse(file: &[u8]) -> Result<Kernel<'_>, PlanError> {
    let size = file.len() as u64;
    let truncated = |what, end: u64| PlanError::Truncated { what, end, size };
    if file.len() < HEADER_END {
        // Too short for a header; but say "truncated" only of what began as a kernel.
        let began = file.get(MAGIC..MAGIC + 4) == Some(b"HdrS");
        return Err(if began {
            truncated("the setup header", HEADER_END as u64)
        } else {
            PlanError::NotKernel
        });
    }
    if LE::read_u16(&file[BOOT_FLAG..]) != 0xaa55 || &file[MAGIC..MAGIC + 4] != b"HdrS" {
        return Err(PlanError::NotKernel);
    }
    let version = LE::read_u16(&file[VERSION..]);
    if version < 0x20c {
        return Err(PlanError::OldProtocol { version });
    }
    let flags = LE::read_u16(&file[XLOADFLAGS..]);
    if flags & XLF_KERNEL_64 == 0 {
        return Err(PlanError::Only32Bit);
    }

    // The real-mode part comes first; 0 sectors mean 4, for kernels older than time.
    let setup_sectors = match file[SETUP_SECTS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512;
    // `syssize` counts the protected-mode part in units of 16 bytes.
    let end = start as u64 + u64::from(LE::read_u32(&file[SYSSIZE..])) * 16;
    if end > size {
        return Err(truncated("the protected-mode part", end));
    }
    if end <= start as u64 + ENTRY_64 {
        return Err(PlanError::Malformed {
            what: "the size of its protected-mode part",
            value: end.saturating_sub(start as u64),
        });
    }
    let bytes = start..usize::try_from(end).map_err(|_| truncated("the kernel", end))?;

    let memory = u64::from(LE::read_u32(&file[INIT_SIZE..])).max(bytes.len() as u64);
    let align = u64::from(LE::read_u32(&file[KERNEL_ALIGNMENT..]));
    if !align.is_power_of_two() {
        return Err(PlanError::Malformed {
            what: "its alignment",
            value: align,
        });
    }
    let header_end = MAGIC + usize::from(file[JUMP_LENGTH]);
    let setup_header = file
        .get(SETUP_SECTS..header_end.min(boot_params::SETUP_HEADER_END))
        .filter(|header| header.len() >= HEADER_END - SETUP_SECTS)
        .ok_or(PlanError::Malformed {
            what: "the end of its setup header",
            value: header_end as u64,
        })?;
    Ok(Kernel {
        file,
        format: KernelFormat::BzImage,
        parts: vec![Part { offset: 0, bytes }],
        memory,
        entry: ENTRY_64,
        lowest_base: PhysAddr::new(LE::read_u64(&file[PREF_ADDRESS..])),
        relocatable: file[RELOCATABLE] != 0,
        align,
        cmdline_max: LE::read_u32(&file[CMDLINE_SIZE..]) as usize,
        five_level: flags & XLF_5LEVEL_ENABLED != 0,
        setup_header: setup_header.to_vec(),
        version: version_string(file),
    })
}

/// The vmlinux that a bzImage carries, if that is one that is known how to unpack: by gzip, or not packed.
///
/// `kernel` is what [`parse`] made of the file. No more than the memory that the file itself asks for is
/// taken.
pub(crate) fn unpack(kernel: &Kernel<'_>) -> Option<Vec<u8>> {
    let file = kernel.file;
    let setup = kernel.parts.first()?.bytes.start;
    let field = |at: usize| usize::try_from(LE::read_u32(&file[at..])).ok();
    let start = setup.checked_add(field(PAYLOAD_OFFSET)?)?;
    let payload = file.get(start..start.checked_add(field(PAYLOAD_LENGTH)?)?)?;
    let mut vmlinux = Vec::new();
    if payload.starts_with(b"\x7fELF") {
        vmlinux.extend_from_slice(payload);
    } else if payload.starts_with(&[0x1f, 0x8b]) {
        // The payload ends with its unpacked size, as all of gzip does (RFC 1952, section 2.3.1). It is a hint,
        // with which the vector need not grow, and touch twice as much memory: no more is taken than so many
        // bytes can become (deflate makes at most 1032 of one), or than there is.
        let hint = payload.last_chunk().copied().map_or(0, u32::from_le_bytes);
        let most = kernel.memory.min(payload.len() as u64 * 1032);
        let hint = usize::try_from(u64::from(hint).min(most)).ok()?;
        vmlinux.try_reserve_exact(hint).ok()?;
        let mut reader = GzDecoder::new(payload).take(kernel.memory.saturating_add(1));
        reader.read_to_end(&mut vmlinux).ok()?;
    }
    (vmlinux.starts_with(b"\x7fELF") && vmlinux.len() as u64 <= kernel.memory).then_some(vmlinux)
}

/// The version string that the header points to.
fn version_string(file: &[u8]) -> Option<String> {
    let offset = usize::from(LE::read_u16(&file[KERNEL_VERSION..]));
    if offset == 0 {
        return None;
    }
    let text = file.get(0x200 + offset..)?;
    let end = text.iter().take(256).position(|&byte| byte == 0)?;
    std::str::from_utf8(&text[..end])
        .ok()
        .filter(|version| !version.is_empty() && !version.starts_with(' '))
        .map(str::to_owned)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file that looks like a bzImage: a header and `payload` bytes behind it.
    pub(crate) fn sample(payload: usize) -> Vec<u8> {
        let mut file = vec![0; 1024 + payload.next_multiple_of(16)];
        file[SETUP_SECTS] = 1;
        LE::write_u32(&mut file[SYSSIZE..], payload.div_ceil(16) as u32);
        LE::write_u16(&mut file[BOOT_FLAG..], 0xaa55);
        file[JUMP_LENGTH] = 0x6a;
        file[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        LE::write_u16(&mut file[VERSION..], 0x20f);
        LE::write_u16(&mut file[KERNEL_VERSION..], 0x100);
        file[0x300..0x300 + 14].copy_from_slice(b"6.12.1-x (me)\0");
        LE::write_u32(&mut file[KERNEL_ALIGNMENT..], 0x20_0000);
        file[RELOCATABLE] = 1;
        LE::write_u16(&mut file[XLOADFLAGS..], XLF_KERNEL_64 | XLF_5LEVEL_ENABLED);
        LE::write_u32(&mut file[CMDLINE_SIZE..], 2047);
        LE::write_u64(&mut file[PREF_ADDRESS..], 0x100_0000);
        LE::write_u32(&mut file[INIT_SIZE..], 0x180_0000);
        file
    }

    #[test]
    fn a_kernel_is_measured() {
        let file = sample(5000);
        let kernel = Kernel::parse(&file).unwrap();
        assert_eq!(kernel.format(), KernelFormat::BzImage);
        assert_eq!(kernel.release(), Some("6.12.1-x"));
        assert_eq!(kernel.memory(), 0x180_0000);
        assert_eq!(kernel.placement(), (PhysAddr::new(0x100_0000), 0x20_0000));
        assert_eq!(
            kernel.parts,
            [Part {
                offset: 0,
                bytes: 1024..1024 + 5008
            }]
        );
        assert!(kernel.five_level && kernel.relocatable);
    }

    #[test]
    fn what_is_no_kernel_is_refused_by_name() {
        let changed = |at: usize, value: u8| {
            let mut file = sample(5000);
            file[at] = value;
            Kernel::parse(&file).map(|_| ())
        };
        assert!(matches!(changed(BOOT_FLAG, 0), Err(PlanError::NotKernel)));
        assert!(matches!(changed(MAGIC, 0), Err(PlanError::NotKernel)));
        assert!(matches!(
            changed(VERSION, 8),
            Err(PlanError::OldProtocol { version: 0x208 })
        ));
        assert!(matches!(changed(XLOADFLAGS, 0), Err(PlanError::Only32Bit)));
        assert!(matches!(
            changed(KERNEL_ALIGNMENT, 3),
            Err(PlanError::Malformed { .. })
        ));
        assert!(matches!(
            changed(JUMP_LENGTH, 2),
            Err(PlanError::Malformed { .. })
        ));
        assert!(matches!(Kernel::parse(b"hello"), Err(PlanError::NotKernel)));
        let file = sample(5000);
        for len in [HEADER_END - 1, HEADER_END, 2000, file.len() - 1] {
            assert!(
                matches!(
                    Kernel::parse(&file[..len]),
                    Err(PlanError::Truncated { .. })
                ),
                "{len}"
            );
        }
    }

    /// A file whose payload is `payload`.
    fn carrying(payload: &[u8]) -> Vec<u8> {
        let mut file = sample(payload.len() + 0x300);
        LE::write_u32(&mut file[PAYLOAD_OFFSET..], 0x300);
        LE::write_u32(&mut file[PAYLOAD_LENGTH..], payload.len() as u32);
        file[1024 + 0x300..][..payload.len()].copy_from_slice(payload);
        file
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let vmlinux = crate::vmlinux::tests::sample();
        for payload in [vmlinux.clone(), crate::initramfs::gzip(&vmlinux)] {
            let file = carrying(&payload);
            let kernel = Kernel::parse(&file).unwrap();
            assert_eq!(kernel.unpack().as_ref(), Some(&vmlinux));
            let alone = Kernel::parse(&vmlinux).unwrap();
            let unpacked = kernel.with_vmlinux(&vmlinux).unwrap();
            assert_eq!(unpacked.parts, alone.parts);
            assert_eq!(
                (unpacked.memory, unpacked.entry),
                (alone.memory, alone.entry)
            );
            // What only the bzImage tells is not lost.
            assert_eq!(unpacked.release(), Some("6.12.1-x"));
            assert_eq!(
                unpacked.setup_header,
                Kernel::parse(&file).unwrap().setup_header
            );
            assert_eq!(alone.unpack(), None);
        }
    }

    #[test]
    fn what_cannot_be_unpacked_stays_packed() {
        let gzip = |bytes: &[u8]| crate::initramfs::gzip(bytes);
        let mut cut = gzip(&crate::vmlinux::tests::sample());
        cut.truncate(cut.len() / 2);
        // More than the 24 MiB that the header asks for, all of it zeros behind a good beginning.
        let large = [&b"\x7fELF"[..], &vec![0; 0x180_0000]].concat();
        for payload in [b"\xfd7zXZ".to_vec(), gzip(b"no kernel"), cut, gzip(&large)] {
            let file = carrying(&payload);
            assert_eq!(Kernel::parse(&file).unwrap().unpack(), None);
        }
        let mut file = carrying(b"\x7fELF");
        for (offset, length) in [(u32::MAX, 4), (0x300, u32::MAX), (u32::MAX, u32::MAX)] {
            LE::write_u32(&mut file[PAYLOAD_OFFSET..], offset);
            LE::write_u32(&mut file[PAYLOAD_LENGTH..], length);
            assert_eq!(Kernel::parse(&file).unwrap().unpack(), None);
        }
    }

    proptest! {
        #[test]
        fn a_damaged_header_never_panics(at in SETUP_SECTS..HEADER_END, bytes in prop::array::uniform4(any::<u8>())) {
            let mut file = sample(5000);
            file[at..at + 4].copy_from_slice(&bytes);
            if let Ok(kernel) = Kernel::parse(&file) {
                prop_assert!(kernel.parts.iter().all(|part| part.bytes.end <= file.len()));
            }
        }
    }
}
