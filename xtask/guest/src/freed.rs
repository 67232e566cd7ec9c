//! Free memory: full of what processes left there before the jump, and empty for who gets it after.
//!
//! An image need not have what is in free pages. But the kernel may count on it: with `init_on_free`
//! free pages are zero, and are given out as they are; with `page_poison` they hold a pattern that is
//! checked (`mm/page_alloc.c`, `mm/page_poison.c`).

use std::hint::black_box;

use anyhow::{Context, Result, bail, ensure};

use crate::content::{Content, Findings, PAGE_BYTES, PAGE_WORDS};
use crate::memory::{self, Memory};
use crate::witness::Witness;
use crate::worker::{self, Worker};
use crate::{machine, processors};

/// How much of the free memory is taken to look at it, in percent. The rest is for the kernel.
const TAKEN: u64 = 85;

/// What is written to a page so that it is there at all.
const MARK: u64 = 1;

/// Memory that was filled and freed.
pub(crate) struct Freed {
    seed: u64,
    percent: u8,
    spoilt: bool,
}

impl Freed {
    /// Memory of which `percent` are to be filled with content that follows from `seed`, and freed.
    pub(crate) fn new(seed: u64, percent: u8) -> Self {
        Self {
            // Not the content of memory that is held.
            seed: seed ^ 0xf4ee,
            percent,
            spoilt: false,
        }
    }
}

impl Witness for Freed {
    fn name(&self) -> &'static str {
        "freed"
    }

    fn before(&mut self) -> Result<String> {
        self.spoilt = false;
        let bytes = Memory::fill(Content::new(self.seed), self.percent)?.free()?;
        Ok(format!(
            "{} MiB filled and freed, {} MiB free",
            bytes >> 20,
            machine::free_memory()? >> 20
        ))
    }

    fn verify(&mut self) -> Result<String> {
        let processors = machine::online_processors()?;
        let pages = machine::free_memory()? / 100 * TAKEN / PAGE_BYTES as u64;
        let share = (pages / processors.len() as u64).to_string();
        let mut takers = Vec::new();
        for processor in &processors {
            takers.push(Worker::start(&[
                "take-memory",
                &processor.to_string(),
                &share,
            ])?);
        }
        let command = if self.spoilt { "spoil" } else { "take" };
        for taker in &mut takers {
            taker.send(command)?;
        }
        let mut wrong_pages = 0;
        for taker in &mut takers {
            wrong_pages += memory::parse_findings(&taker.answer()?)?.wrong_pages;
        }
        for taker in takers {
            taker.end()?;
        }
        ensure!(
            wrong_pages == 0,
            "{wrong_pages} pages of {pages} that the kernel gave out were not empty"
        );
        let mib = (pages * PAGE_BYTES as u64) >> 20;
        Ok(format!("{mib} MiB given out, all empty"))
    }

    fn spoil(&mut self) -> Result<()> {
        self.spoilt = true;
        Ok(())
    }
}

/// A process that takes memory and tells whether it was empty: its CPU and the number of pages are
/// `numbers`.
pub(crate) fn take(numbers: &[&str]) -> Result<()> {
    let &[processor, pages] = numbers else {
        bail!("wants a CPU and the number of pages");
    };
    processors::stay_on(processor.parse().context("not a CPU")?)?;
    let pages: usize = pages.parse().context("not a number of pages")?;
    let mut words = Vec::new();
    worker::serve(|command| {
        words = vec![0_u64; pages * PAGE_WORDS];
        let spoil = match command {
            "take" => false,
            "spoil" => true,
            _ => bail!("unknown command {command}"),
        };
        // What was only read would all be one page, the kernel's empty one.
        for (number, page) in words.chunks_mut(PAGE_WORDS).enumerate() {
            page[marked(number)] = MARK;
        }
        if spoil {
            words[0] ^= 1 << 63;
        }
        // The compiler knows that a new vector is zero.
        Ok(memory::format_findings(&check(black_box(&words))))
    })
}

/// The word of a page that the mark goes to: of each page another one.
fn marked(page: usize) -> usize {
    page % PAGE_WORDS
}

/// Finds the pages that hold more than their mark.
fn check(words: &[u64]) -> Findings {
    let mut findings = Findings::default();
    for (number, page) in words.chunks(PAGE_WORDS).enumerate() {
        let all = page.iter().fold(0, |all, word| all | word);
        let sum = page.iter().fold(0_u64, |sum, &word| sum.wrapping_add(word));
        if page[marked(number)] != MARK || all != MARK || sum != MARK {
            findings.wrong_pages += 1;
            findings.first_wrong.get_or_insert(number as u64);
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marked_pages(pages: usize) -> Vec<u64> {
        let mut words = vec![0; pages * PAGE_WORDS];
        for (number, page) in words.chunks_mut(PAGE_WORDS).enumerate() {
            page[marked(number)] = MARK;
        }
        words
    }

    proptest! {
        #[test]
        fn any_bit_that_is_left_is_noticed(at in 0..3 * PAGE_WORDS, bit in 0_u32..64) {
            let mut words = marked_pages(3);
            prop_assert_eq!(check(&words), Findings::default());
            words[at] ^= 1_u64 << bit;
            let findings = check(&words);
            prop_assert_eq!(findings.wrong_pages, 1);
            prop_assert_eq!(findings.first_wrong, Some((at / PAGE_WORDS) as u64));
        }
    }
}
