//! A piece of an image, with the memory that it is for.
#![allow(
    unsafe_code,
    reason = "the kernel's struct holds a pointer and a length where Rust would have a slice"
)]

use std::fmt;
use std::marker::PhantomData;
use std::mem::{align_of, offset_of, size_of};

use crate::Error;

/// Size of a page in bytes; segments start and end at multiples of it.
///
/// That of x86. A kernel with larger pages answers [`Cause::OutsideMemory`](crate::Cause::OutsideMemory)
/// to segments that are not aligned to its own.
pub const PAGE_SIZE: u64 = 4096;

/// How many segments the kernel takes at most (`KEXEC_SEGMENT_MAX` in `include/uapi/linux/kexec.h`).
pub const MAX_SEGMENTS: usize = 16;

/// Bytes, and the physical memory that they are for: `struct kexec_segment` of
/// `include/uapi/linux/kexec.h`.
///
/// The first bytes of the memory get the buffer, the others zero. Memory is whole pages, is not empty
/// and does not reach around the end of the address space; the buffer fits into it and lives as long as
/// the segment.
///
/// ```
/// use kexec_sys::Segment;
///
/// let segment = Segment::new(b"kernel", 0x100_0000, 0x4000)?;
/// assert_eq!(segment.buf(), b"kernel");
/// assert_eq!((segment.mem(), segment.end()), (0x100_0000, 0x100_4000));
///
/// assert!(Segment::new(b"kernel", 0x100_0001, 0x4000).is_err());
/// assert!(Segment::new(&[0; 0x5000], 0x100_0000, 0x4000).is_err());
/// # Ok::<(), kexec_sys::Error>(())
/// ```
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Segment<'a> {
    buf: *const u8,
    bufsz: usize,
    // A pointer in C, but one that nobody in this process may follow.
    mem: usize,
    memsz: usize,
    borrowed: PhantomData<&'a [u8]>,
}

