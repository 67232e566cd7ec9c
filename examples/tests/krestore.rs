//! `krestore` puts a core into a file as it would into memory. Memory itself is tried in virtual machines.
#![allow(clippy::unwrap_used, reason = "a test shall stop where it fails")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use kjump::PhysRange;
use kjump::memory::elf::{CoreHeaders, Load};

/// A core with a page of low memory and one at 2 MiB, each full of one byte.
fn core() -> Vec<u8> {
    let mut headers = CoreHeaders::new();
    for (index, start) in [0x1000_u64, 0x20_0000].into_iter().enumerate() {
        headers.load(Load {
            memory: PhysRange::new(start, start + 4096).unwrap(),
            offset: 4096 * (index as u64 + 1),
            file_size: 4096,
            virt: 0,
        });
    }
    let mut core = headers.encode();
    core.resize(4096, 0);
    core.resize(8192, 0x11);
    core.resize(12288, 0x22);
    core
}

fn krestore(folder: &Path, options: &[&str]) -> Output {
    fs::write(folder.join("vmcore"), core()).unwrap();
    Command::new(env!("CARGO_BIN_EXE_krestore"))
        .current_dir(folder)
        .args(options)
        .args(["--target", "memory", "vmcore"])
        .output()
        .unwrap()
}

fn complaint(output: &Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!complaint.contains("panicked"), "{complaint}");
    complaint
}

#[test]
fn low_memory_goes_where_its_backup_was() {
    let folder = tempfile::tempdir().unwrap();
    for backup in ["4096K", "0x400000", "4194304"] {
        let output = krestore(folder.path(), &["-b", backup]);
        assert!(output.status.success(), "{}", complaint(&output));
        let memory = fs::read(folder.path().join("memory")).unwrap();
        assert_eq!(memory[0x20_0000..0x20_1000], [0x22; 4096]);
        assert_eq!(memory[0x40_1000..0x40_2000], [0x11; 4096]);
        assert!(memory[..0x20_0000].iter().all(|byte| *byte == 0));
        fs::remove_file(folder.path().join("memory")).unwrap();
    }
}

#[test]
fn low_memory_without_a_place_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let output = krestore(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("krestore -b ADDR"));
    let output = krestore(folder.path(), &["-b", "1M"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(complaint(&output).contains("36864K"));
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = krestore(folder.path(), &["--dry-run", "--backup=4096K"]);
    assert!(output.status.success(), "{}", complaint(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("8192 bytes can be restored"), "{said}");
    let memory = fs::read(folder.path().join("memory")).unwrap_or_default();
    assert!(memory.is_empty());
}

#[test]
fn what_is_no_core_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("text"), "no core").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_krestore"))
        .current_dir(folder.path())
        .args(["--target", "memory", "text"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("cannot use text"));
}
