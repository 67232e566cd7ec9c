//! What the user sees: lines that begin with `kjump: `, and progress.

use std::io::Write;

use kjump::memory::image::{CodecKind, Totals};
use kjump_examples::Meter;
pub(crate) use kjump_examples::size;

use crate::patience;

/// Prints a line.
macro_rules! say {
    ($($arg:tt)*) => {
        println!("kjump: {}", format_args!($($arg)*))
    };
}
pub(crate) use say;

/// Waits until what was printed has left the machine: a serial line is slower than a jump.
pub(crate) fn drain() {
    let _ = std::io::stdout().flush();
    // What is not a terminal needs no waiting for.
    let _ = nix::sys::termios::tcdrain(std::io::stdout());
}

/// Prints an error and its causes, each once, to standard error. Some of them quote what an image says.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("kjump: {}", plain(&format!("{error:#}")));
}

/// `text` with `?` for characters that a terminal would obey. Text from a file is hostile.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_control() { '?' } else { char })
        .collect()
}

/// How the data in an image is stored.
pub(crate) fn stored(totals: &Totals) -> String {
    let data = totals.data_bytes();
    let chunks: Vec<String> = CodecKind::ALL
        .into_iter()
        .map(|codec| (codec, totals.chunks_by(codec)))
        .filter(|(_, count)| *count > 0)
        .map(|(codec, count)| format!("{count} by {codec}"))
        .collect();
    let ratio = data as f64 / totals.stored.max(1) as f64;
    let mut text = format!("{} of data take {}", size(data), size(totals.stored));
    if !chunks.is_empty() {
        text += &format!(" ({ratio:.2} to 1; chunks: {})", chunks.join(", "));
    }
    text
}

/// Shows how far long work has come, and that it goes on.
pub(crate) fn meter(what: &'static str) -> Meter {
    Meter::new("kjump", what, patience::work_goes_on)
}
