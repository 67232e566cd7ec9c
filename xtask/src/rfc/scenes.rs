//! What else is played by shell scripts: plain kexec, kernels that wait for a panic, and who sees what the
//! other loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use vmcore::elf::{Core, Notes};
use vmcore::image::ImageError;
use vmcore::{
    DumpLevel, Memory as _, PAGE_SIZE, PageClass, PhysRange, RangeMap, ReadFile, SavedFile,
};

use super::Stage;
use super::stage::Course;
use crate::analysis::{crash_ps, open, source};
use crate::check::write_whole_core;
use crate::disk;
use crate::lab::Kernel;
use crate::makedumpfile::filter;

/// Fails unless the scripts ended well.
fn ended_well(lines: &[String]) -> Result<()> {
    ensure!(
        lines.iter().any(|line| line == "verdict=ok"),
        "the machine went off before its end"
    );
    Ok(())
}

/// Debian's own kernel is loaded and entered: by our kexec, by kexec-tools what ours loaded, by ours what
/// kexec-tools loaded, and by `kexec_file_load(2)`.
pub(crate) fn cloud(stage: &Stage<'_>) -> Result<String> {
    let cloud = stage.lab.kernel(Kernel::DebianCloud);
    let cloud = fs::read(cloud).with_context(|| format!("reading {}", cloud.display()))?;
    let set = stage.set_with(&[("cloud.bzImage", &cloud)])?;
    let lines = stage.boot(&set, 1, "cloud", "rfc.hop=1")?;
    ended_well(&lines)?;
    let hops: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("hop "))
        .collect();
    ensure!(hops.len() == 4, "four kernels have to run: {hops:?}");
    ensure!(
        hops.iter().skip(1).all(|hop| hop.contains("cloud")),
        "all but the first have to be Debian's: {hops:?}"
    );
    Ok(hops.join(", "))
}

/// What the one loaded, the other jumps to, unloads and reports.
pub(crate) fn bounce(stage: &Stage<'_>) -> Result<String> {
    let set = stage.set()?;
    let lines = stage.boot(&set, 1, "bounce", "crashkernel=128M@256M nokaslr")?;
    ended_well(&lines)?;
    let jumps = lines
        .iter()
        .filter(|line| line.as_str() == "| /tmp/work: OK")
        .count();
    ensure!(jumps == 3, "{jumps} of 3 jumps came back");
    Ok(format!("{jumps} jumps there and back"))
}

/// What kexec-tools loads for a jump there and back does not spare the machine that it jumped from.
pub(crate) fn theirs(stage: &Stage<'_>) -> Result<String> {
    let set = stage.set()?;
    let lines = stage.boot(&set, 1, "theirs-jump", "nokaslr")?;
    ended_well(&lines)?;
    let took = lines
        .iter()
        .find(|line| line.starts_with("theirs takes"))
        .context("it did not tell what it took")?;
    Ok(took.clone())
}

/// The module refuses all that is not memory of a sleeping machine.
pub(crate) fn refused(stage: &Stage<'_>) -> Result<String> {
    let set = stage.set()?;
    let lines = stage.boot(&set, 1, "refused", "nokaslr")?;
    ended_well(&lines)?;
    let count = lines
        .iter()
        .filter(|line| line.starts_with("refuse "))
        .count();
    ensure!(count >= 10, "{count} places were tried");
    Ok(format!("{count} places refused"))
}

/// What is reserved for the kernel that waits for a panic.
const RESERVED: &str = "crashkernel=128M@256M nokaslr";

/// A kernel panics, the one that our kexec loaded takes over, and what it saves is what the one that
/// kexec-tools loaded saves: the same memory, the same notes. crash finds the machine in it.
pub(crate) fn panic(stage: &Stage<'_>) -> Result<String> {
    let mut cores = Vec::new();
    let mut dump = None;
    for (number, whose) in [(1, "ours"), (2, "theirs")] {
        let set = stage.set()?;
        let parameters = format!("{RESERVED} rfc.whose={whose}");
        let lines = stage.boot_to(&set, number, "panic", &parameters, Course::Panic)?;
        ended_well(&lines)?;
        let take = |name: &str| -> Result<PathBuf> {
            let copy = set.disk.with_file_name(name);
            disk::take_file(&set.disk, &format!("/{name}"), &copy)?;
            Ok(copy)
        };
        let core = take(&format!("{whose}.vmcore"))?;
        cores.push(Shape::of(&open(&core)?));
        if whose == "ours" {
            let filtered = take("ours.elf")?;
            let all = found_by_crash(stage, &core)?;
            let some = found_by_crash(stage, &filtered)?;
            ensure!(
                all == some,
                "crash finds {all} tasks in the core, and {some} in what is left of it"
            );
            levels_agree(stage, &core)?;
            let image = take("ours.kjump")?;
            let converted = set.disk.with_file_name("converted");
            image_agrees(&image, &core, &converted)?;
            let from_image = found_by_crash(stage, &converted)?;
            ensure!(
                all == from_image,
                "crash finds {all} tasks in the core, and {from_image} in what was an image"
            );
            dump = Some((all, size(&core)?, size(&filtered)?));
        }
    }
    let [ours, theirs] = cores.as_slice() else {
        anyhow::bail!("there have to be two cores");
    };
    ensure!(
        ours == theirs,
        "the cores differ:\nours   {ours:?}\ntheirs {theirs:?}"
    );
    let (tasks, all, filtered) = dump.context("there is no dump of ours")?;
    Ok(format!(
        "{} MiB in {} ranges and {} notes by both, crash finds {tasks} tasks, {} of {} MiB left at level 31",
        ours.memory.bytes() >> 20,
        ours.memory.len(),
        ours.notes.values().sum::<usize>(),
        filtered >> 20,
        all >> 20,
    ))
}

