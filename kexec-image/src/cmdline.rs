//! Kernel command lines.

use vmcore::PhysAddr;

use crate::PlanError;

/// The parameter that tells the saving kernel's user space where to jump to get back; the name is the
/// one that scripts have read since kexec jump became part of Linux.
pub const JUMP_BACK_KEY: &str = "kexec_jump_back_entry";

/// The parameter that tells the kernel in the window which page holds the key of a sealed image.
pub(crate) const KEY_PAGE_KEY: &str = "kjump.key";

/// A kernel command line that is being put together.
///
/// ```
/// use kexec_image::CommandLine;
///
/// let mut line = CommandLine::new();
/// line.append("nokaslr").append("  console=ttyS0 ");
/// assert_eq!(line.as_str(), "nokaslr console=ttyS0");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    text: String,
    /// Where the 16 digits of the jump-back entry stand.
    jump_back_digits: Option<usize>,
}

impl CommandLine {
    /// An empty command line.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds parameters: any number of them, or none.
    pub fn append(&mut self, parameters: &str) -> &mut Self {
        let parameters = parameters.trim();
        if !parameters.is_empty() {
            if !self.text.is_empty() {
                self.text.push(' ');
            }
            self.text.push_str(parameters);
        }
        self
    }

    /// Adds the jump-back entry, whose digits are zeros until the trampoline fills them in: only the
    /// jumping kernel knows the address.
    pub(crate) fn push_jump_back_entry(&mut self) -> &mut Self {
        self.append(&format!("{JUMP_BACK_KEY}={:#018x}", 0));
        self.jump_back_digits = Some(self.text.len() - 16);
        self
    }

    /// The command line as it stands.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Where the 16 digits of the jump-back entry stand in the encoded line.
    pub(crate) fn jump_back_digits(&self) -> Option<usize> {
        self.jump_back_digits
    }

    /// The line and the zero byte that ends it, for a kernel that takes `max` bytes before that.
    pub(crate) fn encode(&self, max: usize) -> Result<Vec<u8>, PlanError> {
        if self.text.contains(['\0', '\n']) {
            return Err(PlanError::CommandLineCharacter);
        }
        let len = self.text.len();
        if len > max {
            return Err(PlanError::CommandLineTooLong { len, max });
        }
        Ok([self.text.as_bytes(), &[0]].concat())
    }

    /// The jump-back entry on a command line that a kernel was booted with; `None` if there is none, or
    /// none that makes sense.
    ///
    /// ```
    /// use kexec_image::CommandLine;
    ///
    /// let line = "quiet kexec_jump_back_entry=0x00000000012340f2";
    /// assert_eq!(CommandLine::jump_back_entry(line).unwrap().get(), 0x12340f2);
    /// assert_eq!(CommandLine::jump_back_entry("kexec_jump_back_entry=0x0"), None);
    /// ```
    #[must_use]
    pub fn jump_back_entry(line: &str) -> Option<PhysAddr> {
        let value = Self::value(line, JUMP_BACK_KEY)?.strip_prefix("0x")?;
        let entry = u64::from_str_radix(value, 16).ok()?;
        (entry != 0).then_some(PhysAddr::new(entry))
    }

    /// The page that holds the key of a sealed image, on a command line that a kernel was booted with.
    ///
    /// # Errors
    ///
    /// The value, if it is no address of a page.
    pub fn key_page(line: &str) -> Result<Option<PhysAddr>, String> {
        let Some(value) = Self::value(line, KEY_PAGE_KEY) else {
            return Ok(None);
        };
        value
            .strip_prefix("0x")
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .map(PhysAddr::new)
            .filter(|page| page.is_aligned(vmcore::PAGE_SIZE))
            .map(Some)
            .ok_or_else(|| value.to_owned())
    }

    /// The value of the parameter `key` on a command line; the last one counts. A value in quotes may
    /// hold spaces, as the kernel's own parser has it (`lib/cmdline.c`, `next_arg`).
    ///
    /// ```
    /// use kexec_image::CommandLine;
    ///
    /// let line = r#"a=1 b="x y" a=2"#;
    /// assert_eq!(CommandLine::value(line, "a"), Some("2"));
    /// assert_eq!(CommandLine::value(line, "b"), Some("x y"));
    /// assert_eq!(CommandLine::value(line, "y"), None);
    /// ```
    #[must_use]
    pub fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
        Self::parameters(line)
            .filter_map(|parameter| {
                let parameter = parameter.trim_matches('"');
                let value = parameter.strip_prefix(key)?.strip_prefix('=')?;
                Some(value.trim_matches('"'))
            })
            .last()
    }

    /// The parameters on a command line: words, where quotes keep spaces together.
    ///
    /// ```
    /// use kexec_image::CommandLine;
    ///
    /// let words: Vec<_> = CommandLine::parameters(r#"a "b c"  d="e f""#).collect();
    /// assert_eq!(words, ["a", r#""b c""#, r#"d="e f""#]);
    /// ```
    pub fn parameters(line: &str) -> impl Iterator<Item = &str> {
        let mut quoted = false;
        line.split(move |c: char| {
            quoted ^= c == '"';
            c.is_ascii_whitespace() && !quoted
        })
        .filter(|word| !word.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digits_are_where_the_line_says() {
        let mut line = CommandLine::new();
        line.append("a").push_jump_back_entry().append("b");
        let at = line.jump_back_digits().unwrap();
        assert_eq!(&line.as_str()[at - 2..], "0x0000000000000000 b");
        let mut bytes = line.encode(100).unwrap();
        bytes[at..at + 16].copy_from_slice(b"00000000deadb000");
        let booted = std::str::from_utf8(&bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(
            CommandLine::jump_back_entry(booted),
            Some(PhysAddr::new(0xdead_b000))
        );
    }

    #[test]
    fn lines_that_a_kernel_would_cut_are_refused() {
        let mut line = CommandLine::new();
        line.append(&"x".repeat(100));
        assert!(line.encode(100).is_ok());
        assert!(matches!(
            line.encode(99),
            Err(PlanError::CommandLineTooLong { len: 100, max: 99 })
        ));
        line.append("a\nb");
        assert!(matches!(
            line.encode(200),
            Err(PlanError::CommandLineCharacter)
        ));
    }
}
