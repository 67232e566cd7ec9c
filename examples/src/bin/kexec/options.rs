//! The command line: the options of kexec-tools, and the two of the 2007 mail.

use std::path::PathBuf;

use kjump::sys::{FileLoadFlags, LoadFlags};

use crate::getopt::{self, Found, Spec};

/// What an option means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Id {
    Help,
    /// `-?`, which helps like something wrong.
    Question,
    Version,
    Force,
    NoChecks,
    NoIfdown,
    NoSync,
    Load,
    Unload,
    Exec,
    JumpTo,
    JumpBack,
    PreserveContext,
    JumpBackHelper,
    Entry,
    Type,
    LoadPanic,
    MemMin,
    MemMax,
    ReuseInitrd,
    FileSyscall,
    Syscall,
    SyscallAuto,
    Debug,
    Status,
    CrashSize,
    CommandLine,
    ReuseCommandLine,
    Initrd,
    Target,
    /// Understood, and of no consequence here.
    Nothing,
    /// Understood, and refused.
    Refused,
}

const fn plain(id: Id, short: Option<char>, long: &'static str) -> Spec<Id> {
    Spec {
        id,
        short,
        long,
        value: false,
    }
}

const fn valued(id: Id, short: Option<char>, long: &'static str) -> Spec<Id> {
    Spec {
        id,
        short,
        long,
        value: true,
    }
}

/// All options, in the order in which kexec-tools has them: it shows where a long name is not clear.
const SPECS: [Spec<Id>; 48] = [
    plain(Id::Question, Some('?'), ""),
    plain(Id::Help, Some('h'), "help"),
    plain(Id::Version, Some('v'), "version"),
    plain(Id::Force, Some('f'), "force"),
    plain(Id::NoChecks, Some('i'), "no-checks"),
    plain(Id::NoIfdown, Some('x'), "no-ifdown"),
    plain(Id::NoSync, Some('y'), "no-sync"),
    plain(Id::Load, Some('l'), "load"),
    plain(Id::Unload, Some('u'), "unload"),
    plain(Id::Exec, Some('e'), "exec"),
    plain(Id::JumpTo, Some('j'), "jump-to"),
    plain(Id::JumpBack, Some('b'), "jump-back"),
    plain(Id::PreserveContext, None, "load-preserve-context"),
    plain(Id::JumpBackHelper, None, "load-jump-back-helper"),
    valued(Id::Entry, None, "entry"),
    valued(Id::Type, Some('t'), "type"),
    plain(Id::LoadPanic, Some('p'), "load-panic"),
    valued(Id::MemMin, None, "mem-min"),
    valued(Id::MemMax, None, "mem-max"),
    plain(Id::ReuseInitrd, None, "reuseinitrd"),
    plain(Id::FileSyscall, Some('s'), "kexec-file-syscall"),
    plain(Id::Syscall, Some('c'), "kexec-syscall"),
    plain(Id::SyscallAuto, Some('a'), "kexec-syscall-auto"),
    plain(Id::Debug, Some('d'), "debug"),
    plain(Id::Status, Some('S'), "status"),
    plain(Id::CrashSize, None, "print-ckr-size"),
    plain(Id::Nothing, None, "reset-vga"),
    valued(Id::Nothing, None, "serial"),
    valued(Id::Nothing, None, "serial-baud"),
    plain(Id::Nothing, None, "console-vga"),
    plain(Id::Nothing, None, "console-serial"),
    plain(Id::Refused, None, "elf32-core-headers"),
    plain(Id::Nothing, None, "elf64-core-headers"),
    plain(Id::Nothing, None, "pass-memmap-cmdline"),
    plain(Id::Nothing, None, "noefi"),
    plain(Id::Nothing, None, "reuse-video-type"),
    valued(Id::CommandLine, None, "command-line"),
    valued(Id::CommandLine, None, "append"),
    plain(Id::ReuseCommandLine, None, "reuse-cmdline"),
    valued(Id::Initrd, None, "initrd"),
    valued(Id::Initrd, None, "ramdisk"),
    plain(Id::Nothing, None, "args-linux"),
    plain(Id::Refused, None, "args-elf"),
    plain(Id::Refused, None, "args-none"),
    valued(Id::Refused, None, "module"),
    plain(Id::Refused, None, "real-mode"),
    plain(Id::Refused, None, "entry-32bit"),
    valued(Id::Target, None, "target"),
];

