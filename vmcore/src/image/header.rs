//! The header of an image.
//!
//! Behind the machine's identity and the stage it says how the image is sealed: 0 (not at all), 1 (by a key)
//! or 2 (by a passphrase); memory, passes and lanes of Argon2id for a passphrase, all of 32 bits; 32 bytes
//! of salt; a nonce of 16 bytes. Its last 24 bytes are the tag of all before, or zeros, and the checksum.

use super::protection::Protection;
use super::sealing::Written;
use super::wire::{Reader, Writer, seal, unseal};
use super::{HEADER_SIZE, Identity, ImageError, Key, Seal, Sealing, Secret};
use crate::{PhysAddr, ReadAt};

pub(super) const VERSION: u32 = 4;

/// What was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Where to jump to bring the machine back: an address in a page of its kernel.
    /// `None` if it panicked, so that there is no way back.
    pub jump_back: Option<PhysAddr>,
    /// Whether the image was written to something that cannot go back, as a pipe: then nothing was ever
    /// written to the place of its commit record, and its end says that it is whole.
    pub in_order: bool,
}

impl Saved {
    /// Whether there is a way back.
    pub(super) fn resumable(self) -> Result<(), ImageError> {
        self.jump_back.map(drop).ok_or(ImageError::Panicked)
    }
}

/// How far a hibernation has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The machine is about to be saved here.
    Prepared,
    /// The saving kernel writes, or wrote, the image; the commit record tells which.
    Saved(Saved),
    /// Saving failed, for this reason.
    Failed(String),
}

impl Stage {
    /// What was saved, or why nothing was.
    pub(super) fn saved(self) -> Result<Saved, ImageError> {
        match self {
            Self::Saved(saved) => Ok(saved),
            Self::Prepared => Err(ImageError::Prepared),
            Self::Failed(reason) => Err(ImageError::Failed { reason }),
        }
    }
}

/// The header of an image: whose memory it is, and how far its saving has come.
///
/// [`read`](Self::read) does not need the key of a sealed image, and does not know whether it tells the truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose memory it is.
    pub identity: Identity,
    /// How far its saving has come.
    pub stage: Stage,
    /// How the image is sealed, if it is.
    pub(super) sealed: Option<Written>,
}

/// Where the tag is, behind which is only the checksum.
const TAG: usize = HEADER_SIZE as usize - 24;

impl Header {
    /// The first bytes of every image.
    pub const MAGIC: &[u8; 8] = b"KJUMPIMG";

    /// How the image is sealed, if it is.
    #[must_use]
    pub fn sealing(&self) -> Option<Sealing> {
        self.sealed.map(|sealed| sealed.sealing)
    }

    /// What it takes to read the image, by what its owner has or knows. Takes some time for a passphrase.
    ///
    /// # Errors
    ///
    /// [`ImageError::NotSealed`] if it is not sealed, or [`ImageError::OtherSecret`] if it takes something else.
    pub fn seal(&self, secret: &Secret) -> Result<Seal, ImageError> {
        let (sealing, id) = (
            self.sealing().ok_or(ImageError::NotSealed)?,
            self.identity.id,
        );
        let key = sealing.key(secret, id)?;
        Ok(Seal { id, sealing, key })
    }

    /// The key of the records of the image whose key this is, if it is sealed.
    #[must_use]
    pub fn records_key(&self, key: &Key) -> Option<Key> {
        self.sealed.map(|sealed| key.of_records(&sealed.nonce))
    }

    /// Finds out whether `key` is that of the image in `source`, whose header this is.
    ///
    /// # Errors
    ///
    /// [`ImageError::WrongKey`] if it is not.
    pub fn check(&self, source: &impl ReadAt, key: &Key) -> Result<(), ImageError> {
        let (header, _) = Self::open(source, Some(key))?;
        if &header == self {
            Ok(())
        } else {
            Err(ImageError::WrongKey)
        }
    }

