//! What the kernel shows of kexec below `/sys/kernel`.

use std::io;
use std::path::PathBuf;

use crate::{Error, KernelOption, pseudo_file};

/// The state files of kexec below `/sys/kernel`
/// (`Documentation/ABI/obsolete/sysfs-kernel-kexec-kdump`, `Documentation/ABI/testing/sysfs-kernel-vmcoreinfo`).
///
/// From Linux 6.19 on there is a directory `kexec` for all but VMCOREINFO, and the old files are to go
/// after 2028. Each method reads the old file, and the new one where the old one is missing.
///
/// Each method reads anew. They share these errors:
///
/// * [`Error::NotMounted`] if there is no `/sys/kernel`.
/// * [`Error::NotBuiltIn`] if the file is missing: the kernel was built without what it is about.
/// * [`Error::Unreadable`] or [`Error::Malformed`] if it cannot be read, or makes no sense.
///
/// ```
/// use kexec_sys::{Error, KernelState};
///
/// match KernelState::new().kexec_loaded() {
///     Ok(loaded) => println!("loaded: {loaded}"),
///     Err(Error::NotBuiltIn { option, .. }) => println!("no {option}"),
///     Err(error) => println!("{error}"),
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelState {
    root: PathBuf,
}

/// Where the note with VMCOREINFO lies in the memory of the running kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmcoreInfoNote {
    /// Physical address in bytes.
    pub address: u64,
    /// Bytes that are set apart for the note; the note itself may be shorter. `address + len` does not
    /// overflow.
    pub len: u64,
}

impl Default for KernelState {
    fn default() -> Self {
        Self::at("/sys/kernel")
    }
}

impl KernelState {
    /// The state of the running kernel.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The state that the files below `root` tell, which stands for `/sys/kernel`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Whether an image for [`kexec`](crate::kexec) is loaded.
    ///
    /// # Errors
    ///
    /// Those of [`KernelState`].
    pub fn kexec_loaded(&self) -> Result<bool, Error> {
        self.read(["kexec_loaded", "kexec/loaded"], KernelOption::Kexec)?
            .parse("0 or 1", flag)
    }

    /// Whether an image for crashes is loaded.
    ///
    /// # Errors
    ///
    /// Those of [`KernelState`].
    pub fn kexec_crash_loaded(&self) -> Result<bool, Error> {
        self.read(
            ["kexec_crash_loaded", "kexec/crash_loaded"],
            KernelOption::CrashDump,
        )?
        .parse("0 or 1", flag)
    }

    /// How much memory `crashkernel=` has reserved for an image for crashes, in bytes.
    ///
    /// # Errors
    ///
    /// Those of [`KernelState`].
    pub fn kexec_crash_size(&self) -> Result<u64, Error> {
        self.read(
            ["kexec_crash_size", "kexec/crash_size"],
            KernelOption::CrashDump,
        )?
        .parse("a number of bytes", |text| text.parse().ok())
    }

    /// Where the kernel keeps the note with VMCOREINFO.
    ///
    /// # Errors
    ///
    /// Those of [`KernelState`].
    pub fn vmcoreinfo(&self) -> Result<VmcoreInfoNote, Error> {
        self.read(["vmcoreinfo"], KernelOption::VmcoreInfo)?
            .parse("an address and a length in hexadecimal digits", note)
    }

    /// The page frame number of the jump buffer, on a kernel with the patches of the 2007 RFC (see
    /// [`RebootCommand::RfcJumpTo`](crate::RebootCommand::RfcJumpTo)); `None` on all others. Decimal,
    /// or hexadecimal behind `0x`.
    ///
    /// # Errors
    ///
    /// Those of [`KernelState`], but for [`Error::NotBuiltIn`].
    pub fn kexec_jump_buf_pfn(&self) -> Result<Option<u64>, Error> {
        match self.find(&["kexec_jump_buf_pfn"])? {
            Some(file) => file.parse("a page frame number", decimal_or_hex).map(Some),
            None => Ok(None),
        }
    }