/// Which system call loads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Syscall {
    /// `kexec_load(2)`: the program reads the kernel and lays out memory.
    #[default]
    Load,
    /// `kexec_file_load(2)`: the kernel does.
    File,
    /// The second, and the first where that is not there or does not know the image.
    Auto,
}

/// Where a jump leads, and what is done before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Into what is loaded.
    Exec,
    /// Into what is loaded, from where this machine is to be resumed.
    JumpTo,
    /// Into the machine that jumped here.
    JumpBack,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Load a kernel.
    pub(crate) load: bool,
    /// Unload what is loaded.
    pub(crate) unload: bool,
    /// Load what jumps back.
    pub(crate) helper: bool,
    /// Run the system's shutdown, which jumps in the end.
    pub(crate) shutdown: bool,
    /// Sync file systems before.
    pub(crate) sync: bool,
    /// Take network interfaces down before.
    pub(crate) ifdown: bool,
    /// Jump.
    pub(crate) leave: Option<Leave>,
    /// Say whether something is loaded, and do nothing else.
    pub(crate) status: bool,
    /// It is about the kernel for panics.
    pub(crate) panic: bool,
    /// The kernel is to be able to jump back.
    pub(crate) preserve: bool,
    /// Whether status is asked of the kernel for the jump; without, it is that for panics.
    pub(crate) load_named: bool,
    /// Which call loads.
    pub(crate) syscall: Syscall,
    /// Tell what is done.
    pub(crate) debug: bool,
    /// The type that the kernel is said to be.
    pub(crate) kind: Option<String>,
    /// The lowest address to load to.
    pub(crate) mem_min: Option<u64>,
    /// The highest one.
    pub(crate) mem_max: Option<u64>,
    /// The jump-back entry.
    pub(crate) entry: Option<u64>,
    /// The command line of the kernel.
    pub(crate) command_line: Option<String>,
    /// Take the command line that this kernel has.
    pub(crate) reuse_command_line: bool,
    /// The initramfs.
    pub(crate) initrd: Option<PathBuf>,
    /// Take the initramfs of this boot.
    pub(crate) reuse_initrd: bool,
    /// The memory of the machine that is jumped back to.
    pub(crate) target: Option<PathBuf>,
    /// An option that was given and is not for this program.
    pub(crate) refused: Option<String>,
    /// The kernel.
    pub(crate) kernel: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            load: true,
            unload: false,
            helper: false,
            shutdown: true,
            sync: true,
            ifdown: false,
            leave: None,
            status: false,
            panic: false,
            preserve: false,
            load_named: false,
            syscall: Syscall::Load,
            debug: false,
            kind: None,
            mem_min: None,
            mem_max: None,
            entry: None,
            command_line: None,
            reuse_command_line: false,
            initrd: None,
            reuse_initrd: false,
            target: None,
            refused: None,
            kernel: None,
        }
    }
}

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Help, with status 0.
    Help,
    /// The version, with status 0.
    Version,
    /// How much memory is reserved for a crash kernel, with status 0.
    CrashSize,
    /// This complaint, and the usage, with status 1.
    Wrong(String),
    /// Something to do.
    Run(Box<Options>),
}

impl Options {
    /// Reads the command line, without its first word, which is `program`. The first that asks for help
    /// or the version, or is wrong, ends it, as in kexec-tools.
    pub(crate) fn read(program: &str, words: &[String]) -> Request {
        let mut options = Self::default();
        for found in getopt::read(program, &SPECS, words) {
            match found {
                Found::Wrong(complaint) => return Request::Wrong(complaint),
                Found::Option(Id::Question, _) => return Request::Wrong(String::new()),
                Found::Option(Id::CrashSize, _) => return Request::CrashSize,
                Found::Option(Id::Help, _) => return Request::Help,
                Found::Option(Id::Version, _) => return Request::Version,
                Found::Operand(word) => {
                    options.kernel.get_or_insert(word.into());
                }
                Found::Option(id, value) => {
                    if let Err(complaint) = options.set(id, value.unwrap_or_default()) {
                        return Request::Wrong(complaint);
                    }
                }
            }
        }
        Request::Run(Box::new(options))
    }

