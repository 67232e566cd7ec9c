//! What does a file hold?

use std::fs::{self, File};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use kjump::PhysRange;
use kjump::memory::image::{CodecKind, Header, Identity, Seal};
use kjump::memory::{
    Classes, FileError, Format, Memory as _, PAGE_SIZE, PageClass, RangeMap, ReadFile, SavedFile,
    Stored,
};
use serde_json::{Value, json};

use crate::cli::{Inspect, MapTarget};
use crate::convert;
use crate::map::svg::Svg;
use crate::map::text::Text;
use crate::map::{self, Map, Subject};
use crate::report::{self, plain, say, size};

/// What is known of a file.
struct Facts {
    format: String,
    /// Whether it could be resumed, and why not.
    state: Option<Result<(), String>>,
    identity: Option<Identity>,
    release: Option<String>,
    build_id: Option<String>,
    /// Where the kernel's image lies.
    kernel: Option<PhysRange>,
    /// How an image stores the memory.
    stored: Option<Stored>,
    /// The memory in the file.
    ranges: RangeMap<()>,
    memory: MemoryFacts,
}

/// What a look into the memory itself tells.
struct MemoryFacts {
    /// The pages by class, or why they cannot be told apart.
    pages: Result<RangeMap<PageClass>, String>,
    /// Why free pages count as data, if they do.
    unsure: Option<String>,
    /// For how long the machine ran, in seconds.
    uptime: Option<u64>,
}

impl MemoryFacts {
    /// Looks into the memory of `file`: all of it is read.
    fn of(file: &SavedFile) -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let (pages, unsure) = match file.machine.classify(threads) {
            Ok(Classes { seen, unknown, .. }) => {
                (Ok(seen), unknown.map(|reason| reason.to_string()))
            }
            Err(error) => (Err(format!("{:#}", anyhow::Error::from(error))), None),
        };
        Self {
            pages,
            unsure,
            uptime: file.machine.identity().map(|identity| identity.uptime),
        }
    }

    /// Nothing is known, for this reason.
    fn unknown(reason: String) -> Self {
        Self {
            pages: Err(reason),
            unsure: None,
            uptime: None,
        }
    }
}

/// How many whole pages there are of each class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pages {
    data: u64,
    zero: u64,
    free: u64,
}

impl Pages {
    fn count(map: &RangeMap<PageClass>) -> Self {
        let mut bytes = Self::default();
        for (range, class) in map.iter() {
            // Ranges do not overlap, so their sum fits into the address space.
            *match class {
                PageClass::Data => &mut bytes.data,
                PageClass::Zero => &mut bytes.zero,
                PageClass::Free => &mut bytes.free,
            } += range.len();
        }
        Self {
            data: bytes.data / PAGE_SIZE,
            zero: bytes.zero / PAGE_SIZE,
            free: bytes.free / PAGE_SIZE,
        }
    }

    fn total(self) -> u64 {
        self.data + self.zero + self.free
    }
}

/// `kjump inspect`
pub(crate) fn run(options: &Inspect) -> Result<()> {
    let seal = options.key.to_read(&options.file)?;
    let facts = facts(&options.file, seal.as_ref())?;
    if options.json {
        println!("{:#}", to_json(&facts));
    } else {
        print(&facts, options.map.is_none());
    }
    match &options.map {
        Some(MapTarget::Here) => print!("\n{}", Text::for_stdout(&draw(&facts))),
        Some(MapTarget::Svg(to)) => {
            write_svg(&draw(&facts), to)?;
            // With --json there is nothing but JSON on standard output.
            if !options.json {
                say!("map written to {}", to.display());
            }
        }
        None => {}
    }
    Ok(())
}

