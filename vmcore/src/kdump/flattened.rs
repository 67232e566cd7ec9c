//! makedumpfile's flattened format: a file as records that say where their bytes belong.

use std::collections::BinaryHeap;
use std::io;

use byteorder::{BE, ByteOrder};

use super::window::Window;
use super::{DumpError, check_end};
use crate::ReadAt;

/// The file that a flattened file holds, put in order as `makedumpfile -R` does: what a later record
/// says counts, and what none says is zero.
///
/// A flattened file begins with a header of 4,096 bytes: `makedumpfile` in 16 bytes, type and version as
/// 64-bit numbers. Records follow, each an offset and a size of 64 bits and so many bytes; the last has
/// offset and size -1. All numbers are big-endian.
#[derive(Debug)]
pub struct Flattened<S> {
    source: S,
    /// Parts of the file, in ascending order and without overlaps.
    parts: Vec<Piece>,
    size: u64,
}

/// Bytes `start..end` of the file, which lie in the flattened one from `at` on. They are in the order of
/// `at` first, so that the greatest of some is the one that was written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    at: u64,
    start: u64,
    end: u64,
}

/// `MAKEDUMPFILE_SIGNATURE`, with the zeros that fill it up.
const SIGNATURE: &[u8; 16] = b"makedumpfile\0\0\0\0";
/// `MAX_SIZE_MDF_HEADER`
const HEADER: u64 = 4096;
/// `TYPE_FLAT_HEADER`
const TYPE: u64 = 1;
/// `VERSION_FLAT_HEADER`
const VERSION: i64 = 1;
/// Size of `struct makedumpfile_data_header`.
const RECORD: usize = 16;
/// `END_FLAG_FLAT_HEADER`
const END: i64 = -1;

/// Whether `source` begins as a file in makedumpfile's flattened format does.
pub fn is_flattened(source: &impl ReadAt) -> bool {
    let mut start = [0; SIGNATURE.len()];
    source.read_exact_at(&mut start, 0).is_ok() && &start == SIGNATURE
}

impl<S: ReadAt> Flattened<S> {
    /// Goes through the headers of all records.
    ///
    /// # Errors
    ///
    /// [`DumpError`] if it is no flattened file, if it is truncated, if a record cannot be right, or if
    /// the file would be far larger than what the records hold.
    pub fn open(source: S) -> Result<Self, DumpError> {
        if !is_flattened(&source) {
            return Err(DumpError::NotFlattened);
        }
        let size = source.size();
        check_end("the header of the flattened format", 0, HEADER, size)?;
        let mut window = Window::new(4 << 10);
        check_header(fetch(&mut window, &source, SIGNATURE.len() as u64)?)?;
        let mut pieces = Vec::new();
        let mut at = HEADER;
        loop {
            check_end("the header of a record", at, RECORD as u64, size)?;
            let record = fetch(&mut window, &source, at)?;
            // No overflow: this was checked to be within the source.
            at += RECORD as u64;
            let (offset, len) = (BE::read_i64(record), BE::read_i64(&record[8..]));
            if (offset, len) == (END, END) {
                break;
            }
            let piece = check_record(offset, len, at)?;
            check_end("a record", at, piece.end - piece.start, size)?;
            at += piece.end - piece.start;
            pieces.push(piece);
        }
        let end = pieces.iter().map(|piece| piece.end).max().unwrap_or(0);
        // makedumpfile leaves hardly a gap. A few bytes that speak of a huge file would keep those busy
        // who read all of it.
        if end > size.saturating_mul(16).saturating_add(1 << 30) {
            return Err(DumpError::Malformed {
                what: "the size of the file that the flattened one holds",
                value: end,
            });
        }
        Ok(Self {
            source,
            parts: in_order(pieces),
            size: end,
        })
    }

    /// Where the records come from.
    pub fn source(&self) -> &S {
        &self.source
    }
}