    /// Takes an option. Those that are verbs say what is to be done, the last one of them counts.
    fn set(&mut self, id: Id, value: String) -> Result<(), String> {
        let mut verb = |load, leave, ifdown| {
            self.load = load;
            self.leave = leave;
            self.shutdown = false;
            self.ifdown = ifdown;
        };
        match id {
            Id::Force => verb(true, Some(Leave::Exec), true),
            Id::Load => {
                verb(true, None, false);
                self.load_named = true;
            }
            Id::LoadPanic => {
                verb(true, None, false);
                self.panic = true;
            }
            Id::PreserveContext => {
                verb(true, None, false);
                self.preserve = true;
            }
            Id::Unload => {
                verb(false, None, false);
                self.unload = true;
            }
            Id::Exec => verb(false, Some(Leave::Exec), true),
            Id::JumpTo => verb(false, Some(Leave::JumpTo), false),
            Id::JumpBack => verb(false, Some(Leave::JumpBack), true),
            Id::JumpBackHelper => {
                verb(false, None, true);
                self.helper = true;
            }
            Id::NoIfdown => self.ifdown = false,
            Id::NoSync => self.sync = false,
            Id::Status => self.status = true,
            Id::Debug => self.debug = true,
            Id::FileSyscall => self.syscall = Syscall::File,
            Id::Syscall => self.syscall = Syscall::Load,
            Id::SyscallAuto => self.syscall = Syscall::Auto,
            Id::Entry => self.entry = Some(number("entry", &value, true)?),
            Id::MemMin => self.mem_min = Some(number("mem-min", &value, false)?),
            Id::MemMax => self.mem_max = Some(number("mem-max", &value, false)?),
            Id::Type => self.kind = Some(value),
            Id::CommandLine => self.command_line = Some(value),
            Id::ReuseCommandLine => self.reuse_command_line = true,
            Id::Initrd => self.initrd = Some(value.into()),
            Id::ReuseInitrd => self.reuse_initrd = true,
            Id::Target => self.target = Some(value.into()),
            Id::Refused => self.refused = Some(value),
            Id::NoChecks | Id::Nothing | Id::Help | Id::Question | Id::Version | Id::CrashSize => {}
        }
        Ok(())
    }

    /// The flags that `kexec_load(2)` takes to unload what is meant.
    pub(crate) fn load_flags(&self) -> LoadFlags {
        if self.panic {
            LoadFlags::ON_CRASH
        } else {
            LoadFlags::empty()
        }
    }

    /// The same for `kexec_file_load(2)`.
    pub(crate) fn file_flags(&self) -> FileLoadFlags {
        if self.panic {
            FileLoadFlags::ON_CRASH
        } else {
            FileLoadFlags::empty()
        }
    }
}

/// A number as `strtoull(3)` reads it, all of `text`: hexadecimal behind `0x` or where nothing else is
/// meant, octal behind `0`.
fn number(option: &str, text: &str, hexadecimal: bool) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    let parsed = match digits {
        Some(digits) => u64::from_str_radix(digits, 16),
        None if hexadecimal => u64::from_str_radix(text, 16),
        None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(&text[1..], 8),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("Bad option value in --{option}={text}"))
}

/// What the program is for, and all options.
pub(crate) const USAGE: &str = "\
Usage: kexec [OPTION]... [kernel]
Load a kernel, and jump into it: for good, or to come back.

What to do:
 -l, --load                 Load the kernel, to be jumped to later.
 -p, --load-panic           Load the kernel for the moment in which this one panics; it goes
                            into the memory that crashkernel= reserved. With
                            --load-preserve-context it is loaded for -j too, into the same
                            memory.
     --load-preserve-context
                            Load the kernel beside this one, which can be jumped back into.
 -u, --unload               Unload what is loaded; with -p, the kernel for panics.
 -e, --exec                 Jump into what is loaded, at once: it is the last thing that a
                            shutdown does. To shut the system down first, say
                            `kexec KERNEL`, or `systemctl kexec` after -l.
 -j, --jump-to              Jump into the kernel that was loaded with
                            --load-preserve-context; returns when that jumps back.
 -b, --jump-back            Jump back into the machine that jumped here.
     --load-jump-back-helper
                            Load what jumps back, for -e.
 -f, --force                Load the kernel and jump into it at once.
 -S, --status               Exit with 1 if a kernel for panics is loaded and with 0 if not;
                            with -l, the same of the kernel to jump to.
     --print-ckr-size       Print how much memory is reserved for a crash kernel, in bytes.
 -h, --help                 Print this.
 -v, --version              Print the version.
