//! In kernel A: load, jump, hibernate.

use std::path::Path;

use anyhow::{Result, bail};
use kjump::sys::{KernelState, LoadFlags};
use kjump::{
    Departure, Error, Hibernation, ImageTarget, Measure, Outcome, Prepared, machine, volumes,
};

use crate::cli::{Load, LoadOptions};
use crate::modules;
use crate::report::{self, say, size};
use crate::role::{self, Role};

/// Plans with the files that the options name, and hands the plan on.
fn with_plan<T>(
    options: &LoadOptions,
    image: Option<&Path>,
    measure: &Measure,
    then: impl FnOnce(&Prepared<'_>) -> Result<T>,
) -> Result<T> {
    let mut machine = machine::read()?;
    volumes::exempt(&mut machine.volumes, &options.allow_unread)?;
    let role = if image.is_some() {
        Role::Save
    } else {
        Role::Back
    };
    let devices = || modules::in_use(&machine.volumes, image);
    let mut files = role::files(&options.kernel, &machine.release, role, image, devices)?;
    let departure = measure.departure(None);
    files
        .append
        .push_str(&format!(" {}={departure}", Role::CLOCK_KEY));
    if options.keep_free {
        files.append.push_str(&format!(" {}=keep", Role::FREE_KEY));
    }
    let packing = options.packing;
    files
        .append
        .push_str(&format!(" {}={}", Role::CODEC_KEY, packing.codec));
    if let Some(threads) = packing.threads {
        files
            .append
            .push_str(&format!(" {}={threads}", Role::THREADS_KEY));
    }
    let secret = options.key.to_write()?;
    let hibernation = Hibernation {
        machine: &machine,
        kernel: &files.kernel()?,
        initramfs: &files.initramfs,
        append: &files.append,
        window: options.window,
        secret: secret.as_ref(),
    };
    then(&hibernation.prepare()?)
}

/// Loads the plan and makes the device the place for the image. If that fails, nothing stays loaded.
fn load_and_prepare(prepared: &Prepared<'_>, target: Option<ImageTarget>) -> Result<()> {
    prepared.load()?;
    let Some(target) = target else { return Ok(()) };
    target.prepare(&prepared.identity).or_else(|error| {
        kjump::sys::unload(LoadFlags::empty())?;
        Err(error.into())
    })
}

/// `kjump load`
pub(crate) fn load(load: &Load, measure: &Measure) -> Result<()> {
    let image = load.image.as_deref();
    let target = image.map(ImageTarget::claim).transpose()?;
    with_plan(&load.options, image, measure, |prepared| {
        if let Some(target) = &target {
            target.check_size(prepared.image_size())?;
        }
        load_and_prepare(prepared, target)?;
        say!("loaded into the window {}", prepared.identity.window);
        Ok(())
    })
}

/// `kjump jump`
pub(crate) fn jump() -> Result<()> {
    if !KernelState::new().kexec_loaded()? {
        bail!(Error::NothingLoaded);
    }
    jump_there_and_back()?;
    say!("resumed");
    Ok(())
}

fn jump_there_and_back() -> Result<()> {
    say!("jumping to the saving kernel");
    report::drain();
    match kjump::jump() {
        // What became of the machine is to be told in any case.
        Err(error @ Error::StillLoaded { .. }) => report::error(&error.into()),
        jumped => jumped?,
    }
    Ok(())
}

/// `kjump hibernate`
pub(crate) fn hibernate(
    options: &LoadOptions,
    image: &Path,
    dry_run: bool,
    measure: &Measure,
) -> Result<()> {
    let target = ImageTarget::claim(image)?;
    let identity = with_plan(options, Some(image), measure, |prepared| {
        target.check_size(prepared.image_size())?;
        if dry_run {
            println!("{}", prepared.plan);
            say!(
                "the image takes {} at most on {}; nothing was done",
                size(prepared.image_size()),
                image.display()
            );
            return Ok(None);
        }
        load_and_prepare(prepared, Some(target))?;
        Ok(Some(prepared.identity.clone()))
    })?;
    let Some(identity) = identity else {
        return Ok(());
    };
    let departure = measure.departure(None);
    jump_there_and_back()?;
    match ImageTarget::outcome(image, &identity)? {
        Outcome::Resumed => say!("resumed{}", since_power_on(&departure)),
        Outcome::NotSaved(reason) => bail!(Error::NotSaved { reason }),
    }
    Ok(())
}

/// For how long the machine is on again, in words.
fn since_power_on(departure: &Departure) -> String {
    match departure.on_for() {
        Some(on) => format!(" {:.1} s after power on", on.as_secs_f64()),
        None => String::new(),
    }
}
