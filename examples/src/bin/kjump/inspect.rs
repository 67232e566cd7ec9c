//! What does a file hold?

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use kjump::memory::elf::Core;
use kjump::memory::image::{Header, Identity, Image};
use kjump::memory::{Memory as _, RangeMap, ReadAt, ReadFile};
use serde_json::{Value, json};

use crate::report::size;

/// What is known of a file.
struct Facts {
    format: &'static str,
    /// Whether it could be resumed, and why not.
    state: Option<Result<(), String>>,
    identity: Option<Identity>,
    release: Option<String>,
    build_id: Option<String>,
    ranges: RangeMap<()>,
}

/// `kjump inspect`
pub(crate) fn run(path: &Path, as_json: bool) -> Result<()> {
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
    if as_json {
        println!("{:#}", to_json(&facts));
    } else {
        print(&facts);
    }
    Ok(())
}

fn core_facts<S: ReadAt>(core: &Core<S>) -> Facts {
    let info = core.vmcoreinfo().unwrap_or_default();
    Facts {
        format: "elf",
        state: None,
        identity: Identity::from_notes(&core.encode_notes()),
        release: info.os_release().map(str::to_owned),
        build_id: info.build_id().map(str::to_owned),
        ranges: core.contents().filter_map(|_| Some(())),
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
        ranges: RangeMap::new(),
    };
    // A header that reads well is worth showing, whatever is behind it.
    match Image::examine(again) {
        Ok((image, resumable)) => {
            facts.state = Some(resumable.map_err(|error| error.to_string()));
            if let Ok(core) = image.core() {
                facts.ranges = core.contents().filter_map(|_| Some(()));
            }
        }
        Err(error) => facts.state = Some(Err(error.to_string())),
    }
    Ok(facts)
}

fn print(facts: &Facts) {
    let line = |name: &str, value: &str| println!("{name:<10} {value}");
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
    line("memory", &size(facts.ranges.bytes()));
    for range in facts.ranges.ranges() {
        line("", &range.to_string());
    }
}

fn to_json(facts: &Facts) -> Value {
    let ranges: Vec<_> = facts
        .ranges
        .ranges()
        .map(|range| json!({ "start": range.start().get(), "end": range.end().get() }))
        .collect();
    json!({
        "format": facts.format,
        "resumable": facts.state.as_ref().map(Result::is_ok),
        "reason": facts.state.as_ref().and_then(|state| state.as_ref().err()),
        "kernel_release": facts.release,
        "build_id": facts.build_id,
        "id": facts.identity.as_ref().map(|identity| identity.id.to_string()),
        "ranges": ranges,
    })
}