Without any of these, load the kernel and run the system's shutdown, which jumps in the end.

How to load:
 -t, --type=TYPE            The kernel is of this type: bzImage, bzImage64, elf or elf-x86_64.
     --command-line=STRING, --append=STRING
                            Its command line.
     --reuse-cmdline        Take the command line of the running kernel first, without
                            BOOT_IMAGE=, and without crashkernel= for a kernel for panics.
     --initrd=FILE, --ramdisk=FILE
                            Its initramfs.
     --reuseinitrd          Take the initramfs of this boot, which it had to keep
                            (retain_initrd).
     --mem-min=ADDR         Use no memory below; with --load-preserve-context the kernel lives
     --mem-max=ADDR         between these, and both kernels of a hibernation must say the same.
 -c, --kexec-syscall        Load by kexec_load(2) (default).
 -s, --kexec-file-syscall   Load by kexec_file_load(2), which knows signatures and no way back.
 -a, --kexec-syscall-auto   Try the second, and the first where the kernel does not take that.
     --elf64-core-headers   Core headers have 64 bits here in any case.

How to jump:
     --entry=ADDR           Where to jump back to, in hexadecimal digits; else it is
                            kexec_jump_back_entry= of this kernel's command line.
     --target=DEVICE        Where the page of that address is read: /dev/oldmem or /dev/mem
                            [default: /dev/oldmem if it is there].
 -x, --no-ifdown            Leave network interfaces up.
 -y, --no-sync              Do not sync file systems.
 -d, --debug                Tell what is done.

Exit status: 0 done, 1 or 255 failed.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Request {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::read("kexec", &words)
    }

    fn run(line: &str) -> Options {
        match read(line) {
            Request::Run(options) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn verbs_say_what_comes_before_the_jump() {
        let options = run("-l vmlinuz --append=quiet");
        assert!(options.load && !options.shutdown && options.leave.is_none());
        assert_eq!(options.kernel, Some("vmlinuz".into()));
        // The one form that runs a shutdown.
        assert!(run("vmlinuz").shutdown);
        let exec = run("-e");
        assert!(!exec.load && !exec.shutdown && exec.ifdown);
        assert_eq!(exec.leave, Some(Leave::Exec));
        assert!(!run("-e -x").ifdown);
        assert!(run("-x -e").ifdown);
        let jump = run("-j");
        assert!(!jump.ifdown && jump.sync && jump.leave == Some(Leave::JumpTo));
        assert!(run("-b").ifdown);
        assert!(!run("-by").sync);
        let force = run("-f vmlinuz");
        assert!(force.load && force.leave == Some(Leave::Exec));
        // As in the mail: both, in one word.
        let unload = run("-pu");
        assert!(unload.unload && unload.panic && !unload.load);
    }

    #[test]
    fn the_first_that_ends_it_counts() {
        assert_eq!(read("-l --version --nope"), Request::Version);
        assert_eq!(read("-vh"), Request::Version);
        assert!(matches!(read("--nope -h"), Request::Wrong(_)));
    }

    #[test]
    fn numbers_are_those_of_strtoull() {
        assert_eq!(run("--mem-min=0x10000000 -l x").mem_min, Some(0x1000_0000));
        assert_eq!(run("--mem-min=4096 -l x").mem_min, Some(4096));
        assert_eq!(run("--mem-max=010 -l x").mem_max, Some(8));
        assert_eq!(run("--entry=10 -b").entry, Some(16));
        assert_eq!(run("--entry=0x10 -b").entry, Some(16));
        for wrong in ["--entry=zz", "--mem-min=0xq", "--mem-max=", "--mem-max=1M"] {
            assert_eq!(
                read(wrong),
                Request::Wrong(format!("Bad option value in {wrong}"))
            );
        }
    }

    #[test]
    fn the_usage_names_every_option_that_does_something() {
        for spec in &SPECS {
            let silent = matches!(
                spec.id,
                Id::Nothing | Id::Refused | Id::NoChecks | Id::Question
            );
            assert!(
                silent || USAGE.contains(&format!("--{}", spec.long)),
                "{}",
                spec.long
            );
        }
    }
}