/// The image of the machine that panicked, saved at level 31, has the bytes of the core, and is no image to be
/// resumed. It is written as a core to `converted`.
fn image_agrees(image: &Path, core: &Path, converted: &Path) -> Result<()> {
    let core = SavedFile::open(source(core)?).context("opening the core")?;
    let file = SavedFile::open(source(image)?).context("opening the image of what panicked")?;
    ensure!(
        matches!(file.resumable, Some(Err(ImageError::Panicked))),
        "the image of what panicked can be resumed: {:?}",
        file.resumable
    );
    let (ours, theirs) = (file.machine.memory(), core.machine.memory());
    let mut kept = 0;
    for (range, class) in ours.contents().iter() {
        if *class == PageClass::Free {
            continue;
        }
        for piece in range.pieces(1 << 20) {
            let mut both = [vec![0; piece.len() as usize], vec![1; piece.len() as usize]];
            ours.read(piece.start(), &mut both[0])?;
            theirs.read(piece.start(), &mut both[1])?;
            ensure!(
                both[0] == both[1],
                "the image differs from the core in {piece}"
            );
            kept += piece.len();
        }
    }
    ensure!(kept > 0, "the image of what panicked is empty");
    write_whole_core(&file.machine, converted)?;
    Ok(())
}

/// makedumpfile leaves out the same pages at each of these levels.
fn levels_agree(stage: &Stage<'_>, core: &Path) -> Result<()> {
    let file = SavedFile::open(source(core)?).context("opening the core")?;
    for level in [2_u8, 4, 8, 16, 30] {
        let theirs = filter(stage.lab.tools()?, core, level)?;
        let classes = file.machine.classify(2)?;
        ensure!(
            classes.unknown.is_none(),
            "pages cannot be told apart: {:?}",
            classes.unknown
        );
        let classes = file
            .machine
            .filtered(classes, level.to_string().parse::<DumpLevel>()?)?;
        let ours: BTreeSet<u64> = classes
            .seen
            .iter()
            .filter(|(_, class)| **class == PageClass::Free)
            .flat_map(|(range, _)| {
                range.start().get() / PAGE_SIZE..range.end().get().div_ceil(PAGE_SIZE)
            })
            .collect();
        let ours = &ours & &theirs.all;
        // Of a page of which the core has only a part, makedumpfile keeps nothing.
        let is_whole = |page: &u64| {
            let start = page.saturating_mul(PAGE_SIZE);
            PhysRange::new(start, start.saturating_add(PAGE_SIZE))
                .is_some_and(|page| file.machine.memory().contents().covers(page))
        };
        let differing: Vec<u64> = ours
            .symmetric_difference(&theirs.left_out)
            .copied()
            .filter(is_whole)
            .collect();
        ensure!(
            differing.is_empty() && !ours.is_empty(),
            "level {level}: {} pages left out by ours and {} by makedumpfile, {} differ: {:x?}",
            ours.len(),
            theirs.left_out.len(),
            differing.len(),
            &differing[..differing.len().min(8)]
        );
    }
    Ok(())
}

/// What two cores of one machine have in common.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    /// The memory that they have, however it is cut, and however often.
    memory: RangeMap<()>,
    /// How many notes there are of each owner and kind.
    notes: BTreeMap<(String, u32), usize>,
}

impl Shape {
    fn of(core: &Core<ReadFile>) -> Self {
        let mut memory = RangeMap::new();
        for load in core.loads() {
            memory.replace(load.memory, ());
        }
        let mut notes = BTreeMap::new();
        for note in Notes::new(&core.encode_notes()) {
            let owner = String::from_utf8_lossy(note.name).into_owned();
            // Ours tells more of the machine than others know.
            if !owner.starts_with("KJUMP") {
                *notes.entry((owner, note.kind)).or_default() += 1;
            }
        }
        Self { memory, notes }
    }
}

/// How many tasks crash finds; it must not complain.
fn found_by_crash(stage: &Stage<'_>, core: &Path) -> Result<usize> {
    let vmlinux = stage.lab.vmlinux(stage.settings.kernel)?;
    let report = crash_ps(stage.lab.tools()?, core, &vmlinux)?;
    ensure!(
        report.complaints.is_empty(),
        "crash complains: {}",
        report.complaints.join("; ")
    );
    Ok(report.tasks.len())
}

fn size(path: &Path) -> Result<u64> {
    Ok(path
        .metadata()
        .with_context(|| format!("looking at {}", path.display()))?
        .len())
}
