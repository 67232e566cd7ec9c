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

    /// The address of the kernel's symbol `name`, `SYMBOL(name)`, with the offset of address space
    /// randomisation in it. For arrays, and for some pointers such as `mem_section`, that is where the
    /// first element lies (`VMCOREINFO_SYMBOL_ARRAY`).
    ///
    /// # Errors
    ///
    /// [`InfoError`] if there is no such value, or if it is no hexadecimal number.
    pub fn symbol(&self, name: &str) -> Result<u64, InfoError> {
        self.hexadecimal(format!("SYMBOL({name})"))
    }

    /// The size in bytes of the kernel's type `name`, `SIZE(name)`.
    ///
    /// # Errors
    ///
    /// [`InfoError`] if there is no such value, or if it is no decimal number.
    pub fn size(&self, name: &str) -> Result<u64, InfoError> {
        self.decimal(format!("SIZE({name})"))
    }

    /// Where a member lies in its type, in bytes: `OFFSET(name)` of a name such as `page.flags`.
    ///
    /// # Errors
    ///
    /// [`InfoError`] if there is no such value, or if it is no decimal number.
    pub fn offset(&self, name: &str) -> Result<u64, InfoError> {
        self.decimal(format!("OFFSET({name})"))
    }

    /// How many elements the kernel's array `name` has: `LENGTH(name)`.
    ///
    /// # Errors
    ///
    /// [`InfoError`] if there is no such value, or if it is no decimal number.
    pub fn length(&self, name: &str) -> Result<u64, InfoError> {
        self.decimal(format!("LENGTH({name})"))
    }

    /// The kernel's number `name`, `NUMBER(name)`. Most are written as signed decimal numbers; those that
    /// are addresses, such as `VMALLOC_START`, in hexadecimal with `0x` before them. The latter come out
    /// as the signed number of the same 64 bits.
    ///
    /// # Errors
    ///
    /// [`InfoError`] if there is no such value, or if it is no such number.
    pub fn number(&self, name: &str) -> Result<i64, InfoError> {
        self.parsed(format!("NUMBER({name})"), |value| {
            match value.strip_prefix("0x") {
                Some(digits) => hexadecimal(digits).map(u64::cast_signed),
                // Most are signed, but a kernel may print an unsigned one.
                None => value
                    .parse()
                    .or_else(|_| value.parse().map(u64::cast_signed))
                    .ok(),
            }
        })
    }

    /// By how many bytes randomisation moved the kernel's image in its virtual address space.
    ///
    /// # Errors
    ///
    /// [`InfoError`] if there is no such value, or if it is no hexadecimal number.
    pub fn kernel_offset(&self) -> Result<u64, InfoError> {
        self.hexadecimal("KERNELOFFSET".to_owned())
    }

    /// When the kernel crashed, in seconds since 1970. Kernels that did not crash do not say this.
    ///
    /// # Errors
    ///
    /// [`InfoError`] if there is no such value, or if it is no decimal number.
    pub fn crash_time(&self) -> Result<i64, InfoError> {
        self.parsed("CRASHTIME".to_owned(), |value| value.parse().ok())
    }

    fn decimal(&self, key: String) -> Result<u64, InfoError> {
        self.parsed(key, |value| value.parse().ok())
    }

    fn hexadecimal(&self, key: String) -> Result<u64, InfoError> {
        self.parsed(key, hexadecimal)
    }

    /// The value of `key` as `parse` reads it.
    fn parsed<T>(
        &self,
        key: String,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, InfoError> {
        let Some(value) = self.get(&key) else {
            return Err(InfoError::Missing { key });
        };
        parse(value).ok_or_else(|| InfoError::Malformed {
            value: value.to_owned(),
            key,
        })
    }
}

/// Reads hexadecimal digits without a sign or a prefix.
fn hexadecimal(digits: &str) -> Option<u64> {
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

/// What VMCOREINFO does not tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InfoError {
    /// It has no value of this name.
    #[error("the kernel's VMCOREINFO has no {key}")]
    Missing {
        /// The whole key, such as `SIZE(page)`.
        key: String,
    },
    /// The value is not the number that it should be.
    #[error("the kernel's VMCOREINFO has {key}={value:?}, which is not a number of its kind")]
    Malformed {
        /// The whole key, such as `SIZE(page)`.
        key: String,
        /// What stands behind it.
        value: String,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_kind_of_value_is_read_as_the_kernel_writes_it() {
        let info = VmcoreInfo::parse(
            b"SYMBOL(init_uts_ns)=ffffffffb1c1a940\nSIZE(page)=64\nOFFSET(page.flags)=0\n\
              LENGTH(mem_section)=2048\nNUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129\n\
              NUMBER(VMALLOC_START)=0xffffa0aa40000000\nNUMBER(mask)=18446744073709551615\n\
              KERNELOFFSET=30000000\nCRASHTIME=1700000000\n",
        );
        assert_eq!(info.symbol("init_uts_ns"), Ok(0xffff_ffff_b1c1_a940));
        assert_eq!(info.size("page"), Ok(64));
        assert_eq!(info.offset("page.flags"), Ok(0));
        assert_eq!(info.length("mem_section"), Ok(2048));
        assert_eq!(info.number("PAGE_BUDDY_MAPCOUNT_VALUE"), Ok(-129));
        assert_eq!(
            info.number("VMALLOC_START").map(i64::cast_unsigned),
            Ok(0xffff_a0aa_4000_0000)
        );
        assert_eq!(info.number("mask"), Ok(-1));
        assert_eq!(info.kernel_offset(), Ok(0x3000_0000));
        assert_eq!(info.crash_time(), Ok(1_700_000_000));
    }

    #[test]
    fn an_error_names_the_key() {
        let info = VmcoreInfo::parse(b"SIZE(page)=many\nSYMBOL(x)=0xff\nSYMBOL(y)=+f\n");
        assert_eq!(
            info.number("PAGE_BUDDY_MAPCOUNT_VALUE")
                .unwrap_err()
                .to_string(),
            "the kernel's VMCOREINFO has no NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)"
        );
        assert_eq!(
            info.size("page").unwrap_err().to_string(),
            "the kernel's VMCOREINFO has SIZE(page)=\"many\", which is not a number of its kind"
        );
        assert!(info.symbol("x").is_err() && info.symbol("y").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..200), value in ".{0,24}") {
            let mut bytes = text;
            bytes.extend(format!("\nSYMBOL(a)={value}\nNUMBER(a)={value}\nSIZE(a)={value}\n").bytes());
            let info = VmcoreInfo::parse(&bytes);
            let _ = (info.symbol("a"), info.number("a"), info.size("a"));
        }
    }
}
