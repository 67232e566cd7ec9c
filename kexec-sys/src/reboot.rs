//! The reboot call: jumps into what was loaded, and the end of a machine's day.
#![allow(
    unsafe_code,
    reason = "libc's reboot() may do more than the call, and does not know all commands"
)]

use std::ptr;

use libc::{c_long, c_ulong, c_void};

use crate::{Call, Error};

/// What `reboot(2)` is to do.
///
/// Values of mainline: `include/uapi/linux/reboot.h`. `LINUX_REBOOT_CMD_RESTART2`, which takes a text
/// for the firmware, is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum RebootCommand {
    /// Restart the machine. Does not return.
    Restart = 0x0123_4567,
    /// Stop the machine and leave it on. Does not return.
    Halt = 0xCDEF_0123,
    /// Ctrl-Alt-Del restarts the machine from now on.
    CadOn = 0x89AB_CDEF,
    /// Ctrl-Alt-Del sends SIGINT to process 1 from now on.
    CadOff = 0x0000_0000,
    /// Stop the machine and switch it off. Does not return.
    PowerOff = 0x4321_FEDC,
    /// Hibernate by the kernel's own means; returns when the machine was resumed.
    SwSuspend = 0xD000_FCE2,
    /// Jump into what was loaded. Returns only if that was loaded with
    /// [`LoadFlags::PRESERVE_CONTEXT`](crate::LoadFlags::PRESERVE_CONTEXT); see [`kexec`].
    Kexec = 0x4558_4543,
    /// `LINUX_REBOOT_CMD_KJUMP_TO`: jump into the loaded crash kernel and keep this one, on a kernel
    /// with the patches of the 2007 RFC.
    ///
    /// Mainline never had it: "\[RFC\]\[PATCH 0/2 -mm\] kexec based hibernation", Huang Ying,
    /// 26 August 2007, kexec mailing list; the value is in that mail's patch for kexec-tools.
    RfcJumpTo = 0x3928_A5FD,
    /// `LINUX_REBOOT_CMD_KJUMP_BACK`: jump back into the kernel that jumped here, on a kernel with the
    /// patches of the 2007 RFC. Where [`RfcJumpTo`](Self::RfcJumpTo) comes from.
    RfcJumpBack = 0x4A39_B60E,
}

impl RebootCommand {
    /// The number by which the kernel knows the command.
    ///
    /// ```
    /// use kexec_sys::RebootCommand;
    ///
    /// // ASCII.
    /// assert_eq!(RebootCommand::Kexec.number().to_be_bytes(), *b"EXEC");
    /// ```
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }
}

/// Jumps into what was loaded: [`reboot`] with [`RebootCommand::Kexec`].
///
/// An image that was loaded with [`LoadFlags::PRESERVE_CONTEXT`](crate::LoadFlags::PRESERVE_CONTEXT) can
/// jump back. Then this returns `Ok(())`, in the process that called it: processes were frozen and
/// devices suspended in between, and run on now. Other images end this kernel, and the call with it.
///
/// # What the caller answers for
///
/// The kernel checks none of this, and a mistake costs data:
///
/// * The image is one for this machine, starts at its entry in the state that the kernel leaves the CPU
///   in, and has all memory that it will touch among its segments.
/// * It changes no memory but that, or it restores all memory to what belongs together: what it leaves
///   is what this kernel and all its processes, this one included, go on with.
/// * File systems are synced, for the kernel does not sync them.
/// * With an image that jumps back: nobody writes in between to a file system that is mounted here.
///
/// # Errors
///
/// [`Error::Syscall`] if the jump did not take place: nothing is loaded, the right to do it is missing,
/// or a process or device could not be stopped. The machine runs on as before.
pub fn kexec() -> Result<(), Error> {
    reboot(RebootCommand::Kexec)
}

/// Gives `command` to `reboot(2)`, by a raw system call.
///
/// The kernel does not sync file systems first. Within a PID namespace of its own a process can only
/// end that namespace (`reboot(2)`, "Behavior inside PID namespaces").
///
/// `Ok(())` means that the command is done and the machine, this kernel and this process are still, or
/// again, there; [`RebootCommand`] says which commands come back.
///
/// # Errors
///
/// [`Error::Syscall`] if the kernel refuses the command.
pub fn reboot(command: RebootCommand) -> Result<(), Error> {
    // SAFETY: the kernel reads no memory for these commands. Those that end this process, or stop it
    // for a while, leave nothing behind that could be unsound; the crate's documentation says why what
    // an image does meanwhile is outside of that question.
    let result = unsafe {
        libc::syscall(
            libc::SYS_reboot,
            c_long::from(libc::LINUX_REBOOT_MAGIC1),
            c_long::from(libc::LINUX_REBOOT_MAGIC2),
            c_ulong::from(command.number()),
            ptr::null::<c_void>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(Error::last_os_error(Call::Reboot(command)))
    }
}
