//! What the kernel answers about a mapped device: what is read of it is what it says, in order and without a gap,
//! and whatever it says, no more is held than it has words for.
#![no_main]

use arbitrary::Arbitrary;
use kjump_fuzz::{Damage, Number, bounded};
use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "no kernel is asked here")]
#[path = "../../kjump/src/device_mapper.rs"]
mod device_mapper;

use device_mapper::{Mapped, Target, parse};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Raw {
        count: u32,
        answer: &'a [u8],
    },
    Built {
        targets: Vec<(Number, Kind<'a>)>,
        /// How much lies between two targets.
        gap: u8,
        /// How many targets more or less are said to be there.
        more: i8,
        damage: Damage,
    },
}

#[derive(Arbitrary, Debug)]
enum Kind<'a> {
    Linear(Place),
    Striped(Number, Vec<Place>),
    Crypt(&'a str, Place),
    Other(u8),
    /// Any words.
    Any(Name, &'a str),
}

/// A device and sectors.
type Place = (u16, u8, Number);

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Name {
    Linear,
    Striped,
    Crypt,
    Thin,
}

impl Name {
    fn text(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Striped => "striped",
            Self::Crypt => "crypt",
            Self::Thin => "thin",
        }
    }
}

const SECTOR: u64 = 512;

fn words((major, minor, sectors): &Place) -> String {
    format!("{major}:{minor} {}", sectors.get())
}

/// A place as it has to be read; `None` if there is no such one.
fn place((major, minor, sectors): &Place) -> Option<((u32, u32), u64)> {
    let bytes = sectors.get().checked_mul(SECTOR)?;
    Some((((*major).into(), (*minor).into()), bytes))
}

impl Kind<'_> {
    fn words(&self) -> (&'static str, String) {
        match self {
            Self::Linear(place) => ("linear", words(place)),
            Self::Striped(chunk, places) => {
                let places: String = places.iter().map(|at| format!(" {}", words(at))).collect();
                let count = places.split_whitespace().count() / 2;
                ("striped", format!("{count} {}{places}", chunk.get()))
            }
            Self::Crypt(key, place) => {
                let key: String = key.chars().filter(char::is_ascii_alphanumeric).collect();
                ("crypt", format!("aes :{key} 0 {} 1 opt", words(place)))
            }
            Self::Other(number) => ("thin", number.to_string()),
            Self::Any(name, words) => (name.text(), words.replace('\0', " ")),
        }
    }

    /// What it has to be read as; `Err` if any words may be anything.
    fn mapped(&self) -> Result<Option<Mapped>, ()> {
        Ok(match self {
            Self::Linear(at) => place(at).map(|(device, start)| Mapped::Linear(device, start)),
            Self::Striped(chunk, places) => chunk.get().checked_mul(SECTOR).and_then(|chunk| {
                let stripes: Option<Vec<_>> = places.iter().map(place).collect();
                Some(Mapped::Striped(chunk, stripes?))
            }),
            Self::Crypt(_, at) => place(at).map(|(device, start)| Mapped::Crypt(device, start)),
            Self::Other(_) | Self::Any(Name::Thin, _) => Some(Mapped::Other("thin".to_owned())),
            Self::Any(..) => return Err(()),
        })
    }
}

/// The kernel's answer, as `struct dm_target_spec` has it, and how many targets it has room for.
fn answer(targets: &[(Number, Kind<'_>)], gap: u8) -> Vec<u8> {
    let (mut bytes, mut start) = (Vec::new(), 0_u64);
    for (sectors, kind) in targets {
        let (name, words) = kind.words();
        let at = bytes.len();
        let len = (40 + words.len() + 1 + usize::from(gap)).next_multiple_of(8);
        bytes.extend(start.to_ne_bytes());
        bytes.extend(sectors.get().to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(u32::try_from(at + len).expect("short").to_ne_bytes());
        bytes.extend(name.as_bytes());
        bytes.resize(at + 40, 0);
        bytes.extend(words.as_bytes());
        bytes.resize(at + len, 0);
        start = start.wrapping_add(sectors.get());
    }
    bytes
}

/// What has to be read if nothing was damaged: `Err` if that may be anything.
fn expected(targets: &[(Number, Kind<'_>)]) -> Result<Option<Vec<Target>>, ()> {
    let (mut read, mut end) = (Some(Vec::new()), 0_u64);
    for (sectors, kind) in targets {
        let mapped = kind.mapped()?;
        let len = sectors.get().checked_mul(SECTOR).filter(|&len| len > 0);
        let next = len.and_then(|len| end.checked_add(len));
        end = next.unwrap_or(end);
        read = match (read, len, next, mapped) {
            (Some(mut read), Some(len), Some(_), Some(mapped)) => {
                read.push(Target { len, mapped });
                Some(read)
            }
            _ => None,
        };
    }
    Ok(read)
}

fn check(targets: &[Target], count: u32) {
    assert_eq!(targets.len(), count as usize);
    let mut end = 0_u64;
    let is_place = |bytes: u64| assert_eq!(bytes % SECTOR, 0);
    for Target { len, mapped } in targets {
        assert!(*len > 0);
        is_place(*len);
        end = end.checked_add(*len).expect("it has an end");
        match mapped {
            Mapped::Linear(_, start) | Mapped::Crypt(_, start) => is_place(*start),
            Mapped::Striped(chunk, stripes) => {
                is_place(*chunk);
                stripes.iter().for_each(|(_, start)| is_place(*start));
            }
            // It is shown.
            Mapped::Other(kind) => {
                assert!(kind.len() <= 16 && kind.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    let (answer, count, expected) = match &input {
        Input::Raw { count, answer } => (answer.to_vec(), *count, Err(())),
        Input::Built {
            targets,
            gap,
            more,
            damage,
        } => {
            let mut answer = answer(targets, *gap);
            let len = u32::try_from(targets.len()).expect("short");
            let count = len.saturating_add_signed((*more).into());
            let expected = if !damage.is_none() || count < len {
                Err(())
            } else if count > len {
                Ok(None)
            } else {
                expected(targets)
            };
            damage.apply(&mut answer);
            (answer, count, expected)
        }
    };
    // No words are read twice, but for those of a few targets that lie in one another.
    let read = bounded(4096 + 64 * answer.len(), || parse(&answer, count));
    if let Some(targets) = &read {
        check(targets, count);
    }
    if let Ok(expected) = expected {
        assert_eq!(read, expected);
    }
});
