//! The window: the part of memory that the saving and the restoring kernel live in.
//!
//! Nothing is reserved for it. When the machine jumps to the saving kernel, its own kernel *swaps* the
//! contents of the window with the new ones, and swaps them back on return. So the window may lie in
//! any RAM, whoever uses it.

use std::fmt;
use std::str::FromStr;

use vmcore::{IoMem, PAGE_SIZE, PhysAddr, PhysRange, RangeMap};

use crate::e820::ONE_MIB;
use crate::{Kernel, PlanError};

/// The end of what 32-bit devices, and the boot protocol's older fields, can address.
const FOUR_GIB: u64 = 4 << 30;

/// A window that somebody asks for: a size, and an address if it matters.
///
/// ```
/// use kexec_image::window::Request;
///
/// let request: Request = "96M@0x10000000".parse()?;
/// assert_eq!(request.size, 96 << 20);
/// assert_eq!(request.at.unwrap().get(), 0x1000_0000);
/// assert_eq!(request.to_string(), "96M@0x10000000");
/// assert!("96Q".parse::<Request>().is_err());
/// # Ok::<(), kexec_image::PlanError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Size in bytes.
    pub size: u64,
    /// Where it shall begin.
    pub at: Option<PhysAddr>,
}

/// 96 MiB, wherever there is a place: enough for a small kernel and its buffers.
impl Default for Request {
    fn default() -> Self {
        Self {
            size: 96 << 20,
            at: None,
        }
    }
}

impl FromStr for Request {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let parse = || {
            let (size, at) = match text.split_once('@') {
                Some((size, at)) => (size, Some(PhysAddr::new(number(at)?))),
                None => (text, None),
            };
            let size = number(size).filter(|&size| size > 0)?;
            Some(Self { size, at })
        };
        parse().ok_or_else(|| PlanError::WindowSyntax {
            text: text.to_owned(),
        })
    }
}

/// A number as the kernel's parameters have them: decimal, or hexadecimal after `0x`, with K, M or G.
fn number(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 10),
        (at, 'm' | 'M') => (&text[..at], 20),
        (at, 'g' | 'G') => (&text[..at], 30),
        _ => (text, 0),
    };
    let value = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None => digits.parse().ok()?,
    };
    value.checked_mul(1 << shift)
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.size.is_multiple_of(1 << 20) {
            write!(f, "{}M", self.size >> 20)?;
        } else {
            write!(f, "{}", self.size)?;
        }
        match self.at {
            Some(at) => write!(f, "@{at}"),
            None => Ok(()),
        }
    }
}

/// RAM that a window may lie in: whole pages from 1 MiB to 4 GiB, without what is reserved for a crash
/// kernel.
fn candidates(iomem: &IoMem) -> RangeMap<()> {
    let mut ram = iomem.ram();
    let outside = [
        PhysRange::new(0, ONE_MIB),
        PhysRange::new(FOUR_GIB, u64::MAX),
    ];
    for range in outside.into_iter().flatten().chain(iomem.crash_kernel()) {
        ram.remove(range);
    }
    ram.shrink_to(PAGE_SIZE)
}

/// Chooses the window for `kernel` on a machine with `iomem`, whose VMCOREINFO note lies in `note`.
///
/// Where no address is asked for, it is the lowest place behind the running kernel's image, or else the
/// lowest at all: at the upper end of memory lie the tables that a reader of the core wants to find.
/// Nor does it take the running kernel's code and data then: those are swapped like all else where they
/// are asked for, but memory in which they lie where they always were is easier to read. And it never
/// takes the pages of the note, unless it is put there: the saving kernel is told where in memory they are,
/// and what it finds there in place of a note tells no free page from another, so that all are saved.
///
/// # Errors
///
/// [`PlanError::NoWindow`] if there is no place, [`PlanError::WindowRefused`] if the place that is
/// asked for will not do.
pub fn choose(
    iomem: &IoMem,
    note: Option<PhysRange>,
    kernel: &Kernel<'_>,
    request: Request,
) -> Result<PhysRange, PlanError> {
    let (low, align) = kernel.placement();
    let none = PlanError::NoWindow {
        size: request.size,
        low,
    };
    let Some(size) = request.size.checked_next_multiple_of(PAGE_SIZE) else {
        return Err(none);
    };
    let mut candidates = candidates(iomem);
    if let Some(at) = request.at {
        let window = PhysRange::from_len(at, size).ok_or(none)?;
        kernel.check_base(window)?;
        if !candidates.covers(window) {
            return Err(PlanError::WindowRefused {
                window,
                why: "it must be RAM that is below 4 GiB and not reserved for a crash kernel",
            });
        }
        return Ok(window);
    }
    for taken in iomem.kernel_image().into_iter().chain(note) {
        candidates.remove(taken);
    }
    let candidates = candidates.shrink_to(PAGE_SIZE);
    let place_from = |lowest: PhysAddr| {
        candidates.ranges().find_map(|range| {
            let start = range.start().max(lowest).align_up(align)?;
            let window = PhysRange::from_len(start, size)?;
            (range.covers(window) && kernel.check_base(window).is_ok()).then_some(window)
        })
    };
    iomem
        .kernel_image()
        .and_then(|image| place_from(image.end().max(low)))
        .or_else(|| place_from(low))
        .ok_or(none)
}