    /// The first of the files `names` that there is; without `option` the kernel has none of them.
    fn read<const N: usize>(
        &self,
        names: [&str; N],
        option: KernelOption,
    ) -> Result<StateFile, Error> {
        self.find(&names)?.ok_or_else(|| Error::NotBuiltIn {
            path: names
                .first()
                .map_or_else(|| self.root.clone(), |name| self.root.join(name)),
            option,
        })
    }

    fn find(&self, names: &[&str]) -> Result<Option<StateFile>, Error> {
        for name in names {
            let path = self.root.join(name);
            match pseudo_file::read(&path) {
                Ok(text) => return Ok(Some(StateFile { path, text })),
                Err(error) if is_missing(&error) => {}
                Err(source) => return Err(Error::Unreadable { path, source }),
            }
        }
        if self.root.is_dir() {
            Ok(None)
        } else {
            Err(Error::NotMounted {
                root: self.root.clone(),
            })
        }
    }
}

/// Whether `error` says that there is no such file.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// A file that was read.
struct StateFile {
    path: PathBuf,
    text: String,
}

impl StateFile {
    /// What `meaning` makes of the text without the line's end.
    fn parse<T>(
        self,
        expected: &'static str,
        meaning: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Error> {
        const SHOWN: usize = 64;
        meaning(self.text.trim_end()).ok_or_else(|| Error::Malformed {
            path: self.path,
            text: self.text.chars().take(SHOWN).collect(),
            expected,
        })
    }
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// Digits only: `from_str_radix` would take a sign too.
fn hex(digits: &str) -> Option<u64> {
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    all_digits.then(|| u64::from_str_radix(digits, 16).ok())?
}

/// An address and a length. The address has a `0x` before it, but not on older kernels; the length has
/// none (`vmcoreinfo_show` in `kernel/ksysfs.c`).
fn note(text: &str) -> Option<VmcoreInfoNote> {
    let (address, len) = text.split_once(' ')?;
    let address = hex(address.strip_prefix("0x").unwrap_or(address))?;
    let len = hex(len)?;
    address.checked_add(len)?;
    Some(VmcoreInfoNote { address, len })
}

fn decimal_or_hex(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => hex(digits),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    /// A `/sys/kernel` with these files.
    fn state(files: &[(&str, &str)]) -> (TempDir, KernelState) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let state = KernelState::at(dir.path());
        (dir, state)
    }

    #[test]
    fn files_as_kernels_write_them() {
        let (_dir, state) = state(&[
            ("kexec_loaded", "1\n"),
            ("kexec_crash_loaded", "0\n"),
            ("kexec_crash_size", "268435456\n"),
            ("vmcoreinfo", "0x0000000100c66000 1024\n"),
            ("kexec_jump_buf_pfn", "12345\n"),
        ]);
        assert!(state.kexec_loaded().unwrap());
        assert!(!state.kexec_crash_loaded().unwrap());
        assert_eq!(state.kexec_crash_size().unwrap(), 256 << 20);
        let note = VmcoreInfoNote {
            address: 0x1_00c6_6000,
            len: 0x1024,
        };
        assert_eq!(state.vmcoreinfo().unwrap(), note);
        assert_eq!(state.kexec_jump_buf_pfn().unwrap(), Some(12345));
    }

    #[test]
    fn files_of_old_and_of_coming_kernels() {
        let (_dir, old) = state(&[("vmcoreinfo", "1b2c3000 1000\n")]);
        let note = VmcoreInfoNote {
            address: 0x1b2c_3000,
            len: 0x1000,
        };
        assert_eq!(old.vmcoreinfo().unwrap(), note);

        let (_dir, coming) = state(&[
            ("kexec/loaded", "1\n"),
            ("kexec/crash_loaded", "1\n"),
            ("kexec/crash_size", "4096\n"),
        ]);
        assert!(coming.kexec_loaded().unwrap());
        assert!(coming.kexec_crash_loaded().unwrap());
        assert_eq!(coming.kexec_crash_size().unwrap(), 4096);
    }

    #[test]
    fn a_missing_file_names_what_the_kernel_was_built_without() {
        let (dir, state) = state(&[]);
        let option = |result: Result<(), Error>| match result.unwrap_err() {
            Error::NotBuiltIn { option, path } => {
                assert!(path.starts_with(dir.path()));
                option
            }
            other => panic!("{other}"),
        };
        assert_eq!(option(state.kexec_loaded().map(drop)), KernelOption::Kexec);
        assert_eq!(
            option(state.kexec_crash_loaded().map(drop)),
            KernelOption::CrashDump
        );
        assert_eq!(
            option(state.kexec_crash_size().map(drop)),
            KernelOption::CrashDump
        );
        assert_eq!(
            option(state.vmcoreinfo().map(drop)),
            KernelOption::VmcoreInfo
        );
        assert_eq!(state.kexec_jump_buf_pfn().unwrap(), None);
    }

    #[test]
    fn sysfs_that_is_not_mounted_is_no_missing_feature() {
        let dir = tempfile::tempdir().unwrap();
        let state = KernelState::at(dir.path().join("kernel"));
        assert!(matches!(
            state.kexec_loaded(),
            Err(Error::NotMounted { .. })
        ));
        assert!(matches!(
            state.kexec_jump_buf_pfn(),
            Err(Error::NotMounted { .. })
        ));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_taken_for_a_missing_one() {
        let (dir, state) = state(&[("kexec/loaded", "1\n")]);
        fs::create_dir(dir.path().join("kexec_loaded")).unwrap();
        assert!(matches!(
            state.kexec_loaded(),
            Err(Error::Unreadable { .. })
        ));
    }

    #[test]
    fn nonsense_is_refused_and_shown_in_part() {
        for text in ["", "\n", "2\n", "-1\n", "yes\n", "0 1\n", "+1", "00"] {
            let (_dir, state) = state(&[("kexec_loaded", text)]);
            assert!(
                matches!(state.kexec_loaded(), Err(Error::Malformed { .. })),
                "{text:?}"
            );
        }
        for text in ["", "-1\n", "1 2\n", "18446744073709551616\n", "0x10\n"] {
            let (_dir, state) = state(&[("kexec_crash_size", text)]);
            assert!(
                matches!(state.kexec_crash_size(), Err(Error::Malformed { .. })),
                "{text:?}"
            );
        }
        for text in [
            "",
            "1000\n",
            "1000 \n",
            " 1000\n",
            "+1000 10\n",
            "0x 10\n",
            "0x0x1 10\n",
            "1000 0x10\n",
            "1000 10 10\n",
            "ffffffffffffffff 1\n",
            "10000000000000000 1\n",
        ] {
            let (_dir, state) = state(&[("vmcoreinfo", text)]);
            assert!(
                matches!(state.vmcoreinfo(), Err(Error::Malformed { .. })),
                "{text:?}"
            );
        }
        let (_dir, state) = state(&[("kexec_jump_buf_pfn", &"x".repeat(10_000))]);
        match state.kexec_jump_buf_pfn().unwrap_err() {
            Error::Malformed { text, .. } => assert_eq!(text, "x".repeat(64)),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn frame_numbers_come_in_two_bases() {
        for (text, pfn) in [("0\n", 0), ("77\n", 77), ("0x4d\n", 77)] {
            let (_dir, state) = state(&[("kexec_jump_buf_pfn", text)]);
            assert_eq!(state.kexec_jump_buf_pfn().unwrap(), Some(pfn));
        }
    }

    proptest! {
        #[test]
        fn a_note_reads_as_it_was_printed(address: u64, len: u32) {
            let fits = address.checked_add(u64::from(len)).is_some();
            for text in [format!("{address:#018x} {len:x}"), format!("{address:x} {len:x}")] {
                let read = note(&text);
                prop_assert_eq!(read.is_some(), fits);
                if let Some(note) = read {
                    prop_assert_eq!((note.address, note.len), (address, u64::from(len)));
                }
            }
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "[0-9a-fx +-]{0,40}|\\PC{0,40}") {
            let _ = (flag(&text), note(&text), decimal_or_hex(&text));
        }
    }
}
