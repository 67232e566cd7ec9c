//! A virtual machine before it runs: its parts, as arguments of QEMU.

use std::path::{Path, PathBuf};

/// A virtual machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Memory in MiB.
    pub(crate) memory: u32,
    /// Number of CPUs.
    pub(crate) cpus: u32,
    /// Number of NUMA nodes, which share memory and CPUs evenly.
    pub(crate) nodes: u32,
    /// Model of the CPUs, as QEMU names it.
    pub(crate) cpu: String,
    /// Whether the CPUs run at once, each in a thread of its own, and not in turns.
    ///
    /// QEMU 7.2 is not to be trusted then: when Linux changes code that another CPU runs
    /// (`text_poke_bp`, in `arch/x86/kernel/alternative.c`), that CPU now and then finds the breakpoint
    /// that was there for a moment, and Linux ends with `Oops: int3` or a triple fault. That was so in
    /// one of fifty boots; with the CPUs in turns it was in none.
    pub(crate) parallel: bool,
    /// What the machine is built around.
    pub(crate) platform: Platform,
    /// Disks, in the order in which the guest finds them.
    pub(crate) disks: Vec<PathBuf>,
    /// Whether these are NVMe's, and not what the platform has.
    pub(crate) nvme: bool,
    /// What is wrong with the second of them, where the image goes, or with one more.
    pub(crate) fault: Fault,
    /// Where QEMU listens for commands, if it is to.
    pub(crate) control: Option<PathBuf>,
    /// A folder for a log of what is written to each disk, and when that is flushed ([`crate::disk::replay`]).
    pub(crate) logs: Option<PathBuf>,
    /// Whether there is a watchdog, which resets the machine.
    pub(crate) watchdog: bool,
    /// What the firmware says that the product is.
    pub(crate) product: &'static str,
    /// The bzImage to boot.
    pub(crate) kernel: PathBuf,
    /// Its initramfs.
    pub(crate) initramfs: PathBuf,
    /// Its command line.
    pub(crate) command_line: String,
}

/// What is wrong with a disk.
#[derive(Clone, Debug, Default)]
pub(crate) enum Fault {
    /// Nothing.
    #[default]
    None,
    /// It takes no more than so many bytes a second.
    Slow(u64),
    /// The first write to a sector some MiB behind its beginning fails, as this file for QEMU's driver
    /// `blkdebug` says.
    Write(PathBuf),
    /// There is one more disk, which is slow too, and can be taken out with its controller.
    Removable(PathBuf),
}

impl Fault {
    /// What a disk that can be taken out takes in a second, in bytes: so that there is time to do it.
    const REMOVABLE: u64 = 16 << 20;

    /// What a file for `blkdebug` has to say for [`Fault::Write`] (`docs/devel/blkdebug.rst` in QEMU): 5 is
    /// `EIO`.
    pub(crate) const WRITE: &str = "[inject-error]\nevent = \"pwritev\"\n\
                                    errno = \"5\"\nsector = \"40000\"\nonce = \"on\"\n";
}

/// What a machine is built around.
#[derive(Clone, Debug)]
pub(crate) enum Platform {
    /// The classic PC: BIOS, i440FX, disks by virtio.
    Bios,
    /// A newer PC: UEFI firmware, Q35, disks by AHCI.
    Uefi {
        /// The firmware's code.
        code: PathBuf,
        /// The firmware's variables, which this machine may change.
        variables: PathBuf,
    },
}

