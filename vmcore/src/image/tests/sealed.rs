//! Sealed images: what they hide, and what is found to have been done to them.

use super::*;

const SECRET: &[u8] = b"a secret of more than 16 bytes";

fn id() -> ImageId {
    identity(1).id
}

fn secret() -> Secret {
    Secret::key(SECRET.to_vec()).unwrap()
}

fn seal() -> Seal {
    Seal::new(&secret(), id()).unwrap()
}

fn sealed(pages: &[Page], codec: Codec, piped: bool, seal: &Seal) -> Vec<u8> {
    let options = Options {
        codec,
        threads: 2,
        seal: Some(seal),
    };
    if piped {
        let mut bytes = Vec::new();
        save(pages, &Stream::new(&mut bytes), options).unwrap();
        return bytes;
    }
    let sink = Mutex::new(Vec::new());
    save(pages, &sink, options).unwrap();
    sink.into_inner().unwrap()
}

/// Reads all of the image, as those who restore do.
fn read(bytes: &[u8], key: &Key) -> Result<RangeMap<PageClass>, ImageError> {
    Image::open_with(bytes, Some(key)).and_then(|image| read_all(&image))
}

fn read_in_order(bytes: &[u8], key: &Key) -> Result<(), ImageError> {
    let mut stream = ImageStream::open_with(bytes, |_| Ok(Some(key.clone())))?;
    while let Some(mut chunk) = stream.next_chunk()? {
        let mut data = vec![0; chunk.chunk.data_len() as usize];
        chunk.read(&mut [&mut data])?;
    }
    Ok(())
}

/// Where records are that hold memory, and their sizes.
fn records(bytes: &[u8], key: &Key) -> Vec<(usize, usize)> {
    let image = Image::open_with(bytes, Some(key)).unwrap();
    let entries = image.index().unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            let size = record::BLOCK + record::Record::padded(entry.stored);
            (entry.offset as usize, size as usize)
        })
        .collect()
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_sealed_image_reads_back(pages in pages(), codec in 0..3_usize, piped in any::<bool>()) {
        let seal = seal();
        let bytes = sealed(&pages, CODECS[codec], piped, &seal);
        prop_assert!(bytes.len() as u64 <= largest_size(pages.len() as u64 * PAGE_SIZE));
        let image = Image::open_with(bytes.as_slice(), Some(&seal.key)).unwrap();
        prop_assert!(image.is_sealed());
        prop_assert_eq!(image.phases(), &phases());
        let map = read_all(&image).unwrap();
        let memory = ImageMemory::open(image).unwrap();
        prop_assert_eq!(memory.contents(), &map);
        check_memory(&memory, &pages)?;
        read_in_order(&bytes, &seal.key).unwrap();
    }

    /// Whichever byte changes, and however, it is found before anything of its record is used.
    #[test]
    fn any_change_is_noticed(at in any::<prop::sample::Index>(), by in 1..=255_u8, piped in any::<bool>(), codec in 0..3_usize) {
        let seal = seal();
        let mut bytes = sealed(&some_pages(), CODECS[codec], piped, &seal);
        let at = at.index(bytes.len());
        bytes[at] ^= by;
        let commit = COMMIT_OFFSET as usize..RECORDS_OFFSET as usize;
        let said = COMMIT_OFFSET as usize..COMMIT_OFFSET as usize + 48;
        let of_no_meaning = commit.contains(&at) && !said.contains(&at);
        prop_assert_eq!(read(&bytes, &seal.key).is_err(), !of_no_meaning, "byte {} of {}", at, bytes.len());
        prop_assert_eq!(read_in_order(&bytes, &seal.key).is_err(), !of_no_meaning);
    }

    #[test]
    fn what_is_cut_short_is_refused(cut in any::<prop::sample::Index>(), piped in any::<bool>()) {
        let seal = seal();
        let mut bytes = sealed(&some_pages(), Codec::Lz4, piped, &seal);
        let whole = bytes.len();
        bytes.truncate(cut.index(whole));
        prop_assert!(read(&bytes, &seal.key).is_err());
        prop_assert!(read_in_order(&bytes, &seal.key).is_err());
    }

    /// Whatever record is put where another one was, of this image or of another one of the same owner.
    #[test]
    fn what_changes_places_is_refused(one in any::<prop::sample::Index>(), two in any::<prop::sample::Index>(), from_other in any::<bool>()) {
        let seal = seal();
        let pages = [Page::Noise; 900];
        let mut bytes = sealed(&pages, Codec::None, false, &seal);
        let records = records(&bytes, &seal.key);
        // All but the last are of one size.
        let full = records.len() - 1;
        let ((one, size), (two, _)) = (records[one.index(full)], records[two.index(full)]);
        let other = if from_other { sealed(&pages, Codec::None, false, &seal) } else { bytes.clone() };
        prop_assume!(from_other || one != two);
        bytes[one..one + size].copy_from_slice(&other[two..two + size]);
        let refused = matches!(read(&bytes, &seal.key), Err(ImageError::Tampered { offset, .. }) if offset == one as u64);
        prop_assert!(refused);
    }

    #[test]
    fn any_page_is_refused_or_read(junk in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Seal::from_page(&junk).is_none());
    }
}

