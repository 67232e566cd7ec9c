//! What does a file hold?

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use kjump::PhysRange;
use kjump::memory::elf::Core;
use kjump::memory::image::{Header, Identity, Image};
use kjump::memory::{Memory as _, PAGE_SIZE, PageClass, RangeMap, ReadAt, ReadFile};
use serde_json::{Value, json};

use crate::cli::{Inspect, MapTarget};
use crate::map::svg::Svg;
use crate::map::text::Text;
use crate::map::{self, Map, Subject};
use crate::report::{plain, say, size};

/// What is known of a file.
struct Facts {
    format: &'static str,
    /// Whether it could be resumed, and why not.
    state: Option<Result<(), String>>,
    identity: Option<Identity>,
    release: Option<String>,
    build_id: Option<String>,
    /// Where the kernel's image lies.
    kernel: Option<PhysRange>,
    /// The memory in the file.
    ranges: RangeMap<()>,
    memory: MemoryFacts,
}

/// What a look into the memory itself tells.
struct MemoryFacts {
    /// The pages by class, or why they cannot be told apart.
    pages: Result<RangeMap<PageClass>, String>,
    /// For how long the machine ran, in seconds.
    uptime: Option<u64>,
}

impl MemoryFacts {
    /// The one place where the memory of `core` is looked into. The classes are those that the file
    /// itself tells; nothing tells the uptime.
    fn of<S: ReadAt>(core: &Core<S>) -> Self {
        Self {
            pages: Ok(core.contents().clone()),
            uptime: None,
        }
    }

    /// Nothing is known, for this reason.
    fn unknown(reason: String) -> Self {
        Self {
            pages: Err(reason),
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
    let path = &options.file;
    let open = || -> Result<ReadFile> {
        let cannot = || format!("cannot read {}", path.display());
        let file = File::open(path).with_context(cannot)?;
        ReadFile::new(file).with_context(cannot)
    };
    let mut magic = [0; 4];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .with_context(|| format!("cannot read {}", path.display()))?;
    let facts = if &magic == b"\x7fELF" {
        core_facts(&Core::open(open()?)?)
    } else {
        image_facts(open()?, open()?)?
    };
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

fn core_facts<S: ReadAt>(core: &Core<S>) -> Facts {
    let info = core.vmcoreinfo().unwrap_or_default();
    Facts {
        format: "elf",
        state: None,
        identity: Identity::from_core(core),
        release: info.os_release().map(str::to_owned),
        build_id: info.build_id().map(str::to_owned),
        kernel: map::kernel_image(&info),
        ranges: core.contents().filter_map(|_| Some(())),
        memory: MemoryFacts::of(core),
    }
}

fn image_facts(source: ReadFile, again: ReadFile) -> Result<Facts> {
    let Header { identity, .. } = Header::read(&source)?;
    let mut facts = Facts {
        format: "kjump",
        state: Some(Ok(())),
        release: Some(identity.release.clone()),
        build_id: Some(identity.build_id_hex()),
        identity: Some(identity),
        kernel: None,
        ranges: RangeMap::new(),
        memory: MemoryFacts::unknown("the image holds no memory".to_owned()),
    };
    // A header that reads well is worth showing, whatever is behind it.
    match Image::examine(again) {
        Ok((image, resumable)) => {
            facts.state = Some(resumable.map_err(|error| error.to_string()));
            match image.core() {
                Ok(core) => {
                    facts.ranges = core.contents().filter_map(|_| Some(()));
                    facts.kernel = core.vmcoreinfo().and_then(|info| map::kernel_image(&info));
                    facts.memory = MemoryFacts::of(&core);
                }
                Err(error) => facts.memory = MemoryFacts::unknown(error.to_string()),
            }
        }
        Err(error) => {
            facts.memory = MemoryFacts::unknown(error.to_string());
            facts.state = Some(Err(error.to_string()));
        }
    }
    Ok(facts)
}

/// Prints the facts, with all ranges if `each_range`.
fn print(facts: &Facts, each_range: bool) {
    let line = |name: &str, value: &str| println!("{name:<10} {}", plain(value));
    line("format", facts.format);
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
        }
        Err(reason) => line("pages", &format!("unknown: {reason}")),
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
        "pages_reason": pages.as_ref().err(),
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
            format: "elf",
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
