//! The facts of the running machine, read from where the kernel shows them.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use kexec_image::{CommandLine, Firmware, Machine};
use kexec_sys::KernelState;
use vmcore::elf::{Notes, direct_map_base};
use vmcore::image::{Paging, Platform};
use vmcore::{IoMem, PhysAddr, PhysRange, ReadFile};

use crate::{Error, Moment, volumes};

/// Reads the facts of the running machine.
///
/// # Errors
///
/// [`Error::Read`] if `/proc` or `/sys` is not mounted, [`Error::IoMem`] if the memory map is hidden:
/// this needs root.
pub fn read() -> Result<Machine, Error> {
    read_at(Path::new("/"))
}

/// As [`read`], with `/proc` and `/sys` below `root`.
///
/// # Errors
///
/// As [`read`].
pub fn read_at(root: &Path) -> Result<Machine, Error> {
    Ok(Machine {
        release: release_at(root)?,
        build_id: build_id(root).unwrap_or_default(),
        iomem: iomem_at(root)?,
        paging: paging(&read_text(root, "proc/cpuinfo")?),
        rsdp: rsdp(root),
        direct_map: direct_map(root),
        free_fill: free_fill(
            &read_text(root, "proc/cmdline")?,
            kernel_config(root).as_deref(),
        ),
        uptime: uptime(&read_text(root, "proc/uptime")?),
        vmcoreinfo: vmcoreinfo(root),
        platform: platform(root)?,
        volumes: volumes::in_use_at(root)?,
    })
}

/// The release of the running kernel, as `uname -r` prints it.
///
/// # Errors
///
/// [`Error::Read`] if `/proc` is not mounted.
pub fn release() -> Result<String, Error> {
    release_at(Path::new("/"))
}

pub(crate) fn release_at(root: &Path) -> Result<String, Error> {
    Ok(read_text(root, "proc/sys/kernel/osrelease")?
        .trim()
        .to_owned())
}

/// Reads what lies where in the physical address space.
///
/// # Errors
///
/// As [`read`].
pub fn iomem() -> Result<IoMem, Error> {
    iomem_at(Path::new("/"))
}

fn iomem_at(root: &Path) -> Result<IoMem, Error> {
    Ok(IoMem::parse(&read_text(root, "proc/iomem")?)?)
}

/// The command line that the running kernel was booted with.
///
/// # Errors
///
/// [`Error::Read`] if `/proc` is not mounted.
pub fn command_line() -> Result<String, Error> {
    Ok(read_text(Path::new("/"), "proc/cmdline")?.trim().to_owned())
}

/// The hardware, as far as the kernel counts on it.
fn platform(root: &Path) -> Result<Platform, Error> {
    // What is not there, or not to be read, is not known.
    let firmware = |name: &str| {
        let path = format!("sys/class/dmi/id/{name}");
        read_text(root, &path).map_or(String::new(), |text| text.trim().to_owned())
    };
    let cpuinfo = read_text(root, "proc/cpuinfo")?;
    let field = |name: &str| {
        let line = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix(name)?.split_once(':'));
        line.map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    Ok(Platform {
        vendor: firmware("sys_vendor"),
        product: firmware("product_name"),
        board: firmware("board_name"),
        uuid: firmware("product_uuid"),
        cpu: field("model name"),
        features: features(&field("flags")),
        saver: String::new(),
        time: Moment::now().0,
    })
}

/// The features of the CPU among `flags`: some follow from the kernel's parameters and not from the CPU
/// (`nopti` and `no5lvl`), and the depth of page tables is known by itself.
fn features(flags: &str) -> String {
    let features: Vec<&str> = flags
        .split_whitespace()
        .filter(|flag| !matches!(*flag, "la57" | "pti"))
        .collect();
    features.join(" ")
}

/// What the firmware and the boot loader told the running kernel.
///
/// # Errors
///
/// [`Error::Read`] or [`Error::IoMem`] if the kernel shows neither the firmware's memory map
/// (`CONFIG_FIRMWARE_MEMMAP`) nor its own.
pub fn firmware() -> Result<Firmware, Error> {
    firmware_at(Path::new("/"))
}

