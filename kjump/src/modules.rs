//! Kernel modules: which ones a kernel has to load, in which order, and what is in their files.
//!
//! `depmod` lists the modules of a kernel in `/lib/modules/RELEASE` (modules.dep(5)). Those that are needed are
//! put into the initramfs of the kernel that saves or restores, unpacked, in the order in which they are to be
//! loaded: then it takes nothing there but finit_module(2).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use lzma_rust2::XzReader;

use crate::Error;

/// A module that is needed, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its name, with underscores where the name of its file may have hyphens.
    pub module: String,
    /// What it is for, such as the name of a device.
    pub what_for: String,
    /// Whether the running kernel has it built in, or does not know it.
    pub built_in: bool,
}

impl Need {
    /// The module `name`, for `what_for`.
    #[must_use]
    pub fn of(name: &str, what_for: &str) -> Self {
        Self {
            module: normal(name),
            what_for: what_for.to_owned(),
            built_in: false,
        }
    }
}

/// Whether the running kernel has the module `name` built in, as far as it tells. It tells the state of those
/// only that are not (`Documentation/ABI/testing/sysfs-module`).
#[must_use]
pub fn is_built_in(name: &str) -> bool {
    let folder = Path::new("/sys/module").join(normal(name));
    folder.exists() && !folder.join("initstate").exists()
}

/// A module with a file, as its kernel is to load it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// Its file, which may be compressed.
    pub path: PathBuf,
}

/// The modules that there are for a kernel.
///
/// ```no_run
/// use kjump::modules::{Index, Need};
///
/// let index = Index::read("6.12.0-amd64")?;
/// for module in index.select(&[Need::of("nvme", "the disk")])? {
///     println!("{}: {} bytes", module.name, module.read()?.len());
/// }
/// # Ok::<(), kjump::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Index {
    folder: PathBuf,
    /// By name: its file in the folder, and the names of those that must be loaded before.
    modules: BTreeMap<String, (PathBuf, Vec<String>)>,
    built_in: BTreeSet<String>,
    /// By name of a module, or of what modules provide: what should be loaded before if it is there, and what
    /// provides that.
    wishes: BTreeMap<String, Vec<String>>,
    providers: BTreeMap<String, Vec<String>>,
    /// Whether there is a list of modules.
    listed: bool,
}

/// The most that is read of a list of modules, in bytes.
const MAX_LIST: u64 = 64 << 20;

/// The most that a module may have, in bytes. None of a disk has a tenth of it.
const MAX_MODULE: u64 = 128 << 20;

/// The largest window of a compressor that is unpacked, as a power of two: 128 MiB. The kernel's own build
/// compresses with less (`scripts/Makefile.modinst`).
const WINDOW_LOG: u32 = 27;

impl Index {
    /// Reads which modules there are for the kernel of this release.
    ///
    /// None at all is no error, before one is needed.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] if a list is there and cannot be read, [`Error::Release`] if `release` is none.
    pub fn read(release: &str) -> Result<Self, Error> {
        Self::read_at(Path::new("/"), release)
    }

