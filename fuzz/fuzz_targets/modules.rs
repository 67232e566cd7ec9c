//! Lists of modules: what is selected is all that it takes and nothing else, each module once and after those that
//! it depends on, and its file lies in the folder of its kernel.
#![no_main]

use std::collections::BTreeSet;
use std::path::{Component, Path};

use arbitrary::Arbitrary;
use kjump::Error;
use kjump::modules::{Index, Module, Need};
use kjump_fuzz::bounded;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Raw {
        dep: &'a str,
        builtin: Option<&'a str>,
        softdep: Option<&'a str>,
        alias: Option<&'a str>,
        needs: Vec<(&'a str, bool)>,
    },
    Built {
        /// Which modules there are, and which of the others each depends on, by their bits.
        modules: [Option<u16>; COUNT],
        builtin: u16,
        /// Which modules a module wishes for, by their bits, and by which name they are provided.
        wishes: Vec<(u8, u16)>,
        providers: Vec<(u8, u8)>,
        needs: Vec<(u8, bool)>,
        /// Whether a module may depend on later ones, so that they lead in circles.
        circles: bool,
    },
}

const COUNT: usize = 16;
const FOLDER: &str = "/lib/modules/6.12.0";

/// Endings that modules have.
const ENDINGS: [&str; 4] = [".ko", ".ko.gz", ".ko.xz", ".ko.zst"];

fn name(number: usize) -> String {
    format!("some_{number}")
}

fn path(number: usize) -> String {
    // Files have hyphens too.
    let hyphen = if number.is_multiple_of(2) { '-' } else { '_' };
    let ending = ENDINGS[number % ENDINGS.len()];
    format!("kernel/drivers/some{hyphen}{number}{ending}")
}

/// The numbers of these bits, below `limit`.
fn numbers(bits: u16, limit: usize) -> impl Iterator<Item = usize> + Clone {
    (0..limit).filter(move |number| bits >> number & 1 == 1)
}

/// What there is, and what has to come of it.
struct Model {
    modules: [Option<BTreeSet<usize>>; COUNT],
    builtin: u16,
    wishes: Vec<(usize, BTreeSet<usize>)>,
}

impl Model {
    /// All that it takes, or that something of it is missing.
    fn all(&self, needs: &[(usize, bool)]) -> Option<BTreeSet<usize>> {
        let mut all = BTreeSet::new();
        for &(need, built_in) in needs {
            let mut left = vec![need];
            while let Some(number) = left.pop() {
                let Some(before) = &self.modules[number] else {
                    if built_in || self.builtin >> number & 1 == 1 {
                        continue;
                    }
                    return None;
                };
                if all.insert(number) {
                    left.extend(before.iter().chain(self.wished(number)));
                }
            }
        }
        Some(all)
    }

    fn wished(&self, number: usize) -> impl Iterator<Item = &usize> {
        let wishes = self.wishes.iter().filter(move |(of, _)| *of == number);
        let wished = wishes.flat_map(|(_, wished)| wished);
        wished.filter(|wished| self.modules[**wished].is_some())
    }
}

fn index(lists: &[(&str, Option<&str>)]) -> Index {
    let list = |wanted: &str| {
        let found = lists.iter().find(|(name, _)| *name == wanted);
        Ok(found.and_then(|(_, text)| text.map(str::to_owned)))
    };
    Index::of_lists(Path::new(FOLDER), list).expect("lists are never refused")
}

