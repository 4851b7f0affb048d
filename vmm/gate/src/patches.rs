//! Mutants: kernel patches that each put one known bug on top of the series, and what is to notice
//! it. A check that has never failed has shown little.
//!
//! This module reads what the patches say about themselves. Whether the scenarios and checks that
//! they name exist [`trials`](crate::trials) finds out; `ipirig-guest` makes the kernels.
//!
//! A mutant is a patch as `git format-patch` writes it. Its subject is `mutant:` and what is wrong
//! with the kernel, and these trailers come before the line `---`:
//!
//! ```text
//! Bug-source: where the bug was seen, or what makes it likely
//! Noticed-by: SCENARIO CHECK      (once for each check that must fail; or EVENT@PATH INVARIANT, of the sweep)
//! Survives: why nothing notices   (instead of Noticed-by)
//! Needs: PCIDs                    (with Noticed-by: guests on some hosts lack it)
//! ```
//!
//! A line that begins with a space or a tab goes on with the line before it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why there are no mutants to try.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// There are none where they should be.
    #[error("no mutants: there is no *.patch in {}", dir.display())]
    NoMutants {
        /// Where they were looked for.
        dir: PathBuf,
    },
    /// The header of a patch does not say what it must.
    #[error("{}:{line}: {reason}", path.display())]
    BadMutant {
        /// The patch.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it, and what to write.
        reason: String,
    },
    /// A file or directory could not be read.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb: `read`, `list`.
        action: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl PatchError {
    /// For `map_err`: an [`Io`](Self::Io) error of `action` on `path`.
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// A patch with a known bug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutant {
    /// The patch's file name without `.patch`.
    pub name: String,
    /// What is wrong with the kernel, in one line.
    pub title: String,
    /// Where the bug was seen, or what makes it likely.
    pub source: String,
    /// What is to become of it.
    pub fate: Wanted,
    /// What a guest must have for that.
    pub needs: Option<Need>,
    /// The patch.
    pub path: PathBuf,
}

/// What is to become of a mutant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Each of these must notice it. Never empty.
    Noticed(Vec<Notice>),
    /// Nothing notices it, for this reason.
    Survives(String),
}

/// What the host may not offer to guests, and without which a mutant is as good as the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// PCIDs (SDM vol. 3, 4.10.1).
    Pcids,
}

impl Need {
    /// All of them, with their names in patches.
    const NAMES: [(&str, Self); 1] = [("PCIDs", Self::Pcids)];
}

/// A check that fails because of a mutant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The name of the scenario to run.
    pub scenario: String,
    /// The name of the check in its verdict.
    pub check: String,
}

/// The mutants in `kernel/mutants` of the `guest` directory of a checkout, by name.
///
/// # Errors
///
/// [`PatchError::NoMutants`] if there are none, [`PatchError::BadMutant`] if one of them does not
/// say what it must, [`PatchError::Io`].
pub fn all(guest: &Path) -> Result<Vec<Mutant>, PatchError> {
    let dir = guest.join("kernel/mutants");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(PatchError::NoMutants { dir });
        }
        Err(error) => return Err(PatchError::io("list", &dir)(error)),
    };
    let mut mutants = Vec::new();
    for entry in entries {
        let path = entry.map_err(PatchError::io("list", &dir))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "patch")
        {
            mutants.push(Mutant::read(path)?);
        }
    }
    if mutants.is_empty() {
        return Err(PatchError::NoMutants { dir });
    }
    mutants.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(mutants)
}

impl Mutant {
    /// The one in the patch at `path`.
    ///
    /// # Errors
    ///
    /// [`PatchError::BadMutant`] if it does not say what it must, [`PatchError::Io`].
    pub fn read(path: PathBuf) -> Result<Self, PatchError> {
        let text = fs::read(&path).map_err(PatchError::io("read", &path))?;
        Self::parse(path, &String::from_utf8_lossy(&text))
    }

