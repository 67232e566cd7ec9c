//! Hibernations that fail: A must hear why, and be well.

use anyhow::Result;

use crate::parameters::Parameters;
use crate::{disk, key, kjump, machine, stale};

/// The arguments that save this machine to the disk `image`.
pub(crate) fn hibernate<'a>(parameters: &'a Parameters, image: &'a str) -> Result<Vec<&'a str>> {
    let mut arguments = vec!["hibernate", "--image", image];
    arguments.extend(kjump::load_options(parameters));
    arguments.extend(key::options(parameters.secret)?);
    Ok(arguments)
}

/// The disk on which the saving kernel finds what A prepared is full before the image is complete.
pub(crate) fn full(parameters: &Parameters) -> Result<()> {
    let (image, small) = (disk::image_disk()?, disk::small_disk()?);
    let mut load = vec!["load", "--image", &image];
    load.extend(kjump::load_options(parameters));
    kjump::run(&load)?;
    disk::move_start(&image, &small)?;
    kjump::run(&["jump"])?;
    // What B left there for A to read.
    let inspect = ["resume", "--image", &small, "--kernel", kjump::KERNEL];
    stale::fails(&inspect, "saving failed")?;
    stale::fails(&inspect, "no space left on device")?;
    disk::wipe(&small)
}

/// A write to the disk fails.
pub(crate) fn io_error(parameters: &Parameters) -> Result<()> {
    let image = disk::image_disk()?;
    let hibernate = hibernate(parameters, &image)?;
    kjump::run_in_vain(&hibernate)?;
    // What the disk says of itself to A.
    let inspect = ["resume", "--image", &image, "--kernel", kjump::KERNEL];
    stale::fails(&inspect, "input/output error")
}

/// The disk is taken out of the machine while B writes to it.
pub(crate) fn vanishes(parameters: &Parameters) -> Result<()> {
    let removable = disk::removable_disk()?;
    stale::fails(&hibernate(parameters, &removable)?, "it is gone")?;
    // It went while A slept, so A's kernel has to be told.
    machine::write(machine::hardware_of(&removable)?.join("remove"), "1")
}
