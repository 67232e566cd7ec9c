//! A machine that was saved: its memory, both ways to look at it, and what its pages are for.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::elf::{Core, CoreWriter, Notes};
use crate::image::{
    self, Identity, ImageError, ImageMemory, Jump, Layout, Options, Sink, Subject, Totals,
};
use crate::survey::{ByPageMap, Survey, Unneeded};
use crate::{
    Classifier, Counts, DumpLevel, Memory, PAGE_SIZE, PageClass, PageMap, PageUse, PagesError,
    Phases, PhysAddr, Progress, RangeMap, ReadAt, Swap, SwapError, View, VmcoreInfo,
};

/// A machine that was saved: its memory, and what must be known to look at it both ways, as it lies and
/// as the machine saw it.
///
/// A machine that did not jump, as one that crashed, has one view only.
pub struct Saved<M> {
    memory: M,
    notes: Vec<u8>,
    identity: Option<Identity>,
    jump: Option<Jump>,
    swap: Result<Option<Swap>, SwapError>,
    info: Option<VmcoreInfo>,
    direct_map: Option<u64>,
    /// Whether the memory says itself what each page is for.
    is_classified: bool,
}

/// What was written of a machine.
#[derive(Debug)]
pub struct Written {
    /// What there is in the image.
    pub totals: Totals,
    /// How long its checksums, or its encryption, took of all threads together.
    pub protection: Duration,
    /// Why free pages could not be told from others and were saved too, if so.
    pub unknown: Option<Box<dyn Error + Send + Sync>>,
}

/// Which pages are left out of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaveOut {
    /// Those that were free.
    #[default]
    Free,
    /// None, but for those that were left out before: what was freed may be of interest.
    Nothing,
    /// What a dump of this level leaves out of a machine that panicked, and that is not to go on.
    Dump(DumpLevel),
}

impl LeaveOut {
    /// Whether pages are left out that were used for this.
    #[must_use]
    pub fn leaves_out(self, page_use: PageUse) -> bool {
        match self {
            Self::Free => page_use == PageUse::Free,
            Self::Nothing => false,
            Self::Dump(level) => level.leaves_out(page_use),
        }
    }
}

/// Why a machine cannot be written as an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// It is not known what machine it is.
    #[error(
        "the memory does not tell what machine it is of, so no image can be made of it, but a core can: --format elf"
    )]
    NoIdentity,
    /// It is not known how to get back into it.
    #[error(
        "the memory does not tell how to get back into its machine, so no image can be made of it: it was saved by something else than a jump"
    )]
    NoJump,
    /// It is not known where its memory belongs.
    #[error("{0}")]
    Swap(String),
    /// The image cannot be written.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// What the pages of a machine are for.
#[derive(Debug)]
pub struct Classes {
    /// The classes of the memory that is to be restored, where it lies in raw memory.
    pub raw: RangeMap<PageClass>,
    /// The classes of the memory that the machine saw.
    pub seen: RangeMap<PageClass>,
    /// Why free pages could not be told from others, if so. Zero pages are known in any case.
    pub unknown: Option<Box<dyn Error + Send + Sync>>,
}

impl Classes {
    /// Takes free pages for data, so that they are saved too: what was freed may be of interest. All of
    /// them must be there to be read.
    #[must_use]
    pub fn keep_free(self) -> Self {
        let keep = |class: &PageClass| {
            Some(match class {
                PageClass::Free => PageClass::Data,
                class => *class,
            })
        };
        Self {
            raw: self.raw.filter_map(keep),
            seen: self.seen.filter_map(keep),
            unknown: self.unknown,
        }
    }

    /// How much of what the machine saw is of which class.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.seen
            .iter()
            .map(|(range, class)| (range, *class))
            .collect()
    }
}

/// Why free pages cannot be told from others.
#[derive(Debug, thiserror::Error)]
#[error("the machine left no VMCOREINFO, by which its page structures could be read")]
struct NoInfo;

impl<M> fmt::Debug for Saved<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saved")
            .field("identity", &self.identity)
            .field("jump", &self.jump)
            .finish_non_exhaustive()
    }
}

impl<S: ReadAt + Sync> Saved<Core<S>> {
    /// The machine in `core`, which said `identity` of itself and was saved after `jump` if those are
    /// given, or if notes tell of them.
    pub fn of_core(core: Core<S>, identity: Option<Identity>, jump: Option<Jump>) -> Self {
        let (notes, info, direct_map) = (core.encode_notes(), core.vmcoreinfo(), core.direct_map());
        let jump = jump.or_else(|| Jump::from_notes(&notes));
        let identity = identity.or_else(|| Identity::from_notes(&notes));
        Self::new(core, notes, identity, jump, info, direct_map)
    }
}