impl Machine {
    /// Arguments for `qemu-system-x86_64`.
    ///
    /// There is a serial port, which is QEMU's standard output, and a network of which nothing but an
    /// echo server can be reached, at 10.0.2.100 port 7. A reset ends the machine, so that a triple
    /// fault is not taken for anything else.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(ToString::to_string));
        add(&[
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ]);
        let threads = if self.parallel { "multi" } else { "single" };
        add(&["-accel", &format!("tcg,thread={threads}")]);
        add(&["-cpu", &self.cpu]);
        let cpus = self.cpus;
        if self.nodes > 1 {
            // CPUs of one socket share a cache, and Linux warns of such on different nodes
            // (`topology_sane`, in `arch/x86/kernel/smpboot.c`).
            add(&["-smp", &format!("{cpus},sockets={cpus},cores=1,threads=1")]);
        } else {
            add(&["-smp", &cpus.to_string()]);
        }
        add(&["-m", &self.memory.to_string()]);
        if self.nodes > 1 {
            for node in 0..self.nodes {
                let (memory, node_of) = self.node(node);
                let id = format!("node{node}");
                add(&[
                    "-object",
                    &format!("memory-backend-ram,id={id},size={memory}M"),
                ]);
                add(&["-numa", &format!("node,memdev={id}{node_of}")]);
            }
        }
        add(&["-smbios", &format!("type=1,product={}", self.product)]);
        add(&["-chardev", "stdio,id=console,signal=off"]);
        add(&["-serial", "chardev:console"]);
        add(&[
            "-netdev",
            "user,id=net,restrict=on,guestfwd=tcp:10.0.2.100:7-cmd:cat",
        ]);
        add(&["-device", "virtio-net-pci,netdev=net,romfile="]);
        match &self.platform {
            Platform::Bios => add(&["-machine", "pc"]),
            Platform::Uefi { code, variables } => {
                add(&["-machine", "q35"]);
                let flash = "if=pflash,format=raw,file=";
                add(&["-drive", &format!("{flash}{},readonly=on", value(code))]);
                add(&["-drive", &format!("{flash}{}", value(variables))]);
            }
        }
        for (number, disk) in self.disks.iter().enumerate() {
            // What the guest flushed survives the end of QEMU without a flush of the host's.
            let mut file = value(disk);
            let mut more = String::new();
            match &self.fault {
                Fault::Slow(bytes) if number == 1 => {
                    more = format!(",throttling.bps-write={bytes}");
                }
                Fault::Write(rules) if number == 1 => {
                    file = format!("blkdebug:{}:{file}", value(rules));
                }
                _ => {}
            }
            let id = format!("id=disk{number},if=none,werror=report,rerror=report{more}");
            // The guest hears of errors, and nobody else does.
            let drive = match &self.logs {
                None => format!("file={file},{id},format=raw,cache=unsafe"),
                // The log says how far it goes only when the guest flushes.
                Some(logs) => format!(
                    "{id},driver=raw,file.driver=blklogwrites,file.file.driver=file,file.file.filename={file},\
                     file.log.driver=file,file.log.filename={},file.log-super-update-interval=4294967295",
                    value(&logs.join(format!("log-{number}")))
                ),
            };
            add(&["-drive", &drive]);
            let device = match self.platform {
                _ if self.nvme => format!("nvme,drive=disk{number},serial=disk{number}"),
                Platform::Bios => format!("virtio-blk-pci,drive=disk{number}"),
                Platform::Uefi { .. } => format!("ide-hd,drive=disk{number},bus=ide.{number}"),
            };
            add(&["-device", &device]);
        }
        if let Fault::Removable(disk) = &self.fault {
            let drive = format!(
                "file={},id=removed,if=none,werror=report,rerror=report,format=raw,cache=unsafe,throttling.bps-write={}",
                value(disk),
                Fault::REMOVABLE
            );
            add(&["-drive", &drive]);
            add(&["-device", "ich9-ahci,id=removable"]);
            // The last of its ports, which Linux lets go of last: then the controller is gone right after the disk.
            add(&["-device", "ide-hd,drive=removed,bus=removable.5"]);
        }
        if let Some(control) = &self.control {
            add(&[
                "-qmp",
                &format!("unix:{},server=on,wait=off", value(control)),
            ]);
        }
        if self.watchdog {
            add(&["-device", "i6300esb", "-action", "watchdog=reset"]);
        }
        add(&["-kernel", &self.kernel.display().to_string()]);
        add(&["-initrd", &self.initramfs.display().to_string()]);
        add(&["-append", &self.command_line]);
        arguments
    }
}

impl Machine {
    /// Memory of the NUMA node `node` in MiB, and its CPUs as QEMU's `-numa node` takes them. A node
    /// may be without any.
    fn node(&self, node: u32) -> (u32, String) {
        let share = |all: u32| (all * node / self.nodes, all * (node + 1) / self.nodes);
        let (memory_start, memory_end) = share(self.memory);
        let (start, end) = share(self.cpus);
        let cpus = match end - start {
            0 => String::new(),
            1 => format!(",cpus={start}"),
            _ => format!(",cpus={start}-{}", end - 1),
        };
        (memory_end - memory_start, cpus)
    }
}

