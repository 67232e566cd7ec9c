//! Flattened files: what is read is what the records say, the last of them first.
#![no_main]

use arbitrary::Arbitrary;
use kjump_fuzz::{Damage, Number, bounded};
use libfuzzer_sys::fuzz_target;
use vmcore::ReadAt;
use vmcore::elf::Core;
use vmcore::kdump::{Dump, Flattened};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Built(Vec<(Number, Vec<u8>)>, Damage),
    Raw(&'a [u8]),
    Records(&'a [u8]),
}

fn header() -> Vec<u8> {
    let mut file = b"makedumpfile\0\0\0\0".to_vec();
    file.extend_from_slice(&1_u64.to_be_bytes());
    file.extend_from_slice(&1_u64.to_be_bytes());
    file.resize(4096, 0);
    file
}

fuzz_target!(|input: Input<'_>| {
    let mut expected: Option<Vec<u8>> = None;
    let file = match input {
        Input::Raw(file) => file.to_vec(),
        Input::Records(records) => {
            let mut file = header();
            file.extend_from_slice(records);
            file
        }
        Input::Built(records, damage) => {
            let mut file = header();
            let mut plain = Some(Vec::new());
            for (at, data) in &records {
                let at = at.get();
                file.extend_from_slice(&at.to_be_bytes());
                file.extend_from_slice(&(data.len() as u64).to_be_bytes());
                file.extend_from_slice(data);
                plain = plain.filter(|_| at < 1 << 20 && !data.is_empty());
                if let Some(plain) = &mut plain {
                    let at = at as usize;
                    plain.resize(plain.len().max(at + data.len()), 0);
                    plain[at..at + data.len()].copy_from_slice(data);
                }
            }
            file.extend_from_slice(&[0xff; 16]);
            expected = plain.filter(|_| damage.is_none());
            damage.apply(&mut file);
            file
        }
    };
    let limit = (64 << 10) + 16 * file.len();
    let opened = bounded(limit, || Flattened::open(file.as_slice()));
    if let Some(expected) = &expected {
        assert_eq!(
            opened.is_ok(),
            expected.len() as u64 <= most(file.len()),
            "{opened:?}"
        );
    }
    let Ok(flattened) = opened else { return };
    let size = flattened.size();
    assert!(size <= most(file.len()));

    // All of it, at once and in two halves.
    let mut bytes = vec![0xa5; size as usize];
    flattened
        .read_exact_at(&mut bytes, 0)
        .expect("it is all there");
    if let Some(expected) = expected {
        assert!(bytes == expected, "the records say something else");
    }
    let (low, high) = bytes.split_at(bytes.len() / 3);
    let mut part = vec![0x5a; high.len()];
    flattened
        .read_exact_at(&mut part, low.len() as u64)
        .expect("it is all there");
    assert!(part == high, "a part is not as the whole");
    let mut pieces = Vec::new();
    flattened
        .for_each_piece(0..size, &mut |piece| {
            pieces.extend_from_slice(piece);
            Ok(())
        })
        .expect("it is all there");
    assert!(pieces == bytes, "pieces are not as the whole");
    assert!(
        flattened
            .read_exact_at(&mut [0; 2], size.saturating_sub(1))
            .is_err()
    );

    // What is in it may be hostile, too, and it claims no more than it is.
    let limit = (32 << 20) + 200 * file.len();
    let _ = bounded(limit, || Core::open(&flattened).map(|_| ()));
    let _ = bounded(limit, || Dump::open(&flattened).map(|_| ()));
});

/// The greatest size that a flattened file of `len` bytes may hold.
fn most(len: usize) -> u64 {
    16 * len as u64 + (1 << 20)
}
