//! `save_vs_makedumpfile_lzo` and `save_vs_makedumpfile_zlib`: the same core, compressed by both.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::core::lab_core;
use super::place::Place;
use super::ratio::{Comparison, Pairs};
use super::{Bench, host, say};
use crate::lab::Tools;

/// How long a tool may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// A way of makedumpfile's to compress, and what of ours stands beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rival {
    /// `-l`, beside our lz4.
    Lzo,
    /// `-c`, beside our zstd.
    Zlib,
}

impl Rival {
    const fn name(self) -> &'static str {
        match self {
            Self::Lzo => "save_vs_makedumpfile_lzo",
            Self::Zlib => "save_vs_makedumpfile_zlib",
        }
    }

    /// The option of makedumpfile's.
    const fn option(self) -> &'static str {
        match self {
            Self::Lzo => "-l",
            Self::Zlib => "-c",
        }
    }

    const fn codec(self) -> &'static str {
        match self {
            Self::Lzo => "lz4",
            Self::Zlib => "zstd",
        }
    }
}

/// A tool's output, and how long it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) took: Duration,
    /// Size of the output in bytes.
    pub(crate) bytes: u64,
}

/// How many threads makedumpfile has, besides its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Threads {
    /// One for each CPU, as ours has.
    All,
    /// None. Those that it has wait for each other busily, so that it is at times faster so.
    Alone,
}

impl Threads {
    const BOTH: [Self; 2] = [Self::All, Self::Alone];

    fn number(self) -> Option<usize> {
        (self == Self::All).then(host::cpus)
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Alone => "_alone",
        }
    }
}

/// Compares both on the lab's core: with all CPUs for makedumpfile, and with one alone.
pub(crate) fn compare(bench: &Bench<'_>, rival: Rival) -> Result<Vec<Comparison>> {
    let core = lab_core(bench)?;
    let tools = bench.lab.tools()?;
    let size = fs::metadata(&core)?.len();
    let place = Place::choose(bench.arguments.folder.as_deref(), size >> 20, size >> 20)?;
    let output = place.path("output");
    // The first runs bring the core into the page cache, and count for nobody.
    theirs(tools, rival, None, &core, &output)?;
    ours(&bench.binaries.kjump, rival.codec(), &core, &output)?;
    Threads::BOTH
        .into_iter()
        .map(|threads| {
            let ours = || ours(&bench.binaries.kjump, rival.codec(), &core, &output);
            let theirs = || theirs(tools, rival, threads.number(), &core, &output);
            let mut sides = Sides::default();
            for number in 0..bench.arguments.pairs {
                if number % 2 == 0 {
                    let ours = ours()?;
                    sides.add(ours, theirs()?);
                } else {
                    let theirs = theirs()?;
                    sides.add(ours()?, theirs);
                }
            }
            let version = tools
                .version("makedumpfile")
                .unwrap_or("of an unknown version");
            let notes = notes(rival, size, version, threads, &place.kind);
            Ok(sides.comparison(rival, threads, notes))
        })
        .collect()
}

/// What both sides did so far.
#[derive(Default)]
struct Sides {
    pairs: Pairs,
    /// The size of our largest output, in bytes.
    ours: u64,
    /// The size of their smallest output.
    theirs: Option<u64>,
}

impl Sides {
    fn add(&mut self, ours: Written, theirs: Written) {
        say!(
            "  kjump {:.2} s, {} MiB; makedumpfile {:.2} s, {} MiB",
            ours.took.as_secs_f64(),
            ours.bytes >> 20,
            theirs.took.as_secs_f64(),
            theirs.bytes >> 20
        );
        self.pairs.add(ours.took, theirs.took);
        self.ours = self.ours.max(ours.bytes);
        self.theirs = Some(
            self.theirs
                .map_or(theirs.bytes, |size| size.min(theirs.bytes)),
        );
    }

    fn comparison(self, rival: Rival, threads: Threads, notes: String) -> Comparison {
        let theirs = self.theirs.unwrap_or(0);
        let facts = json!({
            "ours_bytes": self.ours,
            "theirs_bytes": theirs,
            "output_no_larger": self.ours <= theirs,
            "makedumpfile_threads": threads.number(),
        });
        Comparison {
            name: format!("{}{}", rival.name(), threads.suffix()),
            pairs: self.pairs,
            notes,
            facts: facts.as_object().cloned().unwrap_or_default(),
            objection: objection(self.ours, theirs),
        }
    }
}

fn notes(rival: Rival, size: u64, version: &str, threads: Threads, kind: &str) -> String {
    let cpus = host::cpus();
    let threads = match threads {
        Threads::All => format!("--num-threads {cpus}"),
        Threads::Alone => "without threads of its own".to_owned(),
    };
    format!(
        "From the start of the process until its output is on the device. Ours: `kjump convert --format kjump \
         --codec {} --threads {cpus}`. Theirs: `makedumpfile {} -d 17` ({version}, {threads}). Both read the same core \
         of {} MiB from the page cache, leave out its free and zero pages, and write a file on {kind}.",
        rival.codec(),
        rival.option(),
        size >> 20,
    )
}

fn objection(ours: u64, theirs: u64) -> Option<String> {
    (ours > theirs).then(|| {
        format!(
            "our output is larger: {} MiB, theirs {} MiB",
            ours >> 20,
            theirs >> 20
        )
    })
}

/// Has `kjump` make an image of a core, on all CPUs.
pub(crate) fn ours(kjump: &Path, codec: &str, core: &Path, output: &Path) -> Result<Written> {
    let mut command = Command::new(kjump);
    command.arg("convert").arg(core).arg(output);
    command.args(["--format", "kjump", "--codec", codec, "--threads"]);
    command.arg(host::cpus().to_string());
    timed("kjump", &mut command, output, LIMIT)
}

