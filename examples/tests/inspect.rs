//! `kjump inspect`: what it says of a small core, in JSON, in text, and as a map.
#![allow(clippy::unwrap_used, reason = "a test shall stop where it fails")]

mod sample;

use std::fs;
use std::process::{Command, Output};

use kjump::memory::elf::encode_note;
use serde_json::{Value, json};

use sample::{file, range};

fn kjump(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kjump"))
        .args(arguments)
        .env_remove("NO_COLOR")
        .env("COLUMNS", "80")
        .output()
        .unwrap()
}

/// Runs the command, which must succeed, and returns what it printed.
fn output(arguments: &[&str]) -> String {
    let output = kjump(arguments);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// A core of five pages at 1 MiB, of which the file holds three; the other two are zero. What it says
/// of itself has this release.
fn core(release: &str, with_identity: bool) -> Vec<u8> {
    let vmcoreinfo = format!(
        "OSRELEASE={release}\nBUILD-ID=abcd\nNUMBER(phys_base)=0\n\
         SYMBOL(_stext)=ffffffff80101000\nSYMBOL(init_top_pgt)=ffffffff80102000\n"
    );
    let mut notes = encode_note("VMCOREINFO", 0, vmcoreinfo.as_bytes());
    if with_identity {
        let identity = sample::identity(release, range(0x18_0000, 0x20_0000));
        notes.extend(identity.to_note());
    }
    sample::core(&notes, range(0x10_0000, 0x10_5000), 3 * 4096)
}

#[test]
fn json_has_all_that_is_known() {
    let (_directory, path) = file(&core("6.12.0-sample", true));
    let json: Value = serde_json::from_str(&output(&["inspect", &path, "--json"])).unwrap();
    let expected = json!({
        "format": "elf",
        "resumable": null,
        "reason": null,
        "kernel_release": "6.12.0-sample",
        "build_id": "abcd",
        "id": "03".repeat(16),
        "paging": 5,
        "window": { "start": 0x18_0000, "end": 0x20_0000 },
        "uptime_seconds": 90_061,
        "pages": { "total": 5, "data": 3, "zero": 2, "free": 0 },
        "pages_reason": "the kernel's VMCOREINFO has no NUMBER(SECTION_SIZE_BITS)",
        "stored": null,
        "ranges": [{ "start": 0x10_0000, "end": 0x10_5000 }],
    });
    assert_eq!(json, expected);
}

#[test]
fn json_has_null_for_what_is_not_known() {
    let (_directory, path) = file(&core("6.12.0-sample", false));
    let json: Value = serde_json::from_str(&output(&["inspect", &path, "--json"])).unwrap();
    for key in ["id", "paging", "window", "uptime_seconds"] {
        assert_eq!(json.get(key), Some(&Value::Null), "{key}");
    }
}

#[test]
fn text_has_the_pages_by_class() {
    let (_directory, path) = file(&core("6.12.0-sample", true));
    let text = output(&["inspect", &path]);
    assert!(
        text.contains("pages      5 of 4 KiB: 3 data, 2 zero, 0 free\n"),
        "{text}"
    );
    assert!(text.contains("paging     5-level paging\n"), "{text}");
    assert!(text.contains(" 0x100000-0x104fff\n"), "{text}");
}

#[test]
fn the_map_in_text_is_plain_where_no_terminal_is() {
    let (_directory, path) = file(&core("6.12.0-sample", true));
    let text = output(&["inspect", &path, "--map"]);
    assert!(text.is_ascii() && !text.contains('\x1b'), "{text}");
    let (_, map) = text.split_once("\n\n").unwrap();
    assert!(map.lines().all(|line| line.len() <= 80), "{text}");
    assert!(
        text.contains("a character is 4.0 KiB, a line 256.0 KiB"),
        "{text}"
    );
    // Data, the kernel over some of it, zeros; then memory that was not saved.
    assert!(text.contains("0x100000 |#KK00---"), "{text}");
    assert!(
        text.contains(&format!("0x180000 |{}\n", "W".repeat(64))),
        "{text}"
    );
    assert!(
        text.contains("\n  #  data                      12.0 KiB"),
        "{text}"
    );
    assert_eq!(output(&["inspect", &path, "--map=-"]), text);
}

#[test]
fn the_map_in_a_file_is_an_svg() {
    let (directory, path) = file(&core("6.12 </title><script>&\u{1b}[31m\"'", true));
    let svg = directory.path().join("map.svg");
    let map = format!("--map={}", svg.to_str().unwrap());
    let text = output(&["inspect", &path, &map]);
    assert!(text.contains("kjump: map written to "), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    let drawn = fs::read_to_string(&svg).unwrap();
    assert!(drawn.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
    assert!(drawn.contains(
        "<title id=\"title\">Physical memory of Linux 6.12 &lt;/title&gt;&lt;script&gt;&amp;?[31m&quot;&#39;</title>"
    ));
    assert!(drawn.contains("data: 12.0 KiB"));
    assert!(!drawn.contains("<script"));

    fs::remove_file(&svg).unwrap();
    let json = output(&["inspect", &path, "--json", &map]);
    assert!(serde_json::from_str::<Value>(&json).is_ok(), "{json}");
    assert_eq!(fs::read_to_string(&svg).unwrap(), drawn);
}

#[test]
fn wrong_usage_has_status_2_and_changes_nothing() {
    let bytes = core("6.12.0-sample", true);
    let (_directory, path) = file(&bytes);
    let over = format!("--map={path}");
    for (arguments, complaint) in [
        (&["inspect"][..], "<FILE>"),
        (&["inspect", &path, &over], "ends with .svg"),
        (&["inspect", &path, "--map="], "--map"),
        (&["inspect", &path, "--map", "--json"], "both print"),
        (&["inspect", &path, "--map=-", "--json"], "both print"),
        (&["inspect", &path, "--map", "map.svg"], "map.svg"),
        (&["inspect", &path, "--maps"], "--maps"),
    ] {
        let output = kjump(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(complaint), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn files_that_are_no_core_or_cannot_be_written_are_named() {
    let (_directory, path) = file(b"\x7fELF and no more");
    for arguments in [&["inspect", &path][..], &["inspect", &path, "--map"]] {
        let output = kjump(arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("kjump: "));
    }
    let (_directory, path) = file(&core("6.12.0-sample", true));
    let output = kjump(&["inspect", &path, "--map=/nonexistent/map.svg"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/map.svg"));
}
