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
    let said = run(BENCH)?;
    RESULTS
        .iter()
        .map(|(name, what)| {
            Ok(Comparison {
                name: (*name).to_owned(),
                pairs: pairs(&said, name)?,
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

/// Runs a benchmark of the libraries; returns what it says.
///
/// # Errors
///
/// If it fails.
pub(super) fn run(bench: &str) -> Result<String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(workspace())
        .args(["bench", "--quiet", "--package", "kjump-benches"])
        .args(["--bench", bench])
        .output()
        .context("starting cargo")?;
    ensure!(
        output.status.success(),
        "the benchmark {bench} failed: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The pairs that `said` has of `name`.
///
/// # Errors
///
/// If there are none.
pub(super) fn pairs(said: &str, name: &str) -> Result<Pairs> {
    let mut pairs = Pairs::default();
    for (ours, theirs) in seconds(said, "pair", name) {
        pairs.add(ours, theirs);
    }
    ensure!(
        !pairs.ratios().is_empty(),
        "the benchmark said nothing of {name}"
    );
    Ok(pairs)
}

/// What lines of this `kind` in `said` tell of `name`: two times each, ours and theirs.
pub(super) fn seconds(said: &str, kind: &str, name: &str) -> Vec<(Duration, Duration)> {
    let time = |word: &str| Duration::try_from_secs_f64(word.parse().ok()?).ok();
    let of_line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [first, of, ours, theirs] if first == kind && of == name => {
                Some((time(ours)?, time(theirs)?))
            }
            _ => None,
        }
    };
    said.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_by_name() {
        let said =
            "pair one 0.5 0.25\nratio one 0.5 0.5 0.5 1\npair two 1 x\npair two 1 3\npair 1 2\n";
        assert_eq!(pairs(said, "one").unwrap().ratios(), [0.5]);
        assert_eq!(pairs(said, "two").unwrap().ratios(), [3.0]);
        assert!(pairs(said, "three").is_err());
        let (ours, theirs) = (Duration::from_millis(500), Duration::from_millis(250));
        assert_eq!(seconds(said, "pair", "one"), [(ours, theirs)]);
        assert!(seconds(said, "ratio", "one").is_empty());
    }
}
