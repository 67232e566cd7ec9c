//! Bad input on the command line: a clear error, status 1 or 2, and nothing changed. What needs root, or
//! a kernel that obeys, is tried in the virtual machines.
#![allow(clippy::unwrap_used, reason = "a test shall stop where it fails")]

mod sample;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;

use kjump::PhysAddr;
use kjump::memory::elf::Core;
use kjump::memory::image::{Codec, Identity, Jump, Layout, Options, record_failure};
use kjump::memory::{LeaveOut, Phases, Saved};

use sample::{core, file, identity, range};

fn kjump(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kjump"))
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs the command, which must fail with this status, and returns what it complained.
fn complaint(arguments: &[&str], status: i32) -> String {
    let output = kjump(arguments);
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        output.status.code(),
        Some(status),
        "{arguments:?}: {complaint}"
    );
    assert!(!complaint.contains("panicked"), "{complaint}");
    complaint
}

/// A small machine with one page of memory outside the window.
fn sample_identity() -> Identity {
    identity("6.12.0-sample", range(0x10_1000, 0x20_0000))
}

/// How to get back into it.
const JUMP: Jump = Jump {
    back: PhysAddr::new(0x10_00f2),
    layout: Layout::Raw,
};

/// A core of one page of memory of that machine, which tells how to get back into it.
fn sample_core(start: u64) -> Vec<u8> {
    let notes = [sample_identity().to_note(), JUMP.to_note()].concat();
    core(&notes, range(start, start + 4096), 4096)
}

/// The image of that machine.
fn sample_image() -> Vec<u8> {
    let image = Mutex::new(Vec::new());
    let options = Options {
        codec: Codec::Lz4,
        threads: 1,
        seal: None,
    };
    Saved::of_core(Core::open(sample_core(0x10_0000)).unwrap(), None, None)
        .write_image(
            &image,
            options,
            LeaveOut::Free,
            &mut Phases::new,
            &mut |_| {},
        )
        .unwrap();
    image.into_inner().unwrap()
}

#[test]
fn wrong_usage_has_status_2() {
    for arguments in [
        &[][..],
        &["no-such-verb"],
        &["hibernate"],
        &["load", "--window", "96Q"],
    ] {
        complaint(arguments, 2);
    }
    assert!(complaint(&["load", "--window", "96Q"], 2).contains("96M@0x10000000"));
}

#[test]
fn help_names_every_verb() {
    let output = kjump(&["--help"]);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for verb in [
        "doctor",
        "load",
        "hibernate",
        "jump",
        "back",
        "save",
        "resume",
        "restore",
        "inspect",
        "initramfs",
    ] {
        assert!(help.contains(&format!("\n  {verb} ")), "{verb}");
    }
}

