use proptest::prelude::*;
use vmcore::elf::Core;
use vmcore::image::{Platform, Secret};
use vmcore::{IoMem, Memory as _, MemoryKind, ReadAt};

use super::*;
use crate::bzimage::tests::sample;
use crate::window;

const IOMEM: &str = "\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
0009fc00-0009ffff : Reserved
000f0000-000fffff : Reserved
00100000-3ffdffff : System RAM
  02000000-02ffffff : Kernel code
3ffe0000-3fffffff : ACPI Tables
100000000-13fffffff : System RAM
";

fn machine() -> Machine {
    Machine {
        release: "6.12.1".into(),
        build_id: vec![1, 2],
        iomem: IoMem::parse(IOMEM).unwrap(),
        paging: Paging::FourLevel,
        rsdp: None,
        direct_map: Some(0xffff_8880_0000_0000),
        free_fill: None,
        uptime: 90_061,
        platform: Platform::default(),
        volumes: Vec::new(),
        vmcoreinfo: PhysRange::new(0x3f00_0000, 0x3f00_1024),
    }
}

fn identity(machine: &Machine, window: PhysRange) -> Identity {
    machine.identity(ImageId([7; 16]), window).unwrap()
}

/// What the plan's memory holds at `addr`, as far as the plan has bytes for it.
fn byte_at(plan: &LoadPlan<'_>, addr: PhysAddr) -> Option<u8> {
    let segment = plan
        .segments()
        .iter()
        .find(|segment| segment.memory.contains(addr))?;
    let offset = addr.offset_from(segment.memory.start())?;
    Some(segment.bytes.get(offset as usize).copied().unwrap_or(0))
}

fn bytes_at(plan: &LoadPlan<'_>, addr: u64, len: u64) -> Vec<u8> {
    (addr..addr + len)
        .map(|addr| byte_at(plan, PhysAddr::new(addr)).unwrap())
        .collect()
}

fn word_at(plan: &LoadPlan<'_>, addr: u64) -> u64 {
    u64::from_le_bytes(bytes_at(plan, addr, 8).try_into().unwrap())
}

proptest! {
    #[test]
    fn plans_cover_the_window_and_low_memory(
        mib in 1..200u64,
        initramfs in 0..(20usize << 20),
        at in prop::option::of(0x10..0x3fu64),
        saves in any::<bool>(),
    ) {
        let file = sample(3_000_000);
        let kernel = Kernel::parse(&file).unwrap();
        let machine = machine();
        let request = window::Request { size: mib << 20, at: at.map(|at| PhysAddr::new(at << 24)) };
        let Ok(window) = window::choose(&machine.iomem, None, &kernel, request) else { return Ok(()) };
        let identity = identity(&machine, window);
        let initramfs = vec![1; initramfs];
        let boot = Boot { kernel: &kernel, initramfs: &initramfs, append: "quiet" };
        let plan = if saves {
            LoadPlan::saving(&machine, &identity, &boot, None)
        } else {
            LoadPlan::restoring(&machine, &identity, &boot, None)
        };
        let needed = kernel.memory() + initramfs.len() as u64;
        let plan = match plan {
            Ok(plan) => plan,
            Err(PlanError::WindowTooSmall { .. }) => {
                prop_assert!(window.len() < needed + (64 << 10));
                return Ok(());
            }
            Err(error) => panic!("{error}"),
        };
        prop_assert!(window.len() > needed);

        // Sorted, aligned, 16 at most, and just the window and low memory.
        let mut covered = RangeMap::new();
        for segment in plan.segments() {
            prop_assert!(segment.memory.is_aligned(PAGE_SIZE));
            prop_assert!(segment.bytes.len() as u64 <= segment.memory.len());
            prop_assert!(covered.insert(segment.memory, ()).is_ok());
        }
        prop_assert!(plan.segments().is_sorted_by_key(|segment| segment.memory));
        prop_assert!(plan.to_segments().unwrap().len() <= 16);
        let mut expected = identity.low.clone();
        expected.insert(window, ()).unwrap();
        prop_assert_eq!(covered, expected);
        prop_assert!(window.contains(plan.entry()));
        prop_assert_eq!(plan.flags().contains(kexec_sys::LoadFlags::PRESERVE_CONTEXT), saves);
    }
}

