//! From codes and evidence to causes, without a kernel.

use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;

/// A thread that may load and jump, on a machine of 4 GiB.
fn well() -> Evidence {
    Evidence {
        sys_boot: Some(true),
        initial_user_namespace: Some(true),
        initial_pid_namespace: Some(true),
        load_disabled: Some(false),
        load_limit_reboot: Some(-1),
        load_limit_panic: Some(-1),
        lockdown: Some(Lockdown::None),
        loaded: Some(true),
        crash_size: Some(256 << 20),
        mem_total: Some(4 * GIB),
    }
}

fn load(flags: LoadFlags) -> Call {
    Call::Load {
        arch: Arch::Default,
        flags,
        bytes: GIB,
    }
}

fn file_load(flags: FileLoadFlags) -> Call {
    Call::FileLoad { flags }
}

const KEXEC: Call = Call::Reboot(RebootCommand::Kexec);

#[test]
fn eperm_of_a_load() {
    let mut evidence = well();
    let plain = load(LoadFlags::empty());
    let crash = load(LoadFlags::ON_CRASH);
    let cause = |call, evidence: &Evidence| Cause::diagnose(call, libc::EPERM, evidence);

    // From the cause that the kernel looks at last to the one it looks at first: each hides those
    // before it.
    assert_eq!(cause(plain, &evidence), Cause::Forbidden);
    evidence.load_limit_reboot = Some(0);
    assert_eq!(
        cause(plain, &evidence),
        Cause::LoadLimitReached(ImageKind::Reboot)
    );
    assert_eq!(cause(crash, &evidence), Cause::Forbidden);
    evidence.load_limit_panic = Some(0);
    assert_eq!(
        cause(crash, &evidence),
        Cause::LoadLimitReached(ImageKind::Crash)
    );
    evidence.lockdown = Some(Lockdown::Integrity);
    assert_eq!(
        cause(plain, &evidence),
        Cause::Lockdown(Lockdown::Integrity)
    );
    evidence.lockdown = Some(Lockdown::Confidentiality);
    assert_eq!(
        cause(plain, &evidence),
        Cause::Lockdown(Lockdown::Confidentiality)
    );
    evidence.load_disabled = Some(true);
    assert_eq!(cause(plain, &evidence), Cause::LoadDisabled);
    evidence.initial_user_namespace = Some(false);
    assert_eq!(cause(plain, &evidence), Cause::UserNamespace);
    evidence.sys_boot = Some(false);
    assert_eq!(cause(plain, &evidence), Cause::NoCapability);
    evidence.sys_boot = None;
    assert_eq!(cause(plain, &evidence), Cause::Unknowable);
}

#[test]
fn a_limit_that_is_not_reached_is_no_cause() {
    for left in [Some(1), Some(-1), None] {
        let mut evidence = well();
        evidence.load_limit_reboot = left;
        let cause = Cause::diagnose(load(LoadFlags::empty()), libc::EPERM, &evidence);
        assert_eq!(cause, Cause::Forbidden);
    }
}

#[test]
fn eperm_of_a_file_load() {
    let mut evidence = well();
    let call = file_load(FileLoadFlags::ON_CRASH);
    evidence.lockdown = Some(Lockdown::Integrity);
    assert_eq!(
        Cause::diagnose(call, libc::EPERM, &evidence),
        Cause::NotSigned
    );
    evidence.load_limit_reboot = Some(0);
    assert_eq!(
        Cause::diagnose(call, libc::EPERM, &evidence),
        Cause::NotSigned
    );
    evidence.load_limit_panic = Some(0);
    let limit = Cause::LoadLimitReached(ImageKind::Crash);
    assert_eq!(Cause::diagnose(call, libc::EPERM, &evidence), limit);
}

#[test]
fn eperm_of_a_reboot_has_nothing_to_do_with_loading() {
    let mut evidence = well();
    evidence.load_disabled = Some(true);
    evidence.load_limit_reboot = Some(0);
    evidence.lockdown = Some(Lockdown::Integrity);
    assert_eq!(
        Cause::diagnose(KEXEC, libc::EPERM, &evidence),
        Cause::Forbidden
    );
    let suspend = Call::Reboot(RebootCommand::SwSuspend);
    let lockdown = Cause::Lockdown(Lockdown::Integrity);
    assert_eq!(Cause::diagnose(suspend, libc::EPERM, &evidence), lockdown);
    evidence.sys_boot = Some(false);
    assert_eq!(
        Cause::diagnose(KEXEC, libc::EPERM, &evidence),
        Cause::NoCapability
    );
}

