//! What this machine can be for.

use anyhow::{Context, Result, bail, ensure};

use nix::mount::{MntFlags, umount2};

use crate::clock::Clock;
use crate::content::PAGE_WORDS;
use crate::disk::{self, Disk};
use crate::freed::Freed;
use crate::identity::Identity;
use crate::kernel_log::KernelLog;
use crate::memory::Memory;
use crate::messages::Messages;
use crate::network::Network;
use crate::parameters::{Parameters, Role};
use crate::processors::Processors;
use crate::tmpfs::TmpfsFile;
use crate::witness::{self, Witness};
use crate::{bench, console, key, kinds, kjump, machine, mapped, refusals, save, stacked, stale};

/// How much of memory C keeps full of that, in percent. With more there would be no room for the next
/// kernel.
const KEPT_AT_MOST: u8 = 60;

/// What C fills memory with.
const JUNK: u64 = 0xdead_dead_dead_dead;

/// Plays the role that `parameters` name.
pub(crate) fn play(parameters: &Parameters) -> Result<()> {
    machine::prefer_huge_pages();
    match parameters.role {
        Role::Bounce => bounce(parameters),
        Role::Hibernate => hibernate(parameters),
        Role::HibernateInPlace => {
            kjump::tell_boot_line(parameters, &disk::image_disk()?)?;
            hibernate(parameters)
        }
        Role::Resume => resume(parameters, &[]),
        Role::ResumeAgain => resume(parameters, &["--force-again"]),
        Role::DoctorYes => doctor_yes(),
        Role::DoctorNo => refusals::ask(refusals::WITHOUT_KEXEC_JUMP),
        Role::Refusals => refuse(parameters),
        Role::SaveFails => save_fails(parameters),
        Role::NotRoot => refusals::ask(refusals::NOT_ROOT),
        Role::SelfCheck => self_check(parameters),
        Role::Refused => stale::refused(&parameters.expect),
        Role::Stale => stale::stale(),
        Role::Forged => stale::forged(parameters),
        Role::StaleKinds => kinds::stale(),
        Role::StaleMapped => mapped::stale(),
        Role::StaleStacked => stacked::stale(),
        Role::Recover => recover(parameters),
        Role::SaveFull => fail_and_hibernate(parameters, save::full),
        Role::SaveIoError => fail_and_hibernate(parameters, save::io_error),
        Role::SaveVanishes => fail_and_hibernate(parameters, save::vanishes),
        Role::SavePanics => break_down(parameters, "rdinit=/none"),
        Role::SaveHangs => break_down(parameters, "kjump.patience=15"),
        Role::SaveStuck => break_down(parameters, &parameters.append),
        Role::BenchKjump => bench::kjump(parameters),
        Role::BenchKjumpInPlace => bench::kjump_in_place(parameters),
        Role::BenchKjumpResume => bench::kjump_resume(parameters),
        Role::BenchSwsusp => bench::swsusp(parameters),
        Role::BenchSwsuspResume => bench::swsusp_resume(),
    }
}

/// A jumps to B, which comes right back.
fn bounce(parameters: &Parameters) -> Result<()> {
    let mut load = vec!["load"];
    load.extend(kjump::load_options(parameters));
    leave_and_come_back(parameters, || {
        kjump::run(&load)?;
        console::report("ready", "loaded");
        kjump::run(&["jump"])
    })
}

/// A jumps to B, which saves A and powers off; C and D, run later by the lab, bring A back.
fn hibernate(parameters: &Parameters) -> Result<()> {
    if parameters.kinds {
        kinds::use_all()?;
    }
    if parameters.mapped {
        mapped::set_up()?;
        refusals::ask(refusals::MAPPED_TARGET)?;
    }
    let image = disk::image_disk()?;
    let mut hibernate = vec!["hibernate", "--image", &image];
    hibernate.extend(kjump::load_options(parameters));
    if parameters.keep_free {
        hibernate.push("--keep-free");
    }
    hibernate.extend(key::options(parameters.secret)?);
    leave_and_come_back(parameters, || {
        console::report("processes", &machine::processes()?);
        console::report("ready", "to hibernate");
        kjump::run(&hibernate)?;
        if parameters.secret.is_some() {
            return Ok(());
        }
        refusals::ask(refusals::AFTER_RESUME)
    })
}

