//! Compares constants and layouts with the kernel's own headers, as the C compiler sees them.
#![allow(
    unsafe_code,
    reason = "looks at a segment's words as the kernel will, by their offsets"
)]
#![allow(clippy::unwrap_used, reason = "panics are how tests fail")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::mem::{align_of, size_of};
use std::process::Command;

use kexec_sys::{Arch, FileLoadFlags, LoadFlags, MAX_SEGMENTS, RebootCommand, Segment};

const INSTALL: &str = "install a C compiler and the kernel's headers: \
                       apt-get install gcc libc6-dev linux-libc-dev";

/// Constants that are compared if the installed headers have them, as those of younger kernels may be
/// missing there.
fn constants() -> Vec<(&'static str, u64)> {
    let load = |flags: LoadFlags| u64::from(flags.bits());
    let file = |flags: FileLoadFlags| u64::from(flags.bits());
    let arch = |arch: Arch| u64::from(arch.flag_bits());
    let command = |command: RebootCommand| u64::from(command.number());
    vec![
        ("KEXEC_ON_CRASH", load(LoadFlags::ON_CRASH)),
        ("KEXEC_PRESERVE_CONTEXT", load(LoadFlags::PRESERVE_CONTEXT)),
        (
            "KEXEC_UPDATE_ELFCOREHDR",
            load(LoadFlags::UPDATE_ELFCOREHDR),
        ),
        (
            "KEXEC_CRASH_HOTPLUG_SUPPORT",
            load(LoadFlags::CRASH_HOTPLUG_SUPPORT),
        ),
        ("KEXEC_FILE_UNLOAD", file(FileLoadFlags::UNLOAD)),
        ("KEXEC_FILE_ON_CRASH", file(FileLoadFlags::ON_CRASH)),
        ("KEXEC_FILE_NO_INITRAMFS", file(FileLoadFlags::NO_INITRAMFS)),
        ("KEXEC_FILE_DEBUG", file(FileLoadFlags::DEBUG)),
        ("KEXEC_FILE_NO_CMA", file(FileLoadFlags::NO_CMA)),
        ("KEXEC_FILE_FORCE_DTB", file(FileLoadFlags::FORCE_DTB)),
        ("KEXEC_ARCH_MASK", arch(Arch::Custom(u16::MAX))),
        ("KEXEC_ARCH_DEFAULT", arch(Arch::Default)),
        ("KEXEC_ARCH_386", arch(Arch::I386)),
        ("KEXEC_ARCH_68K", arch(Arch::M68k)),
        ("KEXEC_ARCH_PARISC", arch(Arch::Parisc)),
        ("KEXEC_ARCH_X86_64", arch(Arch::X86_64)),
        ("KEXEC_ARCH_PPC", arch(Arch::Ppc)),
        ("KEXEC_ARCH_PPC64", arch(Arch::Ppc64)),
        ("KEXEC_ARCH_IA_64", arch(Arch::Ia64)),
        ("KEXEC_ARCH_ARM", arch(Arch::Arm)),
        ("KEXEC_ARCH_S390", arch(Arch::S390)),
        ("KEXEC_ARCH_SH", arch(Arch::Sh)),
        ("KEXEC_ARCH_MIPS_LE", arch(Arch::MipsLe)),
        ("KEXEC_ARCH_MIPS", arch(Arch::Mips)),
        ("KEXEC_ARCH_AARCH64", arch(Arch::Aarch64)),
        ("KEXEC_ARCH_RISCV", arch(Arch::Riscv)),
        ("KEXEC_ARCH_LOONGARCH", arch(Arch::LoongArch)),
        ("KEXEC_SEGMENT_MAX", MAX_SEGMENTS as u64),
        ("LINUX_REBOOT_CMD_RESTART", command(RebootCommand::Restart)),
        ("LINUX_REBOOT_CMD_HALT", command(RebootCommand::Halt)),
        ("LINUX_REBOOT_CMD_CAD_ON", command(RebootCommand::CadOn)),
        ("LINUX_REBOOT_CMD_CAD_OFF", command(RebootCommand::CadOff)),
        (
            "LINUX_REBOOT_CMD_POWER_OFF",
            command(RebootCommand::PowerOff),
        ),
        (
            "LINUX_REBOOT_CMD_SW_SUSPEND",
            command(RebootCommand::SwSuspend),
        ),
        ("LINUX_REBOOT_CMD_KEXEC", command(RebootCommand::Kexec)),
        (
            "LINUX_REBOOT_MAGIC1",
            u64::from(libc::LINUX_REBOOT_MAGIC1.cast_unsigned()),
        ),
        (
            "LINUX_REBOOT_MAGIC2",
            u64::from(libc::LINUX_REBOOT_MAGIC2.cast_unsigned()),
        ),
        ("SYS_kexec_load", libc::SYS_kexec_load.cast_unsigned()),
        (
            "SYS_kexec_file_load",
            libc::SYS_kexec_file_load.cast_unsigned(),
        ),
        ("SYS_reboot", libc::SYS_reboot.cast_unsigned()),
    ]
}