/// With how many threads makedumpfile is faster: one for each CPU, or none of its own. Its threads wait for
/// each other busily, which is at times slower by far.
pub(crate) fn better_threads(
    tools: &Tools,
    rival: Rival,
    core: &Path,
    output: &Path,
) -> Result<Option<usize>> {
    let cpus = host::cpus();
    if cpus < 2 {
        return Ok(None);
    }
    let name = format!("makedumpfile {}", rival.option());
    let alone = theirs(tools, rival, None, core, output)?.took;
    say!("  {name}: {:.2} s without threads", alone.as_secs_f64());
    let mut command = makedumpfile(tools, rival, Some(cpus), core, output);
    match timed(&name, &mut command, output, alone * 2) {
        Ok(together) => {
            let together = together.took;
            say!("  {name}: {:.2} s with {cpus}", together.as_secs_f64());
            Ok((together < alone).then_some(cpus))
        }
        Err(error) => {
            say!("  with {cpus} threads, {error:#}");
            Ok(None)
        }
    }
}

/// Has makedumpfile do the same.
pub(crate) fn theirs(
    tools: &Tools,
    rival: Rival,
    threads: Option<usize>,
    core: &Path,
    output: &Path,
) -> Result<Written> {
    let mut command = makedumpfile(tools, rival, threads, core, output);
    timed("makedumpfile", &mut command, output, LIMIT)
}

fn makedumpfile(
    tools: &Tools,
    rival: Rival,
    threads: Option<usize>,
    core: &Path,
    output: &Path,
) -> Command {
    let mut command = tools.command("makedumpfile");
    command.args(["--message-level", "4", rival.option(), "-d", "17"]);
    if let Some(threads) = threads {
        command.arg("--num-threads").arg(threads.to_string());
        // The C library looks for it when the first thread ends, and does not always find it.
        command.env("LD_PRELOAD", tools.library("libgcc_s.so.1"));
    }
    command.arg(core).arg(output);
    command
}

/// Runs a tool that writes `output`, within `limit`, and waits until that is on the device, as `kjump` itself
/// does.
fn timed(name: &str, command: &mut Command, output: &Path, limit: Duration) -> Result<Written> {
    remove(output)?;
    let mut said = tempfile::tempfile().context("making a file")?;
    let copy = || said.try_clone().context("copying a file handle");
    command.stdin(Stdio::null()).stdout(copy()?).stderr(copy()?);
    let started = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    let Some(status) = wait(child, limit)? else {
        remove(output)?;
        bail!("{name} is not done after {:.1} s", limit.as_secs_f64());
    };
    if !status.success() {
        let mut text = String::new();
        said.rewind()?;
        said.read_to_string(&mut text)?;
        bail!("{name} failed: {status}\n{}", text.trim_end());
    }
    let file = File::open(output).with_context(|| format!("{name} wrote nothing"))?;
    file.sync_all().context("waiting for the device")?;
    let took = started.elapsed();
    let bytes = file.metadata().context("looking at the output")?.len();
    drop(file);
    remove(output)?;
    Ok(Written { took, bytes })
}

/// Waits for the end of a process; `None` if it had to be stopped after `limit`.
fn wait(mut child: Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("waiting for a tool")? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            // Both fail only for a process that has ended meanwhile.
            let _ = child.kill();
            let _ = child.wait();
            return Ok(None);
        }
        // So much is what a time may be wrong by.
        thread::sleep(Duration::from_millis(1));
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Has `kjump` make an ELF core of an image, for other tools to read.
pub(crate) fn core_of(kjump: &Path, image: &Path, core: PathBuf) -> Result<PathBuf> {
    remove(&core)?;
    let mut command = Command::new(kjump);
    command
        .arg("convert")
        .arg(image)
        .arg(&core)
        .args(["--format", "elf"]);
    let result = command.output().context("starting kjump")?;
    if !result.status.success() {
        let text = String::from_utf8_lossy(&result.stderr).into_owned();
        bail!("kjump failed: {}\n{}", result.status, text.trim_end());
    }
    Ok(core)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell in place of a tool.
    fn shell(script: &str, output: &Path, limit: Duration) -> Result<Written> {
        let mut command = Command::new("sh");
        command.args(["-c", script, "tool"]).arg(output);
        timed("tool", &mut command, output, limit)
    }

    #[test]
    fn a_tool_is_timed_by_what_it_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("output");
        // What another run left is gone before the tool starts, and its own output is gone after.
        fs::write(&output, "old").unwrap();
        let script = "test ! -e \"$1\" && sleep 0.1 && printf 12345 > \"$1\"";
        let written = shell(script, &output, LIMIT).unwrap();
        assert_eq!(written.bytes, 5);
        assert!(written.took >= Duration::from_millis(100));
        assert!(!output.exists());
    }

    #[test]
    fn a_tool_that_fails_or_writes_nothing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("output");
        let error = shell("echo no such option >&2; exit 2", &output, LIMIT)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 2") && error.contains("no such option"),
            "{error}"
        );
        let error = shell("true", &output, LIMIT).unwrap_err().to_string();
        assert!(error.contains("wrote nothing"), "{error}");
    }

    #[test]
    fn a_tool_that_hangs_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("output");
        let limit = Duration::from_millis(50);
        let error = shell("echo > \"$1\"; exec sleep 60", &output, limit).unwrap_err();
        assert!(error.to_string().contains("not done"), "{error}");
        assert!(!output.exists());
    }

    #[test]
    fn a_larger_output_is_objected_to() {
        assert_eq!(objection(5 << 20, 5 << 20), None);
        assert!(objection(6 << 20, 5 << 20).is_some_and(|text| text.contains("6 MiB")));
    }
}