#[test]
fn einval_of_a_load() {
    let cause = |call, evidence: &Evidence| Cause::diagnose(call, libc::EINVAL, evidence);
    let preserve = load(LoadFlags::PRESERVE_CONTEXT);
    let no_jump = Cause::NotBuiltIn(KernelOption::KexecJump);
    assert_eq!(
        cause(load(LoadFlags::empty()), &well()),
        Cause::BadArguments
    );
    assert_eq!(cause(preserve, &well()), no_jump);
    assert_eq!(
        cause(
            load(LoadFlags::ON_CRASH | LoadFlags::UPDATE_ELFCOREHDR),
            &well()
        ),
        Cause::UnknownFlag
    );

    // Half of memory is allowed, a byte more is not.
    let mut small = well();
    small.mem_total = Some(2 * GIB);
    assert_eq!(cause(preserve, &small), no_jump);
    small.mem_total = Some(2 * GIB - 2);
    let too_large = Cause::TooLarge {
        bytes: GIB,
        mem_total: 2 * GIB - 2,
    };
    assert_eq!(cause(preserve, &small), too_large);
    // It may be the size, or the option.
    small.mem_total = None;
    assert_eq!(cause(preserve, &small), Cause::BadArguments);

    let of_arch = |arch| Call::Load {
        arch,
        flags: LoadFlags::PRESERVE_CONTEXT,
        bytes: GIB,
    };
    assert_eq!(cause(of_arch(Arch::S390), &well()), Cause::WrongArch);
    assert_eq!(cause(of_arch(Arch::NATIVE), &well()), no_jump);
}

#[test]
fn other_codes_of_the_loads() {
    let plain = load(LoadFlags::PRESERVE_CONTEXT);
    let crash = load(LoadFlags::ON_CRASH);
    let file = file_load(FileLoadFlags::empty());
    let file_crash = file_load(FileLoadFlags::ON_CRASH);
    let reserved = Cause::OutsideCrashMemory {
        reserved: Some(256 << 20),
    };
    for (call, errno, cause) in [
        (plain, libc::ENOSYS, Cause::NotBuiltIn(KernelOption::Kexec)),
        (plain, libc::EBUSY, Cause::Busy),
        (plain, libc::ENOMEM, Cause::NoMemory),
        (plain, libc::EFAULT, Cause::BadBuffer),
        (plain, libc::EADDRNOTAVAIL, Cause::OutsideMemory),
        (crash, libc::EADDRNOTAVAIL, reserved),
        (plain, libc::EACCES, Cause::Forbidden),
        (plain, libc::EIO, Cause::Other),
        (
            file,
            libc::ENOSYS,
            Cause::NotBuiltIn(KernelOption::KexecFile),
        ),
        (file, libc::EBUSY, Cause::Busy),
        (file, libc::ENOMEM, Cause::NoMemory),
        (file, libc::EBADF, Cause::BadFile),
        (file, libc::ETXTBSY, Cause::FileBusy),
        (file, libc::EFBIG, Cause::FileTooLarge),
        (file, libc::ENOEXEC, Cause::NotAKernel),
        (file, libc::EKEYREJECTED, Cause::NotSigned),
        (file, libc::ENOKEY, Cause::NotSigned),
        (file, libc::EADDRNOTAVAIL, Cause::OutsideMemory),
        (file_crash, libc::EADDRNOTAVAIL, reserved),
        (file, libc::EINVAL, Cause::BadArguments),
        (
            file_load(FileLoadFlags::NO_CMA),
            libc::EINVAL,
            Cause::UnknownFlag,
        ),
        (file, libc::EACCES, Cause::Forbidden),
        (file, libc::EIO, Cause::Other),
    ] {
        assert_eq!(
            Cause::diagnose(call, errno, &well()),
            cause,
            "{call} {errno}"
        );
    }
}