fn firmware_at(root: &Path) -> Result<Firmware, Error> {
    let memory = match firmware_map(root) {
        Some(text) => IoMem::parse(&text)?.memory(),
        None => iomem_at(root)?.memory(),
    };
    // `orig_video_isVGA` in `struct screen_info`: 0 where there is no screen that a kernel could use.
    let screen = fs::read(root.join("sys/kernel/boot_params/data"))
        .ok()
        .and_then(|params| <[u8; 64]>::try_from(params.get(..64)?).ok())
        .filter(|screen| screen[0x0f] != 0);
    Ok(Firmware { memory, screen })
}

/// The firmware's memory map (`Documentation/ABI/testing/sysfs-firmware-memmap`) in the form of
/// `/proc/iomem`. What kinds it has that are not known here is reserved.
fn firmware_map(root: &Path) -> Option<String> {
    let mut text = String::new();
    for entry in fs::read_dir(root.join("sys/firmware/memmap")).ok()? {
        let entry = entry.ok()?.path();
        let field = |name: &str| {
            let value = fs::read_to_string(entry.join(name)).ok()?;
            Some(value.trim().to_owned())
        };
        let address = |name| u64::from_str_radix(field(name)?.strip_prefix("0x")?, 16).ok();
        let (start, end) = (address("start")?, address("end")?);
        let kind = match field("type")?.as_str() {
            known @ ("System RAM"
            | "ACPI Tables"
            | "ACPI Non-volatile Storage"
            | "Unusable memory"
            | "Persistent Memory") => known.to_owned(),
            _ => "Reserved".to_owned(),
        };
        text.push_str(&format!("{start:08x}-{end:08x} : {kind}\n"));
    }
    (!text.is_empty()).then_some(text)
}

/// Where each CPU leaves its registers when the running kernel panics
/// (`Documentation/ABI/testing/sysfs-devices-system-cpu`, `crash_notes`).
///
/// # Errors
///
/// [`Error::Read`] if the kernel does not tell: it was built without `CONFIG_CRASH_DUMP`.
pub fn crash_notes() -> Result<Vec<PhysRange>, Error> {
    crash_notes_at(Path::new("/"))
}

fn crash_notes_at(root: &Path) -> Result<Vec<PhysRange>, Error> {
    let cpus = root.join("sys/devices/system/cpu");
    let mut notes = Vec::new();
    for entry in fs::read_dir(&cpus).map_err(Error::read(&cpus))?.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name
            .strip_prefix("cpu")
            .and_then(|number| number.parse::<u32>().ok());
        let Some(number) = number else { continue };
        let read = |name: &str| {
            let path = path.join(name);
            fs::read_to_string(&path).map_err(Error::read(&path))
        };
        // A CPU that never was on line has none.
        let Ok(address) = read("crash_notes") else {
            continue;
        };
        let address = u64::from_str_radix(address.trim(), 16).ok();
        let size = read("crash_notes_size")?.trim().parse().ok();
        if let (Some(address), Some(size)) = (address, size)
            && let Some(note) = PhysRange::from_len(PhysAddr::new(address), size)
        {
            notes.push((number, note));
        }
    }
    if notes.is_empty() {
        let missing = std::io::ErrorKind::NotFound.into();
        return Err(Error::read(&cpus.join("cpu0/crash_notes"))(missing));
    }
    notes.sort_unstable_by_key(|(number, _)| *number);
    Ok(notes.into_iter().map(|(_, note)| note).collect())
}

/// The most that is read of a file that the kernel shows.
const MAX_TEXT: u64 = 16 << 20;

fn read_text(root: &Path, name: &str) -> Result<String, Error> {
    let path = root.join(name);
    let mut text = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(MAX_TEXT).read_to_end(&mut text))
        .map_err(Error::read(&path))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The depth of the kernel's page tables: a kernel that runs with four levels has the flag `la57`
/// cleared, whatever the CPU can do (`arch/x86/kernel/cpu/common.c`).
fn paging(cpuinfo: &str) -> Paging {
    let flags = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    match flags {
        Some((_, flags)) if flags.split_whitespace().any(|flag| flag == "la57") => {
            Paging::FiveLevel
        }
        _ => Paging::FourLevel,
    }
}

