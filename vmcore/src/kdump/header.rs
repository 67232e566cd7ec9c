//! The two headers of a kdump-compressed file.

use byteorder::{ByteOrder, LE};

use super::{DumpError, check_end, read};
use crate::{PAGE_SIZE, ReadAt};

/// How the pages of a dump are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// zlib, `makedumpfile -c`.
    Zlib,
    /// LZO1X, `makedumpfile -l`.
    Lzo,
    /// Snappy without framing, `makedumpfile -p`.
    Snappy,
    /// Zstandard, `makedumpfile -z`.
    Zstd,
}

impl Codec {
    /// The codec of these flags of a page or a dump (`DUMP_DH_COMPRESSED_*`): `Some(None)` if nothing
    /// is compressed, `None` if the flags name more than one codec.
    pub(super) fn of_flags(flags: u32) -> Option<Option<Self>> {
        Some(match flags & 0x27 {
            0x00 => None,
            0x01 => Some(Self::Zlib),
            0x02 => Some(Self::Lzo),
            0x04 => Some(Self::Snappy),
            0x20 => Some(Self::Zstd),
            _ => return None,
        })
    }
}

/// What the headers of a dump say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The version of the format, 1 to 6.
    pub version: u32,
    /// The machine's name, as `uname -n` prints it.
    pub nodename: String,
    /// The saved kernel's release, as `uname -r` prints it. Empty if makedumpfile did not know it.
    pub release: String,
    /// When and how the saved kernel was built, as `uname -v` prints it. Empty if it is not known.
    pub build: String,
    /// The kind of machine, as `uname -m` prints it. Empty if it is not known.
    pub machine: String,
    /// When the dump was written, in seconds since 1970; 0 if that is not known.
    pub timestamp: i64,
    /// Size of a block and of a page in bytes.
    pub block_size: u32,
    /// How pages are compressed that became smaller by it; `None` if no page is.
    pub codec: Option<Codec>,
    /// Whether there was no room for all of the dump (`DUMP_DH_COMPRESSED_INCOMPLETE`). The last pages
    /// are missing then.
    pub incomplete: bool,
    /// The bits of `makedumpfile -d`, which say what was left out: pages of zeros (1), the page cache
    /// without (2) and with (4) private pages, pages of processes (8), free pages (16).
    pub dump_level: u32,
    /// How far above the address that it was linked for the kernel's image lies in physical memory, in
    /// bytes: `phys_base` of the kernel, which is below 0 where virtual addresses were randomised
    /// further.
    pub phys_base: i64,
    /// The page frame behind the last one that the dump knows of.
    pub max_pfn: u64,
}

/// Where the parts of a dump lie, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// The second bitmap.
    pub(super) bitmap: u64,
    /// The table of descriptors.
    pub(super) descriptors: u64,
    /// Offset and size of the text of VMCOREINFO; empty if there is none.
    pub(super) vmcoreinfo: (u64, u64),
    /// Offset and size of the ELF notes; empty if there are none.
    pub(super) notes: (u64, u64),
}

/// The first bytes of every dump (`KDUMP_SIGNATURE`).
pub const SIGNATURE: &[u8; 8] = b"KDUMP   ";
/// Size of `struct disk_dump_header` on 64-bit machines.
const MAIN_HEADER: u64 = 464;
/// Size of `struct kdump_sub_header` of version 6; older ones are shorter, but have a block too.
const SUB_HEADER: u64 = 104;
/// The newest version of the format.
const NEWEST: i32 = 6;
/// `DUMP_DH_COMPRESSED_INCOMPLETE`
const INCOMPLETE: u32 = 0x8;
/// One more than the highest page frame of x86_64, whose physical addresses have 52 bits at most
/// (Intel's manual, volume 3, section 4.1.4).
const MAX_PFN: u64 = 1 << 40;

