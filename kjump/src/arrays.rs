//! Arrays of md, which write by themselves some time after everybody else has: that they are clean.
//!
//! Linux stops processes and then disks before a jump, but not its own threads. What one of those writes when the
//! disks have stopped waits for them, and a CPU that is switched off then waits for that, for ever
//! (`blk_mq_hctx_notify_offline` in `block/blk-mq.c`, of disks with a queue for each CPU).

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::volumes::names_in;

/// How long an array may take: it is clean 0.2 s after the last write, unless `safe_mode_delay` says another time
/// (`Documentation/admin-guide/md.rst`).
const LIMIT: Duration = Duration::from_secs(3);

/// Waits until no array has anything to write any more. One that never comes to rest is not waited for.
pub(crate) fn settle() {
    settle_at(Path::new("/"), LIMIT);
}

fn settle_at(root: &Path, limit: Duration) {
    let limit = Instant::now() + limit;
    while busy(root) && Instant::now() < limit {
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether an array was written to a moment ago.
fn busy(root: &Path) -> bool {
    let block = root.join("sys/block");
    names_in(&block).iter().any(|name| {
        let state = fs::read_to_string(block.join(name).join("md/array_state"));
        state.is_ok_and(|state| ["active", "active-idle", "write-pending"].contains(&state.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_waited_for_until_they_are_clean() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("sys/block/md1/md/array_state");
        assert!(!busy(root.path()));
        fs::create_dir_all(state.parent().unwrap()).unwrap();
        for (text, is_busy) in [
            ("active\n", true),
            ("active-idle\n", true),
            ("write-pending\n", true),
            ("clean\n", false),
            ("read-auto\n", false),
            ("readonly\n", false),
        ] {
            fs::write(&state, text).unwrap();
            assert_eq!(busy(root.path()), is_busy, "{text}");
        }
        fs::write(&state, "active\n").unwrap();
        let written = thread::spawn(move || {
            thread::sleep(Duration::from_millis(60));
            fs::write(&state, "clean\n").unwrap();
        });
        settle_at(root.path(), Duration::from_secs(60));
        assert!(!busy(root.path()));
        written.join().unwrap();
    }
}
