//! What keys leave in a process besides its variables: on its stack, and in registers that the kernel saves.
#![allow(unsafe_code, reason = "only instructions reach all vector registers")]

use std::arch::asm;
use std::thread;
use std::time::Duration;

use zeroize::Zeroize;

/// Overwrites what was left by what was called before and has returned: on the stack of this thread, and in
/// the vector registers, which the kernel keeps in its own memory whenever it runs something else, and after the end
/// of the process. For programs that have handled a [`Seal`](vmcore::image::Seal), when that is dropped.
#[inline(never)]
pub fn overwrite() {
    /// More than reading an image takes.
    const DEPTH: usize = 256 << 10;

    [0_u8; DEPTH].zeroize();
    overwrite_registers();
    // Something else runs meanwhile, or nothing: either way these registers are saved over those before.
    thread::sleep(Duration::from_millis(1));
}

/// Lets all bits of the vector registers be one.
///
/// Not zero: of registers that are, CPUs save only that they are (XSAVES and its like, "init optimization" in
/// Intel's manual, volume 1, 13.6), and what was saved before stays.
fn overwrite_registers() {
    macro_rules! run {
        ($($code:literal),* $(,)?) => {
            // SAFETY: the instructions write vector registers and nothing else. The CPU has them: as was asked, or as
            // all of 64 bits do. The compiler is told of all registers that it may use; those from 16 on it uses only
            // in code for AVX-512, which this is not.
            unsafe {
                asm!($($code),*, out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
                    out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
                    out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _,
                    out("xmm15") _, options(nomem, nostack, preserves_flags));
            }
        };
    }
    if is_x86_feature_detected!("avx512f") {
        run!(
            "vpternlogd zmm0, zmm0, zmm0, 255",
            "vpternlogd zmm1, zmm1, zmm1, 255",
            "vpternlogd zmm2, zmm2, zmm2, 255",
            "vpternlogd zmm3, zmm3, zmm3, 255",
            "vpternlogd zmm4, zmm4, zmm4, 255",
            "vpternlogd zmm5, zmm5, zmm5, 255",
            "vpternlogd zmm6, zmm6, zmm6, 255",
            "vpternlogd zmm7, zmm7, zmm7, 255",
            "vpternlogd zmm8, zmm8, zmm8, 255",
            "vpternlogd zmm9, zmm9, zmm9, 255",
            "vpternlogd zmm10, zmm10, zmm10, 255",
            "vpternlogd zmm11, zmm11, zmm11, 255",
            "vpternlogd zmm12, zmm12, zmm12, 255",
            "vpternlogd zmm13, zmm13, zmm13, 255",
            "vpternlogd zmm14, zmm14, zmm14, 255",
            "vpternlogd zmm15, zmm15, zmm15, 255",
            "vpternlogd zmm16, zmm16, zmm16, 255",
            "vpternlogd zmm17, zmm17, zmm17, 255",
            "vpternlogd zmm18, zmm18, zmm18, 255",
            "vpternlogd zmm19, zmm19, zmm19, 255",
            "vpternlogd zmm20, zmm20, zmm20, 255",
            "vpternlogd zmm21, zmm21, zmm21, 255",
            "vpternlogd zmm22, zmm22, zmm22, 255",
            "vpternlogd zmm23, zmm23, zmm23, 255",
            "vpternlogd zmm24, zmm24, zmm24, 255",
            "vpternlogd zmm25, zmm25, zmm25, 255",
            "vpternlogd zmm26, zmm26, zmm26, 255",
            "vpternlogd zmm27, zmm27, zmm27, 255",
            "vpternlogd zmm28, zmm28, zmm28, 255",
            "vpternlogd zmm29, zmm29, zmm29, 255",
            "vpternlogd zmm30, zmm30, zmm30, 255",
            "vpternlogd zmm31, zmm31, zmm31, 255"
        );
    } else if is_x86_feature_detected!("avx2") {
        run!(
            "vpcmpeqd ymm0, ymm0, ymm0",
            "vpcmpeqd ymm1, ymm1, ymm1",
            "vpcmpeqd ymm2, ymm2, ymm2",
            "vpcmpeqd ymm3, ymm3, ymm3",
            "vpcmpeqd ymm4, ymm4, ymm4",
            "vpcmpeqd ymm5, ymm5, ymm5",
            "vpcmpeqd ymm6, ymm6, ymm6",
            "vpcmpeqd ymm7, ymm7, ymm7",
            "vpcmpeqd ymm8, ymm8, ymm8",
            "vpcmpeqd ymm9, ymm9, ymm9",
            "vpcmpeqd ymm10, ymm10, ymm10",
            "vpcmpeqd ymm11, ymm11, ymm11",
            "vpcmpeqd ymm12, ymm12, ymm12",
            "vpcmpeqd ymm13, ymm13, ymm13",
            "vpcmpeqd ymm14, ymm14, ymm14",
            "vpcmpeqd ymm15, ymm15, ymm15"
        );
    } else {
        run!(
            "pcmpeqd xmm0, xmm0",
            "pcmpeqd xmm1, xmm1",
            "pcmpeqd xmm2, xmm2",
            "pcmpeqd xmm3, xmm3",
            "pcmpeqd xmm4, xmm4",
            "pcmpeqd xmm5, xmm5",
            "pcmpeqd xmm6, xmm6",
            "pcmpeqd xmm7, xmm7",
            "pcmpeqd xmm8, xmm8",
            "pcmpeqd xmm9, xmm9",
            "pcmpeqd xmm10, xmm10",
            "pcmpeqd xmm11, xmm11",
            "pcmpeqd xmm12, xmm12",
            "pcmpeqd xmm13, xmm13",
            "pcmpeqd xmm14, xmm14",
            "pcmpeqd xmm15, xmm15"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registers_held_is_gone() {
        let left: u64;
        // SAFETY: the instruction writes a register that the compiler is told of.
        unsafe { asm!("movq xmm15, {}", in(reg) 0x1234_5678_9abc_def0_u64, out("xmm15") _) };
        overwrite_registers();
        // SAFETY: the instruction reads a vector register and writes one that the compiler has chosen for it.
        unsafe { asm!("movq {}, xmm15", out(reg) left) };
        assert_eq!(left, u64::MAX);
    }

    #[test]
    fn nothing_else_is_overwritten() {
        let numbers: Vec<f64> = (0..64).map(f64::from).collect();
        let sum: f64 = numbers.iter().sum();
        overwrite();
        assert_eq!(numbers.iter().sum::<f64>(), sum);
    }
}
