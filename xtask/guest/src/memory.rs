//! Anonymous memory full of content, held by one process for each CPU.

use anyhow::{Context, Result, bail, ensure};

use crate::content::{Content, Findings, PAGE_BYTES, PAGE_WORDS, add_to_checksum};
use crate::witness::Witness;
use crate::worker::{self, Worker};
use crate::{machine, processors};

/// Memory of several processes, all of it filled.
pub(crate) struct Memory {
    holders: Vec<Worker>,
    pages: u64,
    checksum: Option<u64>,
}

impl Memory {
    /// Fills `percent` of all memory with `content`, on all CPUs at once.
    pub(crate) fn fill(content: Content, percent: u8) -> Result<Self> {
        let processors = machine::online_processors()?;
        let pages = machine::memory_size()? / PAGE_BYTES as u64 * u64::from(percent) / 100;
        let share = pages / processors.len() as u64;
        let mut holders = Vec::new();
        let [seed, compressible] = content.numbers();
        for (processor, number) in processors.iter().zip(0..) {
            let numbers = [*processor as u64, seed, compressible, number * share, share]
                .map(|n| n.to_string());
            let mut arguments = vec!["hold-memory"];
            arguments.extend(numbers.iter().map(String::as_str));
            holders.push(Worker::start(&arguments)?);
        }
        for holder in &mut holders {
            holder.send("fill")?;
        }
        for holder in &mut holders {
            holder.answer()?;
        }
        Ok(Self {
            pages: share * processors.len() as u64,
            holders,
            checksum: None,
        })
    }

    /// Frees the memory, and returns how many bytes that were.
    pub(crate) fn free(self) -> Result<u64> {
        for holder in self.holders {
            holder.end()?;
        }
        Ok(self.pages * PAGE_BYTES as u64)
    }

    /// Reads all of the memory, on all CPUs at once, and returns its checksum if it is right.
    fn check(&mut self) -> Result<u64> {
        for holder in &mut self.holders {
            holder.send("check")?;
        }
        let mut total = Findings::default();
        for holder in &mut self.holders {
            let findings = parse_findings(&holder.answer()?)?;
            total.checksum = add_to_checksum(total.checksum, findings.checksum);
            total.wrong_pages += findings.wrong_pages;
            total.first_wrong = total.first_wrong.or(findings.first_wrong);
        }
        if let Some(first) = total.first_wrong {
            bail!(
                "{} wrong pages of {}, the first of them at byte {:#x}",
                total.wrong_pages,
                self.pages,
                first * PAGE_BYTES as u64
            );
        }
        Ok(total.checksum)
    }

    fn describe(&self, checksum: u64) -> String {
        let mib = (self.pages * PAGE_BYTES as u64) >> 20;
        format!(
            "{mib} MiB in {} processes, checksum {checksum:016x}",
            self.holders.len()
        )
    }
}

impl Witness for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn before(&mut self) -> Result<String> {
        let checksum = self.check()?;
        self.checksum = Some(checksum);
        Ok(self.describe(checksum))
    }

    fn verify(&mut self) -> Result<String> {
        let checksum = self.check()?;
        ensure!(self.checksum == Some(checksum), "the checksum changed");
        Ok(self.describe(checksum))
    }

    fn spoil(&mut self) -> Result<()> {
        self.holders[0].ask("spoil").map(drop)
    }
}

/// A process that holds memory: `numbers` are its CPU, those of its content, the first page and the number
/// of pages.
pub(crate) fn hold(numbers: &[&str]) -> Result<()> {
    let numbers: Vec<u64> = numbers
        .iter()
        .map(|number| number.parse())
        .collect::<Result<_, _>>()
        .context("not a number")?;
    let &[processor, seed, compressible, first, pages] = numbers.as_slice() else {
        bail!("wants a CPU, a seed, how much compresses, the first page and the number of pages");
    };
    processors::stay_on(usize::try_from(processor)?)?;
    let content = Content::new(seed).compressible(u8::try_from(compressible)?);
    let mut words = vec![0; usize::try_from(pages)? * PAGE_WORDS];
    worker::serve(|command| match command {
        "fill" => {
            content.fill(&mut words, first);
            Ok("filled".to_owned())
        }
        "check" => Ok(format_findings(&content.check(&words, first))),
        "spoil" => {
            let middle = words.len() / 2;
            words[middle] ^= 1;
            Ok("spoilt".to_owned())
        }
        _ => bail!("unknown command {command}"),
    })
}

pub(crate) fn format_findings(findings: &Findings) -> String {
    let first = findings
        .first_wrong
        .map_or("-".to_owned(), |n| n.to_string());
    format!("{:x} {} {first}", findings.checksum, findings.wrong_pages)
}

pub(crate) fn parse_findings(line: &str) -> Result<Findings> {
    let mut words = line.split(' ');
    let mut word = || {
        words
            .next()
            .with_context(|| format!("short answer: {line}"))
    };
    Ok(Findings {
        checksum: u64::from_str_radix(word()?, 16)?,
        wrong_pages: word()?.parse()?,
        first_wrong: match word()? {
            "-" => None,
            number => Some(number.parse()?),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_go_over_a_pipe() {
        for first_wrong in [None, Some(77)] {
            let findings = Findings {
                checksum: 0xfedc_ba98_7654_3210,
                wrong_pages: 5,
                first_wrong,
            };
            assert_eq!(
                parse_findings(&format_findings(&findings)).unwrap(),
                findings
            );
        }
        assert!(parse_findings("12 3").is_err());
        assert!(parse_findings("").is_err());
    }
}
