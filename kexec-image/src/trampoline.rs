//! The machine code between two kernels.
//!
//! A kernel that jumps leaves the CPU in long mode with interrupts off, on identity-mapped page tables
//! of its own, with no usable GDT, no IDT, and undefined general registers
//! (`arch/x86/kernel/relocate_kernel_64.S`, `identity_mapped`). Three pieces of code start from there:
//!
//! * [`boot`] enters a kernel at its 64-bit entry as the boot protocol wants it
//!   (`Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol"): flat segments 0x10 and 0x18, `rsi`
//!   pointing to the boot parameters. If it is the saving kernel, the word at `(%rsp)` is the
//!   jump-back entry, which is written into the command line. After a plain kexec there may be
//!   anything, or nothing, at `(%rsp)`, so then it is not looked at.
//! * [`resume`] goes back into a kernel that jumped away. Kernels without commit 07fa619f of Linux
//!   6.13 come back with the GDT that they left with, none, and fault at their first segment load. So
//!   it loads a GDT *by the address that it has in the resumed kernel*: `lgdt` only stores a number,
//!   and when it is used the kernel is back on its own page tables.
//!
//! * [`wipe_and_resume`] does the same, and zeroes all that the kernel used that goes back ([`wipe`](crate::wipe)),
//!   on page tables of its own.
//!
//! All are position-independent and are followed by words that are filled in before they are loaded.
#![allow(
    unsafe_code,
    reason = "machine code that the assembler made is only reachable as a symbol"
)]

use byteorder::{ByteOrder, LE};
use vmcore::{PhysAddr, PhysRange};

/// Where a kernel maps the read-only GDT of its first CPU: the second page of that CPU's entry area
/// (`CPU_ENTRY_AREA_RO_IDT` plus a page, `arch/x86/include/asm/cpu_entry_area.h`). From Linux 6.2 on
/// the area may be at a random place; those kernels need commit 07fa619f, which all of them that are
/// maintained have.
const CPU_0_GDT: u64 = 0xffff_fe00_0000_1000;
/// `GDT_SIZE - 1`: 16 entries of 8 bytes.
const GDT_LIMIT: u16 = 0x7f;

core::arch::global_asm!(
    ".pushsection .rodata.kexec_image_trampolines, \"a\", @progbits",
    ".balign 16",
    "kexec_image_boot_start:",
    "    cli",
    "    cld",
    "    mov rdi, [rip + 70f]", // where the digits go, or 0
    "    test rdi, rdi",
    "    jz 3f",
    "    mov rax, [rsp]", // the jump-back entry
    "    lea rbx, [rip + 5f]",
    "    mov ecx, 16",
    "2:  rol rax, 4", // the highest digit first
    "    mov edx, eax",
    "    and edx, 15",
    "    mov dl, [rbx + rdx]",
    "    mov [rdi], dl",
    "    inc rdi",
    "    dec ecx",
    "    jnz 2b",
    "3:  mov rsi, [rip + 64f]", // low memory that this kernel is about to use, put aside
    "    mov rdi, [rip + 65f]",
    "    mov rcx, [rip + 66f]",
    "    rep movsb",
    "    lea rsp, [rip + 69f]",
    "    lea rax, [rip + 6f]",
    "    mov [rip + 7f + 2], rax",
    "    lgdt [rip + 7f]",
    "    mov eax, 0x18",
    "    mov ds, eax",
    "    mov es, eax",
    "    mov ss, eax",
    "    mov fs, eax",
    "    mov gs, eax",
    "    mov rsi, [rip + 71f]", // the boot parameters
    "    xor ebx, ebx",
    "    xor ebp, ebp",
    "    xor edi, edi",
    "    push 0x10",
    "    push qword ptr [rip + 72f]", // the kernel's entry
    "    retfq",
    "5:  .ascii \"0123456789abcdef\"",
    "    .balign 16",
    "6:  .quad 0, 0, 0x00af9a000000ffff, 0x00cf92000000ffff", // flat code is 0x10, flat data 0x18
    "7:  .word 31",
    "    .quad 0",
    "    .balign 16",
    "    .fill 8, 8, 0", // a stack for the far return
    "69:",
    "64: .quad 0",
    "65: .quad 0",
    "66: .quad 0",
    "70: .quad 0",
    "71: .quad 0",
    "72: .quad 0",
    "kexec_image_boot_end:",
    ".balign 16",
    "kexec_image_resume_start:",
    // The stack stays what it is: the resumed kernel looks at it.
    "    lgdt [rip + 81f]",
    "    jmp [rip + 80f]",
    "    .balign 16",
    "80: .quad 0",
    "81: .word 0",
    "    .quad 0",
    "kexec_image_resume_end:",
    ".balign 16",
    "kexec_image_wipe_start:",
    "    mov rax, [rip + 92f]",
    "    mov cr3, rax",
    // The resumed kernel reads two words of the stack, and finds none that mean anything.
    "    lea rsp, [rip + 93f]",
    "    lgdt [rip + 91f]",
    "    cld",
    "    lea rsi, [rip + 95f]",
    "2:  mov rdi, [rsi]",
    "    mov rcx, [rsi + 8]",
    "    add rsi, 16",
    "    test rcx, rcx",
    "    jz 3f",
    "    xor eax, eax",
    "    rep stosq",
    "    jmp 2b",
    "3:  jmp [rip + 94f]",
    "    .balign 16",
    "    .fill 8, 8, 0",
    "93: .quad 0, 0",
    "94: .quad 0",
    "92: .quad 0",
    "91: .word 0",
    "    .quad 0",
    "    .balign 16",
    "95:", // what is zeroed: an address, and how many words; no words are the end
    "kexec_image_wipe_end:",
    ".popsection",
);

