//! What other people's tools make of a core: a judge of saved memory that shares no code with ours.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use tempfile::TempDir;
use vmcore::elf::{Core, Load};
use vmcore::{ReadFile, VmcoreInfo};

use crate::lab::{Kernel, Lab, Tools};
use crate::makedumpfile::filter;

/// How long a tool may take: damaged memory has lists without an end.
const LIMIT: Duration = Duration::from_secs(300);

/// How often a tool is looked after.
const GLANCE: Duration = Duration::from_millis(50);

/// How many of the last lines of a tool's output an error shows.
const SHOWN: usize = 20;

/// What `crash` is asked.
const CRASH_COMMANDS: &str = "ps\nsys\nexit\n";

/// What drgn is asked. Names are told in hexadecimal digits, for any byte can be in one.
const DRGN_SCRIPT: &str = "\
import sys
from drgn import Program
from drgn.helpers.linux.pid import for_each_task
program = Program()
program.set_core_dump(sys.argv[1])
program.load_debug_info([sys.argv[2]])
release = program['init_uts_ns'].name.release.string_()
print('release', release.hex())
for task in for_each_task(program):
    print('task', task.pid.value_(), task.comm.string_().hex())
";

/// Where the kernel's own image is mapped (`__START_KERNEL_map`,
/// `arch/x86/include/asm/page_64_types.h`).
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// A task of the saved machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Task {
    /// Its number in the first PID namespace; the idle tasks all have 0.
    pub(crate) pid: u32,
    /// Its `comm`, at most 15 bytes.
    pub(crate) name: String,
}

/// What `crash` made of a core.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CrashReport {
    /// The tasks of its `ps`, those that idle among them.
    pub(crate) tasks: Vec<Task>,
    /// The kernel's release, from its `sys`.
    pub(crate) release: String,
    /// The lines in which it complained.
    pub(crate) complaints: Vec<String>,
}

/// What drgn made of a core.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DrgnReport {
    /// All tasks but those that idle.
    pub(crate) tasks: Vec<Task>,
    /// The kernel's release.
    pub(crate) release: String,
}

/// Has `crash` list the tasks in `core`, which is one of the kernel `vmlinux`.
///
/// # Errors
///
/// If it fails, takes too long, or lists nothing; with the end of its output.
pub(crate) fn crash_ps(tools: &Tools, core: &Path, vmlinux: &Path) -> Result<CrashReport> {
    let desk = Desk::new()?;
    let commands = desk.file("commands", CRASH_COMMANDS)?;
    let mut crash = tools.command("crash");
    crash
        .args(["-s", "-i"])
        .arg(commands)
        .args([absolute(vmlinux)?, absolute(core)?]);
    let output = desk.run("crash", &mut crash)?;
    read_crash(&output)
}

/// Has drgn walk the list of tasks in `core`, which is one of the kernel `vmlinux`.
///
/// # Errors
///
/// If it fails, takes too long, or tells something unexpected; with the end of its output.
pub(crate) fn drgn_tasks(tools: &Tools, core: &Path, vmlinux: &Path) -> Result<DrgnReport> {
    let desk = Desk::new()?;
    let script = desk.file("tasks.py", DRGN_SCRIPT)?;
    let mut drgn = tools.command("python3");
    drgn.arg(script).args([absolute(core)?, absolute(vmlinux)?]);
    let output = desk.run("drgn", &mut drgn)?;
    read_drgn(&output)
}

