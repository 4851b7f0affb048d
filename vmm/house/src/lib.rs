//! How this project is kept, for the tests of that beside it: which crates there are and use each other
//! (`tests/crates.rs`), which of other people's they use (`tests/dependencies.rs`), and which words are not
//! used (`tests/words.rs`).
//!
//! What this crate does not do: anything when ipirig runs. Nothing uses it.

#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    reason = "for tests, which a workspace that cannot be read should stop"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The root of the workspace, from here.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What `cargo metadata` says. `arguments`: how much of it.
///
/// # Panics
///
/// Without cargo, or outside of a workspace that it can read.
#[must_use]
pub fn metadata(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(arguments)
        .current_dir(ROOT)
        .output()
        .expect("cargo runs");
    serde_json::from_slice(&output.stdout).expect("cargo speaks JSON")
}

/// Files at `place` (below the root) whose names end in one of `kinds`. Not what is built.
///
/// # Panics
///
/// If `place` cannot be read.
#[must_use]
pub fn files(place: &str, kinds: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(&Path::new(ROOT).join(place), kinds, &mut found);
    found
}

fn collect(at: &Path, kinds: &[&str], found: &mut Vec<PathBuf>) {
    if at.is_dir() {
        for entry in fs::read_dir(at).expect("a directory that can be read") {
            let path = entry.expect("an entry of a directory").path();
            collect(&path, kinds, found);
        }
    } else if at
        .extension()
        .is_some_and(|kind| kinds.iter().any(|known| kind == *known))
    {
        found.push(at.to_owned());
    }
}
