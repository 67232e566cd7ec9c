//! What machine a scenario runs on, and how to choose another one.

use std::fmt;

use clap::{Args, ValueEnum};

use crate::lab::Kernel;

/// What machine a scenario runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The kernel of all four: A, B, C and D.
    pub(crate) kernel: Kernel,
    /// Memory in MiB.
    pub(crate) memory: u32,
    /// Number of CPUs.
    pub(crate) cpus: u32,
    /// Model of the CPUs, as QEMU names it.
    pub(crate) cpu: String,
    /// Whether the CPUs run at once, and not in turns.
    pub(crate) parallel: bool,
    /// Whether A and C choose their addresses at random.
    pub(crate) kaslr: bool,
    /// Whether the firmware is UEFI, with a Q35 chipset and AHCI, instead of a BIOS.
    pub(crate) uefi: bool,
    /// How much of A's memory to fill with content, in percent.
    pub(crate) fill: u32,
    /// Memory for B and D, as `kjump --window` takes it, or `kernel` for what the kernel A itself lies
    /// in; kjump's own choice if not given.
    pub(crate) window: Option<String>,
    /// How often A is left and comes back.
    pub(crate) loops: u32,
    /// How much of A's memory to fill with content and to free again before each jump, in percent.
    pub(crate) churn: u32,
    /// Number of NUMA nodes, which share memory and CPUs evenly.
    pub(crate) nodes: u32,
    /// What the command lines of A and C have besides what the lab needs.
    pub(crate) append: String,
    /// Whether free pages are saved too.
    pub(crate) keep_free: bool,
    /// Whether it has disks with file systems of all kinds, and A has them mounted.
    pub(crate) kinds: bool,
    /// Whether its ext4 file system is on a mapped device, whose two pieces are on a disk the other way round.
    pub(crate) mapped: bool,
    /// Whether it has disks besides with file systems on LUKS, LVM and RAID, which A sets up with their own tools.
    pub(crate) stacked: bool,
    /// Whether its disks are NVMe's, whose driver is a module.
    pub(crate) nvme: bool,
    /// What the image is encrypted with, if it is.
    pub(crate) secret: Option<Secret>,
    /// Modules that B and D are to load, with what they depend on; with commas between them.
    pub(crate) modules: Option<String>,
}

/// What an image is encrypted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Secret {
    /// What a file holds.
    KeyFile,
    /// What the lab types at the console.
    Passphrase,
    /// What the kernel keeps.
    Keyring,
}

/// As the command line and the guest know it.
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeyFile => "key-file",
            Self::Passphrase => "passphrase",
            Self::Keyring => "keyring",
        })
    }
}

/// What most scenarios run on.
impl Default for Settings {
    fn default() -> Self {
        Self {
            kernel: Kernel::V6_12,
            memory: 1024,
            cpus: 2,
            // All that QEMU can emulate, 5-level paging among it. With ERMS, Linux copies and clears
            // memory by one instruction, which the emulator takes a byte at a time.
            cpu: "max,erms=off".to_owned(),
            parallel: false,
            kaslr: true,
            uefi: false,
            fill: 40,
            window: None,
            loops: 1,
            churn: 0,
            nodes: 1,
            append: String::new(),
            keep_free: false,
            kinds: false,
            mapped: false,
            stacked: false,
            nvme: false,
            secret: None,
            modules: None,
        }
    }
}