impl<S: ReadAt + Sync> Saved<ImageMemory<S>> {
    /// The machine in an image.
    pub fn of_image(memory: ImageMemory<S>) -> Self {
        let image = memory.image();
        let (identity, notes) = (image.identity().clone(), image.notes().to_vec());
        let jump = image.saved().jump_back.map(|back| Jump {
            back,
            layout: Layout::Raw,
        });
        let info = Notes::new(&notes)
            .find(|note| note.name == VmcoreInfo::NOTE_NAME.as_bytes() && note.kind == 0)
            .map(|note| VmcoreInfo::parse(note.desc));
        let (direct_map, is_classified) = (image.direct_map(), image.is_without_free());
        Self {
            is_classified,
            ..Self::new(memory, notes, Some(identity), jump, info, direct_map)
        }
    }
}

impl<M: Memory + Sync> Saved<M> {
    /// The machine with this memory and these encoded notes, which said `identity` of itself and was
    /// saved after `jump` if those are given. `direct_map` is the virtual address at which its kernel maps physical address 0.
    pub fn new(
        memory: M,
        notes: Vec<u8>,
        identity: Option<Identity>,
        jump: Option<Jump>,
        info: Option<VmcoreInfo>,
        direct_map: Option<u64>,
    ) -> Self {
        let swap = match (&identity, jump) {
            (Some(identity), Some(jump)) => {
                Swap::find(&memory, jump.back, identity.window, &identity.low).map(Some)
            }
            _ => Ok(None),
        };
        Self {
            memory,
            notes,
            identity,
            jump,
            swap,
            info,
            direct_map,
            is_classified: false,
        }
    }

    /// The memory as it was saved.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// What the machine said of itself before it jumped, if it did.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// The jump that the memory was saved after.
    pub fn jump(&self) -> Option<Jump> {
        self.jump
    }

    /// Where the window's contents are in the memory as it was saved.
    pub fn layout(&self) -> Layout {
        self.jump.map_or(Layout::Raw, |jump| jump.layout)
    }

    /// What the kernel told of itself.
    pub fn info(&self) -> Option<&VmcoreInfo> {
        self.info.as_ref()
    }

    /// The memory as the machine itself saw it: what its pointers mean.
    ///
    /// # Errors
    ///
    /// [`SwapError`] if the machine jumped, and where its window went is not known.
    pub fn seen(&self) -> Result<View<&M>, &SwapError> {
        Ok(match (self.swap.as_ref()?, self.layout()) {
            (Some(swap), Layout::Raw) => View::seen(&self.memory, swap),
            _ => View::plain(&self.memory),
        })
    }

    /// The memory where it lies after the jump: what is to be restored.
    ///
    /// # Errors
    ///
    /// [`SwapError`] if the memory was saved as the machine saw it, and where its window is to go is not
    /// known.
    pub fn raw(&self) -> Result<View<&M>, &SwapError> {
        Ok(match (&self.swap, self.layout()) {
            (Ok(Some(swap)), Layout::Seen) => View::raw(&self.memory, swap),
            (Err(error), Layout::Seen) => return Err(error),
            _ => View::plain(&self.memory),
        })
    }

    /// The memory in `layout`, and how it is written as a core that tells all that is known of the machine.
    ///
    /// # Errors
    ///
    /// [`SwapError`] if there is no such view, as for [`seen`](Self::seen) and [`raw`](Self::raw).
    pub fn core(
        &self,
        layout: Layout,
        classes: &Classes,
    ) -> Result<(View<&M>, CoreWriter), &SwapError> {
        let (view, classes) = match layout {
            Layout::Raw => (self.raw()?, &classes.raw),
            Layout::Seen => (self.seen()?, &classes.seen),
        };
        let notes = match self.jump {
            Some(jump) => Jump { layout, ..jump }.put_into(&self.notes),
            None => self.notes.clone(),
        };
        let virt = |addr: PhysAddr| {
            self.direct_map
                .map_or(0, |base| base.wrapping_add(addr.get()))
        };
        let writer = CoreWriter::new(&view, classes, &notes, virt);
        Ok((view, writer))
    }

    /// Finds out what the pages of the machine are for, by the work of `threads` threads. What cannot be
    /// known for certain is [`PageClass::Data`].
    ///
    /// # Errors
    ///
    /// [`PagesError`] if the memory cannot be read.
    pub fn classify(&self, threads: usize) -> Result<Classes, PagesError> {
        let swap = self.swap();
        if self.is_classified {
            let raw = self.memory.contents().clone();
            return Ok(Classes {
                seen: swap.map_or_else(|| raw.clone(), |swap| swap.seen(&raw)),
                raw,
                unknown: None,
            });
        }
        let (seen, unknown) = match self.classify_seen(threads) {
            Ok(seen) => (seen, None),
            Err(reason) => {
                let stored = Classifier::without_pages(&self.memory).classes(threads)?;
                let seen = match (swap, self.layout()) {
                    (Some(swap), Layout::Raw) => swap.seen(&stored),
                    _ => stored,
                };
                (seen, Some(reason))
            }
        };
        let raw = match swap {
            Some(swap) => swap.raw(&seen),
            None => seen.clone(),
        };
        Ok(match self.left_out(&raw) {
            Some(free) => Classes {
                seen: joined(&seen, swap.map_or(free.clone(), |swap| swap.seen(&free))),
                raw: joined(&raw, free),
                unknown,
            },
            None => Classes { raw, seen, unknown },
        })
    }