/// Fills the machine, leaves it by `jump` as often as asked, and verifies it each time.
fn leave_and_come_back(parameters: &Parameters, jump: impl Fn() -> Result<()>) -> Result<()> {
    let mut witnesses = witnesses(parameters)?;
    for number in 1..=parameters.loops {
        witness::before(&mut witnesses)?;
        jump().with_context(|| format!("jump {number}"))?;
        console::report("back", &format!("jump {number}"));
        spoil(&mut witnesses, parameters)?;
        witness::verify(&mut witnesses)?;
    }
    Ok(())
}

/// A hibernates, which `fail` sees fail; all must be well then, and be so after it is tried again.
fn fail_and_hibernate(parameters: &Parameters, fail: fn(&Parameters) -> Result<()>) -> Result<()> {
    let mut witnesses = witnesses(parameters)?;
    witness::before(&mut witnesses)?;
    console::report("ready", "to fail");
    fail(parameters)?;
    witness::verify(&mut witnesses)?;
    console::report("unharmed", "yes");
    witness::before(&mut witnesses)?;
    kjump::run(&save::hibernate(parameters, &disk::image_disk()?)?)?;
    witness::verify(&mut witnesses)
}

/// A jumps to B, which does not come back and does not save it either.
fn break_down(parameters: &Parameters, append: &str) -> Result<()> {
    let mut witnesses = witnesses(parameters)?;
    witness::before(&mut witnesses)?;
    console::report("ready", "to break down");
    let image = disk::image_disk()?;
    let append = format!("no_timer_check {append}");
    kjump::run(&[
        "hibernate",
        "--image",
        &image,
        "--kernel",
        kjump::KERNEL,
        "--append",
        &append,
    ])?;
    bail!("kjump hibernate returned")
}

/// A jumps to B, which cannot save it: its device has lost what A prepared there. So B comes back.
fn save_fails(parameters: &Parameters) -> Result<()> {
    let image = disk::image_disk()?;
    // There are no core headers, so no /proc/vmcore either.
    let blind = Parameters {
        append: format!("{} elfcorehdr=0", parameters.append),
        ..parameters.clone()
    };
    leave_and_come_back(parameters, || {
        for parameters in [parameters, &blind] {
            let mut load = vec!["load", "--image", &image];
            load.extend(kjump::load_options(parameters));
            kjump::run(&load)?;
            disk::wipe(&image)?;
            console::report("ready", "loaded");
            kjump::run(&["jump"])?;
        }
        Ok(())
    })
}

/// C: makes sure that free memory holds nothing of value, and resumes A.
fn resume(parameters: &Parameters, more: &[&str]) -> Result<()> {
    let percent = parameters.fill + parameters.churn;
    let kept = junk(percent.min(KEPT_AT_MOST))?;
    let dropped = junk(percent.saturating_sub(KEPT_AT_MOST))?;
    let bytes = (kept.len() + dropped.len()) * 8;
    drop(dropped);
    console::report("ready", &format!("spoilt {} MiB", bytes >> 20));
    // These have no key, and are told so, which is looked at below.
    if parameters.secret.is_none() {
        refusals::ask(refusals::BEFORE_RESUME)?;
    }
    if !parameters.expect.is_empty() {
        stale::accepted(&parameters.expect)?;
    }
    let image = disk::image_disk()?;
    let mut resume = vec!["resume", "--image", &image];
    resume.extend(kjump::kernel_options(parameters));
    resume.extend(more);
    if let Some(secret) = parameters.secret {
        key::refuse_others(secret, &resume)?;
    }
    resume.extend(key::options(parameters.secret)?);
    kjump::run(&resume)?;
    // It is held until now: a kernel may clear what is freed, and a page that is not restored must not
    // be right by chance.
    ensure!(is_junk(&kept), "the junk changed");
    bail!("kjump resume returned")
}

