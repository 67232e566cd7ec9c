//! Physical addresses and ranges of them.
//!
//! Addresses have no `+` and `-`: what comes from a file or a device is hostile until it was checked,
//! so arithmetic on it returns an [`Option`].

use std::fmt;

/// Size of a page of memory in bytes. All machines that this project runs on have 4 KiB pages; larger
/// ones are made of these.
pub const PAGE_SIZE: u64 = 4096;

/// A physical address in bytes.
///
/// ```
/// use vmcore::PhysAddr;
///
/// let addr = PhysAddr::new(0x1234);
/// assert_eq!(addr.align_down(0x1000), PhysAddr::new(0x1000));
/// assert_eq!(addr.align_up(0x1000), Some(PhysAddr::new(0x2000)));
/// assert_eq!(PhysAddr::new(u64::MAX).checked_add(1), None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysAddr(u64);

impl PhysAddr {
    /// The address `addr`.
    #[must_use]
    pub const fn new(addr: u64) -> Self {
        Self(addr)
    }

    /// The address as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address `bytes` further up, unless that overflows.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// How many bytes this address lies above `base`, unless it lies below.
    #[must_use]
    pub const fn offset_from(self, base: Self) -> Option<u64> {
        self.0.checked_sub(base.0)
    }

    /// The next multiple of `align` at or below this address.
    ///
    /// # Panics
    ///
    /// If `align` is not a power of two.
    #[must_use]
    pub const fn align_down(self, align: u64) -> Self {
        assert!(align.is_power_of_two());
        Self(self.0 & !(align - 1))
    }

    /// The next multiple of `align` at or above this address, unless that overflows.
    ///
    /// # Panics
    ///
    /// If `align` is not a power of two.
    #[must_use]
    pub const fn align_up(self, align: u64) -> Option<Self> {
        assert!(align.is_power_of_two());
        match self.0.checked_add(align - 1) {
            Some(sum) => Some(Self(sum & !(align - 1))),
            None => None,
        }
    }

    /// Whether this address is a multiple of `align`.
    ///
    /// # Panics
    ///
    /// If `align` is not a power of two.
    #[must_use]
    pub const fn is_aligned(self, align: u64) -> bool {
        assert!(align.is_power_of_two());
        self.0 & (align - 1) == 0
    }
}

impl fmt::Display for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::LowerHex for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

/// A non-empty range of physical addresses: the first address, and the one behind the last.
///
/// A range can only be made non-empty and without overflow, so its length never is 0. The last byte of
/// the 64-bit address space cannot be part of a range; no machine has memory there.
///
/// ```
/// use vmcore::PhysRange;
///
/// let ram = PhysRange::new(0x10_0000, 0x20_0000).unwrap();
/// assert_eq!(ram.len(), 0x10_0000);
/// assert_eq!(ram.to_string(), "0x100000-0x1fffff");
/// assert_eq!(PhysRange::new(5, 5), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysRange {
    start: u64,
    end: u64,
}

#[allow(clippy::len_without_is_empty, reason = "a range is never empty")]
impl PhysRange {
    /// The range from `start` up to but not including `end`; `None` if that is empty.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start < end {
            Some(Self { start, end })
        } else {
            None
        }
    }

    /// The range of `len` bytes from `start`; `None` if that is empty or overflows.
    #[must_use]
    pub const fn from_len(start: PhysAddr, len: u64) -> Option<Self> {
        match start.0.checked_add(len) {
            Some(end) => Self::new(start.0, end),
            None => None,
        }
    }

    /// The first address.
    #[must_use]
    pub const fn start(self) -> PhysAddr {
        PhysAddr(self.start)
    }

    /// The address behind the last one.
    #[must_use]
    pub const fn end(self) -> PhysAddr {
        PhysAddr(self.end)
    }

    /// Length in bytes; never 0.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether `addr` lies in the range.
    #[must_use]
    pub const fn contains(self, addr: PhysAddr) -> bool {
        self.start <= addr.0 && addr.0 < self.end
    }

    /// Whether all of `other` lies in the range.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The part that both ranges have.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// Whether the ranges share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.intersection(other).is_some()
    }

    /// The whole pages of `align` bytes that lie in the range; `None` if there is not even one.
    ///
    /// # Panics
    ///
    /// If `align` is not a power of two.
    #[must_use]
    pub fn shrink_to(self, align: u64) -> Option<Self> {
        let start = self.start().align_up(align)?;
        Self::new(start.0, self.end().align_down(align).0)
    }

    /// The range in pieces of at most `len` bytes, in order.
    ///
    /// ```
    /// use vmcore::PhysRange;
    ///
    /// let range = PhysRange::new(0x1000, 0x4800).unwrap();
    /// let pieces: Vec<u64> = range.pieces(0x2000).map(PhysRange::len).collect();
    /// assert_eq!(pieces, [0x2000, 0x1800]);
    /// ```
    ///
    /// # Panics
    ///
    /// If `len` is 0.
    pub fn pieces(self, len: u64) -> impl Iterator<Item = Self> {
        assert!(len > 0, "pieces of nothing");
        let mut left = Some(self);
        std::iter::from_fn(move || {
            let Self { start, end } = left?;
            let cut = end.min(start.saturating_add(len));
            left = Self::new(cut, end);
            Self::new(start, cut)
        })
    }

    /// Whether both ends are multiples of `align`.
    ///
    /// # Panics
    ///
    /// If `align` is not a power of two.
    #[must_use]
    pub const fn is_aligned(self, align: u64) -> bool {
        self.start().is_aligned(align) && self.end().is_aligned(align)
    }
}

/// As the kernel prints ranges in `/proc/iomem` and its boot messages: the last address is part of it.
impl fmt::Display for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start, self.end - 1)
    }
}