/// What holds of all that is selected.
fn check(modules: &[Module]) {
    let mut seen = BTreeSet::new();
    for module in modules {
        assert!(seen.insert(&module.name), "{} is there twice", module.name);
        assert!(!module.name.contains(['/', '-', '\n']), "{}", module.name);
        let inside = module.path.strip_prefix(FOLDER).expect("in the folder");
        let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        assert!(inside.components().count() > 0 && inside.components().all(is_plain));
    }
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Raw {
        dep,
        builtin,
        softdep,
        alias,
        needs,
    } => {
        let lists = [
            ("modules.dep", Some(dep)),
            ("modules.builtin", builtin),
            ("modules.softdep", softdep),
            ("modules.alias", alias),
        ];
        let len: usize = lists
            .iter()
            .flat_map(|(_, text)| text)
            .map(|text| text.len())
            .sum();
        let names: usize = needs.iter().map(|(name, _)| name.len()).sum();
        let index = bounded(4096 + 128 * len, || index(&lists));
        let needs: Vec<_> = needs
            .into_iter()
            .map(|(name, built_in)| Need {
                built_in,
                ..Need::of(name, "a test")
            })
            .collect();
        let selected = bounded(8192 + 256 * (len + names), || index.select(&needs));
        match selected {
            Ok(modules) => {
                check(&modules);
                for need in needs {
                    let there = modules.iter().any(|module| module.name == need.module);
                    assert!(there || need.built_in || index.has(&need.module));
                }
            }
            Err(Error::NoModule { module, .. }) => assert!(!index.has(&module)),
            Err(error) => panic!("{error}"),
        }
    }
    Input::Built {
        modules,
        builtin,
        wishes,
        providers,
        needs,
        circles,
    } => {
        let mut number = 0;
        let modules = modules.map(|before| {
            let limit = if circles { COUNT } else { number };
            number += 1;
            before.map(|before| numbers(before, limit).collect())
        });
        let mut model = Model {
            modules,
            builtin,
            wishes: Vec::new(),
        };
        let mut dep = String::new();
        for (number, before) in model.modules.iter().enumerate() {
            let Some(before) = before else { continue };
            dep.push_str(&format!("{}:", path(number)));
            before
                .iter()
                .for_each(|number| dep.push_str(&format!(" {}", path(*number))));
            dep.push('\n');
        }
        let builtin: String = numbers(builtin, COUNT)
            .map(|number| format!("{}\n", path(number)))
            .collect();
        let mut softdep = String::new();
        let mut alias = String::new();
        for (module, provided) in &providers {
            let (module, provided) = (usize::from(*module) % COUNT, provided % 4);
            alias.push_str(&format!("alias virtual{provided} {}\n", name(module)));
        }
        for (module, wished) in &wishes {
            let module = usize::from(*module) % COUNT;
            let limit = if circles { COUNT } else { module };
            softdep.push_str(&format!("softdep {} pre:", name(module)));
            let mut all: BTreeSet<usize> = numbers(*wished, limit).collect();
            for number in &all {
                softdep.push_str(&format!(" {}", name(*number)));
            }
            // One name that several may provide, where that makes no circles.
            let provided = (wished >> 14) as u8;
            if circles {
                softdep.push_str(&format!(" virtual{provided}"));
                let by = providers.iter().filter(|(_, name)| name % 4 == provided);
                all.extend(by.map(|(module, _)| usize::from(*module) % COUNT));
            }
            softdep.push_str(" post: some_0 some_15\n");
            model.wishes.push((module, all));
        }
        let index = index(&[
            ("modules.dep", Some(&dep)),
            ("modules.builtin", Some(&builtin)),
            ("modules.softdep", Some(&softdep)),
            ("modules.alias", Some(&alias)),
        ]);
        let numbered: Vec<_> = needs
            .iter()
            .map(|(number, built_in)| (usize::from(*number) % COUNT, *built_in))
            .collect();
        let needs: Vec<_> = numbered
            .iter()
            .map(|(number, built_in)| Need {
                built_in: *built_in,
                ..Need::of(&name(*number), "a test")
            })
            .collect();
        let selected = match (index.select(&needs), model.all(&numbered)) {
            (Ok(selected), Some(all)) => {
                let names: BTreeSet<_> = selected.iter().map(|module| &module.name).collect();
                let all: Vec<_> = all.into_iter().map(name).collect();
                assert_eq!(names, all.iter().collect());
                selected
            }
            (Err(Error::NoModule { .. }), None) => return,
            (selected, all) => panic!("{selected:?} and not {all:?}"),
        };
        check(&selected);
        if circles {
            return;
        }
        let place = |number: usize| {
            let name = name(number);
            selected.iter().position(|module| module.name == name)
        };
        for (number, before) in model.modules.iter().enumerate() {
            let Some(place_of) = place(number) else {
                continue;
            };
            let before = before.iter().flatten().chain(model.wished(number));
            for before in before.filter_map(|before| place(*before)) {
                assert!(before < place_of, "{} comes too late", before);
            }
        }
    }
});