/// Has `gdb` read the kernel's release out of `core`, which is one of the kernel `vmlinux`.
///
/// gdb knows nothing of page tables but only the virtual addresses that the core's segments tell, those
/// of the direct map. So it is told that the kernel lies there.
///
/// # Errors
///
/// If the core does not tell where the kernel is, or if gdb fails, takes too long, or cannot read it;
/// with the end of its output.
pub(crate) fn gdb_symbol(tools: &Tools, core: &Path, vmlinux: &Path) -> Result<String> {
    let opened = open(core)?;
    let info = opened
        .vmcoreinfo()
        .with_context(|| format!("{} has no note VMCOREINFO", core.display()))?;
    let offset = symbol_offset(&info, opened.loads())?;
    let desk = Desk::new()?;
    let mut gdb = tools.command("gdb");
    gdb.args(["-nx", "-batch", "-iex", "set auto-load off"])
        .args(["-iex", "set debuginfod enabled off"]);
    // gdb reads its command line with C's escapes: links of plain names need none.
    desk.link("core", core)?;
    desk.link("vmlinux", vmlinux)?;
    for command in [
        "core-file core".to_owned(),
        format!("add-symbol-file vmlinux -o {offset:#x}"),
        r#"printf "\nrelease %s\n", init_uts_ns.name.release"#.to_owned(),
    ] {
        gdb.arg("-ex").arg(command);
    }
    let output = desk.run("gdb", &mut gdb)?;
    read_gdb(&output)
}

/// What is to be added to the addresses in `vmlinux` to have those of the direct map in a core with
/// `info` and `loads`.
fn symbol_offset(info: &VmcoreInfo, loads: &[Load]) -> Result<u64> {
    let value = |key| {
        info.get(key)
            .with_context(|| format!("the core's VMCOREINFO has no {key}"))
    };
    let moved = u64::from_str_radix(value("KERNELOFFSET")?, 16)
        .context("the core's VMCOREINFO has a KERNELOFFSET that is no hexadecimal number")?;
    let base: i64 = value("NUMBER(phys_base)")?
        .parse()
        .context("the core's VMCOREINFO has a phys_base that is no number")?;
    let direct_map = loads
        .iter()
        .find(|load| load.virt != 0 && load.virt < KERNEL_MAP)
        .map(|load| load.virt.wrapping_sub(load.memory.start().get()))
        .context("the core does not tell the virtual addresses of its memory")?;
    // As `__phys_addr` does (`arch/x86/mm/physaddr.c`), then up into the direct map.
    Ok(moved
        .wrapping_sub(KERNEL_MAP)
        .wrapping_add_signed(base)
        .wrapping_add(direct_map))
}

/// Reads what `crash` prints in answer to [`CRASH_COMMANDS`].
fn read_crash(output: &str) -> Result<CrashReport> {
    let mut report = CrashReport::default();
    let mut listing = false;
    for line in output.lines() {
        let words = line.trim_start();
        if words.starts_with("PID ") && words.ends_with("COMM") {
            listing = true;
        } else if let Some(task) = read_ps(line).filter(|_| listing) {
            report.tasks.push(task);
        } else if let Some(release) = words.strip_prefix("RELEASE: ") {
            release.trim().clone_into(&mut report.release);
        } else if ["WARNING: ", "crash: ", "ps: ", "sys: "]
            .iter()
            .any(|prefix| words.starts_with(prefix))
        {
            report.complaints.push(words.trim_end().to_owned());
        }
    }
    if report.tasks.is_empty() || report.release.is_empty() {
        bail!(
            "crash does not list tasks and a release; the last of its output is\n{}",
            end_of(output)
        );
    }
    Ok(report)
}

/// The task in a line of the `ps` of `crash`: PID, parent, CPU, address, state, three sizes, and the
/// name, which is in brackets for a kernel thread. Before those that run is a `>`.
fn read_ps(line: &str) -> Option<Task> {
    let mut rest = line.trim_start().trim_start_matches('>');
    let mut columns = [""; 8];
    for column in &mut columns {
        let (word, after) = rest.trim_start().split_once(' ')?;
        *column = word;
        rest = after;
    }
    u64::from_str_radix(columns[3], 16).ok()?;
    // The name follows after one more space; it may have spaces itself, and brackets.
    let name = rest.strip_prefix(' ').unwrap_or(rest);
    let name = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    Some(Task {
        pid: columns[0].parse().ok()?,
        name: name.to_owned(),
    })
}

