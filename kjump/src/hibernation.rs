//! Kernel A: prepares its saving kernel.

use kexec_image::{Boot, Kernel, LoadPlan, Machine, window};
use vmcore::PAGE_SIZE;
use vmcore::image::{Identity, ImageId, size_for};

use crate::{Error, jump};

/// What a machine needs to hibernate.
#[derive(Clone, Copy, Debug)]
pub struct Hibernation<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// The kernel that saves it.
    pub kernel: &'a Kernel<'a>,
    /// That kernel's initramfs.
    pub initramfs: &'a [u8],
    /// What that kernel's command line has besides what makes it work.
    pub append: &'a str,
    /// The window that is asked for.
    pub window: window::Request,
}

/// A hibernation that was planned as a whole; nothing has been done yet.
#[derive(Clone, Debug)]
pub struct Prepared<'a> {
    /// What the machine says of itself.
    pub identity: Identity,
    /// What will be loaded.
    pub plan: LoadPlan<'a>,
}

impl<'a> Hibernation<'a> {
    /// Plans the hibernation: chooses the window, draws an id, and puts the segments together.
    ///
    /// # Errors
    ///
    /// [`Error::Plan`] that says what does not fit.
    pub fn prepare(&self) -> Result<Prepared<'a>, Error> {
        let window = window::choose(&self.machine.iomem, self.kernel, self.window)?;
        let identity = self.machine.identity(random_id()?, window)?;
        let boot = Boot {
            kernel: self.kernel,
            initramfs: self.initramfs,
            append: self.append,
        };
        let plan = LoadPlan::saving(self.machine, &identity, &boot)?;
        Ok(Prepared { identity, plan })
    }
}

impl Prepared<'_> {
    /// The most bytes that the image of this machine can take: all memory that is saved, and room for
    /// headers and notes.
    #[must_use]
    pub fn image_size(&self) -> u64 {
        // A page of notes for each CPU is ample; no machine has more than 8,192 of them.
        const HEADERS: u64 = 8192 * PAGE_SIZE;
        size_for(self.identity.saved_memory().bytes().saturating_add(HEADERS)).unwrap_or(u64::MAX)
    }

    /// Loads the saving kernel. [`jump`](crate::jump()) then jumps to it.
    ///
    /// # Errors
    ///
    /// [`Error::Kexec`] if the kernel refused.
    pub fn load(&self) -> Result<(), Error> {
        jump::load(&self.plan)
    }
}

/// A new id.
///
/// # Errors
///
/// [`Error::Read`] if there is no `/dev/urandom`.
pub fn random_id() -> Result<ImageId, Error> {
    use std::io::Read as _;
    let path = std::path::Path::new("/dev/urandom");
    let mut id = [0; 16];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut id))
        .map_err(Error::read(path))?;
    Ok(ImageId(id))
}
