//! From one kernel to another.

use std::convert::Infallible;

use kexec_image::LoadPlan;
use kexec_sys::KernelState;
use vmcore::PhysAddr;
use vmcore::image::Identity;

use crate::protocol::{self, Protocol, RunningKernel};
use crate::{Error, arrays};

/// Jumps from this machine to the saving kernel that is loaded, and returns when that, or the kernel
/// that restored this one, jumped back. File systems are synced before.
///
/// What is loaded is unloaded after, whether the jump came about or not: a kernel that has run cannot be
/// entered again.
///
/// # Errors
///
/// [`Error::NothingLoaded`], or [`Error::Kexec`] if the kernel refused to jump. After [`Error::StillLoaded`] the
/// machine did go on.
pub fn jump() -> Result<(), Error> {
    if !KernelState::new().kexec_loaded()? {
        return Err(Error::NothingLoaded);
    }
    nix::unistd::sync();
    arrays::settle();
    Protocol::Mainline.jump_to(&mut RunningKernel)
}

/// Leaves this kernel for what is loaded. Nothing comes back from there.
///
/// # Errors
///
/// [`Error::Kexec`] if the kernel refused to leave.
pub(crate) fn leave() -> Result<Infallible, Error> {
    nix::unistd::sync();
    kexec_sys::kexec()?;
    Err(Error::CameBack)
}

/// Loads `plan` in place of whatever is loaded.
pub(crate) fn load(plan: &LoadPlan<'_>) -> Result<(), Error> {
    protocol::load(&mut RunningKernel, plan)
}

/// Loads the way back into the machine of `identity`, whose jump-back entry is `entry`. `page` is the content
/// of the page of the entry.
pub(crate) fn load_way_back(
    entry: PhysAddr,
    page: &[u8],
    identity: &Identity,
) -> Result<(), Error> {
    load(&LoadPlan::returning_wiped(entry, page, identity)?)
}

/// Jumps back into the machine of `identity`, whose jump-back entry is `entry`, and leaves nothing of this
/// kernel's memory there. `page` is the content of the page of the entry.
///
/// # Errors
///
/// [`Error::Plan`] if the entry cannot be right, [`Error::Kexec`] if the kernel refused.
pub fn jump_back(entry: PhysAddr, page: &[u8], identity: &Identity) -> Result<Infallible, Error> {
    load_way_back(entry, page, identity)?;
    leave()
}
