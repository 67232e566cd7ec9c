//! Machines whose hibernation is timed: by `kjump`, and by the kernel itself.
//!
//! Both hold the same content, and do nothing between `ready` and the hibernation, nor between the
//! hibernation and `back`.

use anyhow::{Context, Result, bail};

use crate::identity::Identity;
use crate::memory::Memory;
use crate::parameters::Parameters;
use crate::tmpfs::TmpfsFile;
use crate::witness::{self, Witness};
use crate::{console, key, kjump, machine, swap};

/// A, which `kjump` hibernates.
pub(crate) fn kjump(parameters: &Parameters) -> Result<()> {
    let image = disk()?;
    let mut hibernate = vec!["hibernate", "--image", &image];
    hibernate.extend(kjump::load_options(parameters));
    if parameters.keep_free {
        hibernate.push("--keep-free");
    }
    if let Some(codec) = &parameters.codec {
        hibernate.extend(["--codec", codec]);
    }
    hibernate.extend(key::options(parameters.secret)?);
    there_and_back(parameters, || kjump::run(&hibernate))
}

/// The same, for a kernel that is started in the window to resume it.
pub(crate) fn kjump_in_place(parameters: &Parameters) -> Result<()> {
    kjump::tell_boot_line(parameters, &disk()?)?;
    kjump(parameters)
}

/// C, which has `kjump` resume A.
pub(crate) fn kjump_resume(parameters: &Parameters) -> Result<()> {
    let image = disk()?;
    let mut resume = vec!["resume", "--image", &image];
    resume.extend(kjump::kernel_options(parameters));
    resume.extend(key::options(parameters.secret)?);
    kjump::run(&resume)?;
    bail!("kjump resume returned")
}

/// A, which its own kernel hibernates (`Documentation/power/swsusp.rst`).
pub(crate) fn swsusp(parameters: &Parameters) -> Result<()> {
    let compressor = machine::read("/sys/module/hibernate/parameters/compressor")?;
    console::report("compressor", compressor.trim_end());
    // The kernel would otherwise free memory until two fifths of it are left, which takes long. It goes
    // down to half of memory in any case.
    let all = machine::memory_size()?;
    machine::write("/sys/power/image_size", &all.to_string())?;
    machine::write("/sys/power/disk", "shutdown")?;
    swap::on(&disk()?)?;
    there_and_back(parameters, || machine::write("/sys/power/state", "disk"))
}

/// What runs when the kernel did not find A's image, or refused it.
pub(crate) fn swsusp_resume() -> Result<()> {
    bail!("the kernel did not resume: its log above tells why")
}

/// The only disk.
fn disk() -> Result<String> {
    machine::disks()?.into_iter().next().context("no disk")
}

fn there_and_back(parameters: &Parameters, hibernate: impl Fn() -> Result<()>) -> Result<()> {
    let mut witnesses: Vec<Box<dyn Witness>> = vec![
        Box::new(Identity::learn()?),
        Box::new(Memory::fill(parameters.content(), parameters.fill)?),
        Box::new(TmpfsFile::write(parameters.seed)?),
    ];
    witness::before(&mut witnesses)?;
    console::report("ready", "to hibernate");
    hibernate()?;
    console::report("back", "in A");
    // What went there to make room for the image is not in memory yet.
    console::report("swapped", &format!("{} MiB", machine::swapped()? >> 20));
    witness::verify(&mut witnesses)
}
