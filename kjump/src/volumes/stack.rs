//! What a block device is made of, down to devices that every kernel finds: disks and their partitions.
//!
//! Nothing is put together here, or by other kernels: what the device mapper and md have put together is known by
//! what they say, and read from where it lies.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use vmcore::image::{Component, Mapping, Segment, Stripe, Volume, VolumeState};

use super::contents::look;
use super::names::{device_of, names_in};
use crate::device_mapper::{Mapped, Numbers, Target};
use crate::filesystem::{ENCRYPTED, MEMBER};

/// How the parts of a mapped device are asked for.
pub(super) type Tables = dyn Fn(Numbers) -> io::Result<Vec<Target>>;

/// What begins the kind of a volume that other kernels cannot look at; what it is on follows.
const HIDDEN: &str = "on ";

/// Unit of lengths and places in `/sys`.
const SECTOR: u64 = 512;

/// What begins the names of devices that have their bytes in files, in the network, or in a pool of ZFS.
const ELSEWHERE: [&str; 5] = ["loop", "nbd", "rbd", "drbd", "zd"];

/// Nothing is stacked so high; but links in `/sys` are not ours to trust.
const DEEPEST: u32 = 8;

/// A volume that other kernels cannot look at, on something of this `kind`.
pub(super) fn hidden(device: String, kind: &str) -> Volume {
    Volume {
        device,
        used: String::new(),
        kind: format!("{HIDDEN}{kind}"),
        uuid: String::new(),
        size: 0,
        mapping: None,
        state: VolumeState::Pending,
    }
}

/// Why other kernels cannot look at a volume of this kind, and what can be done; `None` if they can.
pub(super) fn why_hidden(kind: &str) -> Option<String> {
    let below = kind.strip_prefix(HIDDEN)?;
    Some(match below {
        "dm-thin" | "dm-thin-pool" => {
            "a thin volume, whose blocks only its pool can find; a volume that is not thin can be looked at".to_owned()
        }
        "dm-snapshot" | "dm-snapshot-origin" | "dm-snapshot-merge" => {
            "a volume with snapshots; it can be looked at when they are removed (lvremove)".to_owned()
        }
        "dm-cache" | "dm-writecache" => {
            "a volume with a cache, which has what was written last; it can be looked at without (lvconvert --uncache)".to_owned()
        }
        "bcache" => "a disk with a cache, which has what was written last".to_owned(),
        "dm-multipath" => {
            "a disk that is there by several paths, which other kernels take for several disks".to_owned()
        }
        "dm-raid" | "dm-mirror" => "RAID by LVM; RAID by mdadm can be looked at".to_owned(),
        "md-external" => "RAID whose members have no superblocks of md's (IMSM, DDF)".to_owned(),
        "zfs" | "zd" => "ZFS, which has disks of its own".to_owned(),
        "unreadable" => "a device that cannot be read".to_owned(),
        "untold" => "a mapped device that the kernel tells nothing about".to_owned(),
        "pieces" => format!(
            "a mapped device of more than {} pieces or {} devices, or whose stripes are not in one piece",
            Mapping::MOST_STRIPES,
            Mapping::MOST_COMPONENTS
        ),
        other => format!("{other}, which is not known here"),
    })
}

/// The block devices of the machine with this root.
pub(super) struct Stack<'a> {
    pub(super) root: &'a Path,
    /// How mapped devices are asked for.
    pub(super) tables: &'a Tables,
}

/// Why it is not known where the bytes of a device are.
enum Opaque {
    /// They are on something of this kind.
    Hidden(String),
    /// They are on these arrays, whose members can be looked at.
    Arrays(Vec<String>),
}

fn on<T>(kind: &str) -> Result<T, Opaque> {
    Err(Opaque::Hidden(kind.to_owned()))
}

/// What was met on the way down.
#[derive(Default)]
struct Trace {
    /// The names of the devices that the bytes are on, and whether they are members of an array.
    names: Vec<(String, bool)>,
    /// Whether some of the bytes are encrypted there.
    encrypted: bool,
}

