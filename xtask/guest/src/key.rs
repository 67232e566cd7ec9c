//! The key of images that are encrypted.
#![allow(
    unsafe_code,
    reason = "the system call that gives the kernel a key takes pointers"
)]

use std::ffi::CStr;
use std::fs;
use std::hint::black_box;
use std::io;

use anyhow::{Context, Result, ensure};

use crate::parameters::Secret;
use crate::{kjump, stale};

/// What a key that is looked for must not lie in this program as.
const MASK: u8 = 0xa5;

/// The key, masked; the lab knows it too.
const MASKED: [u8; 32] = masked(*b"what nobody else knows: 7c1f0a93");

/// Where it is: in a file, or by this name in the kernel's keyring of the user.
const FILE: &str = "/tmp/key";
const NAME: &CStr = c"lab";

/// Another key, where nobody looks for leftovers of it.
const OTHER: &[u8; 32] = b"what nobody else knows: 7c1f0a92";
const OTHER_FILE: &str = "/tmp/other-key";
const OTHER_NAME: &CStr = c"other";

const fn masked(mut bytes: [u8; 32]) -> [u8; 32] {
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] ^= MASK;
        at += 1;
    }
    bytes
}

/// The options that give the key of this kind, which is where they say after that.
pub(crate) fn options(secret: Option<Secret>) -> Result<&'static [&'static str]> {
    let Some(secret) = secret else {
        return Ok(&[]);
    };
    let mut key = masked(black_box(MASKED));
    let options: Result<&[&str]> = match secret {
        Secret::KeyFile => fs::write(FILE, key)
            .with_context(|| format!("writing {FILE}"))
            .map(|()| ["--key-file", FILE].as_slice()),
        Secret::Keyring => keep(NAME, &key).map(|()| ["--keyring", "lab"].as_slice()),
        Secret::Passphrase => Ok(&["--passphrase"]),
    };
    key.fill(0);
    black_box(&mut key);
    options
}

/// Has `resume` refuse the image without a key, and with others.
pub(crate) fn refuse_others(secret: Secret, resume: &[&str]) -> Result<()> {
    let with = |options: &[&'static str]| [resume, options].concat();
    stale::fails(resume, "is encrypted with a")?;
    match secret {
        Secret::KeyFile => {
            let others: [(&[u8], _); 2] = [
                (OTHER, "the key is not the one"),
                (b"short", "the key has 5 bytes"),
            ];
            for (other, expect) in others {
                fs::write(OTHER_FILE, other).with_context(|| format!("writing {OTHER_FILE}"))?;
                stale::fails(&with(&["--key-file", OTHER_FILE]), expect)?;
            }
            Ok(())
        }
        Secret::Keyring => {
            stale::fails(&with(&["--keyring", "other"]), "cannot read the key")?;
            keep(OTHER_NAME, OTHER)?;
            stale::fails(&with(&["--keyring", "other"]), "the key is not the one")
        }
        // The lab mistypes it.
        Secret::Passphrase => kjump::run_in_vain(&with(&["--passphrase"])),
    }
}

/// Has the kernel keep `key` for this user, by this name (`add_key(2)`).
fn keep(name: &CStr, key: &[u8]) -> Result<()> {
    // SAFETY: the kernel reads two strings that end with zeros, and as many bytes as it is told.
    let id = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            name.as_ptr(),
            key.as_ptr(),
            key.len(),
            libc::KEY_SPEC_USER_KEYRING,
        )
    };
    ensure!(
        id >= 0,
        "the kernel does not keep a key: {}",
        io::Error::last_os_error()
    );
    Ok(())
}