#[test]
fn an_image_is_inspected_and_restored_to_a_file() {
    let (directory, path) = file(&sample_image());
    let output = kjump(&["inspect", &path, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["format"], "kjump");
    assert_eq!(json["resumable"], true);
    assert_eq!(json["kernel_release"], "6.12.0-sample");
    assert_eq!(json["ranges"][0]["start"], 0x10_0000);

    let target = directory.path().join("memory");
    let target = target.to_str().unwrap();
    assert!(
        kjump(&["restore", "--image", &path, "--target", target, "--dry-run"])
            .status
            .success()
    );
    assert_eq!(fs::metadata(target).unwrap().len(), 0);
    assert!(
        kjump(&["restore", "--image", &path, "--target", target])
            .status
            .success()
    );
    let memory = fs::read(target).unwrap();
    assert_eq!(memory.len(), 0x10_1000);
    assert!(memory[0x10_0000..].iter().all(|&byte| byte == 0x5a));
}

#[test]
fn images_that_must_not_be_restored_are_refused() {
    let image = sample_image();
    let refusal = |bytes: &[u8]| {
        let (directory, path) = file(bytes);
        let target = directory.path().join("memory");
        let complaint = complaint(
            &[
                "restore",
                "--image",
                &path,
                "--target",
                target.to_str().unwrap(),
            ],
            1,
        );
        assert!(!target.exists() || fs::metadata(target).unwrap().len() == 0);
        complaint
    };
    assert!(refusal(b"something else").contains("no hibernation image"));
    assert!(refusal(&image[..5000]).contains("truncated"));
    assert!(refusal(&[7; 100_000]).contains("no hibernation image"));
    assert!(refusal(&image[..image.len() - 5000]).contains("truncated"));
    let mut uncommitted = image.clone();
    uncommitted[60 << 10..64 << 10].fill(0);
    assert!(refusal(&uncommitted).contains("interrupted"));
    // The header, and the page that was saved: compressed, behind the notes.
    for at in [100, (64 << 10) + 2 * 4096 + 4096 + 3] {
        let mut damaged = image.clone();
        damaged[at] ^= 1;
        assert!(refusal(&damaged).contains("damaged"), "{at}");
    }
    // A core that holds memory of the window.
    assert!(refusal(&sample_core(0x10_2000)).contains("no RAM of the machine"));
}

#[test]
fn a_terminal_does_not_obey_what_an_image_says() {
    let failed = Mutex::new(Vec::new());
    record_failure(&sample_identity(), "\x1b[2Jno space", &failed).unwrap();
    let (_directory, image) = file(&failed.into_inner().unwrap());
    assert!(complaint(&["verify", &image], 1).contains("failed: ?[2Jno space"));
}

#[test]
fn files_that_are_not_there_are_named() {
    for arguments in [
        &["inspect", "/nonexistent"][..],
        &[
            "restore",
            "--image",
            "/nonexistent",
            "--target",
            "/dev/null",
        ],
        &["initramfs", "--out", "/nonexistent/file"],
    ] {
        let complaint = complaint(arguments, 1);
        assert!(complaint.starts_with("kjump: "), "{complaint}");
    }
}

#[test]
fn the_first_process_of_a_container_is_no_init() {
    let output = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount-proc",
        ])
        .args([env!("CARGO_BIN_EXE_kjump"), "doctor", "--json"])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report["ready"], false);
    assert_eq!(report["findings"][0]["check"], "rights");
    assert!(
        report["findings"][0]["detail"]
            .as_str()
            .unwrap()
            .contains("container")
    );
}

#[test]
fn this_kernel_has_no_sleeper() {
    // Tests do not run in a kernel that was jumped to.
    assert!(!Path::new("/proc/vmcore").exists());
    assert!(complaint(&["back"], 1).contains("kexec_jump_back_entry"));
    assert!(complaint(&["save", "--image", "-"], 1).contains("no sleeping machine"));
}

#[test]
fn an_image_is_discarded_when_somebody_says_so() {
    let (directory, image) = file(&sample_image());
    assert!(complaint(&["discard", &image], 1).contains("--yes"));
    let restore = [
        "restore",
        "--image",
        &image,
        "--target",
        "/dev/null",
        "--dry-run",
    ];
    let before = fs::read(&image).unwrap();
    assert!(before == sample_image());
    assert!(kjump(&["discard", "--yes", &image]).status.success());
    assert!(complaint(&restore, 1).contains("discarded"));
    // That cannot be taken back by force.
    let forced = [&restore[..], &["--force-again"]].concat();
    assert!(complaint(&forced, 1).contains("discarded"));
    // Nor by a copy in the same format.
    let copy = directory.path().join("copy").display().to_string();
    assert!(
        kjump(&["convert", &image, &copy, "--format", "kjump"])
            .status
            .success()
    );
    let restore = restore.map(|word| if word == image { copy.as_str() } else { word });
    assert!(complaint(&restore, 1).contains("discarded"));
    let stream = ["convert", &image, "-", "--format", "kjump"];
    assert!(complaint(&stream, 1).contains("--format elf"));
    let (_directory, other) = file(&[0; 1 << 16]);
    assert!(complaint(&["discard", "--yes", &other], 1).contains("nothing to discard"));
    assert!(fs::read(&other).unwrap() == [0; 1 << 16]);
}
