//! The two ways in which Linux jumps between kernels: mainline's, and that of the 2007 RFC.
//!
//! "\[RFC\]\[PATCH 0/2 -mm\] kexec based hibernation" (Huang Ying, 26 August 2007, kexec mailing list) had
//! two reboot commands of its own, which jump to the kernel that is loaded for panics, and back; and a
//! file `/sys/kernel/kexec_jump_buf_pfn`, by which a kernel that has them is known. Mainline has one
//! command, and remembers with what is loaded whether it can come back.

use std::fmt;

use kexec_image::{LoadPlan, Purpose};
use kexec_sys::{KernelState, LoadFlags, RebootCommand, Segment};

use crate::Error;
use crate::spare::{FirstToGo, Spare};

/// Which way the running kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `kexec_load(2)` with `KEXEC_PRESERVE_CONTEXT`, and `LINUX_REBOOT_CMD_KEXEC` for both directions.
    Mainline,
    /// `LINUX_REBOOT_CMD_KJUMP_TO` and `LINUX_REBOOT_CMD_KJUMP_BACK`, with the kernel that is loaded for
    /// panics.
    Rfc2007 {
        /// Page frame number of the kernel's jump buffer.
        jump_buffer: u64,
    },
}

/// For logs, such as `mainline (LINUX_REBOOT_CMD_KEXEC)`.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mainline => f.write_str("mainline (LINUX_REBOOT_CMD_KEXEC)"),
            Self::Rfc2007 { jump_buffer } => write!(
                f,
                "RFC of 2007 (LINUX_REBOOT_CMD_KJUMP_TO and _BACK, kexec_jump_buf_pfn={jump_buffer})"
            ),
        }
    }
}

/// The system calls that a jump takes: the kernel's, or in a test something that records them.
pub trait Calls {
    /// As [`kexec_sys::load`].
    ///
    /// # Errors
    ///
    /// What the kernel says.
    fn load(
        &mut self,
        entry: u64,
        segments: &[Segment<'_>],
        flags: LoadFlags,
    ) -> Result<(), kexec_sys::Error>;

    /// As [`kexec_sys::unload`].
    ///
    /// # Errors
    ///
    /// What the kernel says.
    fn unload(&mut self, flags: LoadFlags) -> Result<(), kexec_sys::Error>;

    /// As [`kexec_sys::reboot`].
    ///
    /// # Errors
    ///
    /// What the kernel says.
    fn reboot(&mut self, command: RebootCommand) -> Result<(), kexec_sys::Error>;
}

/// The calls of the running kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunningKernel;

impl Calls for RunningKernel {
    fn load(
        &mut self,
        entry: u64,
        segments: &[Segment<'_>],
        flags: LoadFlags,
    ) -> Result<(), kexec_sys::Error> {
        kexec_sys::load(entry, segments, flags)
    }

    fn unload(&mut self, flags: LoadFlags) -> Result<(), kexec_sys::Error> {
        kexec_sys::unload(flags)
    }

    fn reboot(&mut self, command: RebootCommand) -> Result<(), kexec_sys::Error> {
        kexec_sys::reboot(command)
    }
}

impl Protocol {
    /// The way of the kernel whose state files these are.
    ///
    /// # Errors
    ///
    /// [`Error::Kexec`] if sysfs is not mounted, or its file makes no sense.
    pub fn of(state: &KernelState) -> Result<Self, Error> {
        Ok(match state.kexec_jump_buf_pfn()? {
            Some(jump_buffer) => Self::Rfc2007 { jump_buffer },
            None => Self::Mainline,
        })
    }

    /// Whether something is loaded that [`jump_to`](Self::jump_to) would enter.
    ///
    /// # Errors
    ///
    /// [`Error::Kexec`] if the kernel does not tell.
    pub fn is_loaded(self, state: &KernelState) -> Result<bool, Error> {
        Ok(match self {
            Self::Mainline => state.kexec_loaded()?,
            Self::Rfc2007 { .. } => state.kexec_crash_loaded()?,
        })
    }

