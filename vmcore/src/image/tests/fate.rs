//! What becomes of an image after it was written, and what is left of one.

use super::*;

#[test]
fn what_becomes_of_an_image_is_known() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&image_of(&some_pages())).unwrap();
    let source = || ReadFile::new(file.try_clone().unwrap()).unwrap();
    for attempts in 0..3 {
        let image = Image::open(source()).unwrap();
        assert_eq!(image.attempts(), attempts);
        image.mark_attempt(&file).unwrap();
    }
    let image = Image::open(source()).unwrap();
    image.mark_resumed(&file).unwrap();
    assert!(matches!(Image::open(source()), Err(ImageError::Resumed)));
    image.unmark_resumed(&file).unwrap();
    assert_eq!(Image::open(source()).unwrap().attempts(), 3);
    Image::open(source()).unwrap().discard(&file).unwrap();
    // What somebody else did meanwhile stays.
    assert!(image.mark_attempt(&file).is_err());
    assert!(matches!(Image::open(source()), Err(ImageError::Discarded)));
    prepare(&identity(1), &file).unwrap();
    assert!(matches!(Image::open(source()), Err(ImageError::Prepared)));
    record_failure(&identity(1), "no space", &file).unwrap();
    assert!(
        matches!(Image::open(source()), Err(ImageError::Failed { reason }) if reason == "no space")
    );
}

/// Those who resume it once more by force leave it as it was if they fail.
#[test]
fn an_image_that_was_resumed_stays_so() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&image_of(&some_pages())).unwrap();
    let examine = || Image::examine(ReadFile::new(file.try_clone().unwrap()).unwrap()).unwrap();
    examine().0.mark_resumed(&file).unwrap();
    type Mark = fn(&Image<ReadFile>, &std::fs::File) -> io::Result<()>;
    let marks: [Mark; 3] = [
        Image::mark_attempt,
        Image::mark_resumed,
        Image::unmark_resumed,
    ];
    for mark in marks {
        let (image, _) = examine();
        mark(&image, &file).unwrap();
        let (image, resumable) = examine();
        assert!(matches!(resumable, Err(ImageError::Resumed)));
        assert_eq!(image.attempts(), 1);
    }
}

/// One that was written in order has no commit record before something becomes of it.
#[test]
fn what_becomes_of_an_image_that_was_written_in_order_is_known() {
    let whole = stream_of(&some_pages());
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&whole).unwrap();
    let source = || ReadFile::new(file.try_clone().unwrap()).unwrap();
    let image = Image::open(source()).unwrap();
    image.mark_attempt(&file).unwrap();
    assert_eq!(Image::open(source()).unwrap().attempts(), 1);
    image.mark_resumed(&file).unwrap();
    assert!(matches!(Image::open(source()), Err(ImageError::Resumed)));
    assert!(matches!(
        glance(&source()),
        Ok((_, Err(ImageError::Resumed)))
    ));

    // Where that cannot be read any more, nobody knows that it was not resumed.
    let mut damaged = whole.clone();
    damaged[COMMIT_OFFSET as usize + 47] = 1;
    let is_damaged = |error| matches!(error, Some(ImageError::Checksum { .. }));
    assert!(is_damaged(Image::open(damaged.as_slice()).err()));
    assert!(is_damaged(ImageStream::open(damaged.as_slice()).err()));
    assert!(is_damaged(glance(&damaged).unwrap().1.err()));

    for bytes in [&whole, &damaged] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let source = || ReadFile::new(file.try_clone().unwrap()).unwrap();
        discard(&source(), &file).unwrap();
        let (image, resumable) = Image::examine(source()).unwrap();
        assert!(matches!(resumable, Err(ImageError::Discarded)));
        read_all(&image).unwrap();
    }
    // What is not whole is no image that could be given up.
    let mut cut = tempfile::tempfile().unwrap();
    cut.write_all(&whole[..whole.len() - 8192]).unwrap();
    let source = ReadFile::new(cut.try_clone().unwrap()).unwrap();
    assert!(matches!(
        discard(&source, &cut),
        Err(ImageError::Uncommitted)
    ));
}

/// The records and the commit record of another image, as left by one that was there before.
#[test]
fn what_is_left_of_another_image_proves_nothing() {
    let image = image_of(&some_pages());
    let other: Vec<u8> = {
        let mut machine_of_other = identity(some_pages().len() as u64);
        machine_of_other.id = ImageId([9; 16]);
        let header = Header {
            identity: machine_of_other,
            stage: Stage::Saved(Saved {
                jump_back: Some(PhysAddr::new(0x5000)),
                in_order: false,
            }),
            sealed: None,
        };
        [
            header.encode(&protection::Protection::Checksums).unwrap(),
            image[COMMIT_OFFSET as usize..].to_vec(),
        ]
        .concat()
    };
    assert!(matches!(
        Image::open(other.clone()),
        Err(ImageError::Uncommitted)
    ));
    let mut committed = other;
    let saved = Saved {
        jump_back: None,
        in_order: false,
    };
    let commit = commit::Commit::read(&image, identity(1).id, saved).unwrap();
    let record = commit.unwrap().encode(ImageId([9; 16]));
    committed[COMMIT_OFFSET as usize..][..record.len()].copy_from_slice(&record);
    assert!(matches!(
        Image::open(committed),
        Err(ImageError::Foreign { .. })
    ));
}