/// What the file at `path` tells.
fn facts(path: &Path, seal: Option<&Seal>) -> Result<Facts> {
    let file = match convert::open(path, seal) {
        Ok(file) => file,
        Err(error) => return header_facts(path).ok_or(error),
    };
    let machine = &file.machine;
    let identity = machine.identity();
    let info = machine.info();
    let release = info.and_then(|info| info.os_release());
    let build_id = info.and_then(|info| info.build_id());
    Ok(Facts {
        format: file.format.to_string(),
        state: file
            .resumable
            .as_ref()
            .map(|state| state.as_ref().map_err(ToString::to_string).copied()),
        release: release
            .map(str::to_owned)
            .or_else(|| identity.map(|identity| identity.release.clone())),
        build_id: build_id
            .map(str::to_owned)
            .or_else(|| identity.map(Identity::build_id_hex)),
        kernel: info.and_then(map::kernel_image),
        stored: file.stored.clone(),
        ranges: machine
            .memory()
            .contents()
            .filter_map(|class| (*class != PageClass::Free).then_some(())),
        memory: MemoryFacts::of(&file),
        identity: identity.cloned(),
    })
}

/// What the header of an image tells that holds nothing else: it reads well, whatever is behind it.
fn header_facts(path: &Path) -> Option<Facts> {
    let source = File::open(path).and_then(ReadFile::new).ok()?;
    let Header { identity, .. } = Header::read(&source).ok()?;
    let reason = match SavedFile::open(source) {
        Ok(_) => return None,
        Err(FileError::Image(error)) => error.to_string(),
        Err(error) => format!("{:#}", anyhow::Error::from(error)),
    };
    Some(Facts {
        format: Format::Image.to_string(),
        state: Some(Err(reason.clone())),
        release: Some(identity.release.clone()),
        build_id: Some(identity.build_id_hex()),
        identity: Some(identity),
        kernel: None,
        stored: None,
        ranges: RangeMap::new(),
        memory: MemoryFacts::unknown(reason),
    })
}

/// Prints the facts, with all ranges if `each_range`.
fn print(facts: &Facts, each_range: bool) {
    let line = |name: &str, value: &str| println!("{name:<10} {}", plain(value));
    line("format", &facts.format);
    match &facts.state {
        Some(Ok(())) => line("state", "complete, can be resumed"),
        Some(Err(reason)) => line("state", reason),
        None => {}
    }
    line("kernel", facts.release.as_deref().unwrap_or("unknown"));
    line(
        "build id",
        facts
            .build_id
            .as_deref()
            .filter(|id| !id.is_empty())
            .unwrap_or("unknown"),
    );
    if let Some(identity) = &facts.identity {
        line("id", &identity.id.to_string());
        line("paging", &identity.paging.to_string());
        line("window", &identity.window.to_string());
    }
    if let Some(seconds) = facts.memory.uptime {
        line("uptime", &duration(seconds));
    }
    match &facts.memory.pages {
        Ok(map) => {
            let pages = Pages::count(map);
            let text = format!(
                "{} of 4 KiB: {} data, {} zero, {} free",
                pages.total(),
                pages.data,
                pages.zero,
                pages.free
            );
            line("pages", &text);
            if let Some(reason) = &facts.memory.unsure {
                line("", &format!("free pages count as data: {reason}"));
            }
        }
        Err(reason) => line("pages", &format!("unknown: {reason}")),
    }
    if let Some(Stored {
        totals,
        size,
        phases,
    }) = &facts.stored
    {
        if !phases.is_empty() {
            line("took", &phases.to_string());
        }
        line("stored", &report::stored(totals));
        line("image", &report::size(*size));
    }
    line("memory", &size(facts.ranges.bytes()));
    if each_range {
        for range in facts.ranges.ranges() {
            line("", &range.to_string());
        }
    }
}

/// A number of seconds for people.
fn duration(seconds: u64) -> String {
    let (minutes, second) = (seconds / 60, seconds % 60);
    let (hours, minute) = (minutes / 60, minutes % 60);
    let (days, hour) = (hours / 24, hours % 24);
    match days {
        0 => format!("{hour}:{minute:02}:{second:02}"),
        1 => format!("1 day, {hour}:{minute:02}:{second:02}"),
        _ => format!("{days} days, {hour}:{minute:02}:{second:02}"),
    }
}

