//! A look at all memory of a machine, for keys: from outside, while it stands still.
//!
//! Right before A jumps to B, the page is found that hands the key on, and with it the key. When D begins to
//! restore, no key may be outside of the window: what C left is not written over yet. Whenever A goes
//! on, because it was resumed or could not be saved, no key of any image so far may be anywhere: not in what
//! A uses, nor in what is free, nor in what B, C and D left. Nor may what the key comes from, but where a kernel
//! keeps it for whoever gave it: A's own does, and C's, whose memory is among what A has free then.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use vmcore::elf::Core;
use vmcore::image::{Header, Identity, Seal};
use vmcore::{Memory, PhysAddr, ReadFile};

use crate::control;
use crate::keys::{self, KEY, MISTYPED, Needle, PASSPHRASE};
use crate::settings::Secret;

/// What every kernel has in its memory.
const KNOWN: &[u8] = b"Linux version ";

/// When memory is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// A is about to jump to B.
    Leaving,
    /// D has taken the key, and begins to restore.
    Restoring,
    /// A goes on.
    Back,
}

impl Moment {
    /// What A or D says then.
    const MARKS: [(&str, Self); 4] = [
        ("kjump: jumping to the saving kernel", Self::Leaving),
        (" to /dev/mem", Self::Restoring),
        ("kjump: resumed", Self::Back),
        ("kjump: the machine was not saved", Self::Back),
    ];
}

/// What C says when it is about to be left for D.
const RESUMING: &str = "kjump: jumping to the restoring kernel";

/// Headers of images that are sealed, by the bytes of their ids.
type Headers = BTreeMap<[u8; 16], Header>;

/// How often somebody looks whether the image has a new header: that of one that fails is gone soon.
const LOOK: Duration = Duration::from_millis(20);

/// Looks at the memory of a machine through all of its boots.
pub(crate) struct Lookout<'a> {
    secret: Secret,
    /// Where QEMU listens for commands.
    control: &'a Path,
    /// The disk that has the image.
    image: &'a Path,
    /// Where what memory held goes.
    folder: &'a Path,
    /// What memory held in this boot.
    dumps: Vec<(Moment, PathBuf)>,
    /// How many kernels were given the key in this boot, and left.
    left: usize,
    /// What the image had so far.
    headers: Arc<Mutex<Headers>>,
    /// As long as this is there, somebody looks.
    _looking: Sender<()>,
    /// What the images are sealed with.
    seals: Vec<Seal>,
}

