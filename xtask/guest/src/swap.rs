//! Swap areas, which the kernel's own hibernation writes its image to.
#![allow(
    unsafe_code,
    reason = "no crate that is used here has the system calls swapon(2) and swapoff(2)"
)]

use std::ffi::CString;
use std::io;

use anyhow::{Context, Result};

/// Has the kernel use the swap area on `device`.
pub(crate) fn on(device: &str) -> Result<()> {
    let path = CString::new(device).context("a device's name has no zero byte")?;
    // SAFETY: `path` is a string with a zero byte at its end, and lives until the call is over. The kernel
    // only reads it.
    let result = unsafe { libc::swapon(path.as_ptr(), 0) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).with_context(|| format!("swapon {device}")),
    }
}

/// Has the kernel use the swap area on `device` no more.
pub(crate) fn off(device: &str) -> Result<()> {
    let path = CString::new(device).context("a device's name has no zero byte")?;
    // SAFETY: as above.
    let result = unsafe { libc::swapoff(path.as_ptr()) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).with_context(|| format!("swapoff {device}")),
    }
}
