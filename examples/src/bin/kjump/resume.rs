//! In kernel C: leave for the kernel that restores.

use anyhow::Result;
use kjump::image::Boot;
use kjump::{Resumption, Verify, machine};

use crate::cli;
use crate::report::{self, say};
use crate::role::{self, Role};

/// `kjump resume`
pub(crate) fn run(resume: &cli::Resume) -> Result<()> {
    let machine = machine::read()?;
    let resumption = Resumption::open(&machine, &resume.image)?;
    let identity = resumption.image().identity();
    say!("image accepted: {} ({})", identity.release, identity.id);

    let image = Some(resume.image.as_path());
    let files = role::files(&resume.kernel, &machine.release, Role::Restore, image)?;
    let mut append = format!("{} {}={}", files.append, Role::ID_KEY, identity.id);
    if resume.verify == Verify::Full {
        append.push_str(&format!(" {}=full", Role::VERIFY_KEY));
    }
    let kernel = files.kernel()?;
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
    report::drain();
    match resumption.leave(&plan)? {}
}
