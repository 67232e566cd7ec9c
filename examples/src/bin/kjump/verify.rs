//! Is an image whole, and is every byte of it right?

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use kjump::DeviceReader;
use kjump::memory::image::{Codec, Image, ImageError, ImageStream};
use kjump::restore::{verify_image, verify_stream};
use kjump::threads_for;

use crate::key::KeyOptions;
use crate::report::{self, say};

/// `kjump verify`
pub(crate) fn run(path: &Path, key: &KeyOptions) -> Result<()> {
    let is_stream = path == Path::new("-");
    let mut meter = report::meter("verifying");
    let progress = &mut |at| meter.update(at);
    let damaged = || format!("{} is not right", path.display());
    let totals = if is_stream {
        let mut stream = open_stream(key)?;
        verify_stream(&mut stream, progress).context("the image is not right")?;
        stream.totals().unwrap_or_default()
    } else {
        // A better error than that of a device.
        File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let source =
            DeviceReader::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        // Also one that was resumed: whoever looks wants to know.
        let seal = key.to_read(path)?;
        let (image, resumable) = Image::examine_with(source, seal.as_ref().map(|seal| &seal.key))
            .with_context(|| format!("cannot use {}", path.display()))?;
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

/// The image on standard input, and the key that it takes.
fn open_stream(key: &KeyOptions) -> Result<ImageStream<io::StdinLock<'static>>> {
    let stream = ImageStream::open_with(io::stdin().lock(), |header| {
        let seal = key.of(header).map_err(|error| ImageError::Read {
            what: "the key",
            source: io::Error::other(format!("{error:#}")),
        })?;
        Ok(seal.map(|seal| seal.key))
    });
    stream.context("cannot use the image")
}
