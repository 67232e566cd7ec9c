//! The modules of the lab's kernels, as distributions install them: in `/lib/modules/RELEASE`, with a list of
//! what each depends on, and some of them compressed.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use kexec_image::Kernel;
use kexec_image::initramfs::{Archive, gzip};

/// A module in its file.
pub(crate) struct Module {
    /// Name of the file.
    pub(crate) file: String,
    /// Names of the modules that it depends on, with underscores.
    needed: Vec<String>,
    /// What is in the file.
    pub(crate) bytes: Vec<u8>,
}

/// The modules of `kernel`, each behind those that it depends on.
pub(crate) fn modules(kernel: &Path) -> Result<Vec<Module>> {
    let source = kernel.with_file_name("modules");
    let listing = || format!("listing {}", source.display());
    let mut modules = Vec::new();
    for module in fs::read_dir(&source).with_context(listing)? {
        let path = module.with_context(listing)?.path();
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        modules.push(Module {
            file: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            needed: dependencies(&bytes),
            bytes,
        });
    }
    in_order(modules)
}

fn in_order(mut left: Vec<Module>) -> Result<Vec<Module>> {
    left.sort_unstable_by(|one, other| one.file.cmp(&other.file));
    let mut ordered: Vec<Module> = Vec::new();
    while !left.is_empty() {
        let is_ready = |module: &Module| {
            let mut needed = module.needed.iter();
            needed.all(|name| {
                ordered
                    .iter()
                    .any(|there| module_name(&there.file) == *name)
            })
        };
        let next = left.iter().position(is_ready);
        let next = next.with_context(|| format!("{} needs what is not there", left[0].file))?;
        ordered.push(left.remove(next));
    }
    Ok(ordered)
}

/// Adds the modules of `kernel` to the initramfs at `path`.
pub(crate) fn install(path: &Path, kernel: &Path) -> Result<()> {
    let image = fs::read(kernel).with_context(|| format!("reading {}", kernel.display()))?;
    let release = Kernel::parse(&image)?
        .release()
        .context("the kernel does not tell its release")?
        .to_owned();
    // So there are some of both kinds.
    let modules = modules(kernel)?.into_iter().map(|module| {
        let Module {
            file,
            needed,
            bytes,
        } = module;
        if needed.is_empty() {
            (format!("kernel/{file}.gz"), needed, gzip(&bytes))
        } else {
            (format!("kernel/{file}"), needed, bytes)
        }
    });
    let modules: Vec<_> = modules.collect();
    let folder = format!("/lib/modules/{release}");
    let mut archive = Archive::new();
    let mut list = String::new();
    for (file, needed, bytes) in &modules {
        archive.file(&format!("{folder}/{file}"), 0o644, bytes)?;
        list.push_str(&format!("{file}:"));
        for name in needed {
            let mut files = modules.iter().map(|(file, ..)| file);
            let other = files.find(|file| module_name(file) == *name);
            let other = other.with_context(|| format!("there is no module {name}"))?;
            list.push_str(&format!(" {other}"));
        }
        list.push('\n');
    }
    archive.file(&format!("{folder}/modules.dep"), 0o644, list.as_bytes())?;
    // Archives that lie one behind the other are one initramfs.
    let mut file = File::options().append(true).open(path)?;
    file.write_all(&archive.finish())
        .with_context(|| format!("writing {}", path.display()))
}

/// The name of the module in `file`.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or_default();
    name.split(".ko")
        .next()
        .unwrap_or_default()
        .replace('-', "_")
}

/// The names of the modules that a module depends on, by what it says of itself in its section `.modinfo`.
fn dependencies(module: &[u8]) -> Vec<String> {
    let line = module
        .split(|byte| *byte == 0)
        .find_map(|text| text.strip_prefix(b"depends="))
        .unwrap_or_default();
    let names = String::from_utf8_lossy(line).into_owned();
    let names = names.split(',').filter(|name| !name.is_empty());
    names.map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_depends_on_is_read() {
        let module = b"\x7fELF\0license=GPL\0depends=exportfs,lib-crc\0name=xfs\0";
        assert_eq!(dependencies(module), ["exportfs", "lib_crc"]);
        assert!(dependencies(b"depends=\0").is_empty());
        assert_eq!(module_name("kernel/nls_iso8859-1.ko.gz"), "nls_iso8859_1");
    }

    #[test]
    fn modules_come_behind_what_they_depend_on() {
        let module = |(file, needed): (&str, &[&str])| Module {
            file: file.to_owned(),
            needed: needed.iter().map(|&name| name.to_owned()).collect(),
            bytes: Vec::new(),
        };
        let order = |modules: &[(&str, &[&str])]| {
            let ordered = in_order(modules.iter().copied().map(module).collect());
            ordered.map(|ordered| {
                let files = ordered.iter().map(|module| module.file.as_str());
                files.collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(
            order(&[("a.ko", &["b_c", "d"]), ("d.ko", &["b_c"]), ("b-c.ko", &[])]).unwrap(),
            "b-c.ko d.ko a.ko"
        );
        assert!(order(&[("a.ko", &["b"]), ("b.ko", &["a"])]).is_err());
    }
}
