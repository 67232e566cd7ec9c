//! Flattened files.

use std::io;

use proptest::prelude::*;

use super::super::*;
use super::maker::maker;
use super::{PAGE, mutate, read_all};
use crate::elf::{CoreHeaders, Load};
use crate::{Memory, PhysAddr, PhysRange};

/// A flattened file of these records.
pub(super) fn flatten(records: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut file = vec![0; PAGE];
    file[..12].copy_from_slice(b"makedumpfile");
    file[23] = 1;
    file[31] = 1;
    for (offset, bytes) in records {
        file.extend(offset.to_be_bytes());
        file.extend((bytes.len() as u64).to_be_bytes());
        file.extend(bytes);
    }
    file.extend([0xff; 16]);
    file
}
proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// A flattened file is what comes of writing its records one after another.
    #[test]
    fn records_are_written_in_order(
        records in prop::collection::vec((0..300u64, prop::collection::vec(any::<u8>(), 1..60)), 0..30),
        from in 0..360usize,
        len in 0..100usize,
    ) {
        let mut file = Vec::new();
        for (offset, bytes) in &records {
            let end = *offset as usize + bytes.len();
            file.resize(file.len().max(end), 0);
            file[*offset as usize..end].copy_from_slice(bytes);
        }
        let flat = Flattened::open(flatten(&records)).unwrap();
        prop_assert_eq!(flat.size(), file.len() as u64);
        let mut read = vec![1; file.len()];
        flat.read_exact_at(&mut read, 0).unwrap();
        prop_assert_eq!(&read, &file);
        let mut part = vec![1; len];
        match (flat.read_exact_at(&mut part, from as u64), file.get(from..from + len)) {
            (Ok(()), Some(wanted)) => prop_assert_eq!(part, wanted),
            (Err(error), None) => prop_assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn mutated_flattened_dumps_do_no_harm(
        maker in maker(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let file = maker.make();
        let records: Vec<_> = (0..).step_by(500).zip(file.chunks(500).map(<[u8]>::to_vec)).collect();
        let flat = mutate(flatten(&records), &changes, cut);
        if let Ok(flat) = Flattened::open(flat)
            && flat.size() < 1 << 24
        {
            let mut bytes = vec![0; usize::try_from(flat.size()).unwrap()];
            flat.read_exact_at(&mut bytes, 0).unwrap();
            read_all(bytes);
        }
    }
}

#[test]
fn a_core_may_be_flattened_too() {
    let mut headers = CoreHeaders::new();
    headers.load(Load {
        memory: PhysRange::new(0x1000, 0x1008).unwrap(),
        offset: 120,
        file_size: 8,
        virt: 0,
    });
    let flat = flatten(&[
        (120, b"old data".to_vec()),
        (0, headers.encode()),
        (120, b"new".to_vec()),
    ]);
    assert!(is_flattened(&flat));
    let core = crate::elf::Core::open(Flattened::open(flat).unwrap()).unwrap();
    let mut bytes = [0; 8];
    core.read(PhysAddr::new(0x1000), &mut bytes).unwrap();
    assert_eq!(&bytes, b"new data");
}

#[test]
fn flattened_files_that_cannot_be_right_are_refused() {
    let open = |file: Vec<u8>| Flattened::open(file).unwrap_err();
    let whole = flatten(&[(0, vec![1; 50])]);
    assert!(matches!(open(vec![]), DumpError::NotFlattened));
    assert!(!is_flattened(&vec![0; 100]));
    for len in [100, PAGE, PAGE + 20, whole.len() - 16, whole.len() - 1] {
        let error = open(whole[..len].to_vec());
        assert!(
            matches!(error, DumpError::Truncated { .. }),
            "{len} bytes: {error}"
        );
    }
    for (offset, size) in [(-2i64, 5i64), (-1, 5), (0, -1), (0, 0), (7, i64::MIN)] {
        let mut file = flatten(&[]);
        let record = [offset.to_be_bytes(), size.to_be_bytes()].concat();
        file.splice(PAGE..PAGE, record);
        assert!(
            matches!(open(file), DumpError::Malformed { .. }),
            "{offset} {size}"
        );
    }
    let far = flatten(&[(i64::MAX as u64, vec![1])]);
    assert!(matches!(open(far), DumpError::Malformed { .. }));
    let mut newer = whole.clone();
    newer[31] = 2;
    assert!(matches!(open(newer), DumpError::Version { .. }));
}
