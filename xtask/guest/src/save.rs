//! Hibernations that fail: A must hear why, and be well.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::parameters::Parameters;
use crate::{console, disk, key, kjump, stale};

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

/// The disk vanishes while B writes to it, and comes back when A asks for it.
pub(crate) fn vanishes(parameters: &Parameters) -> Result<()> {
    let image = disk::image_disk()?;
    let size = || {
        File::open(&image)
            .and_then(|mut disk| disk.seek(SeekFrom::End(0)))
            .with_context(|| format!("asking {image} how large it is"))
    };
    let whole = size()?;
    stale::fails(&hibernate(parameters, &image)?, &image)?;
    console::report("gone", "give it back");
    for _ in 0..100 {
        thread::sleep(Duration::from_millis(100));
        let readable = File::open(&image).is_ok_and(|disk| {
            use std::os::unix::fs::FileExt;
            disk.read_exact_at(&mut [0; 512], whole - 512).is_ok()
        });
        if size()? == whole && readable {
            return Ok(());
        }
    }
    ensure!(false, "{image} did not come back");
    Ok(())
}