unsafe extern "C" {
    #[link_name = "kexec_image_boot_start"]
    static BOOT_START: u8;
    #[link_name = "kexec_image_boot_end"]
    static BOOT_END: u8;
    #[link_name = "kexec_image_resume_start"]
    static RESUME_START: u8;
    #[link_name = "kexec_image_resume_end"]
    static RESUME_END: u8;
    #[link_name = "kexec_image_wipe_start"]
    static WIPE_START: u8;
    #[link_name = "kexec_image_wipe_end"]
    static WIPE_END: u8;
}

/// A copy of the machine code between two symbols.
///
/// # Safety
///
/// Both symbols must be in one piece of read-only data, `start` not behind `end`.
unsafe fn code(start: *const u8, end: *const u8) -> Vec<u8> {
    // SAFETY: the caller says that the bytes between are one object that nothing ever changes.
    unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }.to_vec()
}

/// Memory that is copied before the kernel is entered that will use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backup {
    /// What is copied.
    pub(crate) from: PhysRange,
    /// Where to.
    pub(crate) to: PhysAddr,
}

/// Code that enters a kernel: `entry` with `boot_params`. If `jump_back_digits` is given, the word on
/// top of the stack goes there first, as 16 hexadecimal digits; if `backup` is given, it is made.
pub(crate) fn boot(
    entry: PhysAddr,
    boot_params: PhysAddr,
    jump_back_digits: Option<PhysAddr>,
    backup: Option<Backup>,
) -> Vec<u8> {
    // SAFETY: the assembler put the two symbols around the code above, in read-only data.
    let mut code = unsafe { code(&raw const BOOT_START, &raw const BOOT_END) };
    // The last words of the code, in order. Of no backup, the length is 0.
    let words = [
        backup.map_or(0, |backup| backup.from.start().get()),
        backup.map_or(0, |backup| backup.to.get()),
        backup.map_or(0, |backup| backup.from.len()),
        jump_back_digits.unwrap_or_default().get(),
        boot_params.get(),
        entry.get(),
    ];
    let start = code.len() - 8 * words.len();
    for (place, word) in code[start..].chunks_exact_mut(8).zip(words) {
        LE::write_u64(place, word);
    }
    code
}

/// Code that goes back into a kernel that jumped away, at its jump-back entry `entry`.
pub(crate) fn resume(entry: PhysAddr) -> Vec<u8> {
    // SAFETY: the assembler put the two symbols around the code above, in read-only data.
    let mut code = unsafe { code(&raw const RESUME_START, &raw const RESUME_END) };
    // The entry, and the operand of `lgdt`: limit and base.
    let words = code.len() - (8 + 2 + 8);
    LE::write_u64(&mut code[words..], entry.get());
    LE::write_u16(&mut code[words + 8..], GDT_LIMIT);
    LE::write_u64(&mut code[words + 10..], CPU_0_GDT);
    code
}

/// Code that zeroes `ranges`, which are whole words and not where it lies itself, and goes back into a kernel
/// that jumped away, at its jump-back entry `entry`. The page tables whose root is at `tables` map all of that.
pub(crate) fn wipe_and_resume(entry: PhysAddr, tables: PhysAddr, ranges: &[PhysRange]) -> Vec<u8> {
    // SAFETY: the assembler put the two symbols around the code above, in read-only data.
    let mut code = unsafe { code(&raw const WIPE_START, &raw const WIPE_END) };
    // The entry, the page tables, the operand of `lgdt`, and what fills 16 bytes up.
    let words = code.len() - (8 + 8 + 2 + 8 + 6);
    LE::write_u64(&mut code[words..], entry.get());
    LE::write_u64(&mut code[words + 8..], tables.get());
    LE::write_u16(&mut code[words + 16..], GDT_LIMIT);
    LE::write_u64(&mut code[words + 18..], CPU_0_GDT);
    for range in ranges {
        code.extend(range.start().get().to_le_bytes());
        code.extend((range.len() / 8).to_le_bytes());
    }
    code.extend([0; 16]);
    code
}

