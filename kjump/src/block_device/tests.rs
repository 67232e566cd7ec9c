use std::os::unix::fs::symlink;

use super::*;

/// A folder that looks like the root of a machine.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn folder(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn link(&self, name: &str, to: &str) {
        let link = self.0.path().join(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(self.folder(to), link).unwrap();
    }

    /// The device in `/sys/devices/PLACE` is driven by `driver` of this bus, which is in `module`, or in the
    /// kernel itself and tells none.
    fn driven(&self, place: &str, bus: &str, driver: &str, module: Option<&str>) {
        let home = format!("sys/bus/{bus}/drivers/{driver}");
        self.link(&format!("sys/devices/{place}/driver"), &home);
        self.link(
            &format!("sys/devices/{place}/subsystem"),
            &format!("sys/bus/{bus}"),
        );
        if let Some(module) = module
            && !self.0.path().join(&home).join("module").exists()
        {
            self.link(&format!("{home}/module"), &format!("sys/module/{module}"));
        }
    }

    /// `module` was loaded, and is not built in.
    fn loaded(&self, modules: &[&str]) {
        for module in modules {
            let folder = self.folder(&format!("sys/module/{module}"));
            fs::write(folder.join("initstate"), "live\n").unwrap();
        }
    }

    /// A block device in `/sys/devices/PLACE`.
    fn block(&self, place: &str) {
        let name = Path::new(place).file_name().unwrap().to_str().unwrap();
        let home = format!("sys/devices/{place}");
        self.link(&format!("sys/class/block/{name}"), &home);
        self.link(&format!("{home}/subsystem"), "sys/class/block");
    }

    fn partition(&self, place: &str) {
        self.block(place);
        fs::write(
            self.0.path().join(format!("sys/devices/{place}/partition")),
            "1\n",
        )
        .unwrap();
    }

    fn device(&self, name: &str) -> BlockDevice {
        BlockDevice::named(self.0.path(), name).unwrap()
    }

    /// The modules that `name` needs and that are not built in.
    fn modules(&self, name: &str) -> Vec<String> {
        let needs = self.device(name).drivers();
        let needs = needs.into_iter().filter(|need| !need.built_in);
        needs.map(|need| need.module).collect()
    }
}

const NVME: &str = "pci0000:00/0000:00:1d.0/0000:03:00.0";

fn nvme(root: &Root) {
    root.driven("pci0000:00/0000:00:1d.0", "pci", "pcieport", None);
    root.driven(NVME, "pci", "nvme", Some("nvme"));
    root.loaded(&["nvme", "nvme_core"]);
}

#[test]
fn nvme_has_one_driver_behind_its_ports() {
    let root = Root::new();
    nvme(&root);
    root.block(&format!("{NVME}/nvme/nvme0/nvme0n1"));
    root.partition(&format!("{NVME}/nvme/nvme0/nvme0n1/nvme0n1p3"));
    assert_eq!(root.modules("nvme0n1p3"), ["nvme"]);
    assert_eq!(root.device("nvme0n1p3").drivers()[0].what_for, "nvme0n1p3");
    assert_eq!(root.device("nvme0n1p3").made_of(), None);
}

#[test]
fn nvme_behind_a_volume_management_device_needs_both() {
    let root = Root::new();
    let vmd = "pci0000:00/0000:00:0e.0";
    root.driven(vmd, "pci", "vmd", Some("vmd"));
    let disk = format!("{vmd}/pci10000:e0/10000:e0:06.0/10000:e1:00.0");
    root.driven(&disk, "pci", "nvme", Some("nvme"));
    root.loaded(&["nvme", "vmd"]);
    root.block(&format!("{disk}/nvme/nvme0/nvme0n1"));
    assert_eq!(root.modules("nvme0n1"), ["vmd", "nvme"]);
}

#[test]
fn nvme_with_several_paths_is_found_over_its_controllers() {
    let root = Root::new();
    nvme(&root);
    let subsystem = "virtual/nvme-subsystem/nvme-subsys0";
    root.block(&format!("{subsystem}/nvme0n1"));
    root.link(
        &format!("sys/devices/{subsystem}/nvme0"),
        &format!("sys/devices/{NVME}/nvme/nvme0"),
    );
    assert_eq!(root.modules("nvme0n1"), ["nvme"]);
    assert_eq!(root.device("nvme0n1").made_of(), None);

    let far = "virtual/nvme-subsystem/nvme-subsys1";
    root.block(&format!("{far}/nvme1n1"));
    root.link(
        &format!("sys/devices/{far}/nvme1"),
        "sys/devices/virtual/nvme-fabrics/ctl/nvme1",
    );
    assert_eq!(root.device("nvme1n1").made_of(), Some(NETWORK));
}

fn ahci(root: &Root) {
    root.driven("pci0000:00/0000:00:1f.2", "pci", "ahci", Some("ahci"));
    let disk = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0";
    root.link(&format!("sys/devices/{disk}/../subsystem"), "sys/bus/scsi");
    root.driven(disk, "scsi", "sd", Some("sd_mod"));
    root.block(&format!("{disk}/block/sda"));
    root.partition(&format!("{disk}/block/sda/sda2"));
}

