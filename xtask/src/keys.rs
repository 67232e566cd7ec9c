//! The keys of an image, and where in a machine's memory they are.

use anyhow::{Context, Result, ensure};
use argon2::{Algorithm, Argon2, Params, Version};
use hkdf::Hkdf;
use memchr::memmem::Finder;
use sha2::Sha256;
use vmcore::image::{Header, Kdf, Seal};
use vmcore::{Memory, PAGE_SIZE, PageClass, PhysAddr, PhysRange};

use crate::settings;

/// What the guest's key file holds, and its kernel's keyring.
pub(crate) const KEY: &[u8] = b"what nobody else knows: 7c1f0a93";

/// What the lab types when it is asked for the passphrase, and what it types by mistake.
pub(crate) const PASSPHRASE: &str = "a horse that was asked twice";
pub(crate) const MISTYPED: &str = "a horse that was asked once";

/// What an HMAC (RFC 2104) makes of its key, besides the key.
const PADS: [u8; 3] = [0, 0x36, 0x5c];

/// Bytes that are looked for, and what they are.
pub(crate) struct Needle {
    pub(crate) what: String,
    pub(crate) bytes: Vec<u8>,
}

impl Needle {
    pub(crate) fn new(what: &str, bytes: &[u8]) -> Self {
        Self {
            what: what.to_owned(),
            bytes: bytes.to_vec(),
        }
    }

    /// Both halves of a key: a CPU may spill it in such pieces.
    fn halves<'a>(what: &'a str, key: &'a [u8]) -> impl Iterator<Item = Self> + 'a {
        key.chunks(16).map(move |half| Self::new(what, half))
    }

    /// The halves of a key that an HMAC has.
    fn of_hmac<'a>(what: &'a str, key: &'a [u8]) -> impl Iterator<Item = Self> + 'a {
        PADS.into_iter().flat_map(move |pad| {
            let padded: Vec<u8> = key.iter().map(|byte| byte ^ pad).collect();
            Self::halves(what, &padded).collect::<Vec<_>>()
        })
    }
}

/// What a secret of this kind is.
pub(crate) fn secret(kind: settings::Secret) -> Result<vmcore::image::Secret> {
    Ok(match kind {
        settings::Secret::KeyFile | settings::Secret::Keyring => {
            vmcore::image::Secret::key(KEY.to_vec())?
        }
        settings::Secret::Passphrase => {
            vmcore::image::Secret::passphrase(PASSPHRASE.as_bytes().to_vec())?
        }
    })
}

/// All from which the memory in an image could be read: what it takes for `seal`, and for the records under
/// `header`, if that is known.
pub(crate) fn needles(seal: &Seal, header: Option<&Header>) -> Result<Vec<Needle>> {
    let mut needles: Vec<Needle> =
        Needle::halves("the key of the image", seal.key.bytes()).collect();
    let salt = &seal.sealing.salt;
    let input = match seal.sealing.kdf {
        Kdf::Key => KEY.to_vec(),
        Kdf::Passphrase {
            memory,
            passes,
            lanes,
        } => {
            let mut hash = [0; 32];
            let params = Params::new(memory, passes, lanes, Some(hash.len()));
            let argon =
                params.map(|params| Argon2::new(Algorithm::Argon2id, Version::V0x13, params));
            argon
                .and_then(|argon| argon.hash_password_into(PASSPHRASE.as_bytes(), salt, &mut hash))
                .map_err(|error| anyhow::anyhow!("Argon2id: {error}"))?;
            needles.extend(Needle::halves("what Argon2id made", &hash));
            hash.to_vec()
        }
    };
    let (extracted, hkdf) = Hkdf::<Sha256>::extract(Some(salt), &input);
    needles.extend(Needle::of_hmac("what HKDF extracted", &extracted));
    let mut key = [0; 32];
    hkdf.expand(&[b"kjump image", seal.id.0.as_slice()].concat(), &mut key)
        .map_err(|error| anyhow::anyhow!("HKDF: {error}"))?;
    ensure!(&key == seal.key.bytes(), "the key is derived another way");

    let (extracted, _) = Hkdf::<Sha256>::extract(None, seal.key.bytes());
    needles.extend(Needle::of_hmac("what HKDF extracted", &extracted));
    let Some(header) = header else {
        return Ok(needles);
    };
    let records = header.records_key(&seal.key).context("it is not sealed")?;
    needles.extend(Needle::halves("the key of the records", records.bytes()));
    Ok(needles)
}