/// The records of one image under the header of another one, of the same owner and key: of an earlier
/// writing, or with the commit record too.
#[test]
fn two_images_of_one_key_are_not_spliced() {
    let seal = seal();
    let old = sealed(&some_pages(), Codec::Lz4, false, &seal);
    let new = sealed(&some_pages(), Codec::Lz4, false, &seal);
    for end in [COMMIT_OFFSET, RECORDS_OFFSET] {
        let end = end as usize;
        let spliced = [&new[..end], &old[end..]].concat();
        assert!(matches!(
            read(&spliced, &seal.key),
            Err(ImageError::Tampered { .. })
        ));
    }
}

/// Only what a disk had at one time goes together, whatever part of it is rolled back.
#[test]
fn a_part_that_is_rolled_back_is_noticed() {
    let seal = seal();
    let mut pages = some_pages();
    let old = sealed(&pages, Codec::None, false, &seal);
    pages[0] = Page::Noise;
    let new = sealed(&pages, Codec::None, false, &seal);
    assert_eq!(old.len(), new.len());
    for at in (RECORDS_OFFSET as usize..old.len()).step_by(PAGE) {
        let mut mixed = new.clone();
        mixed[at..at + PAGE].copy_from_slice(&old[at..at + PAGE]);
        assert!(read(&mixed, &seal.key).is_err(), "block {at}");
    }
}

#[test]
fn a_key_is_that_of_one_image_and_one_secret() {
    let ours = seal();
    let bytes = sealed(&some_pages(), Codec::Lz4, false, &ours);
    let sealing = Header::read(&bytes).unwrap().sealing().unwrap();
    assert_eq!(sealing, ours.sealing);
    let refused = |key: &Key| matches!(read(&bytes, key), Err(ImageError::WrongKey));
    assert!(!refused(&sealing.key(&secret(), id()).unwrap()));
    let other = Secret::key(b"another secret of that length".to_vec()).unwrap();
    assert!(refused(&sealing.key(&other, id()).unwrap()));
    assert!(refused(&sealing.key(&secret(), ImageId([9; 16])).unwrap()));
    assert!(refused(&seal().key));
    assert!(matches!(
        Image::open(bytes.as_slice()),
        Err(ImageError::NeedsKey { kdf: Kdf::Key })
    ));
    assert!(matches!(
        ImageStream::open(bytes.as_slice()),
        Err(ImageError::NeedsKey { .. })
    ));
    // One that is not sealed is not what the owner of a key expects.
    assert!(matches!(
        read(&image_of(&some_pages()), &ours.key),
        Err(ImageError::NotSealed)
    ));
    let passphrase = Secret::passphrase(SECRET.to_vec()).unwrap();
    assert!(matches!(
        sealing.key(&passphrase, id()),
        Err(ImageError::OtherSecret { .. })
    ));
    // A seal is that of its image.
    let seal = Seal::new(&secret(), ImageId([9; 16])).unwrap();
    let options = Options {
        codec: Codec::None,
        threads: 1,
        seal: Some(&seal),
    };
    let sink = Mutex::new(Vec::new());
    assert!(save(&some_pages(), &sink, options).is_err());
    assert_eq!(sink.into_inner().unwrap(), []);
}

/// Who gives an image up has no key.
#[test]
fn an_image_that_was_written_in_order_is_given_up_without_its_key() {
    let seal = seal();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&sealed(&some_pages(), Codec::Lz4, true, &seal))
        .unwrap();
    let source = || ReadFile::new(file.try_clone().unwrap()).unwrap();
    discard(&source(), &file).unwrap();
    let (image, resumable) = Image::examine_with(source(), Some(&seal.key)).unwrap();
    assert!(matches!(resumable, Err(ImageError::Discarded)));
    read_all(&image).unwrap();
}

/// A header with a right checksum, which anybody can make, is not one with a right tag.
#[test]
fn a_header_that_was_made_up_is_refused() {
    let seal = seal();
    let mut bytes = sealed(&some_pages(), Codec::Lz4, false, &seal);
    let sum = HEADER_SIZE as usize - 8;
    // The release is among the first that it says.
    bytes[40] ^= 1;
    let said = checksum::checksum(&bytes[..sum]);
    bytes[sum..][..8].copy_from_slice(&said.to_le_bytes());
    assert!(matches!(
        read(&bytes, &seal.key),
        Err(ImageError::WrongKey | ImageError::Malformed { .. })
    ));
}