impl Stack<'_> {
    fn sysfs(&self, name: &str) -> PathBuf {
        self.root.join("sys/class/block").join(name)
    }

    /// A file about a device, without the end of its line.
    fn read(&self, name: &str, file: &str) -> Option<String> {
        let text = fs::read_to_string(self.sysfs(name).join(file)).ok()?;
        Some(text.trim_end().to_owned())
    }

    fn number(&self, name: &str, file: &str) -> Option<u64> {
        self.read(name, file)?.parse().ok()
    }

    fn slaves(&self, name: &str) -> Vec<String> {
        names_in(&self.sysfs(name).join("slaves"))
    }

    /// The name of the device with these numbers.
    fn name(&self, (major, minor): Numbers) -> Option<String> {
        let link = self.root.join(format!("sys/dev/block/{major}:{minor}"));
        let target = fs::read_link(link).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// The device that this one is a partition of, if that is made of others.
    fn stacked_parent(&self, name: &str) -> Option<String> {
        self.read(name, "partition")?;
        let folder = self.sysfs(name).canonicalize().ok()?;
        let parent = folder.parent()?.file_name()?.to_string_lossy().into_owned();
        let is_stacked = self.sysfs(&parent).join("md").exists()
            || self.sysfs(&parent).join("bcache").exists()
            || !self.slaves(&parent).is_empty();
        is_stacked.then_some(parent)
    }

    /// The volumes that the device of this name is, or is made of.
    pub(super) fn volumes(&self, name: &str) -> Vec<Volume> {
        self.below(name, false, 0)
    }

    fn below(&self, name: &str, is_member: bool, depth: u32) -> Vec<Volume> {
        if ["loop", "zram", "ram"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            return Vec::new();
        }
        // What is encrypted stands for what it is made of, which has the header.
        let is_crypt = |uuid: String| uuid.starts_with("CRYPT-");
        if depth < DEEPEST && self.read(name, "dm/uuid").is_some_and(is_crypt) {
            let slaves = self.slaves(name).into_iter();
            return slaves
                .flat_map(|slave| self.below(&slave, false, depth + 1))
                .collect();
        }
        let mut trace = Trace::default();
        match self.trace(name, &mut trace, depth) {
            Ok(_) if trace.names == [(name.to_owned(), false)] => vec![self.plain(name, is_member)],
            Ok(segments) => self.mapped(name, is_member, &trace, segments),
            Err(Opaque::Hidden(kind)) => vec![hidden(device_of(name), &kind)],
            Err(Opaque::Arrays(arrays)) => arrays
                .iter()
                .flat_map(|array| self.members(array, depth + 1))
                .collect(),
        }
    }

    /// The volumes that the members of an array are.
    fn members(&self, array: &str, depth: u32) -> Vec<Volume> {
        let is_faulty = |name: &String| {
            self.read(array, &format!("md/dev-{name}/state"))
                .is_some_and(|state| state.split(',').any(|word| word == "faulty"))
        };
        self.slaves(array)
            .iter()
            .filter(|name| !is_faulty(name))
            .flat_map(|name| self.below(name, true, depth))
            .collect()
    }

    /// A device that every kernel finds.
    fn plain(&self, name: &str, is_member: bool) -> Volume {
        match self.component(name, is_member) {
            Some(component) if is_member && component.kind != MEMBER => {
                hidden(component.device, "md-external")
            }
            Some(component) => Volume {
                device: component.device,
                used: String::new(),
                kind: component.kind,
                uuid: component.uuid,
                size: component.size,
                mapping: None,
                state: VolumeState::Pending,
            },
            None => hidden(device_of(name), "unreadable"),
        }
    }

    /// A device with what is on it.
    fn component(&self, name: &str, is_member: bool) -> Option<Component> {
        let device = device_of(name);
        let path = self.root.join(device.trim_start_matches('/'));
        let kind = if is_member { MEMBER } else { "" };
        let (found, size) = look(&path, kind).ok()?;
        Some(Component {
            device,
            kind: found.kind.to_owned(),
            uuid: found.uuid,
            size,
        })
    }

    /// A device that is made of others, and those of them that have something to say of their own: metadata of
    /// LVM, the header of an encrypted device, a superblock of md.
    fn mapped(
        &self,
        name: &str,
        is_member: bool,
        trace: &Trace,
        segments: Vec<Segment>,
    ) -> Vec<Volume> {
        let below: Vec<Volume> = trace
            .names
            .iter()
            .map(|(name, is_member)| self.plain(name, *is_member))
            .collect();
        if let Some(volume) = below
            .iter()
            .find(|volume| why_hidden(&volume.kind).is_some())
        {
            return vec![Volume {
                device: device_of(name),
                ..volume.clone()
            }];
        }
        let mut volume = self.plain(name, is_member);
        if why_hidden(&volume.kind).is_some() {
            return vec![volume];
        }
        let components = below.iter().map(|volume| Component {
            device: volume.device.clone(),
            kind: volume.kind.clone(),
            uuid: volume.uuid.clone(),
            size: volume.size,
        });
        let mapping = Mapping::new(components.collect(), segments);
        let Some(mapping) = mapping.filter(|mapping| mapping.size() == volume.size) else {
            return vec![hidden(volume.device, "pieces")];
        };
        if trace.encrypted {
            volume.kind = ENCRYPTED.to_owned();
            volume.uuid = String::new();
        }
        volume.mapping = Some(mapping);
        let is_telling =
            |volume: &Volume| ["lvm", "luks1", "luks2", MEMBER].contains(&volume.kind.as_str());
        [volume]
            .into_iter()
            .chain(below.into_iter().filter(is_telling))
            .collect()
    }

    /// Finds out where the bytes of a device are.
    fn trace(&self, name: &str, trace: &mut Trace, depth: u32) -> Result<Vec<Segment>, Opaque> {
        if depth > DEEPEST {
            return on("pieces");
        }
        let depth = depth + 1;
        let size = self.number(name, "size").unwrap_or(0);
        let size = size.saturating_mul(SECTOR);
        if let Some(parent) = self.stacked_parent(name) {
            let start = self.number(name, "start").unwrap_or(u64::MAX);
            let start = start.saturating_mul(SECTOR);
            let whole = self.trace(&parent, trace, depth)?;
            return part(&whole, start..start.saturating_add(size));
        }
        let sysfs = self.sysfs(name);
        if sysfs.join("dm").exists() {
            return self.trace_mapped(name, trace, depth);
        }
        if sysfs.join("md").exists() {
            return self.trace_array(name, size, trace);
        }
        if sysfs.join("bcache").exists() {
            return on("bcache");
        }
        if let Some(kind) = ELSEWHERE.iter().find(|kind| name.starts_with(**kind)) {
            return on(kind);
        }
        if !self.slaves(name).is_empty() {
            return on(name.trim_end_matches(|char: char| char.is_ascii_digit()));
        }
        Ok(vec![Segment::linear(size, trace.add(name, false), 0)])
    }

    /// The same of a device of the device mapper.
    fn trace_mapped(
        &self,
        name: &str,
        trace: &mut Trace,
        depth: u32,
    ) -> Result<Vec<Segment>, Opaque> {
        let numbers = self.read(name, "dev").and_then(|text| {
            let (major, minor) = text.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        let Some(targets) = numbers.and_then(|numbers| (self.tables)(numbers).ok()) else {
            return on("untold");
        };
        let mut segments = Vec::new();
        let (mut arrays, mut any_else) = (Vec::new(), false);
        for Target { len, mapped } in targets {
            let mut below = |numbers: Numbers, range: Range<u64>| {
                let Some(name) = self.name(numbers) else {
                    return on("untold");
                };
                part(&self.trace(&name, trace, depth)?, range)
            };
            let found = match mapped {
                Mapped::Linear(device, start) => below(device, start..start.saturating_add(len)),
                Mapped::Crypt(device, start) => {
                    let found = below(device, start..start.saturating_add(len));
                    trace.encrypted = true;
                    found
                }
                Mapped::Striped(chunk, stripes) => {
                    let stripe_len = len / (stripes.len() as u64).max(1);
                    let stripes = stripes
                        .into_iter()
                        .map(|(device, start)| {
                            let range = start..start.saturating_add(stripe_len);
                            in_one_piece(&below(device, range)?)
                        })
                        .collect::<Result<_, _>>();
                    stripes.map(|stripes| {
                        vec![Segment {
                            len,
                            chunk,
                            stripes,
                        }]
                    })
                }
                Mapped::Other(kind) => on(&format!("dm-{kind}")),
            };
            match found {
                Ok(found) => {
                    any_else = true;
                    segments.extend(found);
                }
                Err(Opaque::Arrays(more)) => arrays.extend(more),
                Err(hidden) => return Err(hidden),
            }
            // What is mapped twice is read once; nothing that is so long is read at all.
            if segments.len() > Mapping::MOST_STRIPES {
                return on("pieces");
            }
        }
        match (arrays.is_empty(), any_else) {
            (true, _) => Ok(segments),
            (false, false) => Err(Opaque::Arrays(arrays)),
            (false, true) => on("a volume on arrays and other devices"),
        }
    }

    /// The same of an array of md (`Documentation/admin-guide/md.rst`). Where its members say that they were
    /// written to, they can be looked at themselves. Those of level 0 do not, but where they are of one size the
    /// bytes are dealt out to them in turns.
    fn trace_array(
        &self,
        name: &str,
        size: u64,
        trace: &mut Trace,
    ) -> Result<Vec<Segment>, Opaque> {
        let level = self.read(name, "md/level").unwrap_or_default();
        match level.as_str() {
            "raid1" | "raid4" | "raid5" | "raid6" | "raid10" => {
                return Err(Opaque::Arrays(vec![name.to_owned()]));
            }
            "raid0" => {}
            level => return on(&format!("md-{level}")),
        }
        let striped = || {
            let count = self.number(name, "md/raid_disks")?;
            let chunk = self
                .number(name, "md/chunk_size")
                .filter(|&chunk| chunk > 0)?;
            let len = size.checked_div(count)?;
            let mut stripes = Vec::new();
            for slot in 0..usize::try_from(count).ok()?.min(Mapping::MOST_STRIPES) {
                // Links to `dev-NAME`.
                let link = fs::read_link(self.sysfs(name).join(format!("md/rd{slot}"))).ok()?;
                let member = link.file_name()?.to_string_lossy().into_owned();
                let file = |file: &str| self.number(name, &format!("md/{member}/{file}"));
                // In KiB, of which the array takes whole chunks.
                let usable = file("size")?.checked_mul(1024)? / chunk * chunk;
                let member = member.strip_prefix("dev-")?;
                // One that is put together itself, or of another size, is too much.
                let is_plain = !self.sysfs(member).join("dm").exists()
                    && !self.sysfs(member).join("md").exists()
                    && self.slaves(member).is_empty();
                if usable != len || !is_plain {
                    return None;
                }
                stripes.push((member.to_owned(), file("offset")?.checked_mul(SECTOR)?));
            }
            Some((chunk, stripes))
        };
        let Some((chunk, stripes)) = striped() else {
            return on("md-raid0 of members of several sizes");
        };
        let stripe = |(name, start): (String, u64)| Stripe {
            component: trace.add(&name, true),
            start,
        };
        Ok(vec![Segment {
            len: size,
            chunk,
            stripes: stripes.into_iter().map(stripe).collect(),
        }])
    }
}

impl Trace {
    /// The number of the device of this name.
    fn add(&mut self, name: &str, is_member: bool) -> usize {
        let there = self.names.iter().position(|(there, _)| there == name);
        there.unwrap_or_else(|| {
            self.names.push((name.to_owned(), is_member));
            self.names.len() - 1
        })
    }
}

/// The part `range` of what these segments are.
fn part(segments: &[Segment], range: Range<u64>) -> Result<Vec<Segment>, Opaque> {
    let mut parts = Vec::new();
    let mut at: u64 = 0;
    for segment in segments {
        let end = at.saturating_add(segment.len);
        let (from, to) = (range.start.max(at), range.end.min(end));
        if from < to {
            match segment.part(from - at..to - at) {
                Some(part) => parts.push(part),
                None => return on("pieces"),
            }
        }
        at = end;
    }
    // All of it has to be there.
    if range.end > at || range.start >= range.end {
        return on("pieces");
    }
    Ok(parts)
}

/// Where these segments are, if that is in one piece.
fn in_one_piece(segments: &[Segment]) -> Result<Stripe, Opaque> {
    match segments {
        [Segment { stripes, .. }] if stripes.len() == 1 => Ok(stripes[0]),
        _ => on("pieces"),
    }
}

#[cfg(test)]
mod tests;