/// The GNU build id among the notes of the running kernel.
fn build_id(root: &Path) -> Option<Vec<u8>> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let notes = fs::read(root.join("sys/kernel/notes")).ok()?;
    Notes::new(&notes)
        .find(|note| note.name == b"GNU" && note.kind == NT_GNU_BUILD_ID)
        .map(|note| note.desc.to_vec())
}

/// Where the ACPI tables begin on a machine with UEFI: from the table of EFI tables, or from the boot
/// parameters of a kernel that kexec booted there.
fn rsdp(root: &Path) -> Option<PhysAddr> {
    let systab = fs::read_to_string(root.join("sys/firmware/efi/systab")).unwrap_or_default();
    let from_systab = || {
        // ACPI 2.0 comes first if both are there.
        let value = systab
            .lines()
            .find_map(|line| line.strip_prefix("ACPI20="))
            .or_else(|| systab.lines().find_map(|line| line.strip_prefix("ACPI=")))?;
        u64::from_str_radix(value.trim().strip_prefix("0x")?, 16).ok()
    };
    // `acpi_rsdp_addr` in `struct boot_params`.
    let from_boot_params = || {
        let params = fs::read(root.join("sys/kernel/boot_params/data")).ok()?;
        let bytes = params.get(0x70..0x78)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    };
    from_systab()
        .or_else(from_boot_params)
        .filter(|&address| address != 0)
        .map(PhysAddr::new)
}

/// Where the kernel maps all memory. Without `/proc/kcore` that is not known.
fn direct_map(root: &Path) -> Option<u64> {
    let kcore = ReadFile::new(File::open(root.join("proc/kcore")).ok()?).ok()?;
    direct_map_base(&kcore).ok()?
}

/// The configuration of the running kernel, where it or its distribution shows it.
fn kernel_config(root: &Path) -> Option<String> {
    let text = |source: &mut dyn Read| {
        let mut text = String::new();
        source.take(MAX_TEXT).read_to_string(&mut text).ok()?;
        Some(text)
    };
    if let Ok(file) = File::open(root.join("proc/config.gz")) {
        return text(&mut GzDecoder::new(file));
    }
    let release = read_text(root, "proc/sys/kernel/osrelease").ok()?;
    let path = root.join(format!("boot/config-{}", release.trim()));
    text(&mut File::open(path).ok()?)
}

/// What the kernel counts on finding in each byte of its free pages.
///
/// With `page_poison=1` it fills them with 0xaa and looks whether that is still there
/// (`mm/page_poison.c`, `PAGE_POISON` in `include/linux/poison.h`). With `init_on_free=1` it fills them
/// with zeros and hands them out as such; poisoning comes first (`mem_debugging_and_hardening_init` in
/// `mm/mm_init.c`). Of a parameter that comes twice, the last counts. Where the configuration is not
/// known it may be one that makes `init_on_free` the default, and zeros are never wrong.
fn free_fill(command_line: &str, config: Option<&str>) -> Option<u8> {
    const POISON: u8 = 0xaa;
    let given = |name: &str| {
        CommandLine::parameters(command_line)
            .filter_map(|parameter| parameter.split_once('='))
            .filter(|(key, _)| *key == name)
            .filter_map(|(_, value)| is_on(value))
            .last()
    };
    let configured = |line: &str| config.is_none_or(|config| config.lines().any(|l| l == line));
    if given("page_poison").unwrap_or(false) && configured("CONFIG_PAGE_POISONING=y") {
        return Some(POISON);
    }
    given("init_on_free")
        .unwrap_or_else(|| configured("CONFIG_INIT_ON_FREE_DEFAULT_ON=y"))
        .then_some(0)
}

/// The whole seconds of the first number in `/proc/uptime` (proc_uptime(5)).
fn uptime(text: &str) -> u64 {
    let seconds = text.split(['.', ' ']).next();
    seconds
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(0)
}

/// A switch as the kernel reads it (`kstrtobool` in `lib/kstrtox.c`).
fn is_on(value: &str) -> Option<bool> {
    let mut letters = value.chars().map(|letter| letter.to_ascii_lowercase());
    match (letters.next()?, letters.next()) {
        ('y' | 't' | '1', _) | ('o', Some('n')) => Some(true),
        ('n' | 'f' | '0', _) | ('o', Some('f')) => Some(false),
        _ => None,
    }
}

