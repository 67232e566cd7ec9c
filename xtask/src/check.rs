//! What is looked for in an image after its machine went off.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use vmcore::image::Layout;
use vmcore::{
    Classes, Classifier, Memory, PAGE_SIZE, PageClass, PhysRange, RangeMap, Saved, SavedFile,
};

use crate::analysis::{self, Task, crash_ps, drgn_tasks, gdb_symbol};
use crate::lab::Lab;
use crate::makedumpfile::{Filtered, filter};
use crate::settings::Settings;
use crate::transcript::Transcript;

/// How many pages a difference is shown for.
const SHOWN: usize = 8;

/// The dump level that leaves out all that can be left out.
const ALL: u8 = 31;

/// An image to look at, and what is needed for that.
pub(crate) struct Checked<'a> {
    /// The disk that has the image.
    pub(crate) image: &'a Path,
    /// A folder for files that are gone after the run.
    pub(crate) folder: &'a Path,
    /// The command `kjump`.
    pub(crate) kjump: &'a Path,
    /// Kernels and tools.
    pub(crate) lab: &'a Lab,
    /// The machine that was saved.
    pub(crate) settings: &'a Settings,
    /// What it said.
    pub(crate) boots: &'a [Transcript],
}

/// makedumpfile finds the same pages free and the same pages zero, each of them, in a core that has
/// all of the machine's memory as it saw that itself.
///
/// # Errors
///
/// If the image or the core cannot be read, or if anything is found another way; with the first pages.
pub(crate) fn pages(checked: &Checked<'_>) -> Result<String> {
    ensure!(
        checked.settings.keep_free,
        "free pages have to be saved for this"
    );
    let file = SavedFile::open(analysis::source(checked.image)?).context("opening the image")?;
    let machine = &file.machine;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let classes = machine.classify(threads).context("classifying the image")?;
    if let Some(reason) = &classes.unknown {
        bail!("free pages cannot be told from others: {reason}");
    }
    let core = checked.folder.join("whole");
    let zero = write_whole_core(machine, &core)?;

    let tools = checked.lab.tools()?;
    let ours = Pages::of(&classes.seen);
    let zero = Pages::of(&zero).zero;
    let nothing = BTreeSet::new();
    let mut differences = Vec::new();
    let mut counts = String::new();
    for (level, free, zero) in [
        (16, &ours.free, &nothing),
        (1, &nothing, &zero),
        (17, &ours.free, &ours.zero),
    ] {
        let theirs = filter(tools, &core, level)?;
        let in_core = |pages: &BTreeSet<u64>| pages & &theirs.all;
        differences.extend(differing(
            level,
            "free",
            &in_core(free),
            &theirs.left_out,
            &ours,
        ));
        differences.extend(differing(
            level,
            "zero",
            &in_core(zero),
            &theirs.zero,
            &ours,
        ));
        let Filtered {
            all,
            left_out,
            zero,
        } = theirs;
        counts = format!(
            "{} pages, {} free and {} zero by both",
            all.len(),
            left_out.len(),
            zero.len()
        );
        ensure!(
            level & 16 == 0 || !left_out.is_empty(),
            "no page of the machine was free, so there was nothing to compare"
        );
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(counts)
}

/// Writes all memory of `machine`, as it saw that itself, to a new core at `path`: what the kernel shows as
/// `/proc/vmcore`, if free pages were saved too. Returns which of its pages are zero.
pub(crate) fn write_whole_core<M: Memory + Sync>(
    machine: &Saved<M>,
    path: &Path,
) -> Result<RangeMap<PageClass>> {
    let there = machine.seen().map_err(|error| anyhow!("{error}"))?;
    let all_data = |class: &PageClass| (*class != PageClass::Free).then_some(PageClass::Data);
    let whole = Classes {
        raw: RangeMap::new(),
        seen: there.contents().filter_map(all_data),
        unknown: None,
    };
    let (memory, writer) = machine
        .core(Layout::Seen, &whole)
        .map_err(|error| anyhow!("{error}"))?;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let zero = Classifier::without_pages(&memory)
        .classes(threads)
        .context("looking for zero pages")?;
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    writer
        .write(&memory, &mut file, &mut |_| {})
        .and_then(|()| file.flush().map_err(vmcore::elf::CoreWriteError::Write))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(zero)
}

/// Our classes of pages, by their numbers.
struct Pages {
    free: BTreeSet<u64>,
    zero: BTreeSet<u64>,
}

impl Pages {
    fn of(classes: &RangeMap<PageClass>) -> Self {
        let of = |wanted| {
            classes
                .iter()
                .filter(|(_, class)| **class == wanted)
                .flat_map(|(range, _)| numbers(range))
                .collect()
        };
        Self {
            free: of(PageClass::Free),
            zero: of(PageClass::Zero),
        }
    }

    fn class(&self, page: u64) -> &'static str {
        if self.free.contains(&page) {
            "free"
        } else if self.zero.contains(&page) {
            "zero"
        } else {
            "data"
        }
    }
}

