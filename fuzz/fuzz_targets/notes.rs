//! Notes: they lie in the segment, in order, and say the same when they are written again.
#![no_main]

use kjump_fuzz::bounded;
use libfuzzer_sys::fuzz_target;
use vmcore::elf::{Note, Notes, encode_note};

fuzz_target!(|segment: &[u8]| {
    let notes: Vec<Note<'_>> = Notes::new(segment).collect();
    assert_eq!(bounded(0, || Notes::new(segment).count()), notes.len());
    assert!(notes.len() <= segment.len() / 12);
    let mut at = segment.as_ptr_range().start;
    for note in &notes {
        for part in [note.name, note.desc] {
            // An empty part may be anywhere.
            if !part.is_empty() {
                let place = part.as_ptr_range();
                assert!(at <= place.start && place.end <= segment.as_ptr_range().end);
                at = place.end;
            }
        }
    }

    let text: Vec<_> = notes
        .iter()
        .filter_map(|note| Some((std::str::from_utf8(note.name).ok()?, note)))
        .collect();
    let again: Vec<u8> = text
        .iter()
        .flat_map(|(name, note)| encode_note(name, note.kind, note.desc))
        .collect();
    let expected: Vec<Note<'_>> = text.iter().map(|(_, note)| **note).collect();
    assert_eq!(Notes::new(&again).collect::<Vec<_>>(), expected);
});