    /// What changed places when the machine jumped, if it did and if that is known.
    fn swap(&self) -> Option<&Swap> {
        self.swap.as_ref().ok().and_then(Option::as_ref)
    }

    /// Writes the machine as an image. `phases` is asked how long everything took, when all memory
    /// is written: the end of the image tells.
    ///
    /// What this needs does not grow with the machine: pages are looked at as they are written, all in one
    /// pass.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; the image then is not valid, and never was.
    pub fn write_image(
        &self,
        sink: &impl Sink,
        options: Options<'_>,
        leave_out: LeaveOut,
        phases: &mut dyn FnMut() -> Phases,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Written, WriteError> {
        let identity = self.identity.as_ref().ok_or(WriteError::NoIdentity)?;
        self.write_image_as(identity, sink, options, leave_out, phases, progress)
    }

    /// As [`write_image`](Self::write_image), where more is known of the machine by now than it said itself.
    ///
    /// # Errors
    ///
    /// As [`write_image`](Self::write_image).
    pub fn write_image_as(
        &self,
        identity: &Identity,
        sink: &impl Sink,
        options: Options<'_>,
        leave_out: LeaveOut,
        phases: &mut dyn FnMut() -> Phases,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Written, WriteError> {
        // Of a machine that panicked, all that is there is saved: what it had is not asked for.
        let is_dump = matches!(leave_out, LeaveOut::Dump(_));
        // In an image an address of 0 says that there is no way back.
        let has_way_back = self.jump.is_some_and(|jump| jump.back.get() != 0);
        if !has_way_back && !is_dump {
            return Err(WriteError::NoJump);
        }
        let raw = self
            .raw()
            .map_err(|error| WriteError::Swap(error.to_string()))?;
        let seen = self.seen().map_err(ToString::to_string);
        let (unneeded, unknown) = match leave_out {
            LeaveOut::Nothing => (None, None),
            LeaveOut::Free if self.is_classified => (None, None),
            LeaveOut::Free | LeaveOut::Dump(_) => match seen
                .as_ref()
                .map_err(|error| error.clone().into())
                .and_then(|seen| self.unneeded(seen, leave_out))
            {
                Ok(free) => (Some(free), None),
                Err(reason) => (None, Some(reason)),
            },
        };
        let all = match self.jump {
            Some(_) => identity.saved_memory(),
            None => raw.contents().filter_map(|_| Some(())).shrink_to(PAGE_SIZE),
        };
        let subject = Subject {
            identity,
            jump_back: self.jump.map(|jump| jump.back),
            notes: &self.notes,
            direct_map: self.direct_map,
            without_free: leave_out.leaves_out(PageUse::Free) && unknown.is_none(),
        };
        let survey = Survey::new(&all, raw.contents(), unneeded);
        let (totals, protection) =
            image::write(&subject, &raw, survey, sink, options, phases, progress)?;
        Ok(Written {
            totals,
            protection,
            unknown,
        })
    }

    /// What is left out by the machine's own map of pages.
    fn unneeded<'a>(
        &'a self,
        seen: &'a View<&'a M>,
        leave_out: LeaveOut,
    ) -> Result<Box<dyn Unneeded + 'a>, Box<dyn Error + Send + Sync>> {
        let info = self.info.as_ref().ok_or(NoInfo)?;
        let pages = PageMap::open(seen, info)?;
        let needless = move |page_use| leave_out.leaves_out(page_use);
        Ok(Box::new(ByPageMap::new(pages, self.swap(), needless)?))
    }

    /// The memory that was not saved although the machine had it: because it was free.
    fn left_out(&self, raw: &RangeMap<PageClass>) -> Option<RangeMap<PageClass>> {
        let all = self.identity.as_ref().filter(|_| self.jump.is_some())?;
        let left_out = all.saved_memory().without(raw);
        Some(left_out.filter_map(|()| Some(PageClass::Free)))
    }

    fn classify_seen(
        &self,
        threads: usize,
    ) -> Result<RangeMap<PageClass>, Box<dyn Error + Send + Sync>> {
        let seen = self.seen().map_err(ToString::to_string)?;
        let info = self.info.as_ref().ok_or(NoInfo)?;
        let pages = PageMap::open(&seen, info)?;
        Ok(Classifier::new(&seen, &pages).classes(threads)?)
    }
}

impl<M: Memory + Send + Sync + 'static> Saved<M> {
    /// The same machine, whatever its memory is in.
    pub fn boxed(self) -> Saved<Box<dyn Memory + Send + Sync>> {
        Saved {
            memory: Box::new(self.memory),
            notes: self.notes,
            identity: self.identity,
            jump: self.jump,
            swap: self.swap,
            info: self.info,
            direct_map: self.direct_map,
            is_classified: self.is_classified,
        }
    }
}

/// Both maps as one; they have no address in common.
fn joined(map: &RangeMap<PageClass>, more: RangeMap<PageClass>) -> RangeMap<PageClass> {
    let entries = map.iter().chain(more.iter());
    let entries = entries.map(|(range, class)| (range, *class)).collect();
    RangeMap::from_unsorted(entries).unwrap_or(more)
}
