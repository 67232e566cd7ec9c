//! Sealing: how an image is encrypted, and the keys for that.
//!
//! From a [`Secret`] and the [`Sealing`] that stands in the header, which has a salt drawn for this image
//! alone, comes the [`Key`] of the image. From that and a nonce drawn for this writing alone comes the key
//! of the records. So nothing is ever encrypted twice under one key at one place, and the place can be the
//! nonce.

use std::fmt;
use std::io;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::checksum::checksum;
use super::wire::{Reader, Writer};
use super::{ImageError, ImageId};

/// Bytes of all keys.
const KEY: usize = 32;

/// What HKDF (RFC 5869) is told that keys are for.
const IMAGE_INFO: &[u8] = b"kjump image";
const RECORDS_INFO: &[u8] = b"kjump records";

/// What the key of an image is derived from: what its owner has or knows. It is zeroed when it is dropped.
pub struct Secret {
    bytes: Zeroizing<Vec<u8>>,
    kdf: Kdf,
}

impl Secret {
    /// The fewest bytes of a key that is not a passphrase.
    pub const MIN_LEN: usize = 16;

    /// The most bytes of a secret.
    pub const MAX_LEN: usize = 64 << 10;

    /// A key of random bytes, as from a file.
    ///
    /// # Errors
    ///
    /// [`ImageError::ShortKey`] if there are fewer than [`MIN_LEN`](Self::MIN_LEN) bytes.
    pub fn key(bytes: Vec<u8>) -> Result<Self, ImageError> {
        let bytes = Zeroizing::new(bytes);
        if bytes.len() < Self::MIN_LEN {
            return Err(ImageError::ShortKey { len: bytes.len() });
        }
        Ok(Self {
            bytes,
            kdf: Kdf::Key,
        })
    }

    /// A passphrase.
    ///
    /// # Errors
    ///
    /// [`ImageError::ShortKey`] if it is empty.
    pub fn passphrase(bytes: Vec<u8>) -> Result<Self, ImageError> {
        let bytes = Zeroizing::new(bytes);
        if bytes.is_empty() {
            return Err(ImageError::ShortKey { len: 0 });
        }
        Ok(Self {
            bytes,
            kdf: Kdf::PASSPHRASE,
        })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("kdf", &self.kdf)
            .finish_non_exhaustive()
    }
}

/// How the key of an image is derived from a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kdf {
    /// From a key, by HKDF with SHA-256 (RFC 5869).
    Key,
    /// From a passphrase, by Argon2id (RFC 9106), and then as from a key.
    Passphrase {
        /// How much memory that takes, in KiB.
        memory: u32,
        /// How often it goes through that.
        passes: u32,
        /// How many parts of it can be worked on at once.
        lanes: u32,
    },
}

impl Kdf {
    /// What passphrases get. It must fit into the window, where the restoring kernel may have to ask.
    pub const PASSPHRASE: Self = Self::Passphrase {
        memory: 32 << 10,
        passes: 4,
        lanes: 1,
    };

    /// Refuses what a header must not make its reader do.
    fn bounded(self) -> Option<Self> {
        match self {
            Self::Key => Some(self),
            Self::Passphrase {
                memory,
                passes,
                lanes,
            } => ((1..=16).contains(&lanes)
                && (8 * lanes..=256 << 10).contains(&memory)
                && (1..=64).contains(&passes))
            .then_some(self),
        }
    }
}

impl fmt::Display for Kdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "a key",
            Self::Passphrase { .. } => "a passphrase",
        })
    }
}

/// How an image is sealed; nothing of it is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealing {
    /// How its key is derived.
    pub kdf: Kdf,
    /// What makes it the key of this image alone.
    pub salt: [u8; 32],
}

impl Sealing {
    /// The key of the image `id`, by what its owner has or knows. Takes some time for a passphrase.
    ///
    /// # Errors
    ///
    /// [`ImageError::OtherSecret`] if the image takes another kind of secret, or [`ImageError::NoMemory`]
    /// if there is not enough for a passphrase.
    pub fn key(&self, secret: &Secret, id: ImageId) -> Result<Key, ImageError> {
        let malformed = ImageError::Malformed {
            what: "how it is sealed",
        };
        let mut stretched = Zeroizing::new([0; KEY]);
        let input: &[u8] = match (self.kdf.bounded().ok_or(malformed)?, secret.kdf) {
            (Kdf::Key, Kdf::Key) => &secret.bytes,
            (
                Kdf::Passphrase {
                    memory,
                    passes,
                    lanes,
                },
                Kdf::Passphrase { .. },
            ) => {
                stretch(
                    &secret.bytes,
                    &self.salt,
                    (memory, passes, lanes),
                    &mut stretched,
                )?;
                stretched.as_slice()
            }
            (expected, given) => return Err(ImageError::OtherSecret { expected, given }),
        };
        let mut key = Key::zero();
        let info = [IMAGE_INFO, id.0.as_slice()].concat();
        derive(Some(&self.salt), input, &info, &mut key.0);
        Ok(key)
    }

    fn encode(&self, to: &mut Writer) {
        let (kind, numbers) = match self.kdf {
            Kdf::Key => (1, [0; 3]),
            Kdf::Passphrase {
                memory,
                passes,
                lanes,
            } => (2, [memory, passes, lanes]),
        };
        to.u32(kind);
        for number in numbers {
            to.u32(number);
        }
        to.raw(&self.salt);
    }