    fn parse(path: PathBuf, text: &str) -> Result<Self, PatchError> {
        let bad = |(line, reason): (usize, String)| PatchError::BadMutant {
            path: path.clone(),
            line,
            reason,
        };
        let header = Header::parse(text).map_err(bad)?;
        let missing = |what: &str| bad((header.end, format!("before this line, {what}")));
        let title = header.title.clone();
        let source = header.source.clone();
        let fate = match (&header.survives, header.noticed.as_slice()) {
            (Some(reason), []) => Some(Wanted::Survives(reason.clone())),
            (None, [_, ..]) => Some(Wanted::Noticed(header.noticed.clone())),
            // The header has not both.
            _ => None,
        };
        Ok(Self {
            title: title
                .ok_or_else(|| missing("say what is wrong: `Subject: [PATCH] mutant: ...`"))?,
            source: source
                .ok_or_else(|| missing("say where the bug is from: `Bug-source: ...`"))?,
            fate: fate.ok_or_else(|| {
                missing(
                    "say what notices the mutant, `Noticed-by: SCENARIO CHECK`, or why nothing \
                     does, `Survives: ...`",
                )
            })?,
            needs: header.needs,
            name: stem(&path),
            path,
        })
    }
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// What a patch says before the line `---`.
#[derive(Debug, Default)]
struct Header {
    title: Option<String>,
    source: Option<String>,
    noticed: Vec<Notice>,
    survives: Option<String>,
    needs: Option<Need>,
    /// The number of the line `---`, from 1.
    end: usize,
}

impl Header {
    /// `Err` is a line number, from 1, and a reason.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut this = Self::default();
        // Lines that are one when unfolded, with the number of the first.
        let mut open: Option<(usize, String)> = None;
        for (number, line) in (1..).zip(text.lines()) {
            if line.starts_with("diff --git ") || line.starts_with("--- ") {
                let reason = "the diff begins without a line `---` before it".to_owned();
                return Err((number, reason));
            }
            if let (Some((_, open)), true) = (&mut open, line.starts_with([' ', '\t'])) {
                open.push(' ');
                open.push_str(line.trim());
                continue;
            }
            if let Some((number, line)) = open.take() {
                this.add(&line).map_err(|reason| (number, reason))?;
            }
            if line == "---" {
                this.end = number;
                return Ok(this);
            }
            open = (!line.is_empty()).then(|| (number, line.to_owned()));
        }
        let reason = "the patch ends without a line `---`".to_owned();
        Err((text.lines().count().max(1), reason))
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let Some((key, value)) = line.split_once(':') else {
            return Ok(());
        };
        let value = value.trim();
        // As in git, the names of trailers are the same in upper and lower case.
        match key.to_ascii_lowercase().as_str() {
            "subject" => {
                let title = value
                    .strip_prefix("[PATCH")
                    .and_then(|rest| rest.split_once(']'))
                    .and_then(|(_, rest)| rest.trim().strip_prefix("mutant:"))
                    .map_or("", str::trim);
                once("Subject", &mut self.title, title).map_err(|reason| {
                    format!("{reason}; write `Subject: [PATCH] mutant: WHAT IS WRONG`")
                })
            }
            "bug-source" => once("Bug-source", &mut self.source, value),
            "survives" if !self.noticed.is_empty() => Err(BOTH.to_owned()),
            "survives" if self.needs.is_some() => Err(NEEDS_NOTHING.to_owned()),
            "survives" => once("Survives", &mut self.survives, value),
            "needs" if self.survives.is_some() => Err(NEEDS_NOTHING.to_owned()),
            "needs" if self.needs.is_some() => {
                Err("`Needs` is there twice; remove one of them".to_owned())
            }
            "needs" => {
                let known = Need::NAMES.into_iter().find(|(name, _)| *name == value);
                let (_, need) = known.ok_or_else(|| {
                    format!("nothing is known of `{value}`; write `Needs: PCIDs`")
                })?;
                self.needs = Some(need);
                Ok(())
            }
            "noticed-by" if self.survives.is_some() => Err(BOTH.to_owned()),
            "noticed-by" => {
                let [scenario, check] = value.split_whitespace().collect::<Vec<_>>()[..] else {
                    return Err(format!(
                        "`{value}` is not a scenario and a check; write `Noticed-by: SCENARIO CHECK`, or `Noticed-by: EVENT@PATH \
                         INVARIANT`"
                    ));
                };
                let notice = Notice {
                    scenario: scenario.to_owned(),
                    check: check.to_owned(),
                };
                if self.noticed.contains(&notice) {
                    return Err(format!("`{value}` is there twice; remove one of them"));
                }
                self.noticed.push(notice);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

const BOTH: &str = "a mutant is either noticed or survives; remove `Survives` or each `Noticed-by`";

const NEEDS_NOTHING: &str =
    "a mutant that survives needs nothing to be noticed; remove `Survives` or `Needs`";

fn once(name: &str, slot: &mut Option<String>, value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err(format!("`{name}` does not say anything that counts here"));
    }
    if slot.is_some() {
        return Err(format!("`{name}` is there twice; remove one of them"));
    }
    *slot = Some(value.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTICED: &str = "\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: ipirig developers <ipirig@example.org>
Subject: [PATCH] mutant: user mode is noted
 too late

What it does: nothing good.

Bug-source: a slip of the pen,
\tthe usual one
Noticed-by: storm-text sends
noticed-by: entry  catch-up
Needs: PCIDs
Signed-off-by: ipirig developers <ipirig@example.org>
---
 main.sh | 2 +-
Survives: not a trailer here
diff --git a/main.sh b/main.sh
--- a/main.sh
+++ b/main.sh
";

    const SURVIVES: &str = "\
Subject: [PATCH 2/2] mutant: a counter is off by one

Bug-source: own
Survives: nobody looks at it
---
";

    /// A guest directory with these files for mutants.
    fn guest(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        if !files.is_empty() {
            fs::create_dir_all(dir.path().join("kernel/mutants")).expect("created");
        }
        for (name, text) in files {
            fs::write(dir.path().join("kernel/mutants").join(name), text).expect("written");
        }
        dir
    }

    fn notice(scenario: &str, check: &str) -> Notice {
        Notice {
            scenario: scenario.to_owned(),
            check: check.to_owned(),
        }
    }

    #[test]
    fn mutants_are_read_and_sorted_by_name() {
        let dir = guest(&[
            ("b-late.patch", NOTICED),
            ("a-count.patch", SURVIVES),
            ("README.md", "not a patch"),
        ]);
        let path = |name| dir.path().join("kernel/mutants").join(name);
        assert_eq!(
            all(dir.path()).expect("read"),
            [
                Mutant {
                    name: "a-count".to_owned(),
                    title: "a counter is off by one".to_owned(),
                    source: "own".to_owned(),
                    fate: Wanted::Survives("nobody looks at it".to_owned()),
                    needs: None,
                    path: path("a-count.patch"),
                },
                Mutant {
                    name: "b-late".to_owned(),
                    title: "user mode is noted too late".to_owned(),
                    source: "a slip of the pen, the usual one".to_owned(),
                    fate: Wanted::Noticed(vec![
                        notice("storm-text", "sends"),
                        notice("entry", "catch-up"),
                    ]),
                    needs: Some(Need::Pcids),
                    path: path("b-late.patch"),
                },
            ]
        );
    }

    #[test]
    fn no_mutants_is_an_error_that_says_where_they_should_be() {
        for files in [&[][..], &[("README.md", "")]] {
            let dir = guest(files);
            let error = all(dir.path()).expect_err("none");
            assert_eq!(
                error.to_string(),
                format!(
                    "no mutants: there is no *.patch in {}",
                    dir.path().join("kernel/mutants").display()
                )
            );
            assert!(matches!(error, PatchError::NoMutants { .. }), "{error:?}");
        }
    }

    #[test]
    fn bad_header_is_refused_with_its_line_and_a_way_out() {
        let fate = "before this line, say what notices the mutant, `Noticed-by: SCENARIO CHECK`, \
                    or why nothing does, `Survives: ...`";
        let subject = "`Subject` does not say anything that counts here; write \
                       `Subject: [PATCH] mutant: WHAT IS WRONG`";
        let cases = [
            (("Survives: nobody looks at it\n", ""), 4, fate),
            (("Survives: nobody", "Survives nobody"), 5, fate),
            (
                ("Bug-source: own\n", ""),
                4,
                "before this line, say where the bug is from: `Bug-source: ...`",
            ),
            (
                ("Subject", "Object"),
                5,
                "before this line, say what is wrong: `Subject: [PATCH] mutant: ...`",
            ),
            (("mutant: a", "a"), 1, subject),
            (("mutant: a counter is off by one", "mutant:"), 1, subject),
            (
                ("own", ""),
                3,
                "`Bug-source` does not say anything that counts here",
            ),
            (
                ("own", "own\nBug-source: other"),
                4,
                "`Bug-source` is there twice; remove one of them",
            ),
            (
                ("Survives: nobody looks at it", "Noticed-by: entry"),
                4,
                "`entry` is not a scenario and a check; write `Noticed-by: SCENARIO CHECK`, or `Noticed-by: EVENT@PATH INVARIANT`",
            ),
            (
                (
                    "Survives: nobody looks at it",
                    "Noticed-by: a b\nNoticed-by: a b",
                ),
                5,
                "`a b` is there twice; remove one of them",
            ),
            (("it\n", "it\nNoticed-by: a b\n"), 5, BOTH),
            (("own\n", "own\nNoticed-by: a b\n"), 5, BOTH),
            (("it\n", "it\nNeeds: PCIDs\n"), 5, NEEDS_NOTHING),
            (("own\n", "own\nNeeds: PCIDs\n"), 5, NEEDS_NOTHING),
            (
                ("own\n", "own\nNeeds: PCIDs\nNeeds: PCIDs\n"),
                5,
                "`Needs` is there twice; remove one of them",
            ),
            (
                ("own\n", "own\nNeeds: luck\n"),
                4,
                "nothing is known of `luck`; write `Needs: PCIDs`",
            ),
            (("---\n", ""), 4, "the patch ends without a line `---`"),
            (
                ("---\n", "--- a/x\n"),
                5,
                "the diff begins without a line `---` before it",
            ),
        ];
        for ((from, to), line, reason) in cases {
            let dir = guest(&[("m.patch", &SURVIVES.replace(from, to))]);
            let path = dir.path().join("kernel/mutants/m.patch");
            let error = all(dir.path()).expect_err(reason);
            assert_eq!(
                error.to_string(),
                format!("{}:{line}: {reason}", path.display())
            );
            assert!(matches!(error, PatchError::BadMutant { .. }), "{error:?}");
        }
    }
}
