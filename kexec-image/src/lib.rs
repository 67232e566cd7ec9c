//! What kexec is to boot, as pure data.
//!
//! From the facts of a machine, a kernel and an initramfs to a [`LoadPlan`]: the list of segments that
//! `kexec_load(2)` takes. Everything up to the plan runs unprivileged and can be printed and tested
//! without a kernel that obeys it.
//!
//! * [`Kernel`]: a bzImage or an ELF `vmlinux`, checked and measured.
//! * [`Machine`]: what must be known of the machine that the plan is for.
//! * [`window`](mod@window): the part of memory that the saving and the restoring kernel live in.
//! * [`LoadPlan::saving`], [`LoadPlan::restoring`], [`LoadPlan::returning_wiped`]: the three things
//!   that hibernation loads.
//! * [`LoadPlan::booting`] and [`LoadPlan::catching`]: what else kexec is used for, a kernel that gets
//!   the whole machine, and one that waits for a panic.
//! * [`initramfs`]: the archive that such a kernel boots from.
//!
//! # Invariants
//!
//! * The segments of a plan are sorted, page-aligned, do not overlap, and are 16 at most. Those of a
//!   saving or restoring kernel cover the whole window and all low memory, since what is not covered is
//!   memory of the sleeping machine that the kernel would overwrite.
//! * No memory outside the window and low memory is RAM to such a kernel.
//! * The only `unsafe` is where the trampoline's machine code becomes a slice.

mod alone;
mod beside;
mod boot_block;
mod boot_params;
mod bzimage;
mod cmdline;
mod e820;
mod error;
pub mod initramfs;
mod kernel;
mod machine;
mod panic;
mod plan;
mod trampoline;
mod vmlinux;
pub mod window;
mod wipe;

pub use alone::Firmware;
pub use beside::{Boot, map_beside_sleeper};
pub use cmdline::{CommandLine, JUMP_BACK_KEY};
pub use error::PlanError;
pub use kernel::{Kernel, KernelFormat};
pub use machine::Machine;
pub use panic::BACKUP_KEY;
pub use plan::{LoadPlan, PlannedSegment, Purpose};
