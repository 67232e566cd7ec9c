//! VMCOREINFO: what a kernel tells of itself for those who read its memory.

use std::collections::BTreeMap;

/// The VMCOREINFO note: lines `KEY=VALUE` that the kernel keeps in its memory for tools that read its
/// memory when it no longer runs (`kernel/vmcore_info.c`, `Documentation/admin-guide/kdump/vmcoreinfo.rst`).
///
/// ```
/// use vmcore::VmcoreInfo;
///
/// let info = VmcoreInfo::parse(b"OSRELEASE=6.12.1\nSYMBOL(init_mm)=ffffffff82a0\nPAGESIZE=4096\n");
/// assert_eq!(info.os_release(), Some("6.12.1"));
/// assert_eq!(info.get("PAGESIZE"), Some("4096"));
/// assert_eq!(info.get("BUILD-ID"), None);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmcoreInfo {
    values: BTreeMap<String, String>,
}

impl VmcoreInfo {
    /// The owner name of the ELF note that carries VMCOREINFO.
    pub const NOTE_NAME: &str = "VMCOREINFO";

    /// Reads the text of a note. Lines that are not `KEY=VALUE` in UTF-8 are passed over; of a key that
    /// comes twice, the last value counts.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let values = text
            .split(|&byte| byte == b'\n')
            .filter_map(|line| std::str::from_utf8(line).ok()?.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Self { values }
    }

    /// The value of `key`, such as `SIZE(page)`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// All keys and values in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The kernel's release, as `uname -r` prints it.
    #[must_use]
    pub fn os_release(&self) -> Option<&str> {
        self.get("OSRELEASE")
    }

    /// The kernel's build id, in hexadecimal digits (kernels from 5.9 on).
    #[must_use]
    pub fn build_id(&self) -> Option<&str> {
        self.get("BUILD-ID")
    }
}