fn to_json(facts: &Facts) -> Value {
    let range_json =
        |range: PhysRange| json!({ "start": range.start().get(), "end": range.end().get() });
    let identity = facts.identity.as_ref();
    let pages = facts.memory.pages.as_ref().map(|map| {
        let pages = Pages::count(map);
        json!({
            "total": pages.total(),
            "data": pages.data,
            "zero": pages.zero,
            "free": pages.free,
        })
    });
    json!({
        "format": facts.format,
        "resumable": facts.state.as_ref().map(Result::is_ok),
        "reason": facts.state.as_ref().and_then(|state| state.as_ref().err()),
        "kernel_release": facts.release,
        "build_id": facts.build_id,
        "id": identity.map(|identity| identity.id.to_string()),
        "paging": identity.map(|identity| identity.paging.levels()),
        "window": identity.map(|identity| range_json(identity.window)),
        "uptime_seconds": facts.memory.uptime,
        "pages": pages.as_ref().ok(),
        "pages_reason": pages.as_ref().err().copied().or(facts.memory.unsure.as_ref()),
        "stored": facts.stored.as_ref().map(|Stored { totals, size, phases }| json!({
            "phases": phases
                .iter()
                .map(|(name, took)| json!({ "name": name, "seconds": took.as_secs_f64() }))
                .collect::<Vec<_>>(),
            "bytes": size,
            "data_bytes": totals.data_bytes(),
            "stored_bytes": totals.stored,
            "chunks": CodecKind::ALL
                .into_iter()
                .map(|codec| (codec.to_string(), json!(totals.chunks_by(codec))))
                .collect::<serde_json::Map<_, _>>(),
        })),
        "ranges": facts.ranges.ranges().map(range_json).collect::<Vec<_>>(),
    })
}

/// The map of all that is known.
fn draw(facts: &Facts) -> Map {
    Map::new(&Subject {
        release: facts.release.as_deref(),
        pages: facts.memory.pages.as_ref().ok(),
        ranges: &facts.ranges,
        identity: facts.identity.as_ref(),
        kernel: facts.kernel,
    })
}

fn write_svg(map: &Map, to: &Path) -> Result<()> {
    fs::write(to, Svg(map).to_string())
        .with_context(|| format!("cannot write the map {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(memory: MemoryFacts) -> Facts {
        Facts {
            stored: None,
            format: "elf".to_owned(),
            state: None,
            identity: None,
            release: None,
            build_id: None,
            kernel: None,
            ranges: RangeMap::new(),
            memory,
        }
    }

    #[test]
    fn pages_are_counted_by_class() {
        let range = |start, end| PhysRange::new(start, end).unwrap();
        let mut map = RangeMap::new();
        map.insert(range(0x1000, 0x4000), PageClass::Data).unwrap();
        map.insert(range(0x4000, 0x5000), PageClass::Zero).unwrap();
        map.insert(range(0x5000, 0x7000), PageClass::Free).unwrap();
        map.insert(range(0x9000, 0xa000), PageClass::Data).unwrap();
        let json = to_json(&facts(MemoryFacts {
            pages: Ok(map),
            unsure: None,
            uptime: Some(7),
        }));
        let pages = json!({ "total": 7, "data": 4, "zero": 1, "free": 2 });
        assert_eq!(json["pages"], pages);
        assert_eq!(json["pages_reason"], Value::Null);
        assert_eq!(json["uptime_seconds"], 7);
    }

    #[test]
    fn pages_that_cannot_be_told_apart_are_null_with_the_reason() {
        let json = to_json(&facts(MemoryFacts::unknown("no mem_section".to_owned())));
        assert_eq!(json["pages"], Value::Null);
        assert_eq!(json["pages_reason"], "no mem_section");
        assert_eq!(json["uptime_seconds"], Value::Null);
    }

    #[test]
    fn durations_are_for_people() {
        assert_eq!(duration(59), "0:00:59");
        assert_eq!(duration(3 * 3600 + 61), "3:01:01");
        assert_eq!(duration(86_400), "1 day, 0:00:00");
        assert!(duration(u64::MAX).contains(" days, "));
    }
}
