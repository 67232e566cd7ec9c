//! Times of pairs of runs, the ratio of each, and how those spread.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// Times of runs that took turns: ours and theirs, a pair each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs {
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

/// The middle of some numbers, and how far they reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// Two ways to do the same thing, and how long each took.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    /// What to call it; never changes its meaning.
    pub(crate) name: String,
    pub(crate) pairs: Pairs,
    /// What was compared, and how.
    pub(crate) notes: String,
    /// What else was found, by names of its own.
    pub(crate) facts: Map<String, Value>,
    /// What is wrong with the result, whatever the ratio is.
    pub(crate) objection: Option<String>,
}

impl Pairs {
    /// Adds a pair.
    pub(crate) fn add(&mut self, ours: Duration, theirs: Duration) {
        self.ours.push(ours.as_secs_f64());
        self.theirs.push(theirs.as_secs_f64());
    }

    /// How many times as long as ours theirs took, in each pair.
    pub(crate) fn ratios(&self) -> Vec<f64> {
        let pairs = self.ours.iter().zip(&self.theirs);
        pairs.map(|(ours, theirs)| theirs / ours).collect()
    }
}

impl Spread {
    /// That of `numbers`, if there are any. The median of an even count is the mean of the two in the
    /// middle.
    pub(crate) fn of(numbers: &[f64]) -> Option<Self> {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let (left, right) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self {
            median: f64::midpoint(left, right),
            min,
            max,
        })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, min, max } = self;
        write!(f, "{median:.2} ({min:.2} to {max:.2})")
    }
}

impl Comparison {
    /// As one element of `comparisons`.
    pub(crate) fn json(&self) -> Value {
        let ratios = self.pairs.ratios();
        let spread = Spread::of(&ratios);
        let rounded = |numbers: &[f64]| numbers.iter().copied().map(round).collect::<Vec<_>>();
        let mut object = json!({
            "name": self.name,
            "unit": "ratio",
            "pairs": ratios.len(),
            "median": spread.map(|spread| round(spread.median)),
            "min": spread.map(|spread| round(spread.min)),
            "max": spread.map(|spread| round(spread.max)),
            "ours": rounded(&self.pairs.ours),
            "theirs": rounded(&self.pairs.theirs),
            "notes": self.notes,
            "objection": self.objection,
        });
        if let Some(object) = object.as_object_mut() {
            for (key, value) in &self.facts {
                object.entry(key).or_insert_with(|| value.clone());
            }
        }
        object
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, pairs, .. } = self;
        match Spread::of(&pairs.ratios()) {
            Some(spread) => writeln!(f, "{name}: {spread}, {} pairs", pairs.ours.len())?,
            None => writeln!(f, "{name}: nothing was measured")?,
        }
        for (who, seconds) in [("ours", &pairs.ours), ("theirs", &pairs.theirs)] {
            if let Some(spread) = Spread::of(seconds) {
                writeln!(f, "  {who:6} {spread} s")?;
            }
        }
        for (key, value) in &self.facts {
            writeln!(f, "  {key}: {value}")?;
        }
        if let Some(objection) = &self.objection {
            writeln!(f, "  BUT {objection}")?;
        }
        write!(f, "  {}", self.notes)
    }
}

/// To three decimals: no clock here is better.
pub(crate) fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn comparison(seconds: &[(u64, u64)]) -> Comparison {
        let mut pairs = Pairs::default();
        for &(ours, theirs) in seconds {
            pairs.add(Duration::from_secs(ours), Duration::from_secs(theirs));
        }
        let facts = json!({"contents": "mixed", "name": "other"});
        Comparison {
            name: "save_vs_other".to_owned(),
            pairs,
            notes: "as told".to_owned(),
            facts: facts.as_object().cloned().unwrap(),
            objection: None,
        }
    }

    #[test]
    fn a_ratio_above_one_is_one_in_our_favour() {
        let json = comparison(&[(2, 6), (1, 1), (4, 8)]).json();
        assert_eq!(
            json,
            json!({
                "name": "save_vs_other", "unit": "ratio", "pairs": 3,
                "median": 2.0, "min": 1.0, "max": 3.0,
                "ours": [2.0, 1.0, 4.0], "theirs": [6.0, 1.0, 8.0],
                "notes": "as told", "objection": null, "contents": "mixed",
            })
        );
    }

    #[test]
    fn nothing_measured_is_no_ratio() {
        let nothing = comparison(&[]);
        assert_eq!(nothing.json()["median"], Value::Null);
        assert_eq!(nothing.json()["pairs"], 0);
        assert!(nothing.to_string().contains("nothing was measured"));
    }

    #[test]
    fn the_text_tells_the_same() {
        let text = comparison(&[(2, 6), (4, 8)]).to_string();
        for words in [
            "save_vs_other: 2.50 (2.00 to 3.00), 2 pairs",
            "ours   3.00",
            "as told",
        ] {
            assert!(text.contains(words), "{words:?} is not in {text}");
        }
    }

    proptest! {
        #[test]
        fn the_median_has_as_many_above_as_below(numbers in proptest::collection::vec(0.01_f64..1e6, 1..40)) {
            let Spread { median, min, max } = Spread::of(&numbers).unwrap();
            let above = numbers.iter().filter(|number| **number > median).count();
            let below = numbers.iter().filter(|number| **number < median).count();
            prop_assert!(above <= numbers.len() / 2 && below <= numbers.len() / 2);
            prop_assert!(numbers.iter().all(|number| (min..=max).contains(number)));
            prop_assert!(numbers.contains(&min) && numbers.contains(&max));
        }
    }
}