/// Reads what [`DRGN_SCRIPT`] prints. What drgn itself says in between is passed over.
fn read_drgn(output: &str) -> Result<DrgnReport> {
    let mut report = DrgnReport::default();
    for line in output.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let read = match words[..] {
            ["release", name] => text_of_hex(name).map(|name| report.release = name),
            ["task", pid, name] => (|| {
                let pid = pid.parse().ok()?;
                let name = text_of_hex(name)?;
                report.tasks.push(Task { pid, name });
                Some(())
            })(),
            _ => Some(()),
        };
        read.with_context(|| format!("drgn says something unexpected: `{line}`"))?;
    }
    if report.tasks.is_empty() || report.release.is_empty() {
        bail!(
            "drgn does not list tasks and a release; the last of its output is\n{}",
            end_of(output)
        );
    }
    Ok(report)
}

/// The release in what `gdb` prints.
fn read_gdb(output: &str) -> Result<String> {
    output
        .lines()
        .find_map(|line| line.strip_prefix("release "))
        .map(ToOwned::to_owned)
        .with_context(|| {
            format!(
                "gdb does not tell a release; the last of its output is\n{}",
                end_of(output)
            )
        })
}

/// The text in a line of hexadecimal digits, two for each byte; bytes that are no UTF-8 are replaced.
fn text_of_hex(digits: &str) -> Option<String> {
    let bytes = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            // A sign is no digit, though numbers may begin with one.
            [b'+', _] => None,
            [_, _] => u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok(),
            _ => None,
        })
        .collect::<Option<Vec<u8>>>()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The core in the file at `path`.
pub(crate) fn open(path: &Path) -> Result<Core<ReadFile>> {
    Core::open(source(path)?).with_context(|| format!("{} is no core", path.display()))
}

/// The file at `path`.
pub(crate) fn source(path: &Path) -> Result<ReadFile> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    ReadFile::new(file).with_context(|| format!("cannot read {}", path.display()))
}

/// `path`, whatever directory a tool runs in.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))
}

/// The last lines of a tool's output.
fn end_of(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}

/// An empty directory that a tool runs in, so that it finds no settings of anybody's. It is removed when
/// it is dropped.
pub(crate) struct Desk(TempDir);

