//! A file in memory.

use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::content::Content;
use crate::witness::Witness;

/// Where the file is.
const PATH: &str = "/tmp/file";

/// Its size in pages.
const PAGES: usize = 2048;

/// Number of its first page; memory of processes has those from 0 on.
const FIRST: u64 = 1 << 40;

/// A file in a tmpfs.
pub(crate) struct TmpfsFile {
    content: Content,
}

impl TmpfsFile {
    /// Writes the file.
    pub(crate) fn write(seed: u64) -> Result<Self> {
        let content = Content::new(seed);
        std::fs::write(PATH, content.bytes(FIRST, PAGES))
            .with_context(|| format!("writing {PATH}"))?;
        Ok(Self { content })
    }
}

impl Witness for TmpfsFile {
    fn name(&self) -> &'static str {
        "tmpfs"
    }

    fn before(&mut self) -> Result<String> {
        self.verify()
    }

    fn verify(&mut self) -> Result<String> {
        let bytes = std::fs::read(Path::new(PATH)).with_context(|| format!("reading {PATH}"))?;
        ensure!(bytes == self.content.bytes(FIRST, PAGES), "{PATH} changed");
        Ok(format!(
            "{} MiB file, crc32 {:08x}",
            bytes.len() >> 20,
            crc32fast::hash(&bytes)
        ))
    }

    fn spoil(&mut self) -> Result<()> {
        let file = std::fs::OpenOptions::new().write(true).open(PATH)?;
        Ok(file.write_all_at(b"spoilt", 0x1234)?)
    }
}
