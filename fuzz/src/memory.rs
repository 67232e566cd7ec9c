//! What must hold for saved memory, whatever file it lies in.

use std::ops::ControlFlow;

use vmcore::{Memory, MemoryError, PageClass, PhysAddr, PhysRange, RangeMap};

/// How many bytes are read in one place.
const LOOK: u64 = 3 * vmcore::PAGE_SIZE / 2;

/// How many ranges are looked at.
const RANGES: usize = 40;

/// Asserts that a map is in order and has no neighbours that should be one.
pub fn check_order<C: PartialEq>(map: &RangeMap<C>) {
    let mut last: Option<(PhysRange, &C)> = None;
    for (range, class) in map.iter() {
        if let Some((low, low_class)) = last {
            assert!(
                low.end() <= range.start(),
                "{low} does not end before {range}"
            );
            assert!(
                low.end() < range.start() || low_class != class,
                "{low} and {range} are one"
            );
        }
        last = Some((range, class));
    }
}

/// Asserts that memory reads as its contents say: what is there can be read if `sound` (a file that
/// only looked right when it was opened may fail later), in one piece and in many alike; what is not
/// there is missed by its address.
pub fn check(memory: &impl Memory, sound: bool) {
    let contents = memory.contents();
    check_order(contents);
    for (range, class) in contents.iter().take(RANGES) {
        let (start, end) = (range.start().get(), range.end().get());
        let mut places = vec![start];
        places.push(end.saturating_sub(LOOK / 2).max(start));
        places.push(start + range.len() / 2);
        for place in places {
            look(memory, place, *class, sound);
        }
        if start > 0 && contents.get(PhysAddr::new(start - 1)).is_none() {
            let missing = memory.read(PhysAddr::new(start - 1), &mut [0; 2]);
            assert!(
                matches!(missing, Err(MemoryError::Absent { addr }) if addr.get() == start - 1),
                "{missing:?} at {:#x}",
                start - 1
            );
        }
    }
}

/// Reads from `place` on, which is memory of this class.
fn look(memory: &impl Memory, place: u64, class: PageClass, sound: bool) {
    let Some(range) = PhysRange::from_len(PhysAddr::new(place), LOOK) else {
        return;
    };
    let mut bytes = vec![0xa5; LOOK as usize];
    let read = memory.read(range.start(), &mut bytes);
    let mut pieces = Vec::new();
    let in_pieces = memory.for_each_piece(range, &mut |piece| {
        assert!(!piece.is_empty(), "an empty piece");
        pieces.extend_from_slice(piece);
        ControlFlow::Continue(())
    });
    // What the contents say of every address, up to the first that cannot be read.
    let readable =
        memory
            .contents()
            .overlapping(range)
            .try_fold(place, |reached, (there, class)| {
                if there.start().get() <= reached && *class != PageClass::Free {
                    Ok(there.end().get())
                } else {
                    Err(reached)
                }
            });
    let readable = match readable {
        Ok(reached) | Err(reached) => reached,
    };
    match (&read, &in_pieces) {
        (Ok(()), Ok(())) => {
            assert!(readable >= range.end().get(), "read beyond the contents");
            assert!(pieces == bytes, "pieces are not what is read at once");
        }
        (Err(MemoryError::Absent { addr }), Err(MemoryError::Absent { addr: other })) => {
            assert_eq!(addr, other);
            assert_eq!(addr.get(), readable, "the first address that is missing");
        }
        (Err(MemoryError::Read { .. }), _) | (_, Err(MemoryError::Read { .. })) => {
            assert!(!sound, "cannot read: {read:?}, {in_pieces:?}");
        }
        _ => panic!("at once {read:?}, in pieces {in_pieces:?}"),
    }
    if class == PageClass::Zero && read.is_ok() {
        let here = memory
            .contents()
            .get(range.start())
            .map_or(0, |(there, _)| {
                there.end().get().min(range.end().get()) - place
            });
        assert!(
            bytes[..here as usize].iter().all(|&byte| byte == 0),
            "zeros are zero"
        );
    }

    // Whoever breaks is not called again.
    let mut calls = 0;
    let broken = memory.for_each_piece(range, &mut |_| {
        calls += 1;
        ControlFlow::Break(())
    });
    assert!(calls <= 1 && (calls == 0 || broken.is_ok()));
}