/// Reads both headers, and checks that the bitmaps that they speak of are there.
pub(super) fn read_headers(source: &impl ReadAt) -> Result<(Header, Layout), DumpError> {
    let main = read_main(source)?;
    let machine = string(&main, 12 + 4 * 65);
    if !matches!(machine.as_str(), "x86_64" | "") {
        return Err(DumpError::OtherMachine { machine });
    }
    let version = LE::read_i32(&main[8..]);
    if !(1..=NEWEST).contains(&version) {
        return Err(DumpError::Version {
            format: "kdump-compressed",
            version: version.into(),
            newest: NEWEST.into(),
        });
    }
    let block_size = LE::read_i32(&main[428..]);
    if i64::from(block_size) != PAGE_SIZE.cast_signed() {
        return Err(DumpError::BlockSize { size: block_size });
    }
    let sub = read(source, "the sub header", PAGE_SIZE, SUB_HEADER)?;
    check_split(version, &sub)?;

    let status = LE::read_u32(&main[424..]);
    let malformed = |what, value: u32| DumpError::Malformed {
        what,
        value: value.into(),
    };
    let header = Header {
        version: version.unsigned_abs(),
        nodename: string(&main, 12 + 65),
        release: string(&main, 12 + 2 * 65),
        build: string(&main, 12 + 3 * 65),
        machine,
        timestamp: LE::read_i64(&main[408..]),
        block_size: block_size.unsigned_abs(),
        codec: Codec::of_flags(status).ok_or(malformed("the status of the dump", status))?,
        incomplete: status & INCOMPLETE != 0,
        dump_level: LE::read_u32(&sub[8..]),
        phys_base: LE::read_i64(&sub),
        max_pfn: if version >= 6 {
            LE::read_u64(&sub[96..])
        } else {
            LE::read_u32(&main[440..]).into()
        },
    };

    let sub_blocks = LE::read_u32(&main[432..]);
    if sub_blocks == 0 || sub_blocks > i32::MAX.unsigned_abs() {
        return Err(malformed(
            "the size of the sub header in blocks",
            sub_blocks,
        ));
    }
    let bitmap_blocks = LE::read_u32(&main[436..]);
    // No overflow in what follows: these are sums of 32-bit numbers of blocks.
    let bitmaps = (1 + u64::from(sub_blocks)) * PAGE_SIZE;
    let half = u64::from(bitmap_blocks) * PAGE_SIZE / 2;
    if header.max_pfn > MAX_PFN {
        return Err(DumpError::Malformed {
            what: "the number of page frames",
            value: header.max_pfn,
        });
    }
    if bitmap_blocks % 2 != 0 || half < header.max_pfn.div_ceil(8) {
        return Err(malformed(
            "the size of the bitmaps in blocks",
            bitmap_blocks,
        ));
    }
    check_end("the bitmap", bitmaps, 2 * half, source.size())?;
    let part = |offset: usize, since: i32| {
        if version >= since {
            (
                LE::read_u64(&sub[offset..]),
                LE::read_u64(&sub[offset + 8..]),
            )
        } else {
            (0, 0)
        }
    };
    let layout = Layout {
        bitmap: bitmaps + half,
        descriptors: bitmaps + 2 * half,
        vmcoreinfo: part(32, 3),
        notes: part(48, 4),
    };
    Ok((header, layout))
}

/// Reads the main header and checks its signature.
fn read_main(source: &impl ReadAt) -> Result<Vec<u8>, DumpError> {
    let mut magic = [0; 8];
    let there = usize::try_from(source.size()).map_or(8, |size| size.min(8));
    source
        .read_exact_at(&mut magic[..there], 0)
        .map_err(|source| DumpError::Read { offset: 0, source })?;
    if &magic != SIGNATURE {
        return Err(if super::is_flattened(source) {
            DumpError::Flattened
        } else {
            DumpError::NotKdump { magic }
        });
    }
    read(source, "the main header", 0, MAIN_HEADER)
}

/// Refuses one part of a dump that was split into several files.
fn check_split(version: i32, sub: &[u8]) -> Result<(), DumpError> {
    if version < 2 || LE::read_i32(&sub[12..]) == 0 {
        return Ok(());
    }
    let pfns = if version >= 6 { 80 } else { 16 };
    Err(DumpError::Split {
        start: LE::read_u64(&sub[pfns..]),
        end: LE::read_u64(&sub[pfns + 8..]),
    })
}

/// The field of `struct new_utsname` at `offset`: 65 bytes with a zero at the end of the text.
fn string(bytes: &[u8], offset: usize) -> String {
    let field = &bytes[offset..offset + 65];
    let text = field.split(|byte| *byte == 0).next().unwrap_or(field);
    String::from_utf8_lossy(text).into_owned()
}
