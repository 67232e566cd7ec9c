//! The machine at large: file systems of the kernel's, power.

use std::convert::Infallible;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

/// Mounts what the kernel shows of itself, and an empty `/tmp`.
pub(crate) fn mount_kernel_file_systems() -> Result<()> {
    for (kind, target) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/tmp"),
    ] {
        mount(
            Some(kind),
            target,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mounting {kind} on {target}"))?;
    }
    Ok(())
}

/// Loads the modules that the lab put there, if it did, in the order of their names.
pub(crate) fn load_modules() -> Result<()> {
    let Ok(modules) = fs::read_dir("/modules") else {
        return Ok(());
    };
    let mut modules: Vec<_> = modules
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    modules.sort_unstable();
    for path in modules {
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        // What is not for this machine does not matter; a mount will tell.
        let _ = finit_module(&file, c"", ModuleInitFlags::empty());
    }
    wait_for_nvme()
}

/// Waits until each controller of NVMe has a disk: they are looked for while other things go on.
fn wait_for_nvme() -> Result<()> {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        let mut controllers = 0;
        for device in fs::read_dir("/sys/bus/pci/devices").context("listing PCI devices")? {
            // Mass storage, non-volatile memory.
            let class = read(device?.path().join("class"))?;
            controllers += usize::from(class.starts_with("0x0108"));
        }
        let disks = disks()?;
        let found = disks.iter().filter(|disk| disk.starts_with("/dev/nvme"));
        if found.count() == controllers {
            return Ok(());
        }
        ensure!(Instant::now() < limit, "not all disks of NVMe appear");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Writes out what file systems hold, and turns the machine off. Returns only when that failed.
pub(crate) fn power_off() -> Result<Infallible> {
    nix::unistd::sync();
    reboot(RebootMode::RB_POWER_OFF).context("powering off")
}

/// All memory of the machine in bytes, from `/proc/meminfo`.
pub(crate) fn memory_size() -> Result<u64> {
    let meminfo = read("/proc/meminfo")?;
    memory_of(&meminfo, "MemTotal:").context("no MemTotal in /proc/meminfo")
}

/// The memory in bytes that nothing uses, from `/proc/meminfo`.
pub(crate) fn free_memory() -> Result<u64> {
    let meminfo = read("/proc/meminfo")?;
    memory_of(&meminfo, "MemFree:").context("no MemFree in /proc/meminfo")
}

/// The memory in bytes that a process can have, from `/proc/meminfo`.
pub(crate) fn available_memory() -> Result<u64> {
    let meminfo = read("/proc/meminfo")?;
    memory_of(&meminfo, "MemAvailable:").context("no MemAvailable in /proc/meminfo")
}

/// What lies in swap areas, in bytes, from `/proc/meminfo`.
pub(crate) fn swapped() -> Result<u64> {
    let meminfo = read("/proc/meminfo")?;
    let swapped =
        || memory_of(&meminfo, "SwapTotal:")?.checked_sub(memory_of(&meminfo, "SwapFree:")?);
    swapped().context("no SwapTotal and SwapFree in /proc/meminfo")
}

fn memory_of(meminfo: &str, what: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix(what))?;
    let kib: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Has the kernel give out memory in pages of 2 MiB where it can. Filling memory is faster then; a
/// kernel that has none of these does as well.
pub(crate) fn prefer_huge_pages() {
    let _ = write("/sys/kernel/mm/transparent_hugepage/enabled", "always");
}

/// Device files of the disks, in the order in which they are connected.
///
/// Names alone do not tell: the kernel names SCSI disks as they answer.
pub(crate) fn disks() -> Result<Vec<String>> {
    let mut disks = Vec::new();
    for entry in fs::read_dir("/sys/block").context("listing /sys/block")? {
        let entry = entry.context("listing /sys/block")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Block devices that no hardware is behind have no device.
        if entry.path().join("device").exists() {
            let connection = fs::canonicalize(entry.path())
                .with_context(|| format!("finding where {name} is connected"))?;
            disks.push((connection, format!("/dev/{name}")));
        }
    }
    disks.sort();
    Ok(disks.into_iter().map(|(_, disk)| disk).collect())
}

/// Where sysfs has the PCI device that `disk` hangs on.
pub(crate) fn hardware_of(disk: &str) -> Result<PathBuf> {
    let name = disk.trim_start_matches("/dev/");
    let place = fs::canonicalize(format!("/sys/block/{name}"))
        .with_context(|| format!("finding where {name} is connected"))?;
    let is_pci = |folder: &&Path| folder.join("vendor").exists() && folder.join("config").exists();
    let hardware = place.ancestors().find(is_pci);
    Ok(hardware.context("it is on no PCI device")?.to_owned())
}

/// All processes, threads of the kernel not among them: `PID NAME`, with commas between.
pub(crate) fn processes() -> Result<String> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc").context("listing /proc")? {
        let entry = entry.context("listing /proc")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Those of the kernel have no command line.
        if let Ok(pid) = name.parse::<u32>()
            && !read(entry.path().join("cmdline"))?.is_empty()
        {
            processes.push((pid, read(entry.path().join("comm"))?));
        }
    }
    processes.sort();
    let processes: Vec<String> = processes
        .into_iter()
        .map(|(pid, name)| format!("{pid} {}", name.trim_end()))
        .collect();
    Ok(processes.join(","))
}

/// Number of the NUMA nodes that have memory or CPUs; 1 on a kernel that knows none.
pub(crate) fn nodes() -> Result<usize> {
    let path = Path::new("/sys/devices/system/node/online");
    if !path.exists() {
        return Ok(1);
    }
    let list = read(path)?;
    let nodes = processor_list(&list).with_context(|| format!("not a list of nodes: {list}"))?;
    Ok(nodes.len())
}

/// Numbers of the CPUs that are on line.
pub(crate) fn online_processors() -> Result<Vec<usize>> {
    let list = read("/sys/devices/system/cpu/online")?;
    processor_list(&list).with_context(|| format!("not a list of CPUs: {list}"))
}

/// Reads a list such as `0-3,5`.
fn processor_list(list: &str) -> Option<Vec<usize>> {
    let mut processors = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        processors.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(processors)
}

/// Contents of a file of the kernel's.
pub(crate) fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// Writes `value` to a file of the kernel's.
pub(crate) fn write(path: impl AsRef<Path>, value: &str) -> Result<()> {
    let path = path.as_ref();
    fs::write(path, value).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_size_is_in_kib() {
        let meminfo = "MemFree:  1 kB\nMemTotal:        1011376 kB\n";
        assert_eq!(memory_of(meminfo, "MemTotal:"), Some(1_011_376 << 10));
        assert_eq!(memory_of(meminfo, "MemFree:"), Some(1024));
        assert_eq!(memory_of("MemFree:  1 kB\n", "MemTotal:"), None);
        assert_eq!(memory_of("MemTotal:  many kB\n", "MemTotal:"), None);
    }

    #[test]
    fn processor_lists() {
        assert_eq!(processor_list("0\n"), Some(vec![0]));
        assert_eq!(processor_list("0-2,5,7-8\n"), Some(vec![0, 1, 2, 5, 7, 8]));
        assert_eq!(processor_list(""), None);
        assert_eq!(processor_list("0-"), None);
    }
}