const _: () = {
    const WORD: usize = size_of::<usize>();
    assert!(size_of::<Segment<'_>>() == 4 * WORD);
    assert!(align_of::<Segment<'_>>() == align_of::<usize>());
    assert!(offset_of!(Segment<'_>, buf) == 0);
    assert!(offset_of!(Segment<'_>, bufsz) == WORD);
    assert!(offset_of!(Segment<'_>, mem) == 2 * WORD);
    assert!(offset_of!(Segment<'_>, memsz) == 3 * WORD);
    // Addresses given out as `u64` lose nothing.
    assert!(WORD <= size_of::<u64>());
};

// SAFETY: a segment is a shared borrow of bytes and two numbers; nothing is ever written through its
// pointer. `&[u8]` may be sent to other threads, and so may this.
unsafe impl Send for Segment<'_> {}
// SAFETY: as above; a shared segment only hands out `&[u8]`.
unsafe impl Sync for Segment<'_> {}

impl<'a> Segment<'a> {
    /// The segment that puts `buf` at the physical address `mem` and fills the rest of its `memsz`
    /// bytes with zeros. An empty `buf` makes all of it zero.
    ///
    /// # Errors
    ///
    /// * [`Error::EmptySegment`] if `memsz` is 0.
    /// * [`Error::UnalignedSegment`] if `mem` or `memsz` is not a multiple of [`PAGE_SIZE`].
    /// * [`Error::BufferTooLarge`] if `buf` is longer than `memsz`.
    /// * [`Error::BeyondAddressSpace`] if `mem + memsz` overflows.
    pub fn new(buf: &'a [u8], mem: u64, memsz: u64) -> Result<Self, Error> {
        if memsz == 0 {
            return Err(Error::EmptySegment { mem });
        }
        if !mem.is_multiple_of(PAGE_SIZE) || !memsz.is_multiple_of(PAGE_SIZE) {
            return Err(Error::UnalignedSegment { mem, memsz });
        }
        let bufsz = buf.len();
        if u64::try_from(bufsz).map_or(true, |bufsz| bufsz > memsz) {
            return Err(Error::BufferTooLarge { mem, memsz, bufsz });
        }
        let beyond = Error::BeyondAddressSpace { mem, memsz };
        let (Ok(first), Ok(size)) = (usize::try_from(mem), usize::try_from(memsz)) else {
            return Err(beyond);
        };
        if first.checked_add(size).is_none() {
            return Err(beyond);
        }
        Ok(Self {
            buf: buf.as_ptr(),
            bufsz,
            mem: first,
            memsz: size,
            borrowed: PhantomData,
        })
    }

    /// The bytes that go to the start of the memory.
    #[must_use]
    pub fn buf(&self) -> &'a [u8] {
        // SAFETY: pointer and length are those of the slice that the segment was made of. It is
        // borrowed for `'a`, which `PhantomData` keeps in the type.
        unsafe { std::slice::from_raw_parts(self.buf, self.bufsz) }
    }

    /// The physical address of the memory, in bytes.
    #[must_use]
    pub fn mem(&self) -> u64 {
        self.mem as u64
    }

    /// The size of the memory in bytes.
    #[must_use]
    pub fn memsz(&self) -> u64 {
        self.memsz as u64
    }

    /// The physical address behind the memory, in bytes.
    #[must_use]
    pub fn end(&self) -> u64 {
        // Does not overflow: checked when the segment was made.
        self.mem() + self.memsz()
    }
}

/// Sizes and addresses; the bytes themselves would be too many.
impl fmt::Debug for Segment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("bufsz", &format_args!("{:#x}", self.bufsz))
            .field("mem", &format_args!("{:#x}", self.mem))
            .field("memsz", &format_args!("{:#x}", self.memsz))
            .finish()
    }
}

/// Checks what the kernel would answer with a bare `EINVAL`, and that there is something to load: the
/// kernel takes an empty list for the wish to unload.
pub(crate) fn check_list(segments: &[Segment<'_>]) -> Result<(), Error> {
    if segments.is_empty() {
        return Err(Error::NoSegments);
    }
    if segments.len() > MAX_SEGMENTS {
        return Err(Error::TooManySegments {
            count: segments.len(),
        });
    }
    for (index, one) in segments.iter().enumerate() {
        for other in &segments[..index] {
            if one.mem() < other.end() && other.mem() < one.end() {
                return Err(Error::SegmentsOverlap {
                    first: other.mem(),
                    second: one.mem(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pages(first: u64, count: u64) -> Segment<'static> {
        Segment::new(&[], first * PAGE_SIZE, count * PAGE_SIZE).unwrap()
    }

    /// Numbers near all the edges that matter, and some that are not.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..4 * PAGE_SIZE,
            (0u64..8).prop_map(|page| page * PAGE_SIZE),
            (0u64..8).prop_map(|page| 0u64.wrapping_sub(page * PAGE_SIZE)),
            any::<u64>(),
        ]
    }

    proptest! {
        #[test]
        fn a_segment_is_made_exactly_if_the_kernel_could_take_it(
            len in 0usize..3 * PAGE_SIZE as usize,
            mem in number(),
            memsz in number(),
        ) {
            let buf = vec![0xa5; len];
            let good = memsz != 0
                && mem % PAGE_SIZE == 0
                && memsz % PAGE_SIZE == 0
                && len as u64 <= memsz
                && mem.checked_add(memsz).is_some();
            match Segment::new(&buf, mem, memsz) {
                Ok(segment) => {
                    prop_assert!(good);
                    prop_assert_eq!(segment.buf(), &buf[..]);
                    prop_assert_eq!(segment.buf().as_ptr(), buf.as_ptr());
                    prop_assert_eq!((segment.mem(), segment.memsz()), (mem, memsz));
                    prop_assert_eq!(segment.end(), mem + memsz);
                }
                Err(_) => prop_assert!(!good),
            }
        }

        #[test]
        fn a_list_passes_exactly_if_no_page_is_in_it_twice(
            places in prop::collection::vec((0u64..40, 1u64..4), 1..=MAX_SEGMENTS),
        ) {
            let segments: Vec<_> = places.iter().map(|&(first, count)| pages(first, count)).collect();
            let mut all: Vec<u64> =
                places.iter().flat_map(|&(first, count)| first..first + count).collect();
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(check_list(&segments).is_ok(), all.len() == count);
        }
    }

    #[test]
    fn each_fault_of_a_segment_has_its_error() {
        let page = [0; PAGE_SIZE as usize];
        assert!(matches!(
            Segment::new(&[], 0x1000, 0),
            Err(Error::EmptySegment { mem: 0x1000 })
        ));
        assert!(matches!(
            Segment::new(&page, 0x1001, 0x1000),
            Err(Error::UnalignedSegment {
                mem: 0x1001,
                memsz: 0x1000
            })
        ));
        assert!(matches!(
            Segment::new(&page, 0x1000, 0x1001),
            Err(Error::UnalignedSegment {
                mem: 0x1000,
                memsz: 0x1001
            })
        ));
        assert!(matches!(
            Segment::new(&[0; PAGE_SIZE as usize + 1], 0x1000, 0x1000),
            Err(Error::BufferTooLarge {
                mem: 0x1000,
                memsz: 0x1000,
                bufsz: 0x1001
            })
        ));
        let last = u64::MAX - (PAGE_SIZE - 1);
        assert!(matches!(
            Segment::new(&page, last, 0x1000),
            Err(Error::BeyondAddressSpace { mem, memsz: 0x1000 }) if mem == last
        ));
    }

    #[test]
    fn each_fault_of_a_list_has_its_error() {
        assert!(matches!(check_list(&[]), Err(Error::NoSegments)));
        let many: Vec<_> = (0..=MAX_SEGMENTS as u64)
            .map(|page| pages(page, 1))
            .collect();
        assert!(check_list(&many[..MAX_SEGMENTS]).is_ok());
        assert!(matches!(
            check_list(&many),
            Err(Error::TooManySegments { count: 17 })
        ));
        assert!(matches!(
            check_list(&[pages(4, 2), pages(9, 1), pages(5, 1)]),
            Err(Error::SegmentsOverlap {
                first: 0x4000,
                second: 0x5000
            })
        ));
    }

    #[test]
    fn debug_shows_places_not_bytes() {
        let text = format!("{:?}", Segment::new(b"secret", 0x1000, 0x2000).unwrap());
        assert_eq!(text, "Segment { bufsz: 0x6, mem: 0x1000, memsz: 0x2000 }");
    }
}