#[test]
fn codes_of_reboot() {
    let mut evidence = well();
    let cause = |command, errno, evidence: &Evidence| {
        Cause::diagnose(Call::Reboot(command), errno, evidence)
    };
    // Something is loaded: a driver said so.
    assert_eq!(
        cause(RebootCommand::Kexec, libc::EINVAL, &evidence),
        Cause::NotSuspended
    );
    assert_eq!(
        cause(RebootCommand::Kexec, libc::EBUSY, &evidence),
        Cause::NotSuspended
    );
    assert_eq!(
        cause(RebootCommand::Kexec, libc::EIO, &evidence),
        Cause::NotSuspended
    );
    for loaded in [Some(false), None] {
        evidence.loaded = loaded;
        assert_eq!(
            cause(RebootCommand::Kexec, libc::EINVAL, &evidence),
            Cause::NothingLoaded
        );
    }
    for command in [RebootCommand::RfcJumpTo, RebootCommand::RfcJumpBack] {
        assert_eq!(
            cause(command, libc::EINVAL, &evidence),
            Cause::UnknownCommand(command)
        );
    }
    assert_eq!(
        cause(RebootCommand::SwSuspend, libc::EIO, &evidence),
        Cause::Other
    );

    evidence.initial_pid_namespace = Some(false);
    for command in [
        RebootCommand::Kexec,
        RebootCommand::RfcJumpTo,
        RebootCommand::CadOff,
    ] {
        assert_eq!(cause(command, libc::EINVAL, &evidence), Cause::PidNamespace);
    }
    let command = RebootCommand::PowerOff;
    assert_eq!(
        cause(command, libc::EINVAL, &evidence),
        Cause::UnknownCommand(command)
    );
}

fn any_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        (any::<u16>(), any::<u32>(), any::<u64>()).prop_map(|(arch, flags, bytes)| {
            Call::Load {
                arch: Arch::from_id(arch),
                flags: LoadFlags::from_bits_retain(flags),
                bytes,
            }
        }),
        any::<u32>().prop_map(|flags| file_load(FileLoadFlags::from_bits_retain(flags))),
        Just(KEXEC),
        Just(Call::Reboot(RebootCommand::SwSuspend)),
        Just(Call::Reboot(RebootCommand::PowerOff)),
    ]
}

fn any_evidence() -> impl Strategy<Value = Evidence> {
    let lockdown = prop::option::of(prop_oneof![
        Just(Lockdown::None),
        Just(Lockdown::Integrity),
        Just(Lockdown::Confidentiality),
    ]);
    let booleans: [Option<bool>; 3] = [None, Some(false), Some(true)];
    let boolean = move || prop::sample::select(booleans.to_vec());
    (
        (boolean(), boolean(), boolean(), boolean(), boolean()),
        (any::<Option<i32>>(), any::<Option<i32>>(), lockdown),
        (any::<Option<u64>>(), any::<Option<u64>>()),
    )
        .prop_map(
            |(flags, (load_limit_reboot, load_limit_panic, lockdown), sizes)| Evidence {
                sys_boot: flags.0,
                initial_user_namespace: flags.1,
                initial_pid_namespace: flags.2,
                load_disabled: flags.3,
                load_limit_reboot,
                load_limit_panic,
                lockdown,
                loaded: flags.4,
                crash_size: sizes.0,
                mem_total: sizes.1,
            },
        )
}

proptest! {
    #[test]
    fn a_missing_capability_is_found_whatever_else_is_wrong(
        call in any_call(),
        mut evidence in any_evidence(),
    ) {
        evidence.sys_boot = Some(false);
        prop_assert_eq!(Cause::diagnose(call, libc::EPERM, &evidence), Cause::NoCapability);
    }

    #[test]
    fn nothing_is_claimed_that_was_not_observed(
        call in any_call(),
        errno in prop_oneof![Just(libc::EPERM), Just(libc::EINVAL), any::<i32>()],
        evidence in any_evidence(),
    ) {
        let seen = match Cause::diagnose(call, errno, &evidence) {
            Cause::NoCapability => evidence.sys_boot == Some(false),
            Cause::Unknowable => evidence.sys_boot.is_none(),
            Cause::UserNamespace => evidence.initial_user_namespace == Some(false),
            Cause::PidNamespace => evidence.initial_pid_namespace == Some(false),
            Cause::LoadDisabled => evidence.load_disabled == Some(true),
            Cause::LoadLimitReached(ImageKind::Reboot) => evidence.load_limit_reboot == Some(0),
            Cause::LoadLimitReached(ImageKind::Crash) => evidence.load_limit_panic == Some(0),
            Cause::Lockdown(mode) => {
                mode != Lockdown::None && evidence.lockdown == Some(mode)
            }
            Cause::TooLarge { bytes, mem_total } => {
                evidence.mem_total == Some(mem_total) && bytes > mem_total / 2
            }
            Cause::NothingLoaded => evidence.loaded != Some(true),
            _ => true,
        };
        prop_assert!(seen);
    }
}