proptest! {
    /// An identity may come from an image that somebody made up.
    #[test]
    fn made_up_identities_never_panic(
        window in (0..1u64 << 36, any::<u64>()),
        low in prop::collection::vec((any::<u64>(), any::<u64>()), 0..4),
        memory in prop::collection::vec((any::<u64>(), any::<u64>(), 0..9u32), 0..6),
        align in any::<bool>(),
        key_page in prop::option::of(any::<u64>()),
    ) {
        let file = sample(5000);
        let kernel = Kernel::parse(&file).unwrap();
        let machine = machine();
        let start = if align { window.0 & !0x1f_ffff } else { window.0 };
        let Some(window) = PhysRange::new(start, window.1) else { return Ok(()) };
        let mut identity = identity(&machine, window);
        for (start, end) in low {
            if let Some(range) = PhysRange::new(start, end) {
                identity.low.replace(range, ());
            }
        }
        for (start, end, kind) in memory {
            if let Some(range) = PhysRange::new(start, end) {
                identity.memory.replace(range, MemoryKind::from_e820(kind));
            }
        }
        let boot = Boot { kernel: &kernel, initramfs: &[1; 100], append: "" };
        let _ = identity.saved_memory();
        let _ = LoadPlan::restoring(&machine, &identity, &boot, key_page.map(PhysAddr::new));
        let _ = LoadPlan::saving(&machine, &identity, &boot, None);
    }
}

proptest! {
    /// Where a kernel is loaded nothing is left of what a page had before.
    #[test]
    fn the_page_of_a_key_is_where_nothing_is_loaded(number in 0..0x15_0000u64, odd in prop_oneof![9 => Just(0), 1 => 1..PAGE_SIZE]) {
        let file = sample(5000);
        let kernel = Kernel::parse(&file).unwrap();
        let machine = machine();
        let window = window::choose(&machine.iomem, None, &kernel, window::Request::default()).unwrap();
        let identity = identity(&machine, window);
        let boot = Boot { kernel: &kernel, initramfs: &[5; 100], append: "" };
        let page = PhysAddr::new(number * PAGE_SIZE + odd);
        let range = PhysRange::from_len(page, PAGE_SIZE).unwrap();
        match LoadPlan::restoring(&machine, &identity, &boot, Some(page)) {
            Ok(plan) => {
                prop_assert!(machine.iomem.ram().covers(range));
                prop_assert!(plan.segments().iter().all(|segment| !segment.memory.overlaps(range)));
                prop_assert_eq!(CommandLine::key_page(&cmdline(&plan)), Ok(Some(page)));
            }
            Err(error) => {
                let is_refused = matches!(error, PlanError::KeyPage { page: refused } if refused == page);
                prop_assert!(is_refused, "{error}");
                prop_assert!(odd > 0 || !identity.saved_memory().covers(range));
            }
        }
    }
}

/// The key is in one segment for a kernel that saves, and in none for one that restores.
#[test]
fn only_a_kernel_that_saves_is_loaded_with_the_key() {
    with_boot(|machine, identity, boot| {
        let secret = Secret::key((0..32).collect()).unwrap();
        let seal = Seal::new(&secret, identity.id).unwrap();
        let with_key = |plan: &LoadPlan<'_>| {
            let halves = seal.key.bytes().chunks(16);
            let holds = |bytes: &[u8]| {
                let mut found = halves.clone();
                found.any(|half| bytes.windows(half.len()).any(|window| window == half))
            };
            let segments = plan.segments().iter();
            segments.filter(|segment| holds(&segment.bytes)).count()
        };
        let saving = LoadPlan::saving(machine, identity, boot, Some(&seal)).unwrap();
        assert_eq!(with_key(&saving), 1);
        let page = CommandLine::key_page(&cmdline(&saving)).unwrap().unwrap();
        let handed = bytes_at(&saving, page.get(), PAGE_SIZE);
        assert_eq!(
            Seal::from_page(&handed).unwrap().key.bytes(),
            seal.key.bytes()
        );

        let page = Some(PhysAddr::new(0x1_0000_0000));
        let restoring = LoadPlan::restoring(machine, identity, boot, page).unwrap();
        assert_eq!(with_key(&restoring), 0);
    });
}

