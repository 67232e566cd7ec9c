//! What the commands of this package share: progress on long work, and sizes for people.
#![forbid(unsafe_code)]

mod meter;
mod size;

pub use meter::Meter;
pub use size::size;
