//! What kexec-tools answers to a command line, and what we answer: `examples/tests/kexec-answers.txt`.
//!
//! Both are run in a machine, one after the other; theirs never runs anywhere else. Of what they print, the
//! part before the usage counts. Blocks of the file, which a machine goes through in order:
//!
//! ```text
//! host: --nope
//!   theirs: 1 usage kexec: unrecognized option '--nope'
//! vm: -j
//!   theirs: 1 usage kexec: invalid option -- 'j'
//!   ours:   1 - Nothing has been loaded!
//! ```
//!
//! Where there is no line for ours, it answers the same. Those that begin with `host` change nothing on any
//! machine, so that a test of the package asks ours too, without a machine.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::Stage;
use crate::workspace;

/// A command line, and the answers to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Block {
    /// `host` or `vm`.
    place: String,
    arguments: String,
    theirs: String,
    ours: String,
}

fn path() -> PathBuf {
    workspace().join("examples/tests/kexec-answers.txt")
}

/// The comment that the file begins with, and its blocks.
fn read(text: &str) -> Result<(String, Vec<Block>)> {
    let mut comment = String::new();
    let mut blocks: Vec<Block> = Vec::new();
    for line in text.lines() {
        if line.starts_with('#') || line.is_empty() {
            if blocks.is_empty() {
                comment += line;
                comment.push('\n');
            }
            continue;
        }
        let (key, value) = line
            .trim_start()
            .split_once(':')
            .with_context(|| format!("{line:?} is no line of answers"))?;
        let value = value.trim().to_owned();
        match (key, blocks.last_mut()) {
            ("host" | "vm", _) => blocks.push(Block {
                place: key.to_owned(),
                arguments: value,
                ..Block::default()
            }),
            ("theirs", Some(block)) => {
                block.ours.clone_from(&value);
                block.theirs = value;
            }
            ("ours", Some(block)) => block.ours = value,
            _ => bail!("{line:?} is no line of answers"),
        }
    }
    Ok((comment, blocks))
}

/// The file again.
fn write(comment: &str, blocks: &[Block]) -> String {
    let mut text = comment.to_owned();
    for block in blocks {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}: {}", block.place, block.arguments);
        let _ = writeln!(text, "  theirs: {}", block.theirs);
        if block.ours != block.theirs {
            let _ = writeln!(text, "  ours:   {}", block.ours);
        }
    }
    text
}

/// Asks both in a machine. With `refresh` the file becomes what they answered; else they must answer what
/// is in it.
pub(crate) fn compare(stage: &Stage<'_>, refresh: bool) -> Result<String> {
    let text =
        fs::read_to_string(path()).with_context(|| format!("reading {}", path().display()))?;
    let (comment, expected) = read(&text)?;
    let commands: String = expected
        .iter()
        .map(|block| format!("{}\n", block.arguments))
        .collect();
    let set = stage.set_with(&[("commands", commands.as_bytes())])?;
    let lines = stage.boot(&set, 1, "answers", "crashkernel=160M@256M nokaslr")?;
    let answer = |who: &str, number: usize| {
        let mark = format!("{who} {number} ");
        lines
            .iter()
            .find_map(|line| line.strip_prefix(&mark))
            .map(|answer| answer.trim_end().to_owned())
            .with_context(|| format!("no answer of {who} to command {number}"))
    };
    let mut blocks = Vec::new();
    for (number, block) in expected.iter().enumerate() {
        blocks.push(Block {
            theirs: answer("theirs", number)?,
            ours: answer("ours", number)?,
            ..block.clone()
        });
    }
    let same = blocks.iter().filter(|b| b.ours == b.theirs).count();
    let found = format!(
        "{} command lines, {same} with the same answer",
        blocks.len()
    );
    if refresh {
        fs::write(path(), write(&comment, &blocks))
            .with_context(|| format!("writing {}", path().display()))?;
        return Ok(found);
    }
    let differing: Vec<String> = blocks
        .iter()
        .zip(&expected)
        .filter(|(found, expected)| found != expected)
        .map(|(found, expected)| format!("expected {expected:?}\n   found {found:?}"))
        .collect();
    ensure!(
        differing.is_empty(),
        "answers have changed:\n{}",
        differing.join("\n")
    );
    Ok(found)
}

/// The scenario.
pub(crate) fn play(stage: &Stage<'_>) -> Result<String> {
    compare(stage, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_as_it_is_written() {
        let text = fs::read_to_string(path()).unwrap();
        let (comment, blocks) = read(&text).unwrap();
        assert!(blocks.len() > 50);
        assert_eq!(write(&comment, &blocks), text);
        for wrong in ["theirs: 1", "host", "else: -l"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
