//! Is an image whole, and is every byte of it right?

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use kjump::DeviceReader;
use kjump::memory::image::{Codec, Image, ImageStream};
use kjump::restore::{verify_image, verify_stream};
use kjump::threads_for;

use crate::report::{self, say};

/// `kjump verify`
pub(crate) fn run(path: &Path) -> Result<()> {
    let is_stream = path == Path::new("-");
    let mut meter = report::meter("verifying");
    let progress = &mut |at| meter.update(at);
    let damaged = || format!("{} is not right", path.display());
    let totals = if is_stream {
        let mut stream = ImageStream::open(io::stdin().lock()).context("cannot use the image")?;
        verify_stream(&mut stream, progress).context("the image is not right")?;
        stream.totals().unwrap_or_default()
    } else {
        // A better error than that of a device.
        File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let source =
            DeviceReader::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        // Also one that was resumed: whoever looks wants to know.
        let (image, resumable) =
            Image::examine(source).with_context(|| format!("cannot use {}", path.display()))?;
        verify_image(&image, threads_for(Codec::Lz4), progress).with_context(damaged)?;
        if let Err(reason) = resumable {
            say!("{reason}");
        }
        image.totals()
    };
    meter.finish("verified");
    say!("every byte is right: {}", report::stored(&totals));
    Ok(())
}
