//! Restoring beside a plain copy: a benchmark of the libraries, which is built as those are for use.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Map;

use super::ratio::{Comparison, Pairs};
use crate::workspace;

/// The benchmark, and what each of its results is of.
const BENCH: &str = "restore_vs_memcpy";
const RESULTS: [(&str, &str); 2] = [
    ("restore_vs_memcpy", "an image that is not compressed"),
    (
        "restore_vs_memcpy_lz4",
        "an image with lz4 of data that compresses 2:1",
    ),
];

/// Compares.
///
/// # Errors
///
/// If the benchmark fails, or does not say what it found.
pub(crate) fn compare() -> Result<Vec<Comparison>> {
    let output = Command::new(env!("CARGO"))
        .current_dir(workspace())
        .args(["bench", "--quiet", "--package", "kjump-benches"])
        .args(["--bench", BENCH])
        .output()
        .context("starting cargo")?;
    ensure!(
        output.status.success(),
        "the benchmark {BENCH} failed: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    let said = String::from_utf8_lossy(&output.stdout);
    RESULTS
        .iter()
        .map(|(name, what)| {
            let pairs = pairs(&said, name);
            ensure!(
                !pairs.ratios().is_empty(),
                "the benchmark {BENCH} said nothing of {name}"
            );
            Ok(Comparison {
                name: (*name).to_owned(),
                pairs,
                notes: format!(
                    "Restoring {what} of 512 MiB, all of it checked, from the page cache to a file on tmpfs that is \
                     mapped 16 MiB at a time as /dev/mem would be. Theirs is a plain copy from memory to the same \
                     mappings. Both by as many threads as there are CPUs."
                ),
                facts: Map::new(),
                objection: None,
            })
        })
        .collect()
}

/// The pairs that `said` has of `name`.
fn pairs(said: &str, name: &str) -> Pairs {
    let mut pairs = Pairs::default();
    for line in said.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["pair", of, ours, theirs] = words[..] else {
            continue;
        };
        let seconds = |word: &str| Duration::try_from_secs_f64(word.parse().ok()?).ok();
        if let (true, Some(ours), Some(theirs)) = (of == name, seconds(ours), seconds(theirs)) {
            pairs.add(ours, theirs);
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_by_name() {
        let said =
            "pair one 0.5 0.25\nratio one 0.5 0.5 0.5 1\npair two 1 x\npair two 1 3\npair 1 2\n";
        assert_eq!(pairs(said, "one").ratios(), [0.5]);
        assert_eq!(pairs(said, "two").ratios(), [3.0]);
        assert!(pairs(said, "three").ratios().is_empty());
    }
}
