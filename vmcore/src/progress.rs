//! How far long work has come.

/// How far a save or a restore has come, in bytes. Handed to a callback every few MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are done.
    pub done: u64,
    /// Bytes that there are to do in all.
    pub total: u64,
}
