//! `cargo xtask demo`: one round trip, for someone who has never seen one.

use std::time::Instant;

use anyhow::Result;
use clap::Parser;

use crate::judge::UNCHANGED;
use crate::lab::Lab;
use crate::run::{Event, Run, Runner};
use crate::{build, console, scenario};

/// Hibernate a virtual machine and resume it, and tell what happens
#[derive(Parser)]
#[command(name = "cargo xtask demo", bin_name = "cargo xtask demo")]
struct Arguments {}

/// What A reports, and how to say it.
const REPORTS: &[(&str, &str)] = &[
    ("before.boot-id", "the kernel's id of this boot:"),
    ("before.memory", "memory of processes:"),
    ("before.tmpfs", "tmpfs:"),
    ("before.messages", "messages from one process to another:"),
    ("before.disk", "disk:"),
    ("after.boot-id", "the kernel's id of this boot:"),
    ("after.memory", "memory of processes:"),
    ("after.tmpfs", "tmpfs:"),
    ("after.messages", "messages from one process to another:"),
    ("after.disk", "disk:"),
    ("after.network", "network:"),
    ("after.cpus", "CPUs:"),
    ("after.clock", "clocks since A was left:"),
];

const INTRODUCTION: &str = "\
A whole machine is hibernated here by kexec: what it holds goes to a disk, the power goes off, and later the
machine goes on as if nothing had been. Four kernels take part.

  A  is the machine. It loads a second kernel beside itself and jumps to it.
  B  is that kernel. It sees all of A's memory, saves it to a disk, and powers off.
  C  boots after power on, finds the image on the disk, and jumps to one more kernel.
  D  is that. It puts A's memory back to where it was, and jumps into it. A goes on.
";

/// Runs the task.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    Arguments::parse_from([&["demo".to_owned()], arguments].concat());
    let run = Run::of(scenario::find("loop")?);
    let settings = &run.settings;
    let runner = Runner {
        lab: &Lab::set_up(&[settings.kernel])?,
        binaries: &build::binaries()?,
        keep: false,
        verbose: false,
    };
    println!("{INTRODUCTION}");
    println!(
        "The machine is emulated by QEMU, without KVM: {} CPUs, {} MiB of memory, Linux {} as all four.",
        settings.cpus, settings.memory, settings.kernel
    );
    let started = Instant::now();
    let boots = runner.run(&run, &mut tell)?;
    println!("\nA, before it was left and after it came back:\n");
    for thing in UNCHANGED {
        for (boot, moment) in boots.iter().zip(["before", "after"]) {
            for value in boot.values(&format!("{moment}.{thing}")) {
                println!("  {thing:8} {moment:6} {value}");
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("\nIts file system is clean. All of it took {seconds:.1} s.\n");
    println!("round trip: ok");
    Ok(())
}

/// Tells what happens while it does.
fn tell(event: Event<'_>) {
    match event {
        Event::PowerOn(1) => println!("\nPower on. The machine is A."),
        Event::PowerOn(_) => println!("\nPower on again. The machine is C now."),
        Event::Done(phase, took) => println!("{:7.2} s  {}", took.as_secs_f64(), phase.title),
        Event::Found(found) => println!("             {found}"),
        Event::Said(line) => {
            let told = REPORTS
                .iter()
                .find_map(|(key, words)| Some((words, console::value(line, key)?)));
            if let Some((words, value)) = told {
                println!("             {words} {value}");
            }
        }
    }
}