/// Constants that headers of Linux 5.15 have.
const AT_LEAST: usize = 34;

/// What C says of `struct kexec_segment`.
const LAYOUT: [(&str, &str); 6] = [
    ("size", "sizeof(struct kexec_segment)"),
    ("align", "_Alignof(struct kexec_segment)"),
    ("buf", "offsetof(struct kexec_segment, buf)"),
    ("bufsz", "offsetof(struct kexec_segment, bufsz)"),
    ("mem", "offsetof(struct kexec_segment, mem)"),
    ("memsz", "offsetof(struct kexec_segment, memsz)"),
];

fn program() -> String {
    let mut text = String::from(
        "#include <stddef.h>\n#include <stdio.h>\n#include <sys/syscall.h>\n\
         #include <linux/kexec.h>\n#include <linux/reboot.h>\nint main(void) {\n",
    );
    for (name, expression) in LAYOUT {
        writeln!(
            text,
            "printf(\"{name} %llu\\n\", (unsigned long long)({expression}));"
        )
        .unwrap();
    }
    for (name, _) in constants() {
        // All of them are 32 bits wide; without the inner cast some would be sign-extended.
        writeln!(
            text,
            "#ifdef {name}\nprintf(\"{name} %llu\\n\", (unsigned long long)(unsigned int)({name}));\n#endif"
        )
        .unwrap();
    }
    text + "return 0; }\n"
}

/// What the program prints.
fn values() -> BTreeMap<String, u64> {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("headers.c");
    let binary = dir.path().join("headers");
    fs::write(&source, program()).unwrap();
    let compiled = Command::new("cc")
        .arg("-o")
        .args([&binary, &source])
        .output()
        .unwrap_or_else(|error| panic!("cc does not run ({error}): {INSTALL}"));
    let messages = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "cc fails: {INSTALL}\n{messages}");
    let output = Command::new(&binary).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let (name, value) = line.split_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn constants_and_layouts_are_those_of_the_headers() {
    let values = values();

    let mut compared = 0;
    for (name, ours) in constants() {
        if let Some(&theirs) = values.get(name) {
            assert_eq!(ours, theirs, "{name}");
            compared += 1;
        }
    }
    assert!(
        compared >= AT_LEAST,
        "only {compared} constants were compared: {INSTALL}"
    );

    assert_eq!(values["size"], size_of::<Segment<'_>>() as u64);
    assert_eq!(values["align"], align_of::<Segment<'_>>() as u64);
    let buf = [1, 2, 3];
    let segment = Segment::new(&buf, 0x5000, 0x7000).unwrap();
    let word = |name: &str| {
        let offset = usize::try_from(values[name]).unwrap();
        assert!(offset.is_multiple_of(size_of::<usize>()));
        assert!(offset < size_of::<Segment<'_>>());
        // SAFETY: the offset is aligned and within the segment, which is as large as the C compiler
        // says, so it is that of one of its four words.
        unsafe { (&raw const segment).byte_add(offset).cast::<usize>().read() }
    };
    assert_eq!(word("buf"), buf.as_ptr().addr());
    assert_eq!(word("bufsz"), 3);
    assert_eq!(word("mem"), 0x5000);
    assert_eq!(word("memsz"), 0x7000);
}

#[test]
fn commands_of_the_rfc_are_those_of_its_mail() {
    assert_eq!(RebootCommand::RfcJumpTo.number(), 0x3928_A5FD);
    assert_eq!(RebootCommand::RfcJumpBack.number(), 0x4A39_B60E);
}