#[test]
fn nothing_of_memory_or_of_the_key_is_in_clear() {
    let seal = seal();
    let pages = [Page::Noise; 40];
    for codec in CODECS {
        let bytes = sealed(&pages, codec, false, &seal);
        let plain = {
            let sink = Mutex::new(Vec::new());
            save(&pages, &sink, options(codec, 1)).unwrap();
            sink.into_inner().unwrap()
        };
        for number in 0..pages.len() as u64 {
            let page = bytes_of(Page::Noise, FIRST + number);
            assert!(contains(&plain, &page[100..132]), "the test finds nothing");
            assert!(!contains(&bytes, &page[100..132]));
        }
        assert!(!contains(&bytes, seal.key.bytes()));
        assert!(!contains(&bytes, SECRET));
    }
    // Nor does the same memory look the same twice.
    let one = sealed(&pages, Codec::None, false, &seal);
    let two = sealed(&pages, Codec::None, false, &seal);
    for (one, two) in one.chunks(PAGE).zip(two.chunks(PAGE)).skip(16) {
        assert!(one[64..] != two[64..]);
    }
}

#[test]
fn passphrases_are_stretched() {
    let passphrase = Secret::passphrase(b"correct horse".to_vec()).unwrap();
    let seal = Seal::new(&passphrase, id()).unwrap();
    assert!(matches!(seal.sealing.kdf, Kdf::Passphrase { .. }));
    let bytes = sealed(&some_pages(), Codec::Lz4, true, &seal);
    let sealing = Header::read(&bytes).unwrap().sealing().unwrap();
    let again = sealing.key(&passphrase, id()).unwrap();
    read(&bytes, &again).unwrap();
    let endless = Sealing {
        kdf: Kdf::Passphrase {
            memory: u32::MAX,
            passes: u32::MAX,
            lanes: 1,
        },
        salt: [0; 32],
    };
    assert!(matches!(
        endless.key(&passphrase, id()),
        Err(ImageError::Malformed { .. })
    ));
}

#[test]
fn secrets_that_are_none_are_refused() {
    assert!(matches!(
        Secret::key(vec![1; 15]),
        Err(ImageError::ShortKey { len: 15 })
    ));
    assert!(Secret::key(vec![1; 16]).is_ok());
    assert!(Secret::passphrase(Vec::new()).is_err());
}

#[test]
fn a_seal_is_handed_on_in_a_page() {
    for secret in [secret(), Secret::passphrase(b"x".to_vec()).unwrap()] {
        let seal = Seal::new(&secret, id()).unwrap();
        let page = seal.to_page();
        assert_eq!(page.len(), Seal::PAGE);
        let again = Seal::from_page(&page).unwrap();
        assert_eq!((again.id, again.sealing), (seal.id, seal.sealing));
        assert_eq!(again.key.bytes(), seal.key.bytes());
        for at in 0..112 {
            let mut wrong = page.to_vec();
            wrong[at] ^= 1;
            assert!(Seal::from_page(&wrong).is_none(), "byte {at}");
        }
        assert!(Seal::from_page(&[0; Seal::PAGE]).is_none());
    }
}

#[test]
fn keys_are_not_shown() {
    let seal = seal();
    let shown = format!("{seal:?} {:?} {:?}", secret(), seal.key);
    let key: Vec<String> = seal.key.bytes()[..4].iter().map(u8::to_string).collect();
    assert!(
        !shown.contains(&key.join(", ")) && !shown.contains("a secret"),
        "{shown}"
    );
}

/// By another implementation of what docs/format.md says (Python's `cryptography`, by OpenSSL).
#[test]
fn others_would_seal_it_just_so() {
    let sealing = Sealing {
        kdf: Kdf::Key,
        salt: [0x5a; 32],
    };
    let key = sealing
        .key(&secret(), ImageId(*b"0123456789abcdef"))
        .unwrap();
    let protection = protection::Protection::Sealed(key.of_records(&[0xa5; 16]));
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };

    let mut payload = *b"put aside put as";
    let check = protection.payload(&mut payload, 0x11000);
    assert_eq!(hex(&payload), "4d42a27ae4d7a742a7bc45bf2e02e28a");
    assert_eq!(hex(&check), "e8e9777487438bff5cf8c7422fb0d105");
    assert!(!protection.open_payload(&mut payload.clone(), 0x12000, &check));
    assert!(protection.open_payload(&mut payload, 0x11000, &check));
    assert_eq!(&payload, b"put aside put as");

    let mut block = *b"clearbody of a block!";
    let check = protection.block(&mut block, 5, 0x11000);
    assert_eq!(hex(&block[5..]), "bd58f52c97301f10219f4f7c3e9326a6");
    assert_eq!(hex(&check), "587d51b015b5047fb32f04b2bf7200a7");
    assert!(!protection.open_block(&mut block.clone(), 4, 0x11000, &check));
    assert!(protection.open_block(&mut block, 5, 0x11000, &check));

    let check = protection.header(b"a header");
    assert_eq!(hex(&check), "e19a82ca3185749e241b2d1aac569c7e");
    assert!(protection.open_header(b"a header", &check));
    assert!(!protection.open_header(b"A header", &check));
}
