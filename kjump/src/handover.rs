//! The key of a sealed image, on its way from one kernel to the next.

use std::path::Path;

use kexec_image::CommandLine;
use krestore_core::{DevMem, Guard, Target};
use vmcore::image::Seal;
use vmcore::{PAGE_SIZE, PhysRange};
use zeroize::Zeroizing;

use crate::{Error, machine};

/// Takes the key that the kernel before handed to this one, if it did: the page that it was in holds zeros
/// when this returns.
///
/// # Errors
///
/// [`Error::NoKey`] if there is none where the command line says so, or [`Error::Restore`] if that memory cannot be reached.
pub fn take_seal() -> Result<Option<Seal>, Error> {
    let line = machine::command_line()?;
    let no_key = |at: String| Error::NoKey { at };
    let Some(page) = CommandLine::key_page(&line).map_err(no_key)? else {
        return Ok(None);
    };
    let range = PhysRange::from_len(page, PAGE_SIZE).ok_or_else(|| no_key(page.to_string()))?;
    let path = Path::new(DevMem::PATH);
    let memory = DevMem::open(path, Guard::new(&machine::iomem()?)).map_err(Error::open(path))?;
    let bytes = Zeroizing::new(memory.read(range)?);
    memory.write(range, &[0; PAGE_SIZE as usize])?;
    match Seal::from_page(&bytes) {
        Some(seal) => Ok(Some(seal)),
        None => Err(no_key(page.to_string())),
    }
}
