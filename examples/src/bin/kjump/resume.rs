//! In kernel C: leave for the kernel that restores.

use anyhow::Result;
use kjump::image::Boot;
use kjump::{Error, Kernel, Resumption, machine};

use crate::cli;
use crate::report::say;
use crate::role::{self, Role};

/// `kjump resume`
pub(crate) fn run(resume: &cli::Resume) -> Result<()> {
    let machine = machine::read()?;
    let resumption = Resumption::open(&machine, &resume.image)?;
    let identity = resumption.image().identity();
    say!("image accepted: {} ({})", identity.release, identity.id);

    let image = Some(resume.image.as_path());
    let files = role::files(&resume.kernel, &machine.release, Role::Restore, image)?;
    let append = format!("{} {}={}", files.append, Role::ID_KEY, identity.id);
    let kernel = Kernel::parse(&files.kernel).map_err(Error::from)?;
    let plan = resumption.plan(&Boot {
        kernel: &kernel,
        initramfs: &files.initramfs,
        append: &append,
    })?;
    if resume.dry_run {
        println!("{plan}");
        say!("nothing was done");
        return Ok(());
    }
    say!("jumping to the restoring kernel");
    match resumption.leave(&plan)? {}
}
