//! The patches to apply, and applying them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{PatchFailure, Rejection};
use crate::{GuestError, Progress};
use ipirig_store::{Ingredients, Key, Program, StoreError, Work};

/// How much of the rejected hunks an error shows, in lines.
const REJECTED_LINES: usize = 60;

/// Patches in the order in which they are applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Patches(Vec<PathBuf>);

impl Patches {
    /// Reads `DIR/series`, one file name a line with `#` comments as quilt has it.
    pub(crate) fn series(dir: &Path) -> Result<Self, GuestError> {
        let series = dir.join("series");
        let text = fs::read_to_string(&series).map_err(GuestError::io("read", &series))?;
        let mut patches = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let name = line.split('#').next().unwrap_or_default().trim();
            if name.is_empty() {
                continue;
            }
            let bad = |reason: String| GuestError::BadSeries {
                path: series.clone(),
                line: number,
                reason,
            };
            if name.contains(char::is_whitespace) || name.contains('/') {
                return Err(bad(format!(
                    "`{name}` is not the plain name of a patch in {}",
                    dir.display()
                )));
            }
            let patch = dir.join(name);
            if !patch.is_file() {
                return Err(bad(format!("there is no {name} in {}", dir.display())));
            }
            if patches.contains(&patch) {
                return Err(bad(format!("{name} is listed twice")));
            }
            patches.push(patch);
        }
        Ok(Self(patches))
    }

    /// Patches that are in no series.
    pub(crate) fn of(files: &[PathBuf]) -> Result<Self, GuestError> {
        let absolute =
            |patch: &PathBuf| std::path::absolute(patch).map_err(GuestError::io("find", patch));
        files
            .iter()
            .map(absolute)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// These, and `more` after them.
    pub(crate) fn then(&self, more: &Self) -> Self {
        Self([self.0.as_slice(), &more.0].concat())
    }

    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.0
    }

    /// The names of the patches for a person: ` with a, b`, or nothing when there are none.
    pub(crate) fn with_names(&self) -> String {
        let names: Vec<_> = self
            .0
            .iter()
            .filter_map(|patch| patch.file_stem())
            .map(|stem| stem.to_string_lossy())
            .collect();
        if names.is_empty() {
            String::new()
        } else {
            format!(" with {}", names.join(", "))
        }
    }

    /// Changes with the content and the order of the patches, not with their names.
    pub(crate) fn key(&self) -> Result<Key, GuestError> {
        let mut ingredients = Ingredients::of("patches", 1);
        for patch in &self.0 {
            ingredients.file("patch", patch)?;
        }
        Ok(ingredients.key())
    }

    /// Applies all to `tree`. Hunks may have moved; their context must be as the patch has it:
    /// a patch that needs fuzz needs a person.
    pub(crate) fn apply(
        &self,
        tree: &Path,
        package: &str,
        work: &Work,
        progress: &dyn Progress,
    ) -> Result<(), GuestError> {
        let total = self.0.len() as u64;
        for (done, patch) in (0..).zip(&self.0) {
            progress.step(done, Some(total));
            let mut said = String::new();
            let result = Program::new("patch")
                .args([
                    "-p1",
                    "--batch",
                    "--forward",
                    "--fuzz=0",
                    "--no-backup-if-mismatch",
                ])
                .assign("--input", patch)
                .dir(tree)
                .run("patching the kernel", &work.log, |line| {
                    said.push_str(line);
                    said.push('\n');
                });
            match result {
                Ok(()) => {}
                Err(StoreError::Failed { .. }) => {
                    let failure = explain(patch, package, tree, &said);
                    return Err(GuestError::Patch(Box::new(failure)));
                }
                Err(error) => return Err(error.into()),
            }
        }
        progress.step(total, Some(total));
        Ok(())
    }
}

/// Finds out from `patch`'s output and its reject files what did not apply.
fn explain(patch: &Path, package: &str, tree: &Path, said: &str) -> PatchFailure {
    let mut rejections = Vec::new();
    let mut rejected = String::new();
    let mut file = String::new();
    for line in said.lines() {
        if let Some(name) = line.strip_prefix("patching file ") {
            file = unquoted(name).to_owned();
        } else if let Some(name) = line.strip_prefix("|+++ ") {
            // Only shown when the file to patch was not found.
            let name = name.split('\t').next().unwrap_or(name);
            let file = name
                .split_once('/')
                .map_or(name, |(_, rest)| rest)
                .to_owned();
            rejections.push(Rejection::NoFile { file });
        } else if line.starts_with("Reversed (or previously applied) patch detected!") {
            rejections.push(Rejection::Applied { file: file.clone() });
        } else if let Some(number) = failed_hunk(line) {
            rejections.push(Rejection::Hunk {
                file: file.clone(),
                number,
            });
        } else if let Some((_, reject)) = line.split_once("saving rejects to file ")
            && let Ok(text) = fs::read_to_string(tree.join(unquoted(reject)))
        {
            rejected.push_str(&text);
        }
    }
    if rejected.is_empty() {
        rejected = said.to_owned();
    }
    let total = rejected.lines().count();
    let mut shown: Vec<_> = rejected
        .lines()
        .take(REJECTED_LINES)
        .map(str::to_owned)
        .collect();
    if total > REJECTED_LINES {
        shown.push(format!("... and {} more lines", total - REJECTED_LINES));
    }
    PatchFailure {
        patch: patch.to_owned(),
        package: package.to_owned(),
        rejections,
        rejected: shown.join("\n"),
    }
}

/// The number in `Hunk #2 FAILED at 10.`
fn failed_hunk(line: &str) -> Option<u32> {
    line.strip_prefix("Hunk #")?
        .split_once(" FAILED")?
        .0
        .parse()
        .ok()
}

/// `patch` puts names with odd characters into quotes.
fn unquoted(name: &str) -> &str {
    name.strip_prefix('\'')
        .and_then(|name| name.strip_suffix('\''))
        .unwrap_or(name)
}