/// The memory that is reserved for a crash kernel, as far as `kernel` can live in it: from the first place
/// that it can lie at. Of several pieces it is the largest.
///
/// # Errors
///
/// [`PlanError::NoCrashMemory`] if nothing is reserved, or not where the kernel can lie.
pub fn reserved(iomem: &IoMem, kernel: &Kernel<'_>) -> Result<PhysRange, PlanError> {
    let (low, align) = kernel.placement();
    iomem
        .crash_kernel()
        .filter_map(|range| {
            let start = range.start().max(low).align_up(align)?;
            let end = range.end().align_down(PAGE_SIZE);
            PhysRange::new(start.get(), end.get()).filter(|piece| range.covers(*piece))
        })
        .filter(|piece| kernel.check_base(*piece).is_ok())
        .max_by_key(|piece| piece.len())
        .ok_or(PlanError::NoCrashMemory)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bzimage::tests::sample;

    fn iomem(kernel: u64) -> IoMem {
        IoMem::parse(&format!(
            "00001000-0009fbff : System RAM\n\
             00100000-3ffdffff : System RAM\n\
             \x20 {kernel:08x}-{:08x} : Kernel code\n\
             \x20 30000000-33ffffff : Crash kernel\n\
             100000000-13fffffff : System RAM\n",
            kernel + 0xff_ffff
        ))
        .unwrap()
    }

    proptest! {
        #[test]
        fn a_window_is_in_free_ram(kernel in 1..0x3fu64, note in 0x100..0x3_ff00u64, size in 1..0x300u64, at in prop::option::of(0..0x1000u64)) {
            let file = sample(5000);
            let parsed = Kernel::parse(&file).unwrap();
            let iomem = iomem(kernel << 24);
            let request = Request { size: size << 20, at: at.map(|at| PhysAddr::new(at << 20)) };
            let ram = PhysRange::new(0x10_0000, 0x3ffe_0000).unwrap();
            let crash = PhysRange::new(0x3000_0000, 0x3400_0000).unwrap();
            let note = PhysRange::from_len(PhysAddr::new(note << 12), 0x424).unwrap();
            if let Ok(window) = choose(&iomem, Some(note), &parsed, request) {
                prop_assert!(request.at.is_some() || !note.overlaps(window));
                prop_assert_eq!(window.len(), request.size);
                prop_assert!(request.at.is_none_or(|at| at == window.start()));
                prop_assert!(ram.covers(window) && !crash.overlaps(window));
                prop_assert!(request.at.is_some() || !iomem.kernel_image().unwrap().overlaps(window));
                prop_assert!(window.start().is_aligned(0x20_0000) && window.start().get() >= 0x100_0000);
            } else if request.at.is_none() {
                // The largest free piece is at least a quarter of what the kernel, the note and the crash
                // kernel leave.
                prop_assert!(request.size > 0x600_0000);
            }
        }
    }

    #[test]
    fn a_place_behind_the_kernel_comes_first() {
        let file = sample(5000);
        let kernel = Kernel::parse(&file).unwrap();
        let choose = |at| {
            choose(&iomem(at), None, &kernel, Request::default())
                .unwrap()
                .start()
                .get()
        };
        assert_eq!(choose(0x200_0000), 0x300_0000);
        assert_eq!(choose(0x3e00_0000), 0x100_0000);
    }

    #[test]
    fn what_is_reserved_for_a_crash_is_for_those_who_ask() {
        let file = sample(5000);
        let kernel = Kernel::parse(&file).unwrap();
        let window = reserved(&iomem(0x200_0000), &kernel).unwrap();
        assert_eq!(window, PhysRange::new(0x3000_0000, 0x3400_0000).unwrap());
        let none = IoMem::parse("00100000-3ffdffff : System RAM\n").unwrap();
        assert!(matches!(
            reserved(&none, &kernel),
            Err(PlanError::NoCrashMemory)
        ));
    }

    #[test]
    fn the_note_is_left_where_it_is() {
        let file = sample(5000);
        let kernel = Kernel::parse(&file).unwrap();
        let note = PhysRange::new(0x345_6000, 0x345_6424);
        let choose = |request: &str| {
            let request = request.parse().unwrap();
            choose(&iomem(0x200_0000), note, &kernel, request)
                .unwrap()
                .start()
                .get()
        };
        // The first place behind the kernel has it.
        assert_eq!(choose("96M"), 0x360_0000);
        assert_eq!(choose("4M"), 0x300_0000);
        // Who says where is obeyed.
        assert_eq!(choose("96M@0x3000000"), 0x300_0000);
    }

    #[test]
    fn the_running_kernel_can_be_swapped_where_that_is_asked_for() {
        let file = sample(5000);
        let kernel = Kernel::parse(&file).unwrap();
        let iomem = iomem(0x200_0000);
        let request: Request = "96M@0x1000000".parse().unwrap();
        let window = choose(&iomem, None, &kernel, request).unwrap();
        assert!(window.covers(iomem.kernel_image().unwrap()));
    }

    #[test]
    fn places_that_will_not_do_are_refused_with_the_reason() {
        let file = sample(5000);
        let kernel = Kernel::parse(&file).unwrap();
        let refusal = |text: &str| {
            choose(&iomem(0x200_0000), None, &kernel, text.parse().unwrap())
                .unwrap_err()
                .to_string()
        };
        assert!(refusal("32M@0x3300000").contains("aligned"));
        assert!(refusal("32M@0x200000").contains("lowest"));
        assert!(refusal("32M@0x100000000").contains("below 4 GiB"));
        assert!(refusal("32M@0x30000000").contains("crash kernel"));
        assert!(refusal("2G").contains("no place"));
    }
}
