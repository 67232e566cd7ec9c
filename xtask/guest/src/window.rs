//! A window over what this kernel itself lies in: the hardest one, for nothing of it stays in place.

use anyhow::{Context, Result};
use vmcore::{IoMem, PhysRange};

use crate::machine;

/// What kernels are aligned to (`CONFIG_PHYSICAL_ALIGN` of x86_64, as it is by default).
const ALIGN: u64 = 2 << 20;

/// The smallest window: what kjump takes by itself.
const SIZE: u64 = 96 << 20;

/// A window that covers all of this kernel's code and data, as `kjump --window` takes it.
pub(crate) fn over_kernel() -> Result<String> {
    let iomem = IoMem::parse(&machine::read("/proc/iomem")?).context("reading /proc/iomem")?;
    let window = over(&iomem).context("no window has room for the running kernel")?;
    Ok(format!("{}@{:#x}", window.len(), window.start().get()))
}

/// The window over the kernel's image in `iomem`, moved down where memory ends too soon behind it.
fn over(iomem: &IoMem) -> Option<PhysRange> {
    let image = iomem.kernel_image()?;
    let ram = iomem.ram();
    let (around, ()) = ram.get(image.start())?;
    let start = image.start().align_down(ALIGN).get();
    let end = image.end().get().checked_next_multiple_of(ALIGN)?;
    let end = end
        .max(start.checked_add(SIZE)?)
        .min(around.end().align_down(ALIGN).get());
    let window = PhysRange::new(start.min(end.checked_sub(SIZE)?), end)?;
    (window.covers(image) && around.covers(window)).then_some(window)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: &str) -> Option<(u64, u64)> {
        let text = format!("00100000-3ffdffff : System RAM\n  {kernel} : Kernel code\n");
        let window = over(&IoMem::parse(&text).unwrap())?;
        Some((window.start().get(), window.end().get()))
    }

    #[test]
    fn the_window_covers_the_kernel_wherever_it_is() {
        assert_eq!(window("02000000-033fffff"), Some((0x200_0000, 0x800_0000)));
        assert_eq!(window("02100000-0f3fffff"), Some((0x200_0000, 0xf40_0000)));
        assert_eq!(
            window("3e000000-3f3fffff"),
            Some((0x39e0_0000, 0x3fe0_0000))
        );
        assert_eq!(window("3e000000-3ffdffff"), None);
        assert_eq!(window("50000000-53ffffff"), None);
    }
}