impl Desk {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir().context("making a folder")?))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A new file in it.
    fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// A link in it to the file at `target`.
    fn link(&self, name: &str, target: &Path) -> Result<()> {
        let path = self.path(name);
        std::os::unix::fs::symlink(absolute(target)?, &path)
            .with_context(|| format!("making {}", path.display()))
    }

    /// Runs `command` in it, and returns all that it printed, errors included.
    pub(crate) fn run(&self, name: &str, command: &mut Command) -> Result<String> {
        self.run_within(LIMIT, name, command)
    }

    fn run_within(&self, limit: Duration, name: &str, command: &mut Command) -> Result<String> {
        let path = self.path("output");
        let output = File::create(&path).with_context(|| format!("making {}", path.display()))?;
        let start = Instant::now();
        let mut child = command
            .current_dir(self.0.path())
            .env("HOME", self.0.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("copying a file handle")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let status = loop {
            if let Some(status) = child.try_wait().context("waiting for a tool")? {
                break Some(status);
            }
            if start.elapsed() >= limit {
                // Both fail only for a process that has ended meanwhile.
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            sleep(GLANCE);
        };
        let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        let end = end_of(&text);
        match status {
            Some(status) if status.success() => Ok(text),
            Some(status) => {
                bail!("{name} ended with {status}; the last of its output is\n{end}")
            }
            None => bail!(
                "{name} is not done after {} s; the last of its output is\n{end}",
                limit.as_secs()
            ),
        }
    }
}

/// Show what crash, drgn, gdb and makedumpfile make of a core
#[derive(Parser)]
#[command(name = "cargo xtask analyse", bin_name = "cargo xtask analyse")]
struct Arguments {
    /// The core
    core: PathBuf,
    /// The kernel that it is of: one of the lab's by its name, or a file with debugging symbols
    kernel: String,
    /// The dump level for makedumpfile
    #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u8).range(..=31))]
    level: u8,
}

/// Runs the task: all tools, whatever one of them says.
///
/// # Errors
///
/// If a tool cannot read the core.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let arguments = Arguments::parse_from([&["analyse".to_owned()], arguments].concat());
    let kernel = arguments.kernel.parse::<Kernel>().ok();
    let lab = Lab::set_up(kernel.as_slice())?;
    let vmlinux = match kernel {
        Some(kernel) => lab.vmlinux(kernel)?,
        None => PathBuf::from(&arguments.kernel),
    };
    let tools = lab.tools()?;
    println!("tools         {}", tools.root().display());
    for name in Tools::packages() {
        println!("{name:13} {}", tools.version(name).unwrap_or("not there"));
    }
    let (core, vmlinux) = (&*arguments.core, &*vmlinux);
    let results = [
        crash_ps(tools, core, vmlinux).map(|report| {
            let tasks = report.tasks.len();
            let complaints: String = report
                .complaints
                .iter()
                .map(|line| format!("\n    {line}"))
                .collect();
            format!("crash: {}, {tasks} tasks{complaints}", report.release)
        }),
        drgn_tasks(tools, core, vmlinux)
            .map(|report| format!("drgn: {}, {} tasks", report.release, report.tasks.len())),
        gdb_symbol(tools, core, vmlinux).map(|release| format!("gdb: {release}")),
        filter(tools, core, arguments.level).map(|filtered| {
            format!(
                "makedumpfile: leaves out {} pages at level {}, {} are zero",
                filtered.left_out.len(),
                arguments.level,
                filtered.zero.len()
            )
        }),
    ];
    let mut failed = 0_usize;
    for result in results {
        match result {
            Ok(text) => println!("{text}"),
            Err(error) => {
                failed += 1;
                println!("{error:#}");
            }
        }
    }
    if failed > 0 {
        bail!("{failed} tools cannot read {}", core.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmcore::{PhysAddr, PhysRange};

    use super::*;

    fn task(pid: u32, name: &str) -> Task {
        Task {
            pid,
            name: name.to_owned(),
        }
    }

    fn load(start: u64, len: u64, file_size: u64, virt: u64) -> Load {
        Load {
            memory: PhysRange::from_len(PhysAddr::new(start), len).unwrap(),
            offset: 0,
            file_size,
            virt,
        }
    }

    const CRASH: &str = "\
WARNING: cannot determine how modules are linked

      PID    PPID  CPU       TASK        ST  %MEM      VSZ      RSS  COMM
>       0       0   0  ffffffff91411600  RU   0.0        0        0  [swapper/0]
        1       0   1  ffff8adc40198000  IN   0.3      992      692  init
       14       2   0  ffffa03780819700  ID   0.0        0        0  [kworker/0:1H]
       37       1   0  ffffa037808ea280  ??   0.2      996      456  worker  0
      KERNEL: /cache/vmlinux
     RELEASE: 6.1.192
     VERSION: #1 SMP 1970-01-01
ps: seek error
";

    #[test]
    fn the_words_of_crash_are_read() {
        let report = read_crash(CRASH).unwrap();
        let tasks = [
            task(0, "swapper/0"),
            task(1, "init"),
            task(14, "kworker/0:1H"),
            task(37, "worker  0"),
        ];
        assert_eq!(report.tasks, tasks);
        assert_eq!(report.release, "6.1.192");
        assert_eq!(
            report.complaints,
            [
                "WARNING: cannot determine how modules are linked",
                "ps: seek error"
            ]
        );
    }

    #[test]
    fn a_crash_that_lists_nothing_is_an_error_with_what_it_said() {
        for output in ["crash: vmlinux and core do not match!", "RELEASE: 6.1"] {
            let error = read_crash(output).unwrap_err().to_string();
            assert!(error.contains(output), "{error}");
        }
        let without_release = CRASH.replace("RELEASE", "RELEASED");
        assert!(read_crash(&without_release).is_err());
    }

    #[test]
    fn the_words_of_drgn_are_read() {
        let report = read_drgn(
            "release 362e31\ntask 1 696e6974\na warning: this and that\ntask 37 776f726b65722030\n",
        )
        .unwrap();
        assert_eq!(report.release, "6.1");
        assert_eq!(report.tasks, [task(1, "init"), task(37, "worker 0")]);
        for (output, named) in [
            ("task x 69", "task x 69"),
            ("release 36\ntask 1 6", "task 1 6"),
            ("release 36\ntask 1 +1", "task 1 +1"),
            ("oh no", "oh no"),
            ("release 36", "release 36"),
        ] {
            let error = read_drgn(output).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn the_release_is_found_among_the_words_of_gdb() {
        let output = "warning: no registers\n\nrelease 7.3.4\n";
        assert_eq!(read_gdb(output).unwrap(), "7.3.4");
        let error = read_gdb("Cannot access memory at address 0x1").unwrap_err();
        assert!(error.to_string().contains("0x1"), "{error}");
    }

    #[test]
    fn symbols_are_found_in_the_direct_map() {
        // A machine of 6.12 whose kernel was loaded at 16 MiB above where it was linked.
        let info = VmcoreInfo::parse(b"KERNELOFFSET=23c00000\nNUMBER(phys_base)=-586153984\n");
        let loads = [load(0x1000, 0x1000, 0x1000, 0xffff_a037_8000_1000)];
        // _text: linked at 0xffffffff81000000.
        let text = 0xffff_ffff_8100_0000_u64;
        let physical = 0x100_0000_u64 + 0x23c0_0000 - 586_153_984;
        assert_eq!(
            text.wrapping_add(symbol_offset(&info, &loads).unwrap()),
            0xffff_a037_8000_0000 + physical
        );
    }

    #[test]
    fn a_core_that_does_not_tell_where_its_kernel_is_is_refused() {
        let loads = [load(0x1000, 0x1000, 0x1000, 0xffff_8880_0000_1000)];
        let without = [load(0x1000, 0x1000, 0x1000, 0)];
        let whole = "KERNELOFFSET=0\nNUMBER(phys_base)=0\n";
        for (text, loads, named) in [
            ("NUMBER(phys_base)=0\n", &loads, "KERNELOFFSET"),
            ("KERNELOFFSET=0\n", &loads, "phys_base"),
            (
                "KERNELOFFSET=x\nNUMBER(phys_base)=0\n",
                &loads,
                "KERNELOFFSET",
            ),
            (whole, &without, "virtual addresses"),
        ] {
            let error = symbol_offset(&VmcoreInfo::parse(text.as_bytes()), loads).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
        symbol_offset(&VmcoreInfo::parse(whole.as_bytes()), &loads).unwrap();
    }

    #[test]
    fn a_tool_that_fails_or_hangs_is_an_error_with_the_end_of_its_output() {
        let desk = Desk::new().unwrap();
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let output = desk.run("sh", &mut shell("echo one; echo two >&2"));
        assert_eq!(output.unwrap(), "one\ntwo\n");

        let error = desk
            .run("sh", &mut shell("seq 100 140; exit 3"))
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("exit status: 3") && text.ends_with("\n140"),
            "{text}"
        );
        assert!(text.contains("\n121\n") && !text.contains("120"), "{text}");

        let mut hanging = shell("echo here; exec sleep 60");
        let error = desk
            .run_within(Duration::from_millis(300), "sh", &mut hanging)
            .unwrap_err();
        assert!(error.to_string().contains("not done"), "{error}");
        assert!(error.to_string().ends_with("here"), "{error}");
    }

    proptest! {
        #[test]
        fn any_output_is_read_or_refused(output in "[>0-9a-f \\[\\]é\nPIDCOMRELEASE:task]{0,200}") {
            let _ = read_crash(&output);
            let _ = read_drgn(&output);
            let _ = read_gdb(&output);
            let _ = text_of_hex(&output);
        }

        #[test]
        fn any_numbers_make_an_offset(moved: u64, base: i64, virt in 1..KERNEL_MAP, start in 0..u64::MAX - 9) {
            let info = format!("KERNELOFFSET={moved:x}\nNUMBER(phys_base)={base}\n");
            symbol_offset(&VmcoreInfo::parse(info.as_bytes()), &[load(start, 8, 8, virt)]).unwrap();
        }

        #[test]
        fn any_name_is_read_from_its_digits(name in "\\PC{0,15}") {
            let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(text_of_hex(&digits), Some(name));
        }
    }
}
