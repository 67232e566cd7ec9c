//! Kernel modules in the initramfs of the kernels that save and restore: they are chosen where that is made,
//! and loaded where it is init.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use kjump::initramfs::Archive;
use kjump::memory::image::{Volume, VolumeState};
use kjump::modules::{Index, Module, Need, is_built_in};
use kjump::{BlockDevice, CommandLine, Kernel, machine};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::cli::Initramfs;
use crate::report::{self, say, size};

/// Where the initramfs has them. Their names begin with numbers, in the order in which they are to be loaded.
const FOLDER: &str = "/modules";

/// The devices that a saving kernel looks at: those of `volumes`, and that of the image.
pub(crate) fn in_use(volumes: &[Volume], image: Option<&Path>) -> Result<Vec<BlockDevice>> {
    let looked_at = volumes
        .iter()
        .filter(|volume| volume.state != VolumeState::Exempt)
        // What is no block device here cannot be looked at there, which is told when that is planned.
        .filter_map(|volume| BlockDevice::open(Path::new(&volume.device)).ok()?);
    let image = image.map(BlockDevice::open).transpose()?.flatten();
    Ok(image.into_iter().chain(looked_at).collect())
}

/// The modules that a kernel of the release `its` has to load to see `devices`, and those that were `asked` for
/// by name. The running kernel is of the release `running`, and stands for one whose release is not known.
pub(crate) fn choose(
    devices: &[BlockDevice],
    asked: &[String],
    its: Option<&str>,
    running: &str,
) -> Result<Vec<Module>> {
    let mut needs: Vec<Need> = devices.iter().flat_map(BlockDevice::drivers).collect();
    let release = its.unwrap_or(running);
    let asked = asked.iter().map(|name| Need {
        built_in: release == running && is_built_in(name),
        ..Need::of(name, "--module")
    });
    let index = Index::read(release)?;
    if release != running {
        let missing = without(&index, &mut needs);
        if !missing.is_empty() {
            say!(
                "the kernel is {release}, and the running one {running}: if it has no drivers for the disks \
                 built in, it finds no disk, for {} lacks {}",
                index.folder().display(),
                missing.join(", ")
            );
        }
    }
    needs.extend(asked);
    Ok(index.select(&needs)?)
}

/// Takes from `needs` what another kernel does not have, and returns the names of modules of this kernel among
/// that: the other one may have those built in.
fn without(index: &Index, needs: &mut Vec<Need>) -> Vec<String> {
    let (there, missing): (Vec<Need>, Vec<Need>) =
        needs.drain(..).partition(|need| index.has(&need.module));
    *needs = there;
    let missing = missing.into_iter().filter(|need| !need.built_in);
    missing
        .map(|need| format!("{} (for {})", need.module, need.what_for))
        .collect()
}

/// The modules for an initramfs that is written to a file.
pub(crate) fn choose_for(options: &Initramfs) -> Result<Vec<Module>> {
    if options.image.is_none() && options.module.is_empty() {
        return Ok(Vec::new());
    }
    let running = machine::release()?;
    let its = options.kernel.as_deref().map(release_of).transpose()?;
    let devices = match &options.image {
        Some(image) => in_use(&kjump::volumes::in_use()?, Some(image))?,
        None => Vec::new(),
    };
    choose(&devices, &options.module, its.as_deref(), &running)
}

/// The release of the kernel in a file.
fn release_of(path: &Path) -> Result<String> {
    let kernel =
        fs::read(path).with_context(|| format!("cannot read the kernel {}", path.display()))?;
    let release = Kernel::parse(&kernel)
        .with_context(|| format!("cannot use {}", path.display()))?
        .release()
        .map(str::to_owned);
    release.ok_or_else(|| anyhow!("{} does not tell its release", path.display()))
}

/// How many bytes of modules are more than one expects, since they have to lie in the window.
const MANY: u64 = 16 << 20;

/// Adds `modules` to an initramfs, unpacked.
pub(crate) fn add(archive: &mut Archive, modules: &[Module]) -> Result<()> {
    let mut total = 0;
    for (number, module) in modules.iter().enumerate() {
        let path = format!("{FOLDER}/{number:04}-{}.ko", module.name);
        let content = module.read()?;
        total += content.len() as u64;
        archive.file(&path, 0o600, &content)?;
    }
    if total > MANY {
        say!(
            "the modules in the initramfs take {}, as they do with what is there for debuggers: install them \
             without (make modules_install INSTALL_MOD_STRIP=1), or have a larger window (--window)",
            size(total)
        );
    }
    Ok(())
}

/// As init: loads all modules that the initramfs has. A process of its own does it, which the kernel may end if
/// a driver breaks down; init goes on and looks for its devices all the same. Returns whether there were any.
pub(crate) fn load_apart() -> bool {
    if !Path::new(FOLDER).exists() {
        return false;
    }
    let ended = Command::new("/proc/self/exe")
        .args(["load-modules", FOLDER])
        .status();
    match ended {
        Ok(status) if status.success() => {}
        Ok(status) => say!("not all modules were loaded ({status}); going on without"),
        Err(error) => say!("no modules were loaded ({error}); going on without"),
    }
    true
}

/// Loads the modules in `folder` in the order of their names, with the parameters that the command line of the
/// kernel has for them. One that fails is told, and is no reason not to load the others.
pub(crate) fn load(folder: &Path) -> Result<()> {
    let line = machine::command_line()?;
    let reading = || format!("cannot read {}", folder.display());
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(reading)?;
    paths.sort();
    for path in paths {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let name = name.split_once('-').map_or(&*name, |(_, name)| name);
        match insert(&path, &parameters(&line, name)) {
            Ok(true) => say!("loaded module {name}"),
            Ok(false) => say!("module {name} is there already"),
            Err(error) => report::error(&error.context(format!("cannot load module {name}"))),
        }
    }
    Ok(())
}

/// Loads a module, unless it is there already.
fn insert(path: &Path, parameters: &str) -> Result<bool> {
    let file = File::open(path)?;
    match finit_module(&file, &CString::new(parameters)?, ModuleInitFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What the command line of the kernel says for the module `name`: `NAME.PARAMETER=VALUE`
/// (`Documentation/admin-guide/kernel-parameters.rst`).
fn parameters(line: &str, name: &str) -> String {
    let ours = CommandLine::parameters(line).filter_map(|parameter| {
        let (module, parameter) = parameter.split_once('.')?;
        (module.replace('-', "_") == name).then_some(parameter)
    });
    ours.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_gets_the_parameters_that_are_for_it() {
        let line = "quiet nvme_core.a=1 nvme.b=2 nvme-core.c=\"x y\" console=ttyS0 kjump.role=save";
        assert_eq!(parameters(line, "nvme_core"), "a=1 c=\"x y\"");
        assert_eq!(parameters(line, "nvme"), "b=2");
        assert_eq!(parameters(line, "xfs"), "");
    }

    #[test]
    fn what_is_no_module_is_an_error() {
        assert!(insert(Path::new("/nonexistent.ko"), "").is_err());
        assert!(insert(Path::new("/dev/null"), "a\0b").is_err());
        assert!(load(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn what_another_kernel_lacks_is_told_if_it_is_a_module_here() {
        let index = Index::read("none-of-this-release").unwrap();
        let built_in = Need {
            built_in: true,
            ..Need::of("sd_mod", "sda")
        };
        let mut needs = vec![Need::of("ahci", "sda"), built_in];
        assert_eq!(without(&index, &mut needs), ["ahci (for sda)"]);
        assert_eq!(needs, []);
    }
}