    /// What is encoded here; `Some(None)` if it says that nothing is sealed.
    fn decode(from: &mut Reader<'_>) -> Option<Option<Self>> {
        let kind = from.u32()?;
        let (memory, passes, lanes) = (from.u32()?, from.u32()?, from.u32()?);
        let salt = from.array()?;
        let kdf = match kind {
            0 => return Some(None),
            1 => Kdf::Key,
            2 => Kdf::Passphrase {
                memory,
                passes,
                lanes,
            },
            _ => return None,
        };
        let kdf = kdf.bounded()?;
        Some(Some(Self { kdf, salt }))
    }
}

/// How an image is sealed, as its header says it: with what its writer drew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) sealing: Sealing,
    pub(super) nonce: [u8; 16],
}

impl Written {
    /// Says that nothing is sealed if this is `None`.
    pub(super) fn encode(this: Option<&Self>, to: &mut Writer) {
        match this {
            Some(this) => {
                this.sealing.encode(to);
                to.raw(&this.nonce);
            }
            None => to.raw(&[0; 16 + 32 + 16]),
        }
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Option<Option<Self>> {
        let sealing = Sealing::decode(from)?;
        let nonce = from.array()?;
        Some(sealing.map(|sealing| Self { sealing, nonce }))
    }
}

/// The key of one image. It is zeroed when it is dropped, and never shown.
// In a box, so that those who hand it on leave no copies behind.
pub struct Key(Box<Zeroizing<[u8; KEY]>>);

impl Key {
    fn zero() -> Self {
        Self(Box::new(Zeroizing::new([0; KEY])))
    }

    /// The key of the records that were written with `nonce`.
    pub(super) fn of_records(&self, nonce: &[u8; 16]) -> Self {
        let mut key = Self::zero();
        let info = [RECORDS_INFO, nonce.as_slice()].concat();
        derive(None, self.bytes(), &info, &mut key.0);
        key
    }

    /// The key itself, for those who look whether it was left anywhere.
    #[must_use]
    pub fn bytes(&self) -> &[u8; KEY] {
        &self.0
    }
}

impl Clone for Key {
    fn clone(&self) -> Self {
        let mut key = Self::zero();
        key.0.copy_from_slice(self.bytes());
        key
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

/// What it takes to write a sealed image, or to read it: how it is sealed, and the key.
///
/// It goes from one kernel to the next in a [page](Self::to_page) of memory.
#[derive(Clone, Debug)]
pub struct Seal {
    /// The image.
    pub id: ImageId,
    /// How it is sealed.
    pub sealing: Sealing,
    /// The key.
    pub key: Key,
}

impl Seal {
    const MAGIC: &[u8; 8] = b"KJUMPKEY";

    /// Bytes of a page that a seal is handed on in.
    pub const PAGE: usize = 4096;

    /// A new seal for the image `id`, whose secret this is.
    ///
    /// # Errors
    ///
    /// [`ImageError::Random`] if the kernel gives no random numbers.
    pub fn new(secret: &Secret, id: ImageId) -> Result<Self, ImageError> {
        let sealing = Sealing {
            kdf: secret.kdf,
            salt: random()?,
        };
        let key = sealing.key(secret, id)?;
        Ok(Self { id, sealing, key })
    }

    /// The page that hands it on. Whoever takes it must zero the page.
    #[must_use]
    pub fn to_page(&self) -> Zeroizing<Vec<u8>> {
        // As large as it gets, so that nothing is left behind where it was smaller.
        let mut page = Writer {
            bytes: Vec::with_capacity(Self::PAGE),
        };
        page.raw(Self::MAGIC);
        page.raw(&self.id.0);
        self.sealing.encode(&mut page);
        page.raw(self.key.bytes());
        let mut page = Zeroizing::new(page.bytes);
        let sum = checksum(&page);
        page.extend(sum.to_le_bytes());
        page.resize(Self::PAGE, 0);
        page
    }

    /// What a page hands on; `None` if nothing.
    #[must_use]
    pub fn from_page(page: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(page);
        let magic: [u8; 8] = reader.array()?;
        let id = ImageId(reader.array()?);
        let sealing = Sealing::decode(&mut reader)??;
        let mut key = Key::zero();
        key.0.copy_from_slice(reader.raw(KEY)?);
        let said = page.get(..page.len().checked_sub(reader.left())?)?;
        let right = reader.u64()? == checksum(said);
        (&magic == Self::MAGIC && right).then_some(Self { id, sealing, key })
    }
}

/// Random bytes of the kernel.
pub(super) fn random<const N: usize>() -> Result<[u8; N], ImageError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| ImageError::Random(io::Error::from(error)))?;
    Ok(bytes)
}

/// HKDF.
fn derive(salt: Option<&[u8]>, input: &[u8], info: &[u8], key: &mut [u8; KEY]) {
    let expanded = Hkdf::<Sha256>::new(salt, input).expand(info, key);
    debug_assert!(expanded.is_ok(), "HKDF gives up to 255 hashes");
}

/// Argon2id.
fn stretch(
    passphrase: &[u8],
    salt: &[u8],
    (memory, passes, lanes): (u32, u32, u32),
    key: &mut [u8; KEY],
) -> Result<(), ImageError> {
    let malformed = |_| ImageError::Malformed {
        what: "how it is sealed",
    };
    let params = Params::new(memory, passes, lanes, Some(KEY)).map_err(malformed)?;
    let mut blocks: Vec<Block> = Vec::new();
    blocks
        .try_reserve_exact(params.block_count())
        .map_err(|_| ImageError::NoMemory { needed: memory })?;
    blocks.resize(params.block_count(), Block::default());
    let result = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, key, &mut blocks)
        .map_err(malformed);
    for block in &mut blocks {
        block.zeroize();
    }
    result
}
