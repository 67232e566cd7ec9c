//! What shows that an image is as it was written: checksums, or, if it is sealed, encryption with
//! authentication.
//!
//! Sealed is by AES-256-GCM (NIST SP 800-38D), in place. The nonce of 12 bytes has 1 for the header, 2 for the
//! block of a record, or 3 for its payload in its first byte, and in its last eight the offset in the image.
//! The key of the records is of one writing alone, which writes each place once: so no nonce is used twice.
//!
//! AES is what today's CPUs have instructions for, and AWS-LC is what makes the most of them: on one with
//! VAES it encrypts about as fast as memory can be copied. It zeroes what it makes of a key.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;

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

/// How long protecting took, of all threads together.
#[derive(Debug, Default)]
pub(super) struct Effort(AtomicU64);

impl Effort {
    /// Counts how long `work` takes.
    pub(super) fn of<T>(&self, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        // No truncation: it takes less than 500 years.
        let nanos = started.elapsed().as_nanos() as u64;
        self.0.fetch_add(nanos, Ordering::Relaxed);
        result
    }

    pub(super) fn took(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
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

    /// As [`open_payload`](Self::open_payload), but what was written goes to `place`, which must be as long; if it
    /// was not that, anything may be there then.
    pub(super) fn open_payload_to(
        &self,
        payload: &[u8],
        place: &mut [u8],
        offset: u64,
        check: &Check,
    ) -> bool {
        match self {
            _ if payload.len() != place.len() => false,
            Self::Checksums => {
                place.copy_from_slice(payload);
                &of_sum(payload) == check
            }
            Self::Sealed(key) => {
                let nonce = nonce(Use::Payload, offset);
                cipher(key)
                    .and_then(|cipher| {
                        cipher.open_separate_gather(nonce, Aad::empty(), payload, check, place)
                    })
                    .is_ok()
            }
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

fn nonce(nonce_use: Use, offset: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[0] = nonce_use as u8;
    nonce[4..].copy_from_slice(&offset.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// A cipher that is zeroed when it is dropped: AWS-LC zeroes all that it frees (`OPENSSL_free`).
fn cipher(key: &Key) -> Result<LessSafeKey, Unspecified> {
    UnboundKey::new(&AES_256_GCM, key.bytes()).map(LessSafeKey::new)
}

fn encrypt(key: &Key, nonce_use: Use, offset: u64, clear: &[u8], bytes: &mut [u8]) -> Check {
    let nonce = nonce(nonce_use, offset);
    let tag = cipher(key)
        .and_then(|cipher| cipher.seal_in_place_separate_tag(nonce, Aad::from(clear), bytes))
        .ok()
        .and_then(|tag| tag.as_ref().try_into().ok());
    debug_assert!(tag.is_some(), "nothing here is as long as 64 GiB");
    tag.unwrap_or_else(|| {
        // Nothing of it must be written as it is.
        bytes.fill(0);
        [0; 16]
    })
}

fn decrypt(
    key: &Key,
    nonce_use: Use,
    offset: u64,
    clear: &[u8],
    bytes: &mut [u8],
    check: &Check,
) -> bool {
    let nonce = nonce(nonce_use, offset);
    cipher(key)
        .and_then(|cipher| {
            cipher
                .open_in_place_separate_tag(nonce, Aad::from(clear), check, bytes)
                .map(drop)
        })
        .is_ok()
}
