//! What shows that an image is as it was written: checksums, or, if it is sealed, encryption with
//! authentication.
//!
//! Sealed is by XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha), in place. The nonce of 24 bytes has 1 for the
//! header, 2 for the block of a record, or 3 for its payload in its first byte, and in its last eight the
//! offset in the image.

use std::fmt;

use chacha20poly1305::{AeadInPlace, KeyInit, Tag, XChaCha20Poly1305, XNonce};

use super::ImageError;
use super::checksum::checksum;
use super::sealing::Key;

/// What shows that something is as it was written: its checksum and zeros, or a tag.
pub(super) type Check = [u8; 16];

/// What a nonce is for.
#[derive(Clone, Copy)]
enum Use {
    Header = 1,
    Block,
    Payload,
}

/// How the records of an image are protected.
#[derive(Clone)]
pub(super) enum Protection {
    /// From damage, by checksums.
    Checksums,
    /// From everybody who has not this key of the records.
    Sealed(Key),
}

impl fmt::Debug for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checksums => "Checksums",
            Self::Sealed(_) => "Sealed",
        })
    }
}

impl Protection {
    pub(super) fn is_sealed(&self) -> bool {
        matches!(self, Self::Sealed(_))
    }

    /// Protects the header, or all of it but the checksum and this.
    pub(super) fn header(&self, header: &[u8]) -> Check {
        match self {
            Self::Checksums => [0; 16],
            Self::Sealed(key) => encrypt(key, Use::Header, 0, header, &mut []),
        }
    }

    /// Whether `header` is as it was written.
    pub(super) fn open_header(&self, header: &[u8], check: &Check) -> bool {
        match self {
            Self::Checksums => true,
            Self::Sealed(key) => decrypt(key, Use::Header, 0, header, &mut [], check),
        }
    }

    /// Protects the payload of the record at `offset`.
    pub(super) fn payload(&self, payload: &mut [u8], offset: u64) -> Check {
        match self {
            Self::Checksums => of_sum(payload),
            Self::Sealed(key) => encrypt(key, Use::Payload, offset, &[], payload),
        }
    }

    /// Makes of the payload of the record at `offset` what was written; whether it was that.
    pub(super) fn open_payload(&self, payload: &mut [u8], offset: u64, check: &Check) -> bool {
        match self {
            Self::Checksums => &of_sum(payload) == check,
            Self::Sealed(key) => decrypt(key, Use::Payload, offset, &[], payload, check),
        }
    }

    /// Protects what the block of the record at `offset` says: of the first `clear` bytes that nobody
    /// changes them, of the rest that nobody reads it either.
    pub(super) fn block(&self, said: &mut [u8], clear: usize, offset: u64) -> Check {
        match self {
            Self::Checksums => of_sum(said),
            Self::Sealed(key) => {
                let (clear, body) = said.split_at_mut(clear);
                encrypt(key, Use::Block, offset, clear, body)
            }
        }
    }

    /// Makes of what a block says what was written; whether it was that.
    pub(super) fn open_block(
        &self,
        said: &mut [u8],
        clear: usize,
        offset: u64,
        check: &Check,
    ) -> bool {
        match self {
            Self::Checksums => &of_sum(said) == check,
            Self::Sealed(key) => {
                let (clear, body) = said.split_at_mut(clear);
                decrypt(key, Use::Block, offset, clear, body, check)
            }
        }
    }

    /// What to say if it was not.
    pub(super) fn broken(&self, what: &'static str, offset: u64) -> ImageError {
        match self {
            Self::Checksums => ImageError::Damaged { what, offset },
            Self::Sealed(_) => ImageError::Tampered { what, offset },
        }
    }
}

fn of_sum(bytes: &[u8]) -> Check {
    u128::from(checksum(bytes)).to_le_bytes()
}

fn nonce(nonce_use: Use, offset: u64) -> XNonce {
    let mut nonce = [0; 24];
    nonce[0] = nonce_use as u8;
    nonce[16..].copy_from_slice(&offset.to_le_bytes());
    nonce.into()
}

/// A cipher that is zeroed when it is dropped.
fn cipher(key: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(key.bytes().into())
}

fn encrypt(key: &Key, nonce_use: Use, offset: u64, clear: &[u8], bytes: &mut [u8]) -> Check {
    let tag = cipher(key).encrypt_in_place_detached(&nonce(nonce_use, offset), clear, bytes);
    debug_assert!(tag.is_ok(), "nothing here is as long as 256 GiB");
    tag.map_or_else(
        |_| {
            // Nothing of it must be written as it is.
            bytes.fill(0);
            [0; 16]
        },
        Into::into,
    )
}

fn decrypt(
    key: &Key,
    nonce_use: Use,
    offset: u64,
    clear: &[u8],
    bytes: &mut [u8],
    check: &Check,
) -> bool {
    cipher(key)
        .decrypt_in_place_detached(
            &nonce(nonce_use, offset),
            clear,
            bytes,
            Tag::from_slice(check),
        )
        .is_ok()
}
