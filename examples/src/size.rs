//! Sizes for people.

/// A size for people.
#[must_use]
pub fn size(bytes: u64) -> String {
    human(bytes as f64)
}

/// A number of bytes for people.
pub(crate) fn human(mut value: f64) -> String {
    let mut unit = "bytes";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    let digits = usize::from(unit != "bytes");
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(17), "17 bytes");
        assert_eq!(size(96 << 20), "96.0 MiB");
        assert_eq!(size(3 << 29), "1.5 GiB");
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
    }
}
