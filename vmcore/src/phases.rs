//! How long the phases of a hibernation took.

use std::fmt;
use std::time::Duration;

/// How long things took that were done one after the other, such as the phases of a hibernation.
///
/// ```
/// use std::time::Duration;
/// use vmcore::Phases;
///
/// let mut phases = Phases::new();
/// phases.push("boot", Duration::from_millis(310));
/// phases.push("save", Duration::from_millis(2_450));
/// assert_eq!(phases.to_string(), "boot 0.310 s, save 2.450 s, together 2.760 s");
/// assert_eq!(Phases::decode(&phases.encode()), Some(phases));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    phases: Vec<(String, Duration)>,
}

/// The longest name in bytes.
const MAX_NAME: usize = 31;

impl Phases {
    /// How many phases there can be. What comes after these is not kept.
    pub const MAX: usize = 16;

    /// The most bytes that they take when encoded: their number, and of each the length of its name,
    /// its name and its duration.
    pub const MAX_ENCODED: usize = 1 + Self::MAX * (1 + MAX_NAME + 8);

    /// No phases yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a phase after the others. Durations are kept in whole microseconds. Of a name, the first 31
    /// characters are, and what is not printable ASCII is a `?` there.
    pub fn push(&mut self, name: &str, duration: Duration) {
        if self.phases.len() == Self::MAX {
            return;
        }
        let printable = |char: char| matches!(char, ' '..='~');
        let name = name.chars().take(MAX_NAME);
        let name = name.map(|char| if printable(char) { char } else { '?' });
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.phases
            .push((name.collect(), Duration::from_micros(micros)));
    }

    /// Adds the phases of `later`.
    pub fn extend(&mut self, later: &Self) {
        for (name, duration) in later.iter() {
            self.push(name, duration);
        }
    }

    /// The phases in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.phases
            .iter()
            .map(|(name, duration)| (name.as_str(), *duration))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.phases.is_empty()
    }

    /// How long all of them took.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.iter().fold(Duration::ZERO, |total, (_, duration)| {
            total.saturating_add(duration)
        })
    }

    /// The phases as bytes: their number in a byte, and for each the length of its name in a byte, its
    /// name, and its duration in microseconds, 64 bits, little-endian. No more than
    /// [`MAX_ENCODED`](Self::MAX_ENCODED).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // No truncation: `push` keeps 16 phases and 31 characters, and a duration that fits.
        let mut bytes = vec![self.phases.len() as u8];
        for (name, duration) in self.iter() {
            bytes.push(name.len() as u8);
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(&(duration.as_micros() as u64).to_le_bytes());
        }
        bytes
    }

    /// The phases at the beginning of `bytes`, whatever comes after them; `None` if these are none that
    /// [`encode`](Self::encode) wrote.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&count, mut rest) = bytes.split_first()?;
        if usize::from(count) > Self::MAX {
            return None;
        }
        let mut phases = Self::new();
        for _ in 0..count {
            let (&len, after) = rest.split_first()?;
            let (name, after) = after.split_at_checked(usize::from(len))?;
            let (micros, after) = after.split_first_chunk()?;
            let printable = name.iter().all(|byte| matches!(byte, b' '..=b'~'));
            if !printable || name.len() > MAX_NAME {
                return None;
            }
            let name = std::str::from_utf8(name).ok()?;
            phases.push(name, Duration::from_micros(u64::from_le_bytes(*micros)));
            rest = after;
        }
        Some(phases)
    }
}

/// In one line, in seconds; nothing if there are no phases.
impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, duration)) in self.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {:.3} s", duration.as_secs_f64())?;
        }
        if self.phases.len() > 1 {
            write!(f, ", together {:.3} s", self.total().as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Names and durations, some of them too many, too long or not printable.
    fn any_phases() -> impl Strategy<Value = Vec<(String, Duration)>> {
        let name = prop_oneof!["[ -~]{0,40}", any::<String>()];
        let duration = (any::<u64>(), 0..1_000_000_000_u32);
        let duration = duration.prop_map(|(seconds, nanos)| Duration::new(seconds, nanos));
        prop::collection::vec((name, duration), 0..20)
    }

    fn of(list: &[(String, Duration)]) -> Phases {
        let mut phases = Phases::new();
        for (name, duration) in list {
            phases.push(name, *duration);
        }
        phases
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(list in any_phases(), behind in any::<Vec<u8>>()) {
            let phases = of(&list);
            let bytes = phases.encode();
            prop_assert!(bytes.len() <= Phases::MAX_ENCODED);
            prop_assert_eq!(Phases::decode(&bytes), Some(phases.clone()));
            prop_assert_eq!(Phases::decode(&[bytes.clone(), behind].concat()), Some(phases));
            for len in 0..bytes.len() {
                prop_assert_eq!(Phases::decode(&bytes[..len]), None);
            }
        }

        #[test]
        fn any_bytes_are_phases_in_one_printable_line_or_none(bytes in any::<Vec<u8>>(), few in 0..=16_u8) {
            // Few random numbers of phases are small enough to get on from.
            for bytes in [bytes.clone(), [&[few], &bytes[..]].concat()] {
                if let Some(phases) = Phases::decode(&bytes) {
                    prop_assert!(phases.iter().count() <= Phases::MAX);
                    prop_assert!(phases.to_string().chars().all(|char| matches!(char, ' '..='~')));
                    prop_assert!(bytes.starts_with(&phases.encode()));
                }
            }
        }

        #[test]
        fn what_is_too_much_is_cut(list in any_phases()) {
            let phases = of(&list);
            prop_assert_eq!(phases.iter().count(), list.len().min(16));
            for ((name, duration), (whole, exact)) in phases.iter().zip(&list) {
                prop_assert_eq!(name.len(), whole.chars().count().min(31));
                prop_assert!(duration <= *exact);
            }
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut phases = Phases::new();
        assert_eq!(phases.encode(), [0]);
        assert!(phases.is_empty() && phases.to_string().is_empty());
        phases.push("jump", Duration::from_micros(0x1234));
        assert_eq!(phases.encode(), *b"\x01\x04jump\x34\x12\0\0\0\0\0\0");
        assert_eq!(phases.to_string(), "jump 0.005 s");
    }

    #[test]
    fn names_that_a_terminal_would_obey_are_refused() {
        assert!(Phases::decode(b"\x01\x01a\0\0\0\0\0\0\0\0").is_some());
        assert_eq!(Phases::decode(b"\x01\x01\x1b\0\0\0\0\0\0\0\0"), None);
        assert_eq!(Phases::decode(b"\x01\x01\xff\0\0\0\0\0\0\0\0"), None);
        let long = [&[1, 32][..], &[b'a'; 32], &[0; 8]].concat();
        assert_eq!(Phases::decode(&long), None);
        let many = [&[17][..], &[0; 17 * 9]].concat();
        assert_eq!(Phases::decode(&many), None);
    }

    #[test]
    fn phases_go_on_after_others() {
        let mut first = of(&[("load".into(), Duration::from_millis(20))]);
        first.extend(&of(&[
            ("boot".into(), Duration::from_millis(300)),
            ("save".into(), Duration::MAX),
        ]));
        let names: Vec<_> = first.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["load", "boot", "save"]);
        // No overflow, though it took half a million years.
        assert!(first.total() > Duration::from_secs(1 << 40));
    }
}
