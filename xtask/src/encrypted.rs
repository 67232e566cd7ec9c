//! What an encrypted image shows to those who have no key, and what is left of keys in the machine.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use vmcore::ReadFile;
use vmcore::image::{Header, Image, Key, Secret};

use crate::check::Checked;
use crate::keys::KEY;

/// What every A has in its memory.
const KNOWN: [&[u8]; 3] = [b"Linux version ", b"SYMBOL(init_uts_ns)=", KEY];

/// Bytes of header and commit record, which are in clear.
const CLEAR: usize = 64 << 10;

/// A page of so many gives a sample.
const EACH: usize = 16;

/// Where the header is kept that the image had after the boot of this number.
fn header_file(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("header-{number}"))
}

/// Keeps the header of `image`, which the next boot may write over.
pub(crate) fn keep_header(image: &Path, folder: &Path, number: usize) -> Result<()> {
    let mut header = vec![0; CLEAR];
    File::open(image)?.read_exact_at(&mut header, 0)?;
    fs::write(header_file(folder, number), header).context("keeping the header of the image")
}

/// Looks for A's memory in the image as it is stored, and in A's memory for the keys of this image and
/// of the one before, from which A was resumed.
///
/// All of A's memory is in the image, free pages and what C and D left there too, but for what lay in the
/// window while this image was written. What D left may have been written over by then: A loaded a kernel
/// for this image.
///
/// # Errors
///
/// If anything is found that must not be, or if nothing is found where it must be.
pub(crate) fn check(checked: &Checked<'_>) -> Result<String> {
    let mut keys = Vec::new();
    for (number, name) in [(1, "first"), (2, "second")] {
        let path = header_file(checked.folder, number);
        let header = Header::read(&ReadFile::new(File::open(&path)?)?)
            .with_context(|| format!("reading {}", path.display()))?;
        let seal = header.seal(&Secret::key(KEY.to_vec())?)?;
        let records = header.records_key(&seal.key).context("it is not sealed")?;
        keys.push((format!("the key of the {name} image"), seal.key));
        keys.push((
            format!("the key of the records of the {name} image"),
            records,
        ));
    }
    ensure!(
        keys[0].1.bytes() != keys[2].1.bytes(),
        "both images have one key"
    );

    let source = ReadFile::new(File::open(checked.image)?)?;
    // It was resumed in the end.
    let (image, _) = Image::examine_with(source, Some(&keys[2].1))?;
    let mut found = vec![0; KNOWN.len() + keys.len()];
    let mut needles: Vec<&[u8]> = KNOWN.to_vec();
    needles.extend(
        keys.iter()
            .map(|(_, key): &(_, Key)| key.bytes().as_slice()),
    );
    let mut samples = HashSet::new();
    let mut reader = image.reader();
    let (mut data, mut pages) = (Vec::new(), 0_u64);
    for entry in image.index()? {
        let entry = entry?;
        data.resize(entry.chunk.data_len() as usize, 0);
        reader.read(&entry, &mut [&mut data])?;
        for (count, needle) in found.iter_mut().zip(&needles) {
            *count += occurrences(&data, needle);
        }
        for page in data.chunks(4096).step_by(EACH) {
            let sample = u64::from_le_bytes(page[1024..1032].try_into()?);
            // Small numbers, addresses, and the same byte all over are everywhere.
            let distinct: HashSet<u8> = sample.to_le_bytes().into_iter().collect();
            if distinct.len() == 8 {
                samples.insert(sample);
            }
        }
        pages += data.len() as u64 / 4096;
    }
    for (count, known) in found.iter().zip(KNOWN) {
        ensure!(
            *count > 0,
            "{:?} is not found where it must be",
            String::from_utf8_lossy(known)
        );
    }
    for (count, (name, _)) in found[KNOWN.len()..].iter().zip(&keys) {
        ensure!(*count == 0, "{name} is in A's memory, {count} times");
    }
    ensure!(samples.len() > 1000, "too few samples: {}", samples.len());

    let stored = fs::read(checked.image).context("reading the image")?;
    let stored = &stored[CLEAR..usize::try_from(image.size())?];
    for known in KNOWN {
        ensure!(
            occurrences(stored, known) == 0,
            "{:?} is in the image in clear",
            String::from_utf8_lossy(known)
        );
    }
    let mut low = vec![false; 1 << 16];
    for sample in &samples {
        low[(sample & 0xffff) as usize] = true;
    }
    for window in stored.windows(8) {
        if low[usize::from(u16::from_le_bytes([window[0], window[1]]))] {
            let word = u64::from_le_bytes(window.try_into()?);
            ensure!(
                !samples.contains(&word),
                "a word of A's memory is in the image in clear: {word:#x}"
            );
        }
    }
    Ok(format!(
        "no key of both images in {pages} pages of A, and none of {} words of A in {} MiB of image",
        samples.len(),
        stored.len() >> 20
    ))
}

/// How often `needle` is found in `bytes`.
fn occurrences(bytes: &[u8], needle: &[u8]) -> usize {
    let Some(first) = needle.first_chunk::<8>() else {
        return 0;
    };
    bytes
        .windows(needle.len())
        .filter(|window| window.starts_with(first) && *window == needle)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found() {
        let bytes = [&[7; 100], KEY, &[8; 3], KEY].concat();
        assert_eq!(occurrences(&bytes, KEY), 2);
        assert_eq!(occurrences(&bytes[1..150], KEY), 1);
        assert_eq!(occurrences(&bytes[..120], KEY), 0);
    }
}