fn with_boot(check: impl FnOnce(&Machine, &Identity, &Boot<'_>)) {
    let file = sample(3_000_000);
    let kernel = Kernel::parse(&file).unwrap();
    let machine = machine();
    let window = window::choose(&machine.iomem, None, &kernel, window::Request::default()).unwrap();
    let identity = identity(&machine, window);
    let boot = Boot {
        kernel: &kernel,
        initramfs: &[5; 10_000],
        append: "console=ttyS0",
    };
    check(&machine, &identity, &boot);
}

fn saving_plan(check: impl FnOnce(&LoadPlan<'_>, &Identity)) {
    with_boot(|machine, identity, boot| {
        let plan = LoadPlan::saving(machine, identity, boot, None).unwrap();
        check(&plan, identity);
    });
}

/// The boot parameters lie on the page behind the trampoline.
fn params(plan: &LoadPlan<'_>) -> u64 {
    plan.entry().get() + PAGE_SIZE
}

/// The command line that the boot parameters point to.
fn cmdline(plan: &LoadPlan<'_>) -> String {
    let at = word_at(plan, params(plan) + 0x228) & 0xffff_ffff;
    let bytes = (at..).map(|at| byte_at(plan, PhysAddr::new(at)).unwrap());
    String::from_utf8(bytes.take_while(|&byte| byte != 0).collect()).unwrap()
}

#[test]
fn the_saving_kernel_is_told_all_it_needs() {
    saving_plan(|plan, identity| {
        let cmdline = cmdline(plan);
        let words: Vec<&str> = cmdline.split(' ').collect();
        assert!(words.contains(&"kexec_jump_back_entry=0x0000000000000000"));
        assert!(words.contains(&"nokaslr") && words.contains(&"no5lvl"));
        assert_eq!(words.last(), Some(&"console=ttyS0"));

        // The initramfs is where the parameters say.
        let ramdisk = word_at(plan, params(plan) + 0x218);
        assert_eq!(ramdisk >> 32, 10_000);
        assert_eq!(bytes_at(plan, ramdisk & 0xffff_ffff, 3), [5, 5, 5]);

        // RAM is low memory and the window, up to the core headers.
        let core = u64::from_str_radix(
            &CommandLine::value(&cmdline, "elfcorehdr").unwrap()[2..],
            16,
        )
        .unwrap();
        let mut ram = RangeMap::new();
        for entry in 0..bytes_at(plan, params(plan) + 0x1e8, 1)[0] {
            let at = params(plan) + 0x2d0 + 20 * u64::from(entry);
            let (start, len) = (word_at(plan, at), word_at(plan, at + 8));
            if bytes_at(plan, at + 16, 4) == [1, 0, 0, 0] {
                ram.insert(PhysRange::new(start, start + len).unwrap(), ())
                    .unwrap();
            }
        }
        let mut expected = identity.low.clone();
        expected
            .insert(
                PhysRange::new(identity.window.start().get(), core).unwrap(),
                (),
            )
            .unwrap();
        assert_eq!(ram, expected);
    });
}

/// Physical memory after the plan was loaded, as the source of a core: what the saving kernel reads.
struct Loaded<'a>(&'a LoadPlan<'a>, u64);

impl ReadAt for Loaded<'_> {
    fn size(&self) -> u64 {
        u64::MAX
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        // The headers are read from where the core begins, the rest from physical addresses.
        let offset = if offset < PAGE_SIZE {
            self.1 + offset
        } else {
            offset
        };
        for (byte, addr) in buf.iter_mut().zip(offset..) {
            *byte = byte_at(self.0, PhysAddr::new(addr)).unwrap_or(0);
        }
        Ok(())
    }
}

#[test]
fn the_core_headers_speak_of_all_other_memory() {
    saving_plan(|plan, identity| {
        let cmdline = cmdline(plan);
        let at = CommandLine::value(&cmdline, "elfcorehdr").unwrap();
        let at = u64::from_str_radix(&at[2..], 16).unwrap();
        let core = Core::open(Loaded(plan, at)).unwrap();
        assert_eq!(
            Identity::from_notes(&core.encode_notes()).as_ref(),
            Some(identity)
        );
        assert_eq!(
            core.contents().filter_map(|_| Some(())),
            identity.saved_memory()
        );
        for load in core.loads() {
            assert_eq!(load.offset, load.memory.start().get());
            assert_eq!(load.virt, 0xffff_8880_0000_0000 + load.memory.start().get());
        }
        // With low memory and the window, that is all RAM there is.
        let mut all = core.contents().filter_map(|_| Some(()));
        for range in identity.low.ranges().chain([identity.window]) {
            all.insert(range, ()).unwrap();
        }
        assert_eq!(all, machine().iomem.ram().shrink_to(PAGE_SIZE));
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    let file = sample(3_000_000);
    let kernel = Kernel::parse(&file).unwrap();
    let machine = machine();
    let plan = |size: u64, initramfs: usize, append: &str, paging| {
        let window = PhysRange::from_len(PhysAddr::new(0x400_0000), size).unwrap();
        let mut identity = identity(&machine, window);
        identity.paging = paging;
        let mut kernel = kernel.clone();
        kernel.five_level = false;
        let initramfs = vec![0; initramfs];
        let boot = Boot {
            kernel: &kernel,
            initramfs: &initramfs,
            append,
        };
        LoadPlan::saving(&machine, &identity, &boot, None).map(|_| ())
    };
    let four = Paging::FourLevel;
    assert!(plan(64 << 20, 1000, "", four).is_ok());
    assert!(matches!(
        plan(4096, 0, "", four),
        Err(PlanError::WindowTooSmall { .. })
    ));
    assert!(matches!(
        plan(64 << 20, 64 << 20, "", four),
        Err(PlanError::WindowTooSmall {
            what: "the initramfs",
            ..
        })
    ));
    assert!(matches!(plan(0x3000_0000, 0, "", four), Ok(())));
    assert!(matches!(
        plan(0x4100_0000, 0, "", four),
        Err(PlanError::MoreThanHalf { .. })
    ));
    assert!(matches!(
        plan(64 << 20, 0, &"x".repeat(2048), four),
        Err(PlanError::CommandLineTooLong { .. })
    ));
    assert!(matches!(
        plan(64 << 20, 0, "", Paging::FiveLevel),
        Err(PlanError::No5Level)
    ));
}
