//! The lab of this project: `cargo xtask`.
//!
//! It builds test kernels, boots virtual machines with them, has `kjump` stop and resume those, and
//! judges what came back. `cargo xtask` alone lists what there is.

#![forbid(unsafe_code)]

mod analysis;
mod bench;
mod build;
mod check;
mod console;
mod control;
mod course;
mod demo;
mod depmod;
mod disk;
mod encrypted;
mod faults;
mod forge;
mod judge;
mod keys;
mod lab;
mod lookout;
mod machine;
mod makedumpfile;
mod module;
mod qemu;
mod rfc;
mod run;
mod scenario;
mod settings;
mod test;
mod transcript;
mod vm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;

/// Something to do: `cargo xtask NAME ARGUMENTS`.
struct Task {
    name: &'static str,
    summary: &'static str,
    run: fn(&[String]) -> Result<()>,
}

/// All there is to do.
const TASKS: &[Task] = &[
    Task {
        name: "demo",
        summary: "hibernate a virtual machine and resume it, telling what happens",
        run: demo::main,
    },
    Task {
        name: "test",
        summary: "run all tests and all scenarios",
        run: test::main,
    },
    Task {
        name: "matrix",
        summary: "run the main scenarios on every kernel of the lab",
        run: test::matrix,
    },
    Task {
        name: "vm",
        summary: "run one scenario, with any kernel, machine and memory",
        run: vm::main,
    },
    Task {
        name: "rfc",
        summary: "go through the 2007 mail with `kexec` and `krestore`, and compare with kexec-tools",
        run: rfc::main,
    },
    Task {
        name: "analyse",
        summary: "show what crash, drgn, gdb and makedumpfile make of a core",
        run: analysis::main,
    },
    Task {
        name: "faults",
        summary: "cut the power at many moments of a save and a resume, and judge what becomes of the machine",
        run: faults::main,
    },
    Task {
        name: "bench",
        summary: "compare with makedumpfile and with the kernel's own hibernation, side by side",
        run: bench::main,
    },
    Task {
        name: "lab",
        summary: "build or fetch what the scenarios need",
        run: |arguments| lab::main(arguments.iter().cloned()),
    },
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next();
    let Some(task) = TASKS.iter().find(|task| Some(task.name) == name.as_deref()) else {
        eprintln!("usage: cargo xtask TASK [ARGUMENT...]\n");
        for task in TASKS {
            eprintln!("  {:8} {}", task.name, task.summary);
        }
        return ExitCode::from(2);
    };
    let arguments: Vec<String> = arguments.collect();
    match (task.run)(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {}: {error:#}", task.name);
            ExitCode::FAILURE
        }
    }
}

/// The folder of the whole workspace.
fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where logs of runs and disks of machines are.
fn runs_folder() -> PathBuf {
    workspace().join("target/lab")
}
