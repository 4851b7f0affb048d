//! What this project takes from other people: under which licences, from where, in how many versions, and for
//! which compiler. For x86-64 Linux, where it runs.
//!
//! What is known of vulnerabilities is not asked: the list of RustSec is a git repository, and a test that
//! depends on a network fails for other reasons than its own.

#![expect(
    clippy::unwrap_used,
    reason = "a fixture that fails should stop its test"
)]

use std::collections::{BTreeMap, BTreeSet};

use ipirig_house::metadata;
use serde_json::Value;

/// Licences whose terms a program under Apache-2.0 or MIT can meet. MPL-2.0 is file by file, and its files are
/// used as they are.
const LICENCES: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];
/// Crates of which there are two versions, as others have not gone over to the newer yet. One that is not here is
/// compiled twice for nothing; one that is here and need not be goes.
const TWICE: [&str; 5] = ["bit-set", "bit-vec", "bitflags", "getrandom", "syn"];

/// All packages that are built for ipirig, of others and its own.
fn packages() -> Vec<Value> {
    let metadata = metadata(&["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let built: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["id"].as_str().unwrap())
        .collect();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .filter(|package| built.contains(package["id"].as_str().unwrap()))
        .cloned()
        .collect()
}

fn text<'a>(package: &'a Value, field: &str) -> &'a str {
    package[field].as_str().unwrap_or_default()
}

/// Whether one can have `expression` (SPDX, of one level of parentheses; `/` is an old `OR`) by [`LICENCES`] alone.
fn is_allowed(expression: &str) -> bool {
    let plain = expression.replace('/', " OR ");
    if let Some((before, after)) = plain.split_once(") AND ") {
        return is_allowed(before.trim_start_matches('(')) && is_allowed(after);
    }
    let one = |licence: &str| LICENCES.contains(&licence.trim());
    plain.split(" OR ").any(|all| all.split(" AND ").all(one))
}

#[test]
fn an_expression_is_allowed_if_it_can_be_met() {
    for (expression, expected) in [
        ("MIT", true),
        ("MIT/Apache-2.0", true),
        ("GPL-3.0-only OR MIT", true),
        ("GPL-3.0-only", false),
        ("GPL-3.0-only AND MIT", false),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("(MIT OR Apache-2.0) AND GPL-3.0-only", false),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression), expected, "{expression}");
    }
}

#[test]
fn each_licence_can_be_met() {
    let packages = packages();
    let wrong = packages
        .iter()
        .filter(|package| !is_allowed(text(package, "license")))
        .map(|package| format!("{}: {}", text(package, "name"), text(package, "license")));
    assert_eq!(wrong.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn what_is_not_ours_comes_from_the_registry() {
    let packages = packages();
    let wrong = packages
        .iter()
        .filter(|package| {
            let source = text(package, "source");
            !source.is_empty() && !source.starts_with("registry+")
        })
        .map(|package| text(package, "name"));
    assert_eq!(wrong.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn of_each_crate_there_is_one_version_but_of_those_that_are_known() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        let name = text(&package, "name").to_owned();
        let version = text(&package, "version").to_owned();
        versions.entry(name).or_default().insert(version);
    }
    versions.retain(|_, versions| versions.len() > 1);
    assert_eq!(Vec::from_iter(versions.into_keys()), TWICE);
}

/// Our own promise is kept by CI, whose compiler has this version, and for newer ones by clippy
/// (`incompatible_msrv`).
#[test]
fn none_needs_a_newer_compiler_than_we_say_that_we_do() {
    let number = |version: &str| -> Vec<u32> {
        let parts = version.split('.').map(|part| part.parse().unwrap());
        parts.chain([0, 0]).take(3).collect()
    };
    let ours = number(env!("CARGO_PKG_RUST_VERSION"));
    let packages = packages();
    let wrong = packages
        .iter()
        .filter(|package| !package["rust_version"].is_null())
        .filter(|package| number(text(package, "rust_version")) > ours)
        .map(|package| text(package, "name"));
    assert_eq!(wrong.collect::<Vec<_>>(), [""; 0]);
}
