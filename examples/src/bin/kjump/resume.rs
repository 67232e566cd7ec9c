//! In kernel C: leave for the kernel that restores.

use anyhow::Result;
use kjump::image::Boot;
use kjump::{Resumption, machine};

use crate::cli;
use crate::report::{self, say};
use crate::role::{self, Role};

/// `kjump resume`
pub(crate) fn run(resume: &cli::Resume) -> Result<()> {
    let machine = machine::read()?;
    let resumption = if resume.force_again {
        Resumption::open_again(&machine, &resume.image)?
    } else {
        Resumption::open(&machine, &resume.image)?
    };
    let identity = resumption.image().identity();
    say!("image accepted: {} ({})", identity.release, identity.id);

    let image = Some(resume.image.as_path());
    let files = role::files(&resume.kernel, &machine.release, Role::Restore, image)?;
    let mut append = format!("{} {}={}", files.append, Role::ID_KEY, identity.id);
    if resumption.is_again() {
        append.push_str(&format!(" {}=again", Role::FORCE_KEY));
    }
    let kernel = files.kernel()?;
    if !resume.other_kernel {
        resumption.check_kernel(&kernel)?;
    }
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
