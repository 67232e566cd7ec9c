//! Reading the small text files of `/proc` and `/sys`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// More than any file that is read here can have. `/proc/thread-self/status` is the longest: it lists up
/// to 65536 supplementary groups.
const MAX_LEN: u64 = 1 << 20;

/// The text of the file at `path`. Bytes that are no UTF-8, as in the name of a process, are replaced.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_LEN + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "longer than any file of the kernel's",
        ));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_stops_at_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![b'x'; MAX_LEN as usize]).unwrap();
        assert_eq!(read(&path).unwrap().len(), MAX_LEN as usize);
        std::fs::write(&path, vec![b'x'; MAX_LEN as usize + 1]).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        // Has no end at all.
        assert_eq!(
            read(Path::new("/dev/zero")).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hide_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status");
        std::fs::write(&path, b"Name:\t\xff\xfe\nCapEff:\t0\n").unwrap();
        assert!(read(&path).unwrap().ends_with("\nCapEff:\t0\n"));
    }
}
