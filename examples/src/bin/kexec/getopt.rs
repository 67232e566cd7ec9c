//! Options as `getopt_long(3)` of the GNU C library reads them: short ones in clusters, long ones in full
//! or as far as they are clear, values behind `=` or in the next word, options behind operands.

/// An option that a command takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec<T> {
    /// Its meaning.
    pub(crate) id: T,
    /// Its letter, if it has one.
    pub(crate) short: Option<char>,
    /// Its long name, without the dashes.
    pub(crate) long: &'static str,
    /// Whether a value belongs to it.
    pub(crate) value: bool,
}

/// What was found on a command line, in order. Operands come last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found<T> {
    /// An option, with its value if it takes one.
    Option(T, Option<String>),
    /// Something that is no option of this command. The complaint is the C library's.
    Wrong(String),
    /// A word that is no option.
    Operand(String),
}

/// Reads `words` by `specs`. `program` is the name by which complaints begin.
///
/// All is read, also behind something wrong: the caller takes the options one by one, and those before
/// it count.
pub(crate) fn read<T: Copy + PartialEq>(
    program: &str,
    specs: &[Spec<T>],
    words: &[String],
) -> Vec<Found<T>> {
    let mut found = Vec::new();
    let mut operands = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            operands.extend(words.cloned());
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            let read = read_long(specs, long, &mut words);
            found.push(read.unwrap_or_else(|why| Found::Wrong(format!("{program}: {why}"))));
        } else if word.len() > 1 && word.starts_with('-') {
            read_cluster(program, specs, &word[1..], &mut words, &mut found);
        } else {
            operands.push(word.clone());
        }
    }
    found.extend(operands.into_iter().map(Found::Operand));
    found
}

/// Reads a long option; `text` is what is behind the dashes.
fn read_long<'a, T: Copy + PartialEq>(
    specs: &[Spec<T>],
    text: &str,
    words: &mut impl Iterator<Item = &'a String>,
) -> Result<Found<T>, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    let candidates: Vec<&Spec<T>> = specs
        .iter()
        .filter(|spec| spec.long.starts_with(name))
        .collect();
    let exact = candidates.iter().find(|spec| spec.long == name);
    let spec = match (exact, candidates.as_slice()) {
        (Some(spec), _) => spec,
        (None, []) => return Err(format!("unrecognized option '--{text}'")),
        (None, [first, rest @ ..]) if rest.iter().all(|spec| spec.id == first.id) => first,
        (None, candidates) => {
            let names: String = candidates
                .iter()
                .map(|spec| format!(" '--{}'", spec.long))
                .collect();
            return Err(format!(
                "option '--{name}' is ambiguous; possibilities:{names}"
            ));
        }
    };
    match (spec.value, value) {
        (false, Some(_)) => Err(format!(
            "option '--{}' doesn't allow an argument",
            spec.long
        )),
        (false, None) => Ok(Found::Option(spec.id, None)),
        (true, Some(value)) => Ok(Found::Option(spec.id, Some(value))),
        (true, None) => match words.next() {
            Some(value) => Ok(Found::Option(spec.id, Some(value.clone()))),
            None => Err(format!("option '--{}' requires an argument", spec.long)),
        },
    }
}

/// Reads the letters behind one dash.
fn read_cluster<'a, T: Copy + PartialEq>(
    program: &str,
    specs: &[Spec<T>],
    letters: &str,
    words: &mut impl Iterator<Item = &'a String>,
    found: &mut Vec<Found<T>>,
) {
    let mut rest = letters.chars();
    while let Some(letter) = rest.next() {
        let spec = specs.iter().find(|spec| spec.short == Some(letter));
        let Some(spec) = spec else {
            let why = format!("{program}: invalid option -- '{letter}'");
            found.push(Found::Wrong(why));
            continue;
        };
        if !spec.value {
            found.push(Found::Option(spec.id, None));
            continue;
        }
        // The value is the rest of the word, or the next one.
        let value = match rest.as_str() {
            "" => words.next().cloned(),
            text => Some(text.to_owned()),
        };
        found.push(match value {
            Some(value) => Found::Option(spec.id, Some(value)),
            None => Found::Wrong(format!(
                "{program}: option requires an argument -- '{letter}'"
            )),
        });
        return;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPECS: [Spec<u8>; 4] = [
        spec(1, Some('l'), "load", false),
        spec(2, Some('t'), "type", true),
        spec(3, None, "load-panic", false),
        spec(4, None, "append", true),
    ];

    const fn spec(id: u8, short: Option<char>, long: &'static str, value: bool) -> Spec<u8> {
        Spec {
            id,
            short,
            long,
            value,
        }
    }

    fn read(line: &str) -> Vec<Found<u8>> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        super::read("kexec", &SPECS, &words)
    }

    fn option(id: u8, value: &str) -> Found<u8> {
        let value = (!value.is_empty()).then(|| value.to_owned());
        Found::Option(id, value)
    }

    #[test]
    fn values_come_in_all_ways() {
        let elf = [option(1, ""), option(2, "elf")];
        for line in ["-ltelf", "-l -telf", "-l -t elf", "--load --type=elf"] {
            assert_eq!(read(line), elf, "{line}");
        }
        assert_eq!(read("--append a=b"), [option(4, "a=b")]);
        assert_eq!(read("--append=a=b"), [option(4, "a=b")]);
        assert_eq!(read("-t -l"), [option(2, "-l")]);
        assert_eq!(read("--app="), [Found::Option(4, Some(String::new()))]);
    }

    #[test]
    fn operands_may_stand_anywhere() {
        let expected = [option(1, ""), Found::Operand("vmlinuz".to_owned())];
        assert_eq!(read("vmlinuz -l"), expected);
        assert_eq!(read("-l -- vmlinuz"), expected);
        assert_eq!(read("-- -l"), [Found::Operand("-l".to_owned())]);
        assert_eq!(read("-"), [Found::Operand("-".to_owned())]);
    }

    #[test]
    fn complaints_are_those_of_the_c_library() {
        for (line, complaint) in [
            ("--nope=1", "kexec: unrecognized option '--nope=1'"),
            (
                "--load=1",
                "kexec: option '--load' doesn't allow an argument",
            ),
            ("-t", "kexec: option requires an argument -- 't'"),
            ("--type", "kexec: option '--type' requires an argument"),
            (
                "--lo",
                "kexec: option '--lo' is ambiguous; possibilities: '--load' '--load-panic'",
            ),
            ("-j", "kexec: invalid option -- 'j'"),
        ] {
            assert_eq!(read(line), [Found::Wrong(complaint.to_owned())]);
        }
    }

    proptest! {
        #[test]
        fn any_words_are_read(words in prop::collection::vec("-{0,2}[a-zé=]{0,6}", 0..5)) {
            let found = super::read("kexec", &SPECS, &words);
            let letters: usize = words.iter().map(String::len).sum();
            prop_assert!(found.len() <= words.len() + letters);
        }
    }
}