/// How much of memory is looked at in one go.
const PIECE: u64 = 4 << 20;

/// Where each of `needles` is in `memory`.
pub(crate) fn find(memory: &impl Memory, needles: &[Needle]) -> Result<Vec<Vec<PhysAddr>>> {
    let finders: Vec<Finder<'_>> = needles
        .iter()
        .map(|needle| Finder::new(&needle.bytes))
        .collect();
    let longest = needles.iter().map(|needle| needle.bytes.len()).max();
    let longest = longest.unwrap_or(1) as u64;
    let mut found = vec![Vec::new(); needles.len()];
    let mut bytes = Vec::new();
    for (range, class) in memory.contents().iter() {
        if *class != PageClass::Data {
            continue;
        }
        let mut at = range.start();
        while at < range.end() {
            let left = range.end().get() - at.get();
            // What begins in a piece may end in the next one.
            bytes.resize(usize::try_from(left.min(PIECE + longest - 1))?, 0);
            memory.read(at, &mut bytes)?;
            for (finder, found) in finders.iter().zip(&mut found) {
                let hits = finder.find_iter(&bytes).map(|hit| hit as u64);
                let hits = hits.filter(|&hit| hit < PIECE);
                found.extend(hits.filter_map(|hit| at.checked_add(hit)));
            }
            at = PhysAddr::new(range.end().get().min(at.get() + PIECE));
        }
    }
    Ok(found)
}

/// What a kernel has before a key in its keyring: two words for when it is freed, and the length in two bytes
/// and zeros or anything (`struct user_key_payload` in `include/keys/user-type.h`).
const PAYLOAD: u64 = 24;

/// Whether [`KEY`], which is in `memory` at `place`, is what a kernel itself keeps of it: the one page of a file
/// that is not longer, or the one object of its allocator that has a key of its keyring.
pub(crate) fn is_kept(
    memory: &impl Memory,
    secret: settings::Secret,
    place: PhysAddr,
) -> Result<bool> {
    Ok(match secret {
        settings::Secret::KeyFile => {
            let mut page = vec![0; PAGE_SIZE as usize];
            memory.read(place.align_down(PAGE_SIZE), &mut page)?;
            page.starts_with(KEY) && page[KEY.len()..].iter().all(|&byte| byte == 0)
        }
        settings::Secret::Keyring => {
            // `kmalloc` gives objects of a power of two bytes, at multiples of that (its documentation in
            // `include/linux/slab.h`).
            let object = (PAYLOAD + KEY.len() as u64).next_power_of_two();
            let at = place.align_down(object);
            let mut head = [0; PAYLOAD as usize];
            memory.read(at, &mut head)?;
            place.offset_from(at) == Some(PAYLOAD)
                && head[16..18] == u16::try_from(KEY.len())?.to_le_bytes()
        }
        settings::Secret::Passphrase => false,
    })
}

/// The seals that are handed on in pages of `memory`.
pub(crate) fn seals(memory: &impl Memory) -> Result<Vec<Seal>> {
    let magic = [Needle::new("a page that hands a key on", b"KJUMPKEY")];
    let mut seals = Vec::new();
    for at in find(memory, &magic)?.concat() {
        let mut page = vec![0; Seal::PAGE];
        if PhysRange::from_len(at, Seal::PAGE as u64)
            .is_some_and(|range| memory.contents().covers(range))
        {
            memory.read(at, &mut page)?;
            seals.extend(Seal::from_page(&page));
        }
    }
    Ok(seals)
}

