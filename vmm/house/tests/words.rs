//! Words that this project does not use, because a reader who knows KVM and not this project would stumble.

use std::fs;
use std::path::Path;

use ipirig_house::files;

/// What is not said, in pieces so that this file does not say it either, and what is said instead.
const BANNED: [(&[&str], &str); 9] = [
    (&["held", "back"], "deferred: `held` is a verdict"),
    (&["holding", "back"], "deferring"),
    (&["goes", "on", "from"], "restores, or continues from"),
    (&["going", "on", "from"], "restoring, or continuing from"),
    (&["went", "on", "from"], "restored, or continued from"),
    (&["go", "on", "from"], "restore, or continue from"),
    (&["no", "telling"], "cannot tell"),
    (&["work-around"], "workaround"),
    (&["work-arounds"], "workarounds"),
];
/// Where people read: code with its output and comments, documents, scenarios. Not what is built.
const READ: [&str; 6] = [
    "vmm",
    "guest",
    "scenarios",
    "results",
    ".github",
    "README.md",
];
const KINDS: [&str; 8] = ["rs", "md", "toml", "html", "c", "h", "patch", "json"];

/// The words of a text, in small letters, without what begins the lines of a comment or stands around a word.
fn words(text: &str) -> Vec<String> {
    let around = |c: char| !c.is_alphanumeric();
    text.split_whitespace()
        .map(|word| word.trim_matches(around).to_lowercase())
        .filter(|word| !word.is_empty())
        .collect()
}

fn banned(text: &str) -> Vec<String> {
    let words = words(text);
    let found = BANNED.iter().filter(|(phrase, _)| {
        words
            .windows(phrase.len())
            .any(|at| at.iter().zip(*phrase).all(|(word, wanted)| word == wanted))
    });
    found
        .map(|(phrase, instead)| format!("`{}`: say {instead}", phrase.join(" ")))
        .collect()
}

#[test]
fn words_that_a_reader_would_stumble_over_are_found_across_lines() {
    let text = format!("//! so there is {}\n    //! {}.", "no", "telling");
    assert_eq!(
        banned(&text),
        ["`no telling`: say cannot tell"].map(str::to_owned)
    );
    assert_eq!(banned("no. A sentence telling it"), [""; 0]);
}

#[test]
fn nothing_that_people_read_has_words_that_they_would_stumble_over() {
    let read = READ.map(|place| files(place, &KINDS)).concat();
    let this = Path::new(file!()).file_name();
    let mut wrong = Vec::new();
    for path in read.iter().filter(|path| path.file_name() != this) {
        let Ok(text) = fs::read_to_string(path) else {
            continue;
        };
        wrong.extend(
            banned(&text)
                .iter()
                .map(|what| format!("{}: {what}", path.display())),
        );
    }
    assert_eq!(wrong, [""; 0]);
}