/// Settings that differ from those of the scenario.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Overrides {
    /// Kernel of all four: 6.12, 6.1, 7.3 or debian-cloud
    #[arg(long, value_name = "VERSION")]
    pub(crate) kernel: Option<Kernel>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(256..))]
    memory: Option<u32>,
    /// Number of CPUs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    cpus: Option<u32>,
    /// Model of the CPUs: max has 5-level paging, qemu64 has 4
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// Run the CPUs at once and not in turns: faster, but now and then QEMU fails with `Oops: int3`
    #[arg(long)]
    parallel: bool,
    /// Whether A and C choose their addresses at random
    #[arg(long, value_name = "on|off", value_parser = on_or_off)]
    kaslr: Option<bool>,
    /// UEFI firmware, Q35 and AHCI instead of BIOS, i440FX and virtio
    #[arg(long)]
    uefi: bool,
    /// How much of A's memory to fill with content
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(..=95))]
    fill: Option<u32>,
    /// Memory for B and D, as `kjump --window` takes it, or what the kernel A itself lies in
    #[arg(long, value_name = "SIZE[@ADDRESS]|kernel")]
    window: Option<String>,
    /// How often to go through it all from one boot of A
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    loops: Option<u32>,
    /// How much of A's memory to fill and free before each jump, besides what is held
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(..=90))]
    churn: Option<u32>,
    /// Number of NUMA nodes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    nodes: Option<u32>,
    /// More parameters for the kernels A and C, such as "init_on_free=1"
    #[arg(long, value_name = "PARAMETERS", allow_hyphen_values = true)]
    append: Option<String>,
    /// Save free pages too
    #[arg(long)]
    keep_free: bool,
    /// Encrypt the image, with a key from a file, a passphrase, or a key that the kernel keeps
    #[arg(long, value_name = "KIND")]
    secret: Option<Secret>,
    #[arg(long)]
    /// Kernel modules that B and D are to load, such as xfs,btrfs
    #[arg(long, value_name = "NAME,...")]
    modules: Option<String>,
}

impl Overrides {
    /// `settings`, with what differs.
    pub(crate) fn apply(self, settings: Settings) -> Settings {
        Settings {
            kernel: self.kernel.unwrap_or(settings.kernel),
            memory: self.memory.unwrap_or(settings.memory),
            cpus: self.cpus.unwrap_or(settings.cpus),
            cpu: self.cpu.unwrap_or(settings.cpu),
            parallel: self.parallel || settings.parallel,
            kaslr: self.kaslr.unwrap_or(settings.kaslr),
            uefi: self.uefi || settings.uefi,
            fill: self.fill.unwrap_or(settings.fill),
            window: self.window.or(settings.window),
            loops: self.loops.unwrap_or(settings.loops),
            churn: self.churn.unwrap_or(settings.churn),
            nodes: self.nodes.unwrap_or(settings.nodes),
            append: self.append.unwrap_or(settings.append),
            keep_free: self.keep_free || settings.keep_free,
            kinds: settings.kinds,
            mapped: settings.mapped,
            stacked: settings.stacked,
            nvme: settings.nvme,
            secret: self.secret.or(settings.secret),
            modules: self.modules.or(settings.modules),
        }
    }
}

fn on_or_off(word: &str) -> Result<bool, String> {
    match word {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("it is either on or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        overrides: Overrides,
    }

    fn settings(words: &str) -> Option<Settings> {
        let line = Line::try_parse_from(words.split(' ')).ok()?;
        Some(line.overrides.apply(Settings::default()))
    }

    #[test]
    fn nothing_given_changes_nothing() {
        assert_eq!(settings("vm"), Some(Settings::default()));
    }

    #[test]
    fn each_setting_can_be_changed() {
        let line = "vm --kernel 6.1 --memory 4096 --cpus 4 --cpu qemu64 --parallel --kaslr off --uefi --fill 62 \
                    --window 64M@0x10000000 --loops 3 --churn 20 --nodes 2 --append init_on_free=1 --keep-free --secret keyring --modules xfs,vfat";
        assert_eq!(
            settings(line),
            Some(Settings {
                kernel: Kernel::V6_1,
                memory: 4096,
                cpus: 4,
                cpu: "qemu64".to_owned(),
                parallel: true,
                kaslr: false,
                uefi: true,
                fill: 62,
                window: Some("64M@0x10000000".to_owned()),
                loops: 3,
                churn: 20,
                nodes: 2,
                append: "init_on_free=1".to_owned(),
                keep_free: true,
                kinds: false,
                mapped: false,
                stacked: false,
                nvme: false,
                secret: Some(Secret::Keyring),
                modules: Some("xfs,vfat".to_owned()),
            })
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "vm --memory 64",
            "vm --memory 1G",
            "vm --cpus 0",
            "vm --kaslr maybe",
            "vm --fill 96",
            "vm --fill -1",
            "vm --loops 0",
            "vm --churn 91",
            "vm --nodes 0",
            "vm --nodes 9",
            "vm --append",
            "vm --kernel 5.0",
            "vm --windows 64M",
            "vm --secret",
            "vm --secret none",
        ] {
            assert_eq!(settings(line), None, "{line}");
        }
    }
}
