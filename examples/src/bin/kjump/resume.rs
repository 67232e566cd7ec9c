//! In kernel C: leave for the kernel that restores.

use std::time::Duration;

use anyhow::Result;
use kjump::image::Boot;
use kjump::{Departure, Measure, Resumption, Verify, machine};

use crate::cli;
use crate::report::{self, say};
use crate::role::{self, Role};
use crate::stopwatch::uptime;

/// `kjump resume`
pub(crate) fn run(resume: &cli::Resume, measure: &Measure) -> Result<()> {
    let departure = departure(measure);
    let machine = machine::read()?;
    let seal = resume.key.to_read(&resume.image)?;
    let mut resumption = Resumption::open_with(&machine, &resume.image, seal, resume.force_again)?;
    let identity = resumption.image().identity();
    say!("image accepted: {} ({})", identity.release, identity.id);

    let image = Some(resume.image.as_path());
    let kernel = &resume.kernel;
    let devices = || Ok(resumption.devices()?);
    let files = role::files(kernel, &machine.release, Role::Restore, image, devices)?;
    let mut append = format!(
        "{} {}={} {}={departure}",
        files.append,
        Role::ID_KEY,
        identity.id,
        Role::CLOCK_KEY
    );
    if resume.verification.verify == Verify::Full {
        append.push_str(&format!(" {}=full", Role::VERIFY_KEY));
    }
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
    match resumption.leave(plan)? {}
}

/// The moment at which this command began, and how long the machine was on before that. The counter may
/// have begun to count otherwhere; then what it says cannot be true of the uptime.
fn departure(measure: &Measure) -> Departure {
    /// The longest that firmware and boot loader may take.
    const LONGEST: Duration = Duration::from_secs(300);

    let departure = measure.departure(None);
    let on = departure.since_power_on();
    let boot = on.filter(|on| (uptime()..uptime() + LONGEST).contains(on));
    measure.departure(boot)
}
