//! Kernel A: prepares its saving kernel.

use kexec_image::{Boot, Kernel, LoadPlan, Machine, window};
use kexec_sys::LoadFlags;
use vmcore::image::{Identity, ImageId, Seal, Secret, largest_size};

use crate::{Error, jump, volumes};

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
    /// What the image is sealed with, if it is to be.
    pub secret: Option<&'a Secret>,
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
    /// [`Error::Plan`] that says what does not fit, or [`Error::HiddenVolume`] if something is mounted that the
    /// saving kernel could not look at.
    pub fn prepare(&self) -> Result<Prepared<'a>, Error> {
        volumes::check_visible(&self.machine.volumes)?;
        let window = window::choose(
            &self.machine.iomem,
            self.machine.vmcoreinfo,
            self.kernel,
            self.window,
        )?;
        let mut identity = self.machine.identity(random_id()?, window)?;
        identity.platform.saver = self.kernel.version().unwrap_or_default().to_owned();
        let boot = Boot {
            kernel: self.kernel,
            initramfs: self.initramfs,
            append: self.append,
        };
        let seal = self.secret.map(|secret| Seal::new(secret, identity.id));
        let seal = seal.transpose().map_err(Error::Seal)?;
        let plan = LoadPlan::saving(self.machine, &identity, &boot, seal.as_ref())?;
        Ok(Prepared { identity, plan })
    }
}

impl Prepared<'_> {
    /// The most bytes that the image of this machine can take: all memory that is saved, and room for
    /// headers and notes.
    #[must_use]
    pub fn image_size(&self) -> u64 {
        largest_size(self.identity.saved_memory().bytes())
    }

    /// Loads the saving kernel. [`jump`](crate::jump()) then jumps to it, which should be soon: the saving kernel
    /// looks at the devices that the machine uses now.
    ///
    /// # Errors
    ///
    /// [`Error::Kexec`] if the kernel refused, or [`Error::NewVolume`] if a device came into use since the machine was
    /// [read](crate::machine::read); then nothing stays loaded.
    pub fn load(&self) -> Result<(), Error> {
        jump::load(&self.plan)?;
        let unchanged =
            volumes::in_use().and_then(|now| volumes::check_known(&now, &self.identity.volumes));
        unchanged.or_else(|error| {
            kexec_sys::unload(LoadFlags::empty())?;
            Err(error)
        })
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