/// The numbers of all pages that `range` touches.
fn numbers(range: PhysRange) -> std::ops::Range<u64> {
    range.start().get() / PAGE_SIZE..range.end().get().div_ceil(PAGE_SIZE)
}

/// Tells the first pages that are in only one of the sets, if there are any. `ours` says what else we
/// know of them.
fn differing(
    level: u8,
    class: &str,
    expected: &BTreeSet<u64>,
    found: &BTreeSet<u64>,
    ours: &Pages,
) -> Option<String> {
    let differing: Vec<u64> = expected.symmetric_difference(found).copied().collect();
    if differing.is_empty() {
        return None;
    }
    let mut text = format!(
        "makedumpfile -d {level} and we differ about {} {class} pages of {} and {}:",
        differing.len(),
        found.len(),
        expected.len()
    );
    for page in differing.iter().take(SHOWN) {
        let not = if found.contains(page) { "" } else { "not " };
        text += &format!(
            "\n  page {:#x}: makedumpfile says {not}{class}, we say {}",
            page.saturating_mul(PAGE_SIZE),
            ours.class(*page)
        );
    }
    Some(text)
}

/// Other people's tools find the machine in the ELF core that `kjump convert` makes of the image: its
/// processes, its release. And memory that is restored from that core is, byte by byte, what is restored
/// from the image.
///
/// # Errors
///
/// If a tool fails or finds something else than the machine itself said.
pub(crate) fn tools(checked: &Checked<'_>) -> Result<String> {
    let tools = checked.lab.tools()?;
    let vmlinux = checked.lab.vmlinux(checked.settings.kernel)?;
    let path = |name| checked.folder.join(name);
    let core = path("converted");
    kjump(checked, |command| {
        command.arg("convert").args([checked.image, &core]);
    })?;

    let file = SavedFile::open(analysis::source(checked.image)?).context("opening the image")?;
    let release = &file
        .machine
        .identity()
        .context("the image does not tell what machine it is of")?
        .release;
    let same_release = |tool: &str, found: &str| {
        ensure!(
            found == release,
            "{tool} says the release is {found:?}, and the machine said {release:?}"
        );
        Ok(())
    };
    let crash = crash_ps(tools, &core, &vmlinux)?;
    same_release("crash", &crash.release)?;
    let drgn = drgn_tasks(tools, &core, &vmlinux)?;
    same_release("drgn", &drgn.release)?;
    same_release("gdb", &gdb_symbol(tools, &core, &vmlinux)?)?;

    // Of those that idle there is one for each CPU, and drgn leaves them out.
    let of_crash: BTreeSet<&Task> = crash.tasks.iter().filter(|task| task.pid != 0).collect();
    let of_drgn: BTreeSet<&Task> = drgn.tasks.iter().collect();
    if let Some(task) = of_crash.symmetric_difference(&of_drgn).next() {
        bail!("crash and drgn do not agree about {task:?}");
    }
    let processes = processes(checked.boots)?;
    for process in &processes {
        ensure!(
            of_crash.contains(process),
            "crash does not list {process:?}, which ran when the machine was left"
        );
    }
    ensure!(
        of_crash.iter().any(|task| task.name == "kjump"),
        "crash does not list kjump, by which the machine was left"
    );
    let filtered = filter(tools, &core, ALL)?;
    let kept = filtered.all.len() - filtered.left_out.len();
    ensure!(kept > 0, "makedumpfile kept no page");

    let restored = restore(checked, &core, path("restored"), path("restored-from-core"))?;
    Ok(format!(
        "{} processes of the machine's among {} tasks, {} complaints of crash, {kept} of {} pages in \
         makedumpfile's, {} MiB restored the same",
        processes.len(),
        of_crash.len(),
        crash.complaints.len(),
        filtered.all.len(),
        restored >> 20
    ))
}