    pub(crate) fn read_at(root: &Path, release: &str) -> Result<Self, Error> {
        // It may come from a kernel file.
        if !is_plain(Path::new(release)) || release.contains('/') {
            return Err(Error::Release {
                release: release.to_owned(),
            });
        }
        let folder = root.join("lib/modules").join(release);
        Self::of_lists(&folder, |name| match read_list(&folder.join(name)) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some).map_err(Error::read(&folder.join(name))),
        })
    }

    /// As [`read`](Self::read), of the lists that `list` has by their names, such as `modules.dep`, about files in
    /// `folder`.
    ///
    /// ```
    /// use std::path::Path;
    ///
    /// use kjump::modules::{Index, Need};
    ///
    /// let dep = "kernel/xfs.ko: kernel/libcrc32c.ko\nkernel/libcrc32c.ko:\n";
    /// let list = |name: &str| Ok((name == "modules.dep").then(|| dep.to_owned()));
    /// let index = Index::of_lists(Path::new("/lib/modules/6.12.0"), list)?;
    /// let modules = index.select(&[Need::of("xfs", "the root")])?;
    /// assert_eq!(modules[0].path, Path::new("/lib/modules/6.12.0/kernel/libcrc32c.ko"));
    /// # Ok::<(), kjump::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What `list` says.
    pub fn of_lists(
        folder: &Path,
        list: impl Fn(&str) -> Result<Option<String>, Error>,
    ) -> Result<Self, Error> {
        let mut index = Self {
            folder: folder.to_owned(),
            ..Self::default()
        };
        if let Some(text) = list("modules.dep")? {
            index.listed = true;
            index.modules = text.lines().filter_map(dependencies).collect();
        }
        if let Some(text) = list("modules.builtin")? {
            index.built_in = text
                .lines()
                .map(|line| module_name(Path::new(line)))
                .collect();
        }
        if let Some(text) = list("modules.softdep")? {
            for (module, wished) in text.lines().filter_map(wishes) {
                index.wishes.entry(module).or_default().extend(wished);
            }
        }
        // Only of use for wishes.
        if !index.wishes.is_empty()
            && let Some(text) = list("modules.alias")?
        {
            for (name, module) in text.lines().filter_map(alias) {
                index.providers.entry(name).or_default().push(module);
            }
        }
        Ok(index)
    }

    /// Where it was read.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the kernel has this module, in a file or built in.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let name = normal(name);
        self.modules.contains_key(&name) || self.built_in.contains(&name)
    }

    /// The modules to load for `needs`, each after those that it depends on. What is built in is left out.
    ///
    /// # Errors
    ///
    /// [`Error::NoModule`] if one is neither there nor built in.
    pub fn select(&self, needs: &[Need]) -> Result<Vec<Module>, Error> {
        let mut selected = Vec::new();
        let mut seen = BTreeSet::new();
        for need in needs {
            // What is to be done, the next thing last: a module comes after what it depends on. Lists may
            // lead in circles.
            let mut left = vec![(normal(&need.module), false)];
            while let Some((name, ready)) = left.pop() {
                let Some((path, before)) = self.modules.get(&name) else {
                    if need.built_in || self.built_in.contains(&name) {
                        continue;
                    }
                    return Err(Error::NoModule {
                        module: name,
                        what_for: need.what_for.clone(),
                        folder: self.folder.clone(),
                        listed: self.listed,
                    });
                };
                if ready {
                    let path = self.folder.join(path);
                    selected.push(Module { name, path });
                } else if seen.insert(name.clone()) {
                    let wished = self.wished(&name);
                    left.push((name, true));
                    let first = wished.into_iter().chain(before.iter().cloned());
                    left.extend(first.rev().map(|other| (other, false)));
                }
            }
        }
        Ok(selected)
    }

    /// Modules that should be loaded before `name`, among those that there are.
    fn wished(&self, name: &str) -> Vec<String> {
        let mut wished = Vec::new();
        let mut seen = BTreeSet::new();
        let wishes = self.wishes.get(name).into_iter().flatten();
        // A list may say the same over and over.
        for wish in wishes.filter(|wish| seen.insert(*wish)) {
            let providers = self.providers.get(wish).into_iter().flatten();
            wished.extend([wish].into_iter().chain(providers).cloned());
        }
        wished.retain(|wish| self.modules.contains_key(wish));
        wished
    }
}

impl Module {
    /// What is in its file, unpacked.
    ///
    /// # Errors
    ///
    /// [`Error::Module`] if it cannot be read, is damaged, or larger than any module.
    pub fn read(&self) -> Result<Vec<u8>, Error> {
        self.unpack().map_err(|source| Error::Module {
            module: self.name.clone(),
            path: self.path.clone(),
            source,
        })
    }

    fn unpack(&self) -> io::Result<Vec<u8>> {
        let file = File::open(&self.path)?;
        let extension = self.path.extension().unwrap_or_default();
        match extension.to_str() {
            Some("gz") => bounded(GzDecoder::new(file)),
            Some("xz") => bounded(XzReader::new_mem_limit(file, true, 1 << (WINDOW_LOG - 9))),
            Some("zst") => {
                let mut decoder = zstd::Decoder::new(file)?;
                decoder.window_log_max(WINDOW_LOG)?;
                bounded(decoder)
            }
            _ => bounded(file),
        }
    }
}

/// All of `source`, unless that is more than a module may have.
fn bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_MODULE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_MODULE {
        return Err(io::Error::other("it is larger than any module"));
    }
    Ok(bytes)
}

fn read_list(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_LIST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A name as the kernel has it: files may have hyphens where it has underscores.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// The name of the module in a file such as `kernel/fs/xfs/xfs.ko.xz`.
fn module_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    normal(file.split(".ko").next().unwrap_or_default())
}

/// Whether a path leads nowhere but down.
fn is_plain(path: &Path) -> bool {
    let mut parts = path.components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// A line of `modules.dep`: a file and the files that it depends on (modules.dep(5)).
fn dependencies(line: &str) -> Option<(String, (PathBuf, Vec<String>))> {
    let (path, before) = line.split_once(':')?;
    let path = Path::new(path.trim());
    let before = before
        .split_whitespace()
        .map(|path| module_name(Path::new(path)));
    is_plain(path).then(|| (module_name(path), (path.to_owned(), before.collect())))
}

/// A line of `modules.softdep`: a module, and the names behind `pre:` (modprobe.d(5)).
fn wishes(line: &str) -> Option<(String, Vec<String>)> {
    let mut words = line.split_whitespace();
    let module = (words.next()? == "softdep").then(|| words.next())??;
    let wished = words
        .skip_while(|word| *word != "pre:")
        .skip(1)
        .take_while(|word| *word != "post:");
    Some((normal(module), wished.map(normal).collect()))
}

/// A line of `modules.alias`, if it gives a module a name and not a pattern.
fn alias(line: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace();
    let (keyword, name, module) = (words.next()?, words.next()?, words.next()?);
    let is_name = keyword == "alias" && !name.contains(['*', '?', '[', ':']);
    is_name.then(|| (normal(name), normal(module)))
}

#[cfg(test)]
mod tests;