#[cfg(test)]
mod tests {
    use vmcore::elf::{Core, CoreHeaders, Load};
    use vmcore::image::ImageId;

    use super::*;

    fn memory(bytes: &[u8]) -> Core<Vec<u8>> {
        let mut headers = CoreHeaders::new();
        headers.load(Load {
            memory: PhysRange::from_len(PhysAddr::new(0x10_0000), bytes.len() as u64).unwrap(),
            offset: 120,
            file_size: bytes.len() as u64,
            virt: 0,
        });
        Core::open([headers.encode(), bytes.to_vec()].concat()).unwrap()
    }

    #[test]
    fn what_is_there_is_found_once_wherever_it_is() {
        let piece = usize::try_from(PIECE).unwrap();
        let mut bytes = vec![7; 2 * piece + 100];
        let places = [
            0,
            5000,
            piece - 1,
            piece + 31,
            2 * piece - 32,
            2 * piece + 68,
        ];
        for at in places {
            bytes[at..at + KEY.len()].copy_from_slice(KEY);
        }
        let needles = [Needle::new("key", KEY), Needle::new("none", b"nowhere")];
        let found = find(&memory(&bytes), &needles).unwrap();
        let expected = places.map(|at| PhysAddr::new(0x10_0000 + at as u64));
        assert_eq!(found, [expected.to_vec(), Vec::new()]);
    }

    /// What a kernel keeps is told from a copy that a program left, wherever that is.
    #[test]
    fn only_what_a_kernel_keeps_is_kept() {
        let page = |at: usize, before: &[u8], after: u8| {
            let mut page = vec![0; 4096];
            page[at - before.len()..at].copy_from_slice(before);
            page[at..at + KEY.len()].copy_from_slice(KEY);
            page[at + KEY.len()] = after;
            page
        };
        let kept = |secret, page: &[u8], at: usize| {
            let place = PhysAddr::new(0x10_0000 + at as u64);
            is_kept(&memory(page), secret, place).unwrap()
        };
        let file = settings::Secret::KeyFile;
        assert!(kept(file, &page(0, &[], 0), 0));
        assert!(!kept(file, &page(0, &[], 1), 0));
        assert!(!kept(file, &page(64, &[], 0), 64));
        assert!(!kept(file, &page(8, b"KJUMPKEY", 0), 8));
        let keyring = settings::Secret::Keyring;
        let len = [32, 0, 0, 0, 0, 0, 0, 0];
        assert!(kept(keyring, &page(64 + 24, &len, 0), 64 + 24));
        assert!(!kept(
            keyring,
            &page(64 + 24, &[31, 0, 0, 0, 0, 0, 0, 0], 0),
            64 + 24
        ));
        assert!(!kept(keyring, &page(64 + 32, &len, 0), 64 + 32));
        assert!(!kept(keyring, &page(24, &[], 0), 24));
        assert!(!kept(settings::Secret::Passphrase, &page(0, &[], 0), 0));
    }

    /// A page that hands a key on is found, and in it the key; in zeros there is none.
    #[test]
    fn a_key_that_is_handed_on_is_found() {
        for kind in [settings::Secret::KeyFile, settings::Secret::Passphrase] {
            let seal = Seal::new(&secret(kind).unwrap(), ImageId([3; 16])).unwrap();
            let page = seal.to_page();
            let memory = memory(&[&[0; 4096], page.as_slice(), &[0; 4096]].concat());
            let found = seals(&memory).unwrap();
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].key.bytes(), seal.key.bytes());
            let needles = needles(&found[0], None).unwrap();
            let hits = find(&memory, &needles).unwrap();
            assert!(hits[..2].iter().all(|hits| hits.len() == 1));
            assert!(hits[2..].iter().all(Vec::is_empty));
        }
    }
}
