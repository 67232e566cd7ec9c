//! How many threads save and restore.

use std::thread;

use vmcore::image::Codec;

use crate::spare::Spare;

/// How many threads there should be for work of which each thread needs what `codec` does: one for each
/// CPU, as far as they take no more than a half of the memory that is available.
#[must_use]
pub fn threads_for(codec: Codec) -> usize {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let available = Spare::now().map(|spare| spare.available);
    limited(cpus, available, codec.memory())
}

fn limited(cpus: usize, available: Option<u64>, each: u64) -> usize {
    let room = available.map_or(u64::MAX, |available| available / 2 / each);
    usize::try_from(room)
        .map_or(cpus, |room| room.min(cpus))
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_limits_threads_and_one_is_always_there() {
        let available = Some(32 << 20);
        assert_eq!(limited(2, available, 3 << 20), 2);
        assert_eq!(limited(64, available, 3 << 20), 5);
        assert_eq!(limited(64, available, 64 << 20), 1);
        assert_eq!(limited(64, None, 64 << 20), 64);
        assert!(threads_for(Codec::Lz4) >= 1);
    }
}