/// Where the kernel keeps its VMCOREINFO note, if it does.
fn vmcoreinfo(root: &Path) -> Option<PhysRange> {
    let note = KernelState::at(root.join("sys/kernel")).vmcoreinfo().ok()?;
    PhysRange::from_len(PhysAddr::new(note.address), note.len)
}

/// The path of the kernel that runs, where distributions put it; for those who do not say which.
#[must_use]
pub fn installed_kernel(release: &str) -> Option<PathBuf> {
    ["/boot/vmlinuz-", "/boot/kernel-", "/boot/bzImage-"]
        .iter()
        .map(|prefix| PathBuf::from(format!("{prefix}{release}")))
        .find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use vmcore::elf::{CoreHeaders, encode_note};

    use super::*;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        write("proc/sys/kernel/osrelease", b"6.12.1-x\n");
        write("proc/uptime", b"93784.12 180000.34\n");
        write("proc/cmdline", b"quiet init_on_free=1\n");
        write("proc/iomem", b"00100000-3fffffff : System RAM\n");
        write("proc/cpuinfo", b"processor : 0\nflags\t\t: fpu la57 lm\n");
        write(
            "proc/1/mountinfo",
            b"22 1 0:5 / /dev rw - devtmpfs none rw\n",
        );
        write("sys/class/dmi/id/product_name", b"Some Machine\n");
        write("sys/kernel/vmcoreinfo", b"3f001000 1024\n");
        write("sys/kernel/notes", &encode_note("GNU", 3, &[0xab; 20]));
        write(
            "sys/firmware/efi/systab",
            b"ACPI20=0x3f77e014\nSMBIOS=0x3f\n",
        );
        let mut kcore = CoreHeaders::new();
        let ram = PhysRange::new(0x1000, 0x2000).unwrap();
        kcore.load_in_place(ram, 0xffff_8880_0000_1000);
        write("proc/kcore", &kcore.encode());
        root
    }

    #[test]
    fn facts_are_read() {
        let machine = read_at(root().path()).unwrap();
        assert_eq!(machine.release, "6.12.1-x");
        assert_eq!(machine.build_id, [0xab; 20]);
        assert_eq!(machine.paging, Paging::FiveLevel);
        assert_eq!(machine.free_fill, Some(0));
        assert_eq!(machine.uptime, 93_784);
        assert_eq!(machine.platform.product, "Some Machine");
        assert_eq!(machine.platform.vendor, "");
        assert_eq!(machine.platform.features, "fpu lm");
        assert_eq!(machine.volumes, []);
        assert_eq!(machine.rsdp, Some(PhysAddr::new(0x3f77_e014)));
        assert_eq!(machine.direct_map, Some(0xffff_8880_0000_0000));
        assert_eq!(machine.vmcoreinfo, PhysRange::new(0x3f00_1000, 0x3f00_2024));
    }

    #[test]
    fn what_free_pages_hold_follows_from_parameters_and_configuration() {
        let poisoning =
            Some("CONFIG_PAGE_POISONING=y\n# CONFIG_INIT_ON_FREE_DEFAULT_ON is not set\n");
        let default_on = Some("CONFIG_INIT_ON_FREE_DEFAULT_ON=y");
        for (line, config, fill) in [
            ("quiet", poisoning, None),
            ("quiet", default_on, Some(0)),
            ("quiet", None, Some(0)),
            ("init_on_free=1", poisoning, Some(0)),
            ("init_on_free=on init_on_free=off", default_on, None),
            ("init_on_free=0", None, None),
            ("page_poison=1", poisoning, Some(0xaa)),
            ("page_poison=on init_on_free=1", poisoning, Some(0xaa)),
            ("page_poison=1 init_on_free=1", default_on, Some(0)),
            ("page_poison=1", None, Some(0xaa)),
            ("page_poison=what", poisoning, None),
        ] {
            assert_eq!(free_fill(line, config), fill, "{line} {config:?}");
        }
    }

    #[test]
    fn a_configuration_is_found() {
        let root = root();
        assert_eq!(kernel_config(root.path()), None);
        let boot = root.path().join("boot");
        fs::create_dir_all(&boot).unwrap();
        fs::write(boot.join("config-6.12.1-x"), "CONFIG_A=y\n").unwrap();
        assert_eq!(kernel_config(root.path()).as_deref(), Some("CONFIG_A=y\n"));
        let packed = kexec_image::initramfs::gzip(b"CONFIG_B=y\n");
        fs::write(root.path().join("proc/config.gz"), packed).unwrap();
        assert_eq!(kernel_config(root.path()).as_deref(), Some("CONFIG_B=y\n"));
    }

    #[test]
    fn facts_that_may_be_missing_may_be_missing() {
        let root = root();
        for name in ["sys", "proc/kcore"] {
            let path = root.path().join(name);
            fs::remove_dir_all(&path)
                .or_else(|_| fs::remove_file(&path))
                .unwrap();
        }
        let machine = read_at(root.path()).unwrap();
        assert_eq!(
            (machine.rsdp, machine.direct_map, machine.vmcoreinfo),
            (None, None, None)
        );
        assert!(machine.build_id.is_empty());
    }

    #[test]
    fn a_kexec_booted_kernel_knows_its_tables_from_its_parameters() {
        let root = root();
        fs::remove_dir_all(root.path().join("sys/firmware")).unwrap();
        let mut params = vec![0; 4096];
        params[0x70..0x74].copy_from_slice(&0x1234u32.to_le_bytes());
        fs::create_dir_all(root.path().join("sys/kernel/boot_params")).unwrap();
        fs::write(root.path().join("sys/kernel/boot_params/data"), params).unwrap();
        assert_eq!(
            read_at(root.path()).unwrap().rsdp,
            Some(PhysAddr::new(0x1234))
        );
    }

    #[test]
    fn a_hidden_memory_map_is_an_error() {
        let root = root();
        fs::write(
            root.path().join("proc/iomem"),
            "00000000-00000000 : System RAM\n",
        )
        .unwrap();
        assert!(matches!(read_at(root.path()), Err(Error::IoMem(_))));
    }

    #[test]
    fn the_firmwares_map_comes_before_the_kernels() {
        let root = root();
        let memory = |root: &tempfile::TempDir| firmware_at(root.path()).unwrap().memory;
        assert_eq!(memory(&root).bytes(), 0x3ff0_0000);
        for (number, start, end, kind) in [
            (0, "0x0", "0x9fbff", "System RAM"),
            (1, "0x9fc00", "0x9ffff", "Reserved"),
            (2, "0xe0000000", "0xefffffff", "Soft Reserved"),
        ] {
            let entry = root.path().join(format!("sys/firmware/memmap/{number}"));
            fs::create_dir_all(&entry).unwrap();
            for (name, value) in [("start", start), ("end", end), ("type", kind)] {
                fs::write(entry.join(name), format!("{value}\n")).unwrap();
            }
        }
        let map = memory(&root);
        let kinds: Vec<_> = map.iter().map(|(_, kind)| *kind).collect();
        use vmcore::MemoryKind::{Ram, Reserved};
        assert_eq!(kinds, [Ram, Reserved, Reserved]);
        assert!(firmware_at(root.path()).unwrap().screen.is_none());
        let params = root.path().join("sys/kernel/boot_params");
        fs::create_dir_all(&params).unwrap();
        fs::write(params.join("data"), [1; 4096]).unwrap();
        assert_eq!(firmware_at(root.path()).unwrap().screen, Some([1; 64]));
    }

    #[test]
    fn notes_of_cpus_come_in_their_order() {
        let root = root();
        assert!(crash_notes_at(root.path()).is_err());
        for (cpu, address) in [(10, "3e002000"), (2, "3e001000")] {
            let entry = root.path().join(format!("sys/devices/system/cpu/cpu{cpu}"));
            fs::create_dir_all(&entry).unwrap();
            fs::write(entry.join("crash_notes"), format!("{address}\n")).unwrap();
            fs::write(entry.join("crash_notes_size"), "368\n").unwrap();
        }
        // Not all that begins with these letters is a CPU.
        fs::create_dir_all(root.path().join("sys/devices/system/cpu/cpufreq")).unwrap();
        let notes = crash_notes_at(root.path()).unwrap();
        let starts: Vec<u64> = notes.iter().map(|note| note.start().get()).collect();
        assert_eq!(starts, [0x3e00_1000, 0x3e00_2000]);
        assert_eq!(notes[0].len(), 368);
    }
}