#[test]
fn sata_needs_the_controller_and_disks_in_general() {
    let root = Root::new();
    ahci(&root);
    // Nothing was loaded: all of it is built in.
    assert_eq!(root.modules("sda2"), [""; 0]);
    let named: Vec<_> = root.device("sda2").drivers();
    assert!(named.iter().all(|need| need.built_in) && named.len() == 2);
    root.loaded(&["ahci", "sd_mod", "libata"]);
    assert_eq!(root.modules("sda2"), ["ahci", "sd_mod"]);
}

#[test]
fn a_disk_whose_driver_does_not_tell_its_module_is_known_by_its_bus() {
    let root = Root::new();
    root.driven("platform/some.0", "platform", "some", Some("some_host"));
    root.driven(
        "platform/some.0/host2/target2:0:0/2:0:0:0",
        "scsi",
        "sd",
        None,
    );
    root.block("platform/some.0/host2/target2:0:0/2:0:0:0/block/sdc");
    root.loaded(&["some_host", "sd_mod"]);
    assert_eq!(root.modules("sdc"), ["some_host", "sd_mod"]);
}

#[test]
fn virtio_needs_its_transport() {
    let root = Root::new();
    root.driven(
        "pci0000:00/0000:00:04.0",
        "pci",
        "virtio-pci",
        Some("virtio_pci"),
    );
    let disk = "pci0000:00/0000:00:04.0/virtio1";
    root.driven(disk, "virtio", "virtio_blk", Some("virtio_blk"));
    root.block(&format!("{disk}/block/vda"));
    root.loaded(&["virtio_pci", "virtio_blk"]);
    assert_eq!(root.modules("vda"), ["virtio_pci", "virtio_blk"]);
}

#[test]
fn usb_needs_the_host_the_storage_and_disks_in_general() {
    let root = Root::new();
    let host = "pci0000:00/0000:00:14.0";
    root.driven(host, "pci", "xhci_hcd", Some("xhci_pci"));
    root.driven(&format!("{host}/usb2"), "usb", "usb", Some("usbcore"));
    root.driven(&format!("{host}/usb2/2-1"), "usb", "usb", Some("usbcore"));
    let storage = format!("{host}/usb2/2-1/2-1:1.0");
    root.driven(&storage, "usb", "usb-storage", Some("usb_storage"));
    let disk = format!("{storage}/host6/target6:0:0/6:0:0:0");
    root.driven(&disk, "scsi", "sd", Some("sd_mod"));
    root.block(&format!("{disk}/block/sdb"));
    root.loaded(&["xhci_pci", "usbcore", "usb_storage", "sd_mod"]);
    assert_eq!(
        root.modules("sdb"),
        ["xhci_pci", "usbcore", "usb_storage", "sd_mod"]
    );
}

#[test]
fn what_is_made_of_others_needs_what_they_need() {
    let root = Root::new();
    nvme(&root);
    ahci(&root);
    root.loaded(&["ahci", "sd_mod"]);
    root.block(&format!("{NVME}/nvme/nvme0/nvme0n1"));
    root.block("virtual/block/md0");
    root.partition("virtual/block/md0/md0p1");
    root.block("virtual/block/dm-0");
    root.link(
        "sys/devices/virtual/block/dm-0/slaves/md0p1",
        "sys/class/block/md0p1",
    );
    for slave in ["sda2", "nvme0n1"] {
        let link = format!("sys/devices/virtual/block/md0/slaves/{slave}");
        root.link(&link, &format!("sys/class/block/{slave}"));
    }
    // A circle, which no kernel shows.
    root.link(
        "sys/devices/virtual/block/md0/slaves/dm-0",
        "sys/class/block/dm-0",
    );
    let mut modules = root.modules("dm-0");
    modules.sort();
    assert_eq!(modules, ["ahci", "nvme", "sd_mod"]);
}

#[test]
fn what_no_other_kernel_sets_up_is_told() {
    let root = Root::new();
    ahci(&root);
    for (name, what) in [
        ("dm-3", "device mapper"),
        ("md127", "RAID"),
        ("loop7", "a file"),
        ("zram0", "memory"),
        ("ram1", "memory"),
        ("nbd0", "network"),
        ("drbd1", "network"),
        ("something", "other devices"),
    ] {
        root.block(&format!("virtual/block/{name}"));
        let made_of = root.device(name).made_of().unwrap();
        assert!(made_of.contains(what), "{name}: {made_of}");
    }
    root.partition("virtual/block/loop7/loop7p1");
    assert!(root.device("loop7p1").made_of().unwrap().contains("a file"));
    root.block("rbd/0/block/rbd0");
    assert_eq!(root.device("rbd0").made_of(), Some(NETWORK));
    root.folder("sys/devices/platform/host9/session1/iscsi_session/session1");
    root.block("platform/host9/session1/target9:0:0/9:0:0:1/block/sdz");
    assert_eq!(root.device("sdz").made_of(), Some(NETWORK));
    assert_eq!(root.device("sda").made_of(), None);
    assert_eq!(root.device("sda2").made_of(), None);

    let disks = BlockDevice::disks_at(root.0.path());
    let names: Vec<_> = disks.iter().map(BlockDevice::name).collect();
    assert_eq!(names, ["sda"]);
}

#[test]
fn files_and_what_is_not_there_have_no_drivers() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(BlockDevice::open(file.path()).unwrap(), None);
    assert!(BlockDevice::open(Path::new("/nonexistent")).is_err());
    assert!(BlockDevice::named(Root::new().0.path(), "sda").is_err());
}