/// A path as QEMU wants it where commas end a value.
fn value(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(platform: Platform) -> Machine {
        Machine {
            memory: 512,
            cpus: 2,
            nodes: 1,
            cpu: "qemu64".to_owned(),
            parallel: false,
            platform,
            disks: vec!["/a,b/data".into(), "/a,b/image".into()],
            nvme: false,
            product: "lab",
            fault: Fault::None,
            control: None,
            logs: None,
            watchdog: false,
            kernel: "/boot/kernel".into(),
            initramfs: "/boot/initramfs".into(),
            command_line: "console=ttyS0 panic=-1".to_owned(),
        }
    }

    /// The values of an option, in order.
    fn values<'a>(arguments: &'a [String], option: &str) -> Vec<&'a str> {
        let pairs = arguments.windows(2).filter(|pair| pair[0] == option);
        pairs.map(|pair| pair[1].as_str()).collect()
    }

    #[test]
    fn disks_keep_their_order_and_commas_do_no_harm() {
        let arguments = machine(Platform::Bios).arguments();
        let drives = values(&arguments, "-drive");
        assert!(drives[0].starts_with("file=/a,,b/data,id=disk0,"));
        assert!(drives[1].starts_with("file=/a,,b/image,id=disk1,"));
        let devices = values(&arguments, "-device");
        assert!(devices.ends_with(&["virtio-blk-pci,drive=disk0", "virtio-blk-pci,drive=disk1"]));
        assert_eq!(values(&arguments, "-append"), ["console=ttyS0 panic=-1"]);
    }

    #[test]
    fn disks_of_nvme_are_no_others() {
        for platform in [
            Platform::Bios,
            Platform::Uefi {
                code: "/ovmf/code".into(),
                variables: "/run/variables".into(),
            },
        ] {
            let arguments = Machine {
                nvme: true,
                ..machine(platform)
            }
            .arguments();
            let devices = values(&arguments, "-device");
            assert!(devices.ends_with(&[
                "nvme,drive=disk0,serial=disk0",
                "nvme,drive=disk1,serial=disk1"
            ]));
        }
    }

    #[test]
    fn nodes_share_all_memory_and_all_cpus() {
        let nodes = |nodes, cpus| {
            let machine = Machine {
                nodes,
                cpus,
                ..machine(Platform::Bios)
            };
            let arguments = machine.arguments();
            let words = |option| {
                let values = values(&arguments, option).into_iter();
                values.map(str::to_owned).collect::<Vec<_>>()
            };
            (words("-object"), words("-numa"))
        };
        assert_eq!(nodes(1, 2), (vec![], vec![]));
        let apart = Machine {
            nodes: 2,
            ..machine(Platform::Bios)
        };
        assert_eq!(
            values(&apart.arguments(), "-smp"),
            ["2,sockets=2,cores=1,threads=1"]
        );
        let (objects, numa) = nodes(2, 4);
        assert_eq!(
            objects,
            [
                "memory-backend-ram,id=node0,size=256M",
                "memory-backend-ram,id=node1,size=256M"
            ]
        );
        assert_eq!(
            numa,
            ["node,memdev=node0,cpus=0-1", "node,memdev=node1,cpus=2-3"]
        );
        // What does not divide evenly is not lost, and a node may be without CPUs.
        let (objects, numa) = nodes(3, 2);
        assert!(objects[0].ends_with("size=170M") && objects[1].ends_with("size=171M"));
        assert!(objects[2].ends_with("size=171M"));
        assert_eq!(
            numa,
            [
                "node,memdev=node0",
                "node,memdev=node1,cpus=0",
                "node,memdev=node2,cpus=1"
            ]
        );
    }

    #[test]
    fn uefi_has_its_firmware_and_ahci() {
        let arguments = machine(Platform::Uefi {
            code: "/ovmf/code".into(),
            variables: "/run/variables".into(),
        })
        .arguments();
        assert_eq!(values(&arguments, "-machine"), ["q35"]);
        let drives = values(&arguments, "-drive");
        assert!(drives[0].contains("file=/ovmf/code,readonly=on"));
        assert!(drives[1].ends_with("file=/run/variables"));
        let devices = values(&arguments, "-device");
        assert!(devices.contains(&"ide-hd,drive=disk1,bus=ide.1"));
    }
}