    /// Jumps to the kernel that is loaded for that, and returns when this one was jumped back to.
    ///
    /// What mainline had loaded is unloaded after: a kernel that has run cannot be entered again.
    ///
    /// # Errors
    ///
    /// [`Error::Kexec`] if the kernel refused, or [`Error::StillLoaded`] if it jumped, and the unloading failed.
    pub fn jump_to(self, calls: &mut dyn Calls) -> Result<(), Error> {
        match self {
            Self::Mainline => {
                let jumped = calls.reboot(RebootCommand::Kexec);
                let unloaded = calls.unload(LoadFlags::empty());
                jumped?;
                unloaded.map_err(|source| Error::StillLoaded { source })
            }
            Self::Rfc2007 { .. } => Ok(calls.reboot(RebootCommand::RfcJumpTo)?),
        }
    }

    /// Jumps back into the kernel that jumped here. `way_back` makes the plan for it, which mainline
    /// needs; a kernel with the RFC's patches knows the way by its jump buffer.
    ///
    /// # Errors
    ///
    /// Those of `way_back`, [`Error::Kexec`] if the kernel refused, and [`Error::CameBack`] if the jump
    /// did not lead away.
    pub fn jump_back<'a>(
        self,
        calls: &mut dyn Calls,
        way_back: impl FnOnce() -> Result<LoadPlan<'a>, Error>,
    ) -> Result<std::convert::Infallible, Error> {
        match self {
            Self::Mainline => {
                load(calls, &way_back()?)?;
                calls.reboot(RebootCommand::Kexec)?;
            }
            Self::Rfc2007 { .. } => calls.reboot(RebootCommand::RfcJumpBack)?,
        }
        Err(Error::CameBack)
    }
}

/// Loads `plan` by `calls`, in place of whatever is loaded. Should memory run out meanwhile, this process is
/// the first that the kernel kills.
///
/// # Errors
///
/// [`Error::NoMemory`] if the machine has less to spare than the plan takes, and [`Error::Kexec`] if the
/// kernel refused.
pub fn load(calls: &mut dyn Calls, plan: &LoadPlan<'_>) -> Result<(), Error> {
    // What is for a panic has its memory already.
    if let Some(spare) = Spare::now().filter(|_| plan.purpose() != Purpose::Panic) {
        spare.check(plan.bytes())?;
    }
    let _first = FirstToGo::new();
    Ok(calls.load(plan.entry().get(), &plan.to_segments()?, plan.flags())?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use vmcore::{PhysAddr, PhysRange};

    use super::*;

    /// Writes down what it is asked for, and does nothing.
    #[derive(Debug, Default)]
    struct Recorder(Vec<String>);

    impl Calls for Recorder {
        fn load(
            &mut self,
            entry: u64,
            segments: &[Segment<'_>],
            flags: LoadFlags,
        ) -> Result<(), kexec_sys::Error> {
            let count = segments.len();
            self.0.push(format!("load {entry:#x} {count} {flags:?}"));
            Ok(())
        }

        fn unload(&mut self, flags: LoadFlags) -> Result<(), kexec_sys::Error> {
            self.0.push(format!("unload {flags:?}"));
            Ok(())
        }

        fn reboot(&mut self, command: RebootCommand) -> Result<(), kexec_sys::Error> {
            self.0.push(format!("reboot {:#x}", command.number()));
            Ok(())
        }
    }

    /// A `/sys/kernel` with these files, and the protocol of its kernel.
    fn kernel(files: &[(&str, &str)]) -> (tempfile::TempDir, KernelState, Protocol) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let state = KernelState::at(folder.path());
        let protocol = Protocol::of(&state).unwrap();
        (folder, state, protocol)
    }

    const RFC: [(&str, &str); 3] = [
        ("kexec_jump_buf_pfn", "8192\n"),
        ("kexec_loaded", "0\n"),
        ("kexec_crash_loaded", "1\n"),
    ];

    fn way_back(page: &[u8]) -> Result<LoadPlan<'_>, Error> {
        let window = PhysRange::new(0x400_0000, 0xa00_0000).unwrap();
        Ok(LoadPlan::returning(
            PhysAddr::new(0x1234_50f2),
            page,
            window,
        )?)
    }

    #[test]
    fn a_kernel_is_known_by_its_file() {
        let (_folder, state, mainline) =
            kernel(&[("kexec_loaded", "0\n"), ("kexec_crash_loaded", "1\n")]);
        assert_eq!(mainline, Protocol::Mainline);
        assert!(!mainline.is_loaded(&state).unwrap());
        assert_eq!(mainline.to_string(), "mainline (LINUX_REBOOT_CMD_KEXEC)");

        // There the kernel for panics is the one to jump to.
        let (_folder, state, rfc) = kernel(&RFC);
        assert_eq!(rfc, Protocol::Rfc2007 { jump_buffer: 8192 });
        assert!(rfc.is_loaded(&state).unwrap());
        assert!(rfc.to_string().contains("kexec_jump_buf_pfn=8192"));

        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kexec_jump_buf_pfn"), "x").unwrap();
        assert!(Protocol::of(&KernelState::at(folder.path())).is_err());
    }

    #[test]
    fn mainline_has_one_command_and_loads_the_way_back() {
        let mut calls = Recorder::default();
        Protocol::Mainline.jump_to(&mut calls).unwrap();
        assert_eq!(calls.0, ["reboot 0x45584543", "unload LoadFlags(0x0)"]);

        let mut calls = Recorder::default();
        let page = [0; 4096];
        let back = Protocol::Mainline.jump_back(&mut calls, || way_back(&page));
        // Nothing was jumped to here.
        assert!(matches!(back, Err(Error::CameBack)));
        assert_eq!(
            calls.0,
            ["load 0x4000000 2 LoadFlags(0x0)", "reboot 0x45584543"]
        );
    }

    /// A kernel that jumps, and then does not unload.
    struct Stubborn;

    impl Calls for Stubborn {
        fn load(
            &mut self,
            _: u64,
            _: &[Segment<'_>],
            _: LoadFlags,
        ) -> Result<(), kexec_sys::Error> {
            Ok(())
        }

        fn unload(&mut self, _: LoadFlags) -> Result<(), kexec_sys::Error> {
            Err(kexec_sys::Error::EmptySegment { mem: 0 })
        }

        fn reboot(&mut self, _: RebootCommand) -> Result<(), kexec_sys::Error> {
            Ok(())
        }
    }

    #[test]
    fn what_stays_loaded_does_not_hide_that_the_machine_went_on() {
        let jumped = Protocol::Mainline.jump_to(&mut Stubborn);
        assert!(matches!(jumped, Err(Error::StillLoaded { .. })));
    }

    #[test]
    fn nothing_is_jumped_to_without_a_way_back() {
        let mut calls = Recorder::default();
        let back = Protocol::Mainline.jump_back(&mut calls, || way_back(&[]));
        assert!(matches!(back, Err(Error::Plan(_))));
        assert!(calls.0.is_empty());
    }

    #[test]
    fn the_rfc_has_a_command_for_each_direction_and_loads_nothing() {
        let rfc = Protocol::Rfc2007 { jump_buffer: 1 };
        let mut calls = Recorder::default();
        rfc.jump_to(&mut calls).unwrap();
        let back = rfc.jump_back(&mut calls, || way_back(&[]));
        assert!(matches!(back, Err(Error::CameBack)));
        assert_eq!(calls.0, ["reboot 0x3928a5fd", "reboot 0x4a39b60e"]);
    }
}
