//! A function by the name that it has in the source.
//!
//! Compilers append to it. Clang's link-time optimisation renames a static function (`.llvm.N`,
//! `.__uniq.N`), GCC's likewise (`.lto_priv.N`); it stays the same function. GCC makes functions of
//! their own from one: for certain values of its arguments (`.constprop.N`), with other arguments
//! (`.isra.N`), of a part of it (`.part.N`). What is unlikely to run is put elsewhere (`.cold`), and is
//! never called.

use thiserror::Error;

use super::Symbols;

/// Most candidates that an error names.
const CANDIDATES_MAX: usize = 8;

/// A function that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: u64,
    /// Its symbol.
    pub symbol: String,
    /// Whether the compiler may have given it other arguments than the source does.
    pub altered: bool,
}

/// Why a function cannot be named.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", words(name, candidates))]
pub struct NoFunction {
    /// Its name in the source.
    pub name: String,
    /// Symbols of which one, or each, may be it, or a part of it; at most eight.
    pub candidates: Vec<String>,
}

fn words(name: &str, candidates: &[String]) -> String {
    match candidates {
        [] => format!("the kernel file has no `{name}`"),
        [only] => format!("the kernel file has `{only}` and not the whole of `{name}`"),
        several => format!(
            "the kernel file has `{name}` more than once: {}",
            several.join(", ")
        ),
    }
}

/// What a symbol is of the function whose name it begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Whole,
    Altered,
    Part,
    Cold,
}

/// What `suffix`, all that comes after the name, says; none if it is of no known form.
fn kind(suffix: &str) -> Option<Kind> {
    let Some(suffix) = suffix.strip_prefix('.') else {
        return suffix.is_empty().then_some(Kind::Whole);
    };
    let mut kind = Kind::Whole;
    let mut words = suffix.split('.').peekable();
    while let Some(word) = words.next() {
        kind = kind.max(match word {
            "llvm" | "__uniq" | "lto_priv" => Kind::Whole,
            "constprop" | "isra" => Kind::Altered,
            "part" => Kind::Part,
            "cold" => Kind::Cold,
            _ => return None,
        });
        let number = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit());
        if words.next_if(number).is_none() && word != "cold" {
            return None;
        }
    }
    Some(kind)
}

impl Symbols {
    /// The function that the source calls `name`, if exactly one symbol is all of it.
    ///
    /// # Errors
    /// When none is, or several are: which one is called is not known then.
    pub fn function(&self, name: &str) -> Result<Function, NoFunction> {
        let mut found: Vec<(u64, &str, Kind)> = self
            .beginning_with(name)
            .filter_map(|(address, symbol)| {
                Some((address, symbol, kind(symbol.strip_prefix(name)?)?))
            })
            .collect();
        // Names of one place are one function.
        found.sort_by_key(|&(address, symbol, kind)| (address, kind, symbol));
        found.dedup_by_key(|(address, ..)| *address);
        let called = |&(_, _, kind): &(u64, &str, Kind)| kind != Kind::Cold;
        if found.iter().any(called) {
            found.retain(called);
        }
        match found.as_slice() {
            &[(address, symbol, kind @ (Kind::Whole | Kind::Altered))] => Ok(Function {
                address,
                symbol: symbol.to_owned(),
                altered: kind == Kind::Altered,
            }),
            found => Err(NoFunction {
                name: name.to_owned(),
                candidates: found
                    .iter()
                    .take(CANDIDATES_MAX)
                    .map(|(_, symbol, _)| (*symbol).to_owned())
                    .collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: u64 = 0xffff_ffff_8100_0000;

    fn symbols(names: &[&str]) -> Symbols {
        let functions = (0..).zip(names);
        Symbols::from_functions(
            functions.map(|(index, name)| (TEXT + index * 16, TEXT + 0x1000, *name)),
        )
    }

    fn found(names: &[&str]) -> Result<(u64, String, bool), Vec<String>> {
        match symbols(names).function("poke") {
            Ok(function) => Ok((function.address - TEXT, function.symbol, function.altered)),
            Err(error) => Err(error.candidates),
        }
    }

    #[test]
    fn a_function_is_found_whatever_its_one_symbol_is() {
        for symbol in [
            "poke",
            "poke.llvm.3433979326929198294",
            "poke.__uniq.12.llvm.7",
            "poke.lto_priv.0",
        ] {
            let names = ["pok", symbol, "poke_early", "pokes.llvm.1", "__pfx_poke"];
            assert_eq!(found(&names), Ok((16, symbol.to_owned(), false)));
        }
        let altered = |symbol: &str| Ok((0, symbol.to_owned(), true));
        assert_eq!(found(&["poke.constprop.0"]), altered("poke.constprop.0"));
        assert_eq!(
            found(&["poke.isra.0.llvm.9"]),
            altered("poke.isra.0.llvm.9")
        );
        let with_cold = ["poke", "poke.cold", "poke.cold.3"];
        assert_eq!(found(&with_cold), Ok((0, "poke".to_owned(), false)));
    }

    #[test]
    fn what_is_missing_doubled_or_in_parts_is_not_guessed() {
        assert_eq!(
            found(&["poke_early", "poker", "poke.", "poke.x.1"]),
            Err(vec![])
        );
        for names in [
            &["poke", "poke"][..],
            &["poke.llvm.1", "poke.llvm.2"],
            &["poke", "poke.constprop.0"],
            &["poke", "poke.part.0"],
            &["poke.part.0"],
            &["poke.constprop.0.cold"],
        ] {
            let candidates = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(found(names), Err(candidates));
        }
        let many = ["poke"; 20];
        assert_eq!(found(&many).map_err(|candidates| candidates.len()), Err(8));
    }

    #[test]
    fn names_of_one_place_are_one_function() {
        let two = [(TEXT, TEXT + 16, "poke.llvm.1"), (TEXT, TEXT + 16, "poke")];
        let function = Symbols::from_functions(two).function("poke").unwrap();
        assert_eq!((function.address, function.symbol.as_str()), (TEXT, "poke"));
    }

    #[test]
    fn the_address_is_that_at_run_time() {
        let moved = symbols(&["poke.llvm.1"]).with_slide(0x20_0000);
        assert_eq!(moved.function("poke").unwrap().address, TEXT + 0x20_0000);
    }

    #[test]
    fn why_a_function_cannot_be_named_is_said() {
        let why = |names: &[&str]| symbols(names).function("poke").unwrap_err().to_string();
        assert_eq!(why(&[]), "the kernel file has no `poke`");
        assert_eq!(
            why(&["poke.part.0"]),
            "the kernel file has `poke.part.0` and not the whole of `poke`"
        );
        assert_eq!(
            why(&["poke", "poke.constprop.0"]),
            "the kernel file has `poke` more than once: poke, poke.constprop.0"
        );
    }

    proptest! {
        #[test]
        fn a_name_is_found_only_if_one_symbol_of_it_is_there(
            names in proptest::collection::vec("[ab](\\.(llvm|part|cold)\\.[0-9])?", 0..6),
        ) {
            let all: Vec<&str> = names.iter().map(String::as_str).collect();
            let called = names
                .iter()
                .filter(|name| name.starts_with('a') && !name.contains("cold"));
            let called: Vec<&String> = called.collect();
            let expected = match called.as_slice() {
                [only] if !only.contains("part") => Some((*only).clone()),
                _ => None,
            };
            let function = symbols(&all).function("a").ok();
            prop_assert_eq!(function.map(|function| function.symbol), expected);
        }
    }
}