/// C after a power cut: resumes A, or boots normally, which is to mount the file system and write to it.
fn recover(parameters: &Parameters) -> Result<()> {
    let junk = junk(parameters.fill.min(KEPT_AT_MOST))?;
    let image = disk::image_disk()?;
    let mut resume = vec!["resume", "--image", &image];
    resume.extend(kjump::kernel_options(parameters));
    let outcome = kjump::try_run(&resume, 0)?;
    ensure!(is_junk(&junk), "the junk changed");
    ensure!(
        outcome.status == Some(1),
        "kjump resume ended with {:?}: {}",
        outcome.status,
        outcome.output
    );
    console::report("booted", &outcome.output);
    disk::mount_ext4(&disk::data_disk()?)?;
    std::fs::write(format!("{}/by-c", disk::MOUNT_POINT), "C was here")?;
    Ok(umount2(disk::MOUNT_POINT, MntFlags::empty())?)
}

/// So much of all memory, full of what no page of A's holds.
fn junk(percent: u8) -> Result<Vec<u64>> {
    let bytes = machine::memory_size()? / 100 * u64::from(percent);
    // Not zero, which some of A's pages are.
    let junk = vec![JUNK; usize::try_from(bytes / 8)?];
    ensure!(is_junk(&junk), "the junk changed");
    Ok(junk)
}

fn is_junk(words: &[u64]) -> bool {
    words.iter().step_by(PAGE_WORDS).all(|&word| word == JUNK)
}

fn doctor_yes() -> Result<()> {
    kjump::run(&["doctor"])?;
    kjump::run(&["doctor", "--json"])
}

/// Asks for what must be refused, and verifies that nothing of it did harm.
fn refuse(parameters: &Parameters) -> Result<()> {
    let mut witnesses = witnesses(parameters)?;
    witness::before(&mut witnesses)?;
    refusals::ask(refusals::BAD_REQUESTS)?;
    witness::verify(&mut witnesses)
}

/// Verifies what nothing happened to, and sees that harm to each thing is noticed.
fn self_check(parameters: &Parameters) -> Result<()> {
    let mut witnesses = witnesses(parameters)?;
    witness::before(&mut witnesses)?;
    spoil(&mut witnesses, parameters)?;
    witness::verify(&mut witnesses)?;

    witness::before(&mut witnesses)?;
    for witness in &mut witnesses {
        let name = witness.name();
        witness
            .spoil()
            .with_context(|| format!("spoiling {name}"))?;
        match witness.verify() {
            Ok(state) => bail!("{name}: the harm was not noticed: {state}"),
            Err(error) => console::report(&format!("noticed.{name}"), &format!("{error:#}")),
        }
    }
    Ok(())
}

/// All that this machine holds.
fn witnesses(parameters: &Parameters) -> Result<Vec<Box<dyn Witness>>> {
    let seed = parameters.seed;
    let flags = machine::read("/proc/cpuinfo")?;
    let levels = if flags.split_whitespace().any(|flag| flag == "la57") {
        5
    } else {
        4
    };
    console::report("paging-levels", &levels.to_string());
    console::report("nodes", &machine::nodes()?.to_string());
    let mut witnesses: Vec<Box<dyn Witness>> = vec![
        Box::new(Identity::learn()?),
        Box::new(Clock::read()),
        Box::new(Memory::fill(parameters.content(), parameters.fill)?),
    ];
    if parameters.churn > 0 {
        witnesses.push(Box::new(Freed::new(seed, parameters.churn)));
    }
    witnesses.push(Box::new(TmpfsFile::write(seed)?));
    witnesses.push(Box::new(Messages::start()?));
    witnesses.push(Box::new(Disk::mount(seed)?));
    if parameters.stacked {
        for disk in stacked::set_up(seed)? {
            witnesses.push(Box::new(disk));
        }
    }
    witnesses.push(Box::new(Network::new(seed)));
    // After those that have the kernel do something.
    witnesses.push(Box::new(KernelLog::open()?));
    // Last, because spoiling it takes a CPU away from the others.
    witnesses.push(Box::new(Processors::start()?));
    Ok(witnesses)
}

/// Spoils what the lab wants spoilt, if anything.
fn spoil(witnesses: &mut [Box<dyn Witness>], parameters: &Parameters) -> Result<()> {
    let Some(name) = &parameters.spoil else {
        return Ok(());
    };
    witnesses
        .iter_mut()
        .find(|witness| witness.name() == name)
        .with_context(|| format!("there is no {name} to spoil"))?
        .spoil()
        .with_context(|| format!("spoiling {name}"))
}
