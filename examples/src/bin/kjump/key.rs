//! Where the key of an encrypted image comes from.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use kjump::memory::ReadFile;
use kjump::memory::image::{Header, ImageId, Kdf, Seal, Secret};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use zeroize::{Zeroize, Zeroizing};

/// The key that an image is encrypted with.
#[derive(Clone, Debug, Default, Args)]
#[group(multiple = false)]
pub(crate) struct KeyOptions {
    /// The image is encrypted; the key is what this file holds: 16 random bytes or more
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The image is encrypted with a passphrase, which is asked for on the terminal
    #[arg(long)]
    passphrase: bool,
    /// The image is encrypted; the key is the one of type "user" that the kernel keeps by this name
    #[arg(long, value_name = "NAME")]
    keyring: Option<String>,
}

/// Why a passphrase is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// To encrypt: nobody could tell later that it was a slip, so it is asked for twice.
    New,
    /// To decrypt.
    Known,
}

impl KeyOptions {
    /// What an image is to be encrypted with, if it is.
    pub(crate) fn to_write(&self) -> Result<Option<Secret>> {
        self.secret(Asked::New)
    }

    /// A new seal for the image `id`, if a key was given.
    pub(crate) fn seal_for(&self, id: ImageId) -> Result<Option<Seal>> {
        let secret = self.to_write()?;
        Ok(secret.map(|secret| Seal::new(&secret, id)).transpose()?)
    }

    /// What it takes to read the image at `path`, if a key was given.
    pub(crate) fn to_read(&self, path: &Path) -> Result<Option<Seal>> {
        if self.key_file.is_none() && !self.passphrase && self.keyring.is_none() {
            return Ok(None);
        }
        let header = header(path)?;
        self.of(&header)
            .with_context(|| format!("the image in {} cannot be used", path.display()))
    }

    /// What it takes to read the image with this header, if a key was given.
    pub(crate) fn of(&self, header: &Header) -> Result<Option<Seal>> {
        let secret = self.secret(Asked::Known)?;
        Ok(secret.map(|secret| header.seal(&secret)).transpose()?)
    }

    fn secret(&self, asked: Asked) -> Result<Option<Secret>> {
        Ok(match self {
            Self {
                key_file: Some(path),
                ..
            } => {
                let bytes =
                    read_key(path).with_context(|| format!("cannot read {}", path.display()))?;
                Some(Secret::key(bytes).with_context(|| format!("in {}", path.display()))?)
            }
            Self {
                keyring: Some(name),
                ..
            } => {
                let bytes = kjump::sys::read_user_key(name)
                    .with_context(|| format!("cannot read the key {name:?} of the kernel"))?;
                Some(Secret::key(bytes).with_context(|| format!("of the name {name:?}"))?)
            }
            Self {
                passphrase: true, ..
            } => Some(ask(asked)?),
            _ => None,
        })
    }
}

/// What it takes to read the image at `path`, which no key was handed on for: the passphrase, if it has one.
pub(crate) fn ask_for(path: &Path) -> Result<Option<Seal>> {
    let header = header(path)?;
    match header.sealing().map(|sealing| sealing.kdf) {
        Some(Kdf::Passphrase { .. }) => loop {
            let seal = header.seal(&ask(Asked::Known)?)?;
            match header.check(&source(path)?, &seal.key) {
                Ok(()) => return Ok(Some(seal)),
                Err(error) => crate::report::error(&error.into()),
            }
        },
        _ => Ok(None),
    }
}

fn source(path: &Path) -> Result<ReadFile> {
    File::open(path)
        .and_then(ReadFile::new)
        .with_context(|| format!("cannot read {}", path.display()))
}

fn header(path: &Path) -> Result<Header> {
    Header::read(&source(path)?)
        .with_context(|| format!("the image in {} cannot be used", path.display()))
}

/// All of a key file, which must not be longer than keys are. No copy of it is left behind.
fn read_key(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = Zeroizing::new(vec![0; Secret::MAX_LEN + 1]);
    let mut len = 0;
    loop {
        match file.read(&mut bytes[len..])? {
            0 => break,
            read => len += read,
        }
        if len > Secret::MAX_LEN {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a key has {} bytes at most", Secret::MAX_LEN),
            ));
        }
    }
    Ok(bytes[..len].to_vec())
}

/// Asks for a passphrase.
fn ask(asked: Asked) -> Result<Secret> {
    let first = read_line("passphrase: ")?;
    if asked == Asked::New && io::stdin().is_terminal() {
        let second = read_line("the same again: ")?;
        if *first != *second {
            bail!("these were two different passphrases");
        }
    }
    Secret::passphrase(first.to_vec()).context("no passphrase was given")
}

/// The longest passphrase.
const LONGEST: usize = 1024;

/// A line that whoever sits at the terminal types without seeing it; or the first line of standard input if
/// that is no terminal.
fn read_line(prompt: &str) -> Result<Zeroizing<Vec<u8>>> {
    let input = io::stdin();
    // Without a buffer, which would keep what was typed.
    let mut bytes = OpenOptions::new()
        .read(true)
        .open("/proc/self/fd/0")
        .context("there is nobody to ask for the passphrase")?;
    if !input.is_terminal() {
        return line_of(&mut bytes);
    }
    let before = tcgetattr(&input)?;
    let mut hidden = before.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    hidden.local_flags.insert(LocalFlags::ECHONL);
    tcsetattr(&input, SetArg::TCSAFLUSH, &hidden)?;
    // Not earlier: what is typed as soon as this is seen must neither show nor be lost.
    let asked = write!(io::stderr(), "kjump: {prompt}");
    let line = asked.map_err(Into::into).and_then(|()| line_of(&mut bytes));
    tcsetattr(&input, SetArg::TCSAFLUSH, &before)?;
    line
}

fn line_of(input: &mut impl Read) -> Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut byte = [0];
    while input.read(&mut byte)? == 1 && byte != *b"\n" {
        if line.len() == LONGEST {
            bail!("a passphrase has {LONGEST} bytes at most");
        }
        line.push(byte[0]);
    }
    byte.zeroize();
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_is_one_line() {
        let mut input: &[u8] = b"correct horse\nbattery";
        assert_eq!(*line_of(&mut input).unwrap(), b"correct horse");
        assert_eq!(*line_of(&mut input).unwrap(), b"battery");
        assert!(line_of(&mut [b'x'; LONGEST + 1].as_slice()).is_err());
    }

    #[test]
    fn key_files_are_bounded() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; Secret::MAX_LEN]).unwrap();
        assert_eq!(read_key(file.path()).unwrap().len(), Secret::MAX_LEN);
        std::fs::write(file.path(), vec![7; Secret::MAX_LEN + 1]).unwrap();
        assert!(read_key(file.path()).is_err());
        assert!(read_key(Path::new("/dev/zero")).is_err());
    }

    #[test]
    fn short_keys_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 15]).unwrap();
        let options = KeyOptions {
            key_file: Some(file.path().to_owned()),
            ..KeyOptions::default()
        };
        let error = format!("{:#}", options.to_write().unwrap_err());
        assert!(error.contains("15 bytes"), "{error}");
        std::fs::write(file.path(), [7; 16]).unwrap();
        assert!(options.to_write().unwrap().is_some());
        assert!(KeyOptions::default().to_write().unwrap().is_none());
    }
}