impl<'a> Lookout<'a> {
    /// From now on the headers of the image are remembered.
    pub(crate) fn new(
        secret: Secret,
        control: &'a Path,
        image: &'a Path,
        folder: &'a Path,
    ) -> Self {
        let headers = Arc::<Mutex<Headers>>::default();
        let (looking, over) = mpsc::channel();
        let (path, seen) = (image.to_owned(), Arc::clone(&headers));
        thread::spawn(move || {
            while over.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                // There may be none now.
                let _ = read_header(&path, &seen);
            }
        });
        Self {
            secret,
            control,
            image,
            folder,
            dumps: Vec::new(),
            left: 0,
            headers,
            _looking: looking,
            seals: Vec::new(),
        }
    }

    /// Hears what the machine says, and takes its memory if this is the moment.
    pub(crate) fn hear(&mut self, line: &str) -> Result<()> {
        if line.contains(RESUMING) {
            self.left += 1;
        }
        let moment = Moment::MARKS.iter().find(|(mark, _)| line.contains(mark));
        if let Some(&(_, moment)) = moment {
            let dump = self.folder.join(format!("memory-{}", self.dumps.len()));
            control::dump(self.control, &dump)?;
            self.dumps.push((moment, dump));
        }
        Ok(())
    }

    /// The header of the image that is sealed like this.
    fn header(&self, seal: &Seal) -> Option<Header> {
        let headers = self.headers.lock().unwrap_or_else(PoisonError::into_inner);
        headers.get(&seal.id.0).cloned()
    }

    /// Looks at what memory held in the boot that is over.
    ///
    /// # Errors
    ///
    /// If anything is found that must not be, or if nothing is found where it must be.
    pub(crate) fn look(&mut self) -> Result<Vec<String>> {
        read_header(self.image, &self.headers)?;
        let mut told = Vec::new();
        for (moment, path) in std::mem::take(&mut self.dumps) {
            let open = || format!("opening {}", path.display());
            let file = File::open(&path)
                .and_then(ReadFile::new)
                .with_context(open)?;
            let memory = Core::open(file).with_context(open)?;
            match moment {
                Moment::Leaving => self.learn(&memory)?,
                Moment::Restoring => self.search_outside(&memory)?,
                Moment::Back => told.push(self.search(&memory)?),
            }
            fs::remove_file(&path)?;
        }
        // Memory does not outlast the power.
        self.left = 0;
        Ok(told)
    }

    /// Learns the key from the page that hands it on. It must be found as all keys are looked for.
    fn learn(&mut self, memory: &impl Memory) -> Result<()> {
        let seals = keys::seals(memory)?;
        let known = |seal: &Seal| self.seals.iter().any(|known| known.id == seal.id);
        let new: Vec<Seal> = seals.into_iter().filter(|seal| !known(seal)).collect();
        let [seal] = new.as_slice() else {
            bail!("{} pages hand a key on when A is left", new.len());
        };
        if let Some(header) = self.header(seal) {
            let derived = header.seal(&keys::secret(self.secret)?)?;
            ensure!(
                derived.key.bytes() == seal.key.bytes(),
                "another key is handed on than that of the image"
            );
        }
        let needles = keys::needles(seal, None)?;
        ensure!(
            keys::find(memory, &needles[..1])?.concat().len() == 1,
            "the key that is handed on is not found"
        );
        self.seals.extend(new);
        Ok(())
    }

    /// Searches memory outside of D's for the keys of all images so far.
    fn search_outside(&self, memory: &impl Memory) -> Result<()> {
        for seal in &self.seals {
            let header = self.header(seal);
            let header = header.context("no header of an image was seen")?;
            let needles = keys::needles(seal, Some(&header))?;
            let found = keys::find(memory, &needles)?;
            for (places, needle) in found.iter().zip(&needles) {
                let of_d = |place| {
                    let Identity { window, low, .. } = &header.identity;
                    window.contains(place) || low.get(place).is_some()
                };
                if let Some(place) = places.iter().find(|&&place| !of_d(place)) {
                    bail!("when D begins to restore, {} is at {place}", needle.what);
                }
            }
        }
        Ok(())
    }

    /// Searches memory for the keys of all images so far.
    fn search(&self, memory: &impl Memory) -> Result<String> {
        ensure!(!self.seals.is_empty(), "no key is known to look for");
        let mut needles = vec![
            Needle::new("what every kernel has", KNOWN),
            Needle::new("the key of A's owner", KEY),
            Needle::new("the passphrase of A's owner", PASSPHRASE.as_bytes()),
            Needle::new("a passphrase that was mistyped", MISTYPED.as_bytes()),
        ];
        for seal in &self.seals {
            let header = self.header(seal);
            let header = header.context("no header of an image was seen")?;
            needles.extend(keys::needles(seal, Some(&header))?);
        }
        let found = keys::find(memory, &needles)?;
        ensure!(!found[0].is_empty(), "nothing is found");
        let mut wrong = Vec::new();
        for (places, needle) in found.iter().zip(&needles).skip(2) {
            for place in places {
                wrong.push(format!("{} at {place}", needle.what));
            }
        }
        for place in self.misplaced(memory, &found[1])? {
            wrong.push(format!("{} at {place}", needles[1].what));
        }
        ensure!(wrong.is_empty(), "in A's memory is {}", wrong.join(", "));
        Ok(format!(
            "no key of {} images in {} MiB of memory",
            self.seals.len(),
            memory.contents().bytes() >> 20
        ))
    }

    /// Where the key of A's owner is among `places`, besides where kernels keep it.
    fn misplaced(&self, memory: &impl Memory, places: &[PhysAddr]) -> Result<Vec<PhysAddr>> {
        let mut kept = 0;
        let mut misplaced = Vec::new();
        for &place in places {
            if keys::is_kept(memory, self.secret, place)? && kept <= self.left {
                kept += 1;
            } else {
                misplaced.push(place);
            }
        }
        ensure!(
            (kept > 0) == (self.secret != Secret::Passphrase),
            "the key of A's owner is not found where it is kept"
        );
        Ok(misplaced)
    }
}

/// Remembers the header that the image has now, if it is sealed.
fn read_header(image: &Path, headers: &Mutex<Headers>) -> Result<()> {
    let image = ReadFile::new(File::open(image)?)?;
    if let Ok(header) = Header::read(&image)
        && header.sealing().is_some()
    {
        let mut headers = headers.lock().unwrap_or_else(PoisonError::into_inner);
        headers.insert(header.identity.id.0, header);
    }
    Ok(())
}