/// The 16 bytes at `at`.
fn fetch<'a>(window: &'a mut Window, source: &impl ReadAt, at: u64) -> Result<&'a [u8], DumpError> {
    window
        .fetch(source, at, RECORD)
        .map_err(|source| DumpError::Read { offset: at, source })
}

/// Checks type and version.
fn check_header(bytes: &[u8]) -> Result<(), DumpError> {
    let (kind, version) = (BE::read_u64(bytes), BE::read_i64(&bytes[8..]));
    if kind != TYPE {
        return Err(DumpError::Malformed {
            what: "the type of the flattened file",
            value: kind,
        });
    }
    if version != VERSION {
        return Err(DumpError::Version {
            format: "flattened",
            version,
            newest: VERSION,
        });
    }
    Ok(())
}

/// What a record that has its bytes at `at` says.
fn check_record(offset: i64, len: i64, at: u64) -> Result<Piece, DumpError> {
    let malformed = |what, value: i64| DumpError::Malformed {
        what,
        value: value.cast_unsigned(),
    };
    let start = u64::try_from(offset).map_err(|_| malformed("the offset of a record", offset))?;
    let len = match u64::try_from(len) {
        Ok(0) | Err(_) => return Err(malformed("the size of a record", len)),
        Ok(len) => len,
    };
    // No overflow: both have 63 bits.
    let end = start + len;
    Ok(Piece { at, start, end })
}

/// The pieces in ascending order; where some overlap, the one that was written last remains. There are
/// at most twice as many afterwards.
fn in_order(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_unstable_by_key(|piece| (piece.start, piece.at));
    let apart = |pair: &[Piece]| pair[0].end <= pair[1].start;
    if pieces.windows(2).all(apart) {
        return pieces;
    }
    let mut parts: Vec<Piece> = Vec::with_capacity(pieces.len());
    // Pieces that began; the one on top was written last.
    let mut begun: BinaryHeap<Piece> = BinaryHeap::new();
    let mut coming = pieces.into_iter().peekable();
    let mut from = 0;
    loop {
        while begun.peek().is_some_and(|top| top.end <= from) {
            begun.pop();
        }
        let next = coming.peek().map(|piece| piece.start);
        if let Some(top) = begun.peek() {
            let end = next.map_or(top.end, |next| next.min(top.end));
            push(&mut parts, top, from, end);
            from = end;
        } else {
            match next {
                Some(next) => from = next,
                None => return parts,
            }
        }
        while let Some(piece) = coming.next_if(|piece| piece.start <= from) {
            begun.push(piece);
        }
    }
}

/// Adds bytes `from..end` of `piece`, which go on where the last part ends or lie further up.
fn push(parts: &mut Vec<Piece>, piece: &Piece, from: u64, end: u64) {
    if from >= end {
        return;
    }
    let at = piece.at + (from - piece.start);
    match parts.last_mut() {
        Some(last) if last.end == from && last.at + (last.end - last.start) == at => {
            last.end = end;
        }
        _ => parts.push(Piece {
            at,
            start: from,
            end,
        }),
    }
}

impl<S: ReadAt> ReadAt for Flattened<S> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset
            .checked_add(buf.len() as u64)
            .filter(|end| *end <= self.size)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut at = offset;
        let mut rest = buf;
        let first = self.parts.partition_point(|part| part.end <= offset);
        for part in &self.parts[first..] {
            if part.start >= end {
                break;
            }
            let (gap, later) = rest.split_at_mut(clamp(part.start.saturating_sub(at), rest.len()));
            gap.fill(0);
            at = at.max(part.start);
            let (here, later) = later.split_at_mut(clamp(part.end - at, later.len()));
            self.source
                .read_exact_at(here, part.at + (at - part.start))?;
            at = part.end;
            rest = later;
        }
        rest.fill(0);
        Ok(())
    }
}

/// `len`, but `most` at most.
fn clamp(len: u64, most: usize) -> usize {
    usize::try_from(len).map_or(most, |len| len.min(most))
}