/// Restores both the image and `core` to files, and returns their size if they are the same.
fn restore(checked: &Checked<'_>, core: &Path, one: PathBuf, other: PathBuf) -> Result<u64> {
    for (from, to) in [(checked.image, &one), (core, &other)] {
        kjump(checked, |command| {
            command.arg("restore").arg("--image").arg(from);
            command.arg("--target").arg(to);
        })?;
    }
    same(&one, &other)
}

/// Runs `kjump` here, and returns nothing if it ends well.
fn kjump(checked: &Checked<'_>, arguments: impl FnOnce(&mut Command)) -> Result<()> {
    let mut command = Command::new(checked.kjump);
    arguments(&mut command);
    let output = command.output().context("starting kjump")?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(())
}

/// The processes that the machine said it has, the last time it did.
fn processes(boots: &[Transcript]) -> Result<Vec<Task>> {
    let lists = boots.iter().flat_map(|boot| boot.values("processes"));
    let list = lists.last().context("the machine told no processes")?;
    list.split(',')
        .map(|process| {
            let (pid, name) = process.split_once(' ')?;
            Some(Task {
                pid: pid.parse().ok()?,
                name: name.to_owned(),
            })
        })
        .collect::<Option<_>>()
        .with_context(|| format!("not a list of processes: {list:?}"))
}

/// The size of two files whose bytes are the same.
fn same(one: &Path, other: &Path) -> Result<u64> {
    let open =
        |path: &Path| File::open(path).with_context(|| format!("opening {}", path.display()));
    let (mut a, mut b) = (open(one)?, open(other)?);
    let (size, size_of_other) = (a.metadata()?.len(), b.metadata()?.len());
    ensure!(
        size == size_of_other,
        "{} has {size} bytes, and {} has {size_of_other}",
        one.display(),
        other.display()
    );
    let (mut of_a, mut of_b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < size {
        let len = usize::try_from(size - at).map_or(of_a.len(), |left| left.min(of_a.len()));
        a.read_exact(&mut of_a[..len])?;
        b.read_exact(&mut of_b[..len])?;
        if of_a[..len] != of_b[..len] {
            let pairs = of_a[..len].iter().zip(&of_b[..len]);
            let first = pairs.take_while(|(a, b)| a == b).count() as u64;
            bail!(
                "{} and {} differ from byte {:#x} on",
                one.display(),
                other.display(),
                at + first
            );
        }
        at += len as u64;
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn pages_that_differ_are_told() {
        let ours = Pages {
            free: BTreeSet::from([1, 2]),
            zero: BTreeSet::from([3]),
        };
        let same = differing(16, "free", &ours.free, &ours.free, &ours);
        assert_eq!(same, None);
        let other = BTreeSet::from([2, 3]);
        let text = differing(16, "free", &ours.free, &other, &ours).unwrap();
        for line in [
            "makedumpfile -d 16 and we differ about 2 free pages of 2 and 2:",
            "page 0x1000: makedumpfile says not free, we say free",
            "page 0x3000: makedumpfile says free, we say zero",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn parts_of_pages_count_as_pages() {
        let range = |start, end| PhysRange::new(start, end).unwrap();
        assert_eq!(numbers(range(0x1000, 0x3000)), 1..3);
        assert_eq!(numbers(range(0x1fff, 0x3001)), 1..4);
    }

    #[test]
    fn files_are_the_same_or_the_first_byte_that_is_not_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let mut bytes = vec![7; (1 << 20) + 9];
        let one = file("one", &bytes);
        assert_eq!(
            same(&one, &file("two", &bytes)).unwrap(),
            bytes.len() as u64
        );
        bytes[(1 << 20) + 3] = 8;
        let error = same(&one, &file("three", &bytes)).unwrap_err().to_string();
        assert!(error.contains("0x100003"), "{error}");
        assert!(same(&one, &file("four", &bytes[1..])).is_err());
    }

    #[test]
    fn processes_are_those_that_the_machine_told_last() {
        let boots = [
            Transcript::of(&["lab: processes=1 init"]),
            Transcript::of(&["lab: processes=1 init,40 a b"]),
        ];
        let task = |pid, name: &str| Task {
            pid,
            name: name.to_owned(),
        };
        assert_eq!(
            processes(&boots).unwrap(),
            [task(1, "init"), task(40, "a b")]
        );
        assert!(processes(&[]).is_err());
        assert!(processes(&[Transcript::of(&["lab: processes=init"])]).is_err());
    }
}
