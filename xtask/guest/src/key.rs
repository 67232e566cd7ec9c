//! The key of images that are encrypted.

use std::fs;

use anyhow::{Context, Result};

use crate::stale;

/// What the key file holds; the lab knows it too.
const SECRET: &str = "what nobody else knows: 7c1f0a93";

const FILE: &str = "/tmp/key";

/// The options that give the key, which is in a file after that.
pub(crate) fn options() -> Result<[&'static str; 2]> {
    fs::write(FILE, SECRET).with_context(|| format!("writing {FILE}"))?;
    Ok(["--key-file", FILE])
}

/// Has `resume` refuse the image without a key, and with others.
pub(crate) fn refuse_others(resume: &[&str]) -> Result<()> {
    stale::fails(resume, "is encrypted with a key")?;
    for (other, expect) in [
        ("what nobody else knows: 7c1f0a92", "the key is not the one"),
        ("short", "the key has 5 bytes"),
    ] {
        let file = "/tmp/other-key";
        fs::write(file, other).with_context(|| format!("writing {file}"))?;
        stale::fails(&[resume, &["--key-file", file]].concat(), expect)?;
    }
    Ok(())
}
