//! Our `kexec` answers as the table says that kexec-tools does, or as it says of ours. The command lines
//! marked `vm` are tried in virtual machines: `cargo xtask rfc --compare`.
#![allow(clippy::unwrap_used, reason = "a test shall stop where it fails")]

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Those of the table's command lines that change nothing on any machine, with our answer.
fn answers() -> Vec<(String, String)> {
    let mut answers: Vec<(String, String)> = Vec::new();
    let mut host = false;
    for line in include_str!("kexec-answers.txt").lines() {
        if let Some(arguments) = line.strip_prefix("host: ") {
            host = true;
            answers.push((arguments.to_owned(), String::new()));
        } else if line.starts_with("vm:") {
            host = false;
        } else if let Some((_, answer)) = line.trim_start().split_once(':')
            && host
            && !line.starts_with('#')
        {
            // That of ours comes second, where it is another.
            answers.last_mut().unwrap().1 = answer.trim().to_owned();
        }
    }
    answers
}

/// The words of a command line of the table, as a shell would have them.
fn words(arguments: &str) -> Vec<&str> {
    arguments
        .split_whitespace()
        .map(|word| word.trim_matches('\''))
        .collect()
}

#[test]
fn command_lines_are_answered_as_the_table_says() {
    let answers = answers();
    assert!(answers.len() > 80, "{}", answers.len());
    for (arguments, expected) in answers {
        let words = words(&arguments);
        // Nothing may be asked of this machine's kernel, whatever the table says.
        let ends = |word: &&str| {
            let cluster = word.strip_prefix('-').unwrap_or_default();
            let short = !cluster.starts_with('-') && cluster.contains(['v', 'h']);
            short || word.starts_with("--vers") || word.starts_with("--help")
        };
        let harmless = words.iter().any(ends) || expected.starts_with("1 usage");
        assert!(harmless, "{arguments:?} is none for this machine");
        let output = Command::new(env!("CARGO_BIN_EXE_kexec"))
            .arg0("kexec")
            .args(&words)
            .output()
            .unwrap();
        let said = [output.stderr, output.stdout].concat();
        let said = String::from_utf8(said).unwrap();
        let usage = if said.contains("Usage: kexec") {
            "usage"
        } else {
            "-"
        };
        let said: Vec<&str> = said
            .lines()
            .take_while(|line| !line.starts_with("kexec (kjump"))
            .collect();
        let status = output.status.code().unwrap();
        let answer = format!("{status} {usage} {}", said.join(" ~ "));
        assert_eq!(answer.trim_end(), expected, "kexec {arguments}");
    }
}
