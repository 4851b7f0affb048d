//! Names: those of types are nouns of the field, and those of files in the lists of CONTRIBUTING are files.

use std::fs;
use std::path::Path;

use ipirig_house::{ROOT, files};

/// What no type's name ends in, because it does not say what it is.
const NOT_NOUNS: [&str; 13] = [
    "Asked", "Errand", "Fleet", "Ground", "Heard", "Look", "Made", "Seen", "Shape", "Stopped",
    "Then", "Told", "Wishes",
];
/// What a type's name follows.
const DEFINES: [&str; 5] = ["struct", "enum", "trait", "union", "type"];

/// The types that a text defines by names that end in one of [`NOT_NOUNS`].
fn not_nouns(text: &str) -> Vec<String> {
    let words: Vec<&str> = text
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .collect();
    let pairs = words.windows(2).filter_map(|pair| match pair {
        [defines, name] if DEFINES.contains(defines) && NOT_NOUNS.contains(&last_word(name)) => {
            Some((*name).to_owned())
        }
        _ => None,
    });
    pairs.collect()
}

/// `Record` of `WindowRecord`.
fn last_word(name: &str) -> &str {
    let start = name.rfind(|c: char| c.is_uppercase()).unwrap_or_default();
    &name[start..]
}

#[test]
fn a_type_that_is_called_by_no_noun_is_found_and_a_variant_is_not() {
    let text = "pub(crate) enum Then<'a> { Stopped }\nstruct\n    Seen(u8);\nstruct SeenPage;type WindowSeen = u8;";
    assert_eq!(not_nouns(text), ["Then", "Seen", "WindowSeen"]);
}

#[test]
fn every_type_is_called_by_a_noun() {
    let this = Path::new(file!()).file_name();
    let sources = ["vmm", "guest"].map(|place| files(place, &["rs"])).concat();
    let mut wrong = Vec::new();
    for path in sources.iter().filter(|path| path.file_name() != this) {
        for name in not_nouns(&fs::read_to_string(path).unwrap()) {
            wrong.push(format!("{}: {name}", path.display()));
        }
    }
    assert_eq!(wrong, [""; 0]);
}

/// The files and directories of this project that a document names in backticks, as far as they are there already:
/// of one with a `NAME` in it, which is to be written, the directory.
fn paths(document: &str) -> Vec<&str> {
    let quoted = document.split('`').skip(1).step_by(2);
    let ours = quoted
        .filter(|it| !it.starts_with('/') && it.contains('/') && !it.contains(char::is_whitespace));
    ours.map(|path| match path.find("NAME") {
        Some(at) => path[..at].rsplit_once('/').map_or("", |(dir, _)| dir),
        None => path,
    })
    .collect()
}

#[test]
fn paths_are_taken_from_a_document_and_commands_are_not() {
    let document = "`a/b.rs`, `a/NAME.rs`, `run a/c`, `/dev/kvm`, `word`";
    assert_eq!(paths(document), ["a/b.rs", "a"]);
}

#[test]
fn every_path_that_contributing_names_is_there() {
    let document = fs::read_to_string(Path::new(ROOT).join(".github/CONTRIBUTING.md")).unwrap();
    let missing: Vec<&str> = paths(&document)
        .into_iter()
        .filter(|path| !Path::new(ROOT).join(path).exists())
        .collect();
    assert_eq!(missing, [""; 0]);
}
