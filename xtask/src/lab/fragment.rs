//! A fragment of a kernel configuration: the options that a build must have.

use std::collections::HashMap;
use std::fmt;

use anyhow::{Result, bail};

/// Options to put on top of a base configuration.
///
/// The format is that of `.config` and of the kernel's own fragments (`kernel/configs/*.config`), and
/// one thing more: behind a value may stand `# optional` and why. Such an option is asked for, but the
/// build goes on if it does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    settings: Vec<Setting>,
}

/// What one option is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    /// Name of the option, with `CONFIG_`.
    symbol: String,
    /// The value as `.config` writes it; `None` if the option is not to be set.
    value: Option<String>,
    /// Whether a kernel will do for which this does not hold.
    optional: bool,
}

impl Fragment {
    /// Reads the text of a fragment.
    ///
    /// # Errors
    ///
    /// If a line is neither an option nor a comment.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut settings = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            match Setting::parse(line.trim()) {
                Some(setting) => settings.push(setting),
                None if line.trim().is_empty() || line.starts_with('#') => {}
                None => bail!(
                    "line {number} of the kernel configuration, `{line}`, is no option: \
                     write `CONFIG_X=value`, `# CONFIG_X is not set` or a comment"
                ),
            }
        }
        Ok(Self { settings })
    }

    /// The options as lines of a `.config`.
    pub(super) fn to_config(&self) -> String {
        self.settings
            .iter()
            .map(|setting| format!("{setting}\n"))
            .collect()
    }

    /// The lines that do not hold in the finished `config`, but must.
    pub(super) fn unmet(&self, config: &str) -> Vec<String> {
        let actual: HashMap<String, Option<String>> = config
            .lines()
            .filter_map(Setting::parse)
            .map(|setting| (setting.symbol, setting.value))
            .collect();
        self.settings
            .iter()
            .filter(|wanted| !wanted.optional)
            // An option that the kernel does not know is not set.
            .filter(|wanted| *actual.get(&wanted.symbol).unwrap_or(&None) != wanted.value)
            .map(ToString::to_string)
            .collect()
    }
}

impl Setting {
    /// The option that `line` sets or unsets, if it does either.
    fn parse(line: &str) -> Option<Self> {
        let is_symbol = |name: &str| {
            name.strip_prefix("CONFIG_").is_some_and(|rest| {
                !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            })
        };
        let unset = line
            .strip_prefix("# ")
            .and_then(|line| line.strip_suffix(" is not set"));
        if let Some(symbol) = unset.filter(|symbol| is_symbol(symbol)) {
            return Some(Self {
                symbol: symbol.to_owned(),
                value: None,
                optional: false,
            });
        }
        let (line, optional) = match line.split_once("# optional") {
            Some((line, _why)) => (line.trim_end(), true),
            None => (line, false),
        };
        let (symbol, value) = line.split_once('=')?;
        (is_symbol(symbol) && !value.is_empty()).then(|| Self {
            symbol: symbol.to_owned(),
            value: (value != "n").then(|| value.to_owned()),
            optional,
        })
    }
}

/// As `.config` has it.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.symbol),
            None => write!(f, "# {} is not set", self.symbol),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# The machine.\n\
                        CONFIG_SMP=y\n\
                        \n\
                        CONFIG_X86_5LEVEL=y # optional: no choice on 7.x\n\
                        CONFIG_LSM=\"lockdown\"\n\
                        # CONFIG_IPV6 is not set\n";

    #[test]
    fn a_fragment_becomes_lines_that_kconfig_takes() {
        assert_eq!(
            Fragment::parse(TEXT).unwrap().to_config(),
            "CONFIG_SMP=y\nCONFIG_X86_5LEVEL=y\nCONFIG_LSM=\"lockdown\"\n# CONFIG_IPV6 is not set\n"
        );
    }

    #[test]
    fn what_it_writes_it_also_reads() {
        let fragment = Fragment::parse(&TEXT.replace(" # optional: no choice on 7.x", "")).unwrap();
        assert_eq!(Fragment::parse(&fragment.to_config()).unwrap(), fragment);
        assert!(fragment.unmet(&fragment.to_config()).is_empty());
    }

    #[test]
    fn a_configuration_with_all_that_must_hold_is_met() {
        let fragment = Fragment::parse(TEXT).unwrap();
        let config =
            "CONFIG_SMP=y\n# CONFIG_X86_5LEVEL is not set\nCONFIG_LSM=\"lockdown\"\nCONFIG_NET=y\n";
        assert_eq!(fragment.unmet(config), Vec::<String>::new());
    }

    #[test]
    fn each_option_that_does_not_hold_is_named() {
        let fragment = Fragment::parse(TEXT).unwrap();
        let config = "# CONFIG_SMP is not set\nCONFIG_LSM=\"yama\"\nCONFIG_IPV6=m\n";
        assert_eq!(
            fragment.unmet(config),
            [
                "CONFIG_SMP=y",
                "CONFIG_LSM=\"lockdown\"",
                "# CONFIG_IPV6 is not set"
            ]
        );
        assert_eq!(
            fragment.unmet(""),
            ["CONFIG_SMP=y", "CONFIG_LSM=\"lockdown\""]
        );
    }

    #[test]
    fn an_option_set_to_n_is_not_set() {
        let fragment = Fragment::parse("CONFIG_IPV6=n").unwrap();
        assert_eq!(fragment.to_config(), "# CONFIG_IPV6 is not set\n");
        assert_eq!(
            fragment.unmet("CONFIG_IPV6=y"),
            ["# CONFIG_IPV6 is not set"]
        );
    }

    #[test]
    fn lines_that_are_no_options_are_refused() {
        for line in [
            "CONFIG_SMP",
            "CONFIG_SMP=",
            "SMP=y",
            "CONFIG_=y",
            "CONFIG_A B=y",
            "CONFIG_SMP= # optional",
        ] {
            let error = Fragment::parse(&format!("CONFIG_NET=y\n{line}\n")).unwrap_err();
            assert!(error.to_string().contains("line 2"), "{line}: {error}");
        }
    }
}
