//! VMCOREINFO: every value is one that the text has, and the last one of its key.
#![no_main]

use std::collections::HashMap;

use kjump_fuzz::bounded;
use libfuzzer_sys::fuzz_target;
use vmcore::VmcoreInfo;

fuzz_target!(|text: &[u8]| {
    let info = bounded(4096 + 64 * text.len(), || VmcoreInfo::parse(text));
    let mut expected = HashMap::new();
    for line in text.split(|&byte| byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else {
            continue;
        };
        if let Some(equals) = line.find('=') {
            expected.insert(&line[..equals], &line[equals + 1..]);
        }
    }
    let read: HashMap<_, _> = info.iter().collect();
    assert_eq!(read, expected);
    assert_eq!(info.os_release(), expected.get("OSRELEASE").copied());
    assert_eq!(info.build_id(), expected.get("BUILD-ID").copied());

    let again: String = info
        .iter()
        .map(|(key, value)| format!("{key}={value}\n"))
        .collect();
    assert_eq!(VmcoreInfo::parse(again.as_bytes()), info);
});