/// What such code zeroes.
#[cfg(test)]
pub(crate) fn wiped(code: &[u8]) -> Vec<PhysRange> {
    // SAFETY: as above.
    let list = unsafe { self::code(&raw const WIPE_START, &raw const WIPE_END) }.len();
    let words = code[list..].chunks_exact(16).map(|words| {
        let start = PhysAddr::new(LE::read_u64(words));
        PhysRange::from_len(start, 8 * LE::read_u64(&words[8..]))
    });
    words.map_while(|range| range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_filled_in_behind_the_code() {
        let [entry, params, digits] = [0x111, 0x222, 0x333].map(PhysAddr::new);
        let with = boot(entry, params, Some(digits), None);
        let without = boot(entry, params, None, None);
        assert_eq!(with.len(), without.len());
        assert!(with.len() < 4096);
        let differing: Vec<_> = (0..with.len())
            .filter(|&at| with[at] != without[at])
            .collect();
        let words = with.len() - 24;
        assert_eq!(differing, [words, words + 1]);
        assert_eq!(LE::read_u64(&with[words + 8..]), 0x222);
        assert_eq!(LE::read_u64(&with[words + 16..]), 0x111);
        let from = PhysRange::new(0x1000, 0x9f000).unwrap();
        let to = PhysAddr::new(0x5678_0000);
        let saving = boot(entry, params, None, Some(Backup { from, to }));
        let backup = saving.len() - 48;
        let word = |at: usize| LE::read_u64(&saving[backup + at..]);
        assert_eq!((word(0), word(8), word(16)), (0x1000, 0x5678_0000, 0x9e000));
        assert_eq!(LE::read_u64(&without[backup + 16..]), 0);
        // `cli` is the first thing that happens.
        assert_eq!(with[0], 0xfa);
    }

    #[test]
    fn the_way_back_can_leave_nothing() {
        let ranges = [(0x1000, 0x9f000), (0x100_3000, 0x700_0000)];
        let ranges = ranges.map(|(start, end)| PhysRange::new(start, end).unwrap());
        let (entry, tables) = (PhysAddr::new(0x1234_50f2), PhysAddr::new(0x100_1000));
        let code = wipe_and_resume(entry, tables, &ranges);
        assert_eq!(wiped(&code), ranges);
        // mov rax, [rip + x]; mov cr3, rax; lea rsp, [rip + y]; lgdt [rip + z]
        let operand = |at: usize| at + 4 + LE::read_u32(&code[at..]) as usize;
        assert_eq!(&code[..3], [0x48, 0x8b, 0x05]);
        assert_eq!(LE::read_u64(&code[operand(3)..]), 0x100_1000);
        assert_eq!(&code[7..10], [0x0f, 0x22, 0xd8]);
        assert_eq!(&code[10..13], [0x48, 0x8d, 0x25]);
        let stack = operand(13);
        assert!(stack.is_multiple_of(16) && code[stack - 64..stack + 16] == [0; 80]);
        assert_eq!(LE::read_u64(&code[stack + 16..]), 0x1234_50f2);
        assert_eq!(&code[17..20], [0x0f, 0x01, 0x15]);
        let lgdt = operand(20);
        assert_eq!(LE::read_u16(&code[lgdt..]), 0x7f);
        assert_eq!(LE::read_u64(&code[lgdt + 2..]), 0xffff_fe00_0000_1000);
    }

    #[test]
    fn the_way_back_loads_a_gdt_and_jumps() {
        let code = resume(PhysAddr::new(0x1234_50f2));
        // lgdt [rip + x]; jmp [rip + y]: both operands lie in the code, where they were filled in.
        assert_eq!(&code[..3], [0x0f, 0x01, 0x15]);
        let lgdt = 7 + LE::read_u32(&code[3..]) as usize;
        assert_eq!(LE::read_u16(&code[lgdt..]), 0x7f);
        assert_eq!(LE::read_u64(&code[lgdt + 2..]), 0xffff_fe00_0000_1000);
        assert_eq!(&code[7..9], [0xff, 0x25]);
        let jmp = 13 + LE::read_u32(&code[9..]) as usize;
        assert_eq!(LE::read_u64(&code[jmp..]), 0x1234_50f2);
    }
}
