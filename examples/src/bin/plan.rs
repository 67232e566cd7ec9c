//! `plan KERNEL IOMEM [WINDOW]`: prints what would be loaded on a machine that is not this one.
//!
//! Everything up to a plan is pure: it needs a kernel file and a copy of `/proc/iomem` (made by root;
//! others see zeros there), no rights, and no kernel that obeys.
#![forbid(unsafe_code)]

use std::fs;

use anyhow::{Context, Result, bail};
use kjump::memory::IoMem;
use kjump::memory::image::{Paging, Platform};
use kjump::{Hibernation, Kernel, Machine, window};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (kernel, iomem, window) = match arguments.as_slice() {
        [kernel, iomem] => (kernel, iomem, window::Request::default()),
        [kernel, iomem, window] => (kernel, iomem, window.parse()?),
        _ => bail!("usage: plan KERNEL IOMEM [SIZE[@ADDRESS]]"),
    };
    let file = fs::read(kernel).with_context(|| format!("cannot read {kernel}"))?;
    let kernel = Kernel::parse(&file)?;
    let iomem = fs::read_to_string(iomem).with_context(|| format!("cannot read {iomem}"))?;
    let machine = Machine {
        release: kernel.release().unwrap_or("unknown").to_owned(),
        build_id: Vec::new(),
        iomem: IoMem::parse(&iomem)?,
        paging: Paging::FourLevel,
        rsdp: None,
        direct_map: None,
        free_fill: None,
        uptime: 90_061,
        platform: Platform::default(),
        volumes: Vec::new(),
        vmcoreinfo: None,
    };
    let prepared = Hibernation {
        machine: &machine,
        kernel: &kernel,
        initramfs: &[],
        append: "",
        window,
        secret: None,
    }
    .prepare()?;
    println!(
        "kernel {} in the window {}",
        machine.release, prepared.identity.window
    );
    println!("{}", prepared.plan);
    println!("an image takes {} MiB at most", prepared.image_size() >> 20);
    Ok(())
}