    /// The header as [`HEADER_SIZE`] bytes.
    ///
    /// # Errors
    ///
    /// [`ImageError::Malformed`] if the machine's memory map or its volumes are too long for a header.
    pub(super) fn encode(&self, protection: &Protection) -> Result<Vec<u8>, ImageError> {
        let too_long = || ImageError::Malformed {
            what: "the memory map or the list of volumes is too long",
        };
        let mut block = Writer::default();
        block.raw(Self::MAGIC);
        block.u32(VERSION);
        self.identity.encode(&mut block);
        match &self.stage {
            Stage::Prepared => block.u32(0),
            Stage::Saved(saved) => {
                block.u32(1);
                // Nothing is entered at 0: that is where firmware has its tables.
                block.u64(saved.jump_back.map_or(0, PhysAddr::get));
                block.u32(saved.in_order.into());
            }
            Stage::Failed(reason) => {
                block.u32(2);
                block.string(reason);
            }
        }
        Written::encode(self.sealed.as_ref(), &mut block);
        if block.bytes.len() > TAG {
            return Err(too_long());
        }
        block.bytes.resize(TAG, 0);
        let tag = protection.header(&block.bytes);
        block.raw(&tag);
        seal(block, HEADER_SIZE).ok_or_else(too_long)
    }

    /// Reads the header of the image in `source`, whatever its stage is.
    ///
    /// # Errors
    ///
    /// [`ImageError`] if there is none, or none that this version can use.
    pub fn read(source: &impl ReadAt) -> Result<Self, ImageError> {
        Self::decode(&Self::read_block(source)?)
    }

    /// Reads the header of the image in `source`, and with the key of the image, which one that is sealed
    /// must have and no other, finds out that it tells the truth.
    pub(super) fn open(
        source: &impl ReadAt,
        key: Option<&Key>,
    ) -> Result<(Self, Protection), ImageError> {
        Self::decode_with(&Self::read_block(source)?, key)
    }

    fn read_block(source: &impl ReadAt) -> Result<Vec<u8>, ImageError> {
        // What is too short for a header may be something else altogether.
        let mut magic = [0; 8];
        if source.read_exact_at(&mut magic, 0).is_ok() && &magic != Self::MAGIC {
            return Err(ImageError::NotImage { magic });
        }
        if source.size() < HEADER_SIZE {
            return Err(ImageError::Truncated {
                expected: HEADER_SIZE,
                size: source.size(),
            });
        }
        let mut block = vec![0; HEADER_SIZE as usize];
        source
            .read_exact_at(&mut block, 0)
            .map_err(ImageError::reading("the header of the image"))?;
        Ok(block)
    }

    /// As [`open`](Self::open), for those who have read it.
    pub(super) fn decode_with(
        block: &[u8],
        key: Option<&Key>,
    ) -> Result<(Self, Protection), ImageError> {
        let header = Self::decode(block)?;
        // What is not written yet is not sealed yet.
        if !matches!(header.stage, Stage::Saved(_)) {
            return Ok((header, Protection::Checksums));
        }
        let protection = match (&header.sealed, key) {
            (None, None) => Protection::Checksums,
            (None, Some(_)) => return Err(ImageError::NotSealed),
            (Some(written), None) => {
                return Err(ImageError::NeedsKey {
                    kdf: written.sealing.kdf,
                });
            }
            (Some(written), Some(key)) => Protection::Sealed(key.of_records(&written.nonce)),
        };
        let tag = block.get(TAG..).and_then(|end| end.first_chunk());
        match tag {
            Some(tag) if protection.open_header(&block[..TAG], tag) => Ok((header, protection)),
            _ => Err(ImageError::WrongKey),
        }
    }

    pub(super) fn decode(block: &[u8]) -> Result<Self, ImageError> {
        let malformed = |what| ImageError::Malformed { what };
        let mut reader = Reader::new(block);
        let magic: [u8; 8] = reader.array().ok_or(malformed("it is too short"))?;
        if &magic != Self::MAGIC {
            return Err(ImageError::NotImage { magic });
        }
        // Before the checksum, whose place may be another one in other versions.
        let version = reader.u32().ok_or(malformed("it is too short"))?;
        if version != VERSION {
            return Err(ImageError::Version {
                version,
                known: VERSION,
            });
        }
        unseal(block).ok_or(ImageError::Checksum {
            what: "the header of the image",
        })?;
        let identity = Identity::decode(&mut reader).ok_or(malformed("the machine's identity"))?;
        let stage = Self::decode_stage(&mut reader).ok_or(malformed("the stage"))?;
        let sealed = Written::decode(&mut reader).ok_or(malformed("how it is sealed"))?;
        Ok(Self {
            identity,
            stage,
            sealed,
        })
    }

    fn decode_stage(body: &mut Reader<'_>) -> Option<Stage> {
        Some(match body.u32()? {
            0 => Stage::Prepared,
            1 => Stage::Saved(Saved {
                jump_back: Some(body.u64()?).filter(|&at| at != 0).map(PhysAddr::new),
                in_order: match body.u32()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                },
            }),
            2 => Stage::Failed(body.string()?),
            _ => return None,
        })
    }
}
