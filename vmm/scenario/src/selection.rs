//! The scenarios that a command is to run, as the user names them.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::find::{ScenarioError, is_path};
use crate::scenario::Scenario;

/// Stands for every built-in scenario.
pub const ALL: &str = "all";
/// Between a scenario's name and the number of its run. No scenario's name has it, and it means nothing
/// in KTAP (where `#` does), JUnit (where `.` does), HTML and file names.
const REPEAT: char = ':';

/// Why scenarios cannot be run together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectionError {
    /// There is no such scenario.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// There is no such group.
    #[error("no group `{group}`: there are {known}")]
    Group {
        /// What was asked for.
        group: String,
        /// What there is.
        known: String,
    },
    /// Nobody could tell their results apart.
    #[error(
        "two scenarios are called `{name}`: {first} and {second}; give one of them another `name`"
    )]
    SameName {
        /// The name.
        name: String,
        /// Where the one is from.
        first: String,
        /// Where the other is from.
        second: String,
    },
}

/// Where a scenario is from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    BuiltIn,
    File {
        /// As the user wrote it.
        shown: String,
        canonical: PathBuf,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("the built-in one"),
            Self::File { shown, .. } => f.write_str(shown),
        }
    }
}

impl Source {
    fn of(argument: &str) -> Self {
        if !is_path(argument) {
            return Self::BuiltIn;
        }
        let path = Path::new(argument);
        Self::File {
            shown: argument.to_owned(),
            // It was read a moment ago; if it is gone, its name must do.
            canonical: path.canonicalize().unwrap_or_else(|_| path.to_owned()),
        }
    }
}

/// One scenario, and how often the user named it.
#[derive(Debug)]
struct Selected {
    scenario: Scenario,
    source: Source,
    named: usize,
}

impl Selected {
    /// Whether `other` is this scenario. The file that a built-in one was made of is not another.
    fn is(&self, other: &Scenario, source: &Source) -> bool {
        match (&self.source, source) {
            (Source::BuiltIn, Source::BuiltIn) => true,
            (Source::File { canonical, .. }, Source::File { canonical: c, .. }) => canonical == c,
            _ => self.scenario == *other,
        }
    }
}

#[derive(Debug, Default)]
struct Selection {
    /// Each scenario once.
    all: Vec<Selected>,
    /// What is to be run.
    runs: Vec<Scenario>,
}

impl Selection {
    /// Adds a scenario, once for `by_name` each time, and by a group if it is not there yet.
    fn add(
        &mut self,
        scenario: Scenario,
        source: Source,
        by_name: bool,
    ) -> Result<(), SelectionError> {
        let of_that_name = |selected: &&mut Selected| selected.scenario.name == scenario.name;
        let Some(selected) = self.all.iter_mut().find(of_that_name) else {
            self.runs.push(scenario.clone());
            self.all.push(Selected {
                scenario,
                source,
                named: usize::from(by_name),
            });
            return Ok(());
        };
        if !selected.is(&scenario, &source) {
            return Err(SelectionError::SameName {
                name: scenario.name,
                first: selected.source.to_string(),
                second: source.to_string(),
            });
        }
        if by_name {
            selected.named += 1;
            if selected.named > 1 {
                self.runs.push(Scenario {
                    name: format!("{}{REPEAT}{}", scenario.name, selected.named),
                    ..scenario
                });
            }
        }
        Ok(())
    }
}

/// The scenarios of `groups`, then those that `names` has: names of built-in ones, paths of files, or
/// [`ALL`]. What a group or `all` has is there once; what is named several times is run as often, and
/// the second run of `a` is called `a:2`.
///
/// # Errors
/// One is not there or broken, or two are of one name.
pub fn select(groups: &[String], names: &[String]) -> Result<Vec<Scenario>, SelectionError> {
    let mut selection = Selection::default();
    for group in groups {
        let all = Scenario::all()?;
        if !all.iter().any(|scenario| scenario.group == *group) {
            let known: BTreeSet<String> = all.into_iter().map(|s| s.group).collect();
            let known: Vec<String> = known.into_iter().collect();
            return Err(SelectionError::Group {
                group: group.clone(),
                known: known.join(", "),
            });
        }
        for scenario in all.into_iter().filter(|s| s.group == *group) {
            selection.add(scenario, Source::BuiltIn, false)?;
        }
    }
    for name in names {
        if name == ALL {
            for scenario in Scenario::all()? {
                selection.add(scenario, Source::BuiltIn, false)?;
            }
        } else {
            selection.add(Scenario::find(name)?, Source::of(name), true)?;
        }
    }
    Ok(selection.runs)
}

/// The name of a scenario, of the name of one of its runs.
#[must_use]
pub fn base_name(run: &str) -> &str {
    match run.split_once(REPEAT) {
        Some((name, number)) if number.parse::<usize>().is_ok_and(|number| number > 1) => name,
        _ => run,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(groups: &[&str], names: &[&str]) -> Result<Vec<String>, String> {
        let owned = |words: &[&str]| words.iter().map(|&w| w.to_owned()).collect::<Vec<_>>();
        let selected = select(&owned(groups), &owned(names));
        selected
            .map(|all| all.into_iter().map(|scenario| scenario.name).collect())
            .map_err(|error| error.to_string())
    }

    fn built_in(name: &str) -> String {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios");
        format!("{dir}/{name}.toml")
    }

    #[test]
    fn what_is_named_twice_is_run_twice_under_two_names() {
        assert_eq!(
            names(
                &[],
                &["vmap-stack", "static-key-flip", "vmap-stack", "vmap-stack"]
            )
            .unwrap(),
            [
                "vmap-stack",
                "static-key-flip",
                "vmap-stack:2",
                "vmap-stack:3"
            ]
        );
        assert_eq!(
            names(&[], &["vmap-stack", &built_in("vmap-stack")]).unwrap(),
            ["vmap-stack", "vmap-stack:2"]
        );
    }

    #[test]
    fn groups_and_all_add_what_is_not_there() {
        let all = Scenario::all().unwrap().len();
        assert_eq!(names(&["tlb"], &["all", "all"]).unwrap().len(), all);
        let twice = names(&["tlb"], &["vmap-stack", "all", "vmap-stack"]).unwrap();
        assert_eq!(twice.len(), all + 1);
        assert_eq!(twice.last().unwrap(), "vmap-stack:2");
        let unknown = names(&["nope"], &[]).unwrap_err();
        assert!(
            unknown.starts_with("no group `nope`: there are "),
            "{unknown}"
        );
    }

    #[test]
    fn two_scenarios_of_one_name_are_refused_with_both_places() {
        let dir = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(built_in("vmap-stack")).unwrap();
        let file = |name: &str, from: &str, to: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text.replace(from, to)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let a = file("a.toml", "name = \"vmap-stack\"", "name = \"mine\"");
        let b = file("b.toml", "name = \"vmap-stack\"", "name = \"mine\"");
        assert_eq!(
            names(&[], &[&a, &b]),
            Err(format!(
                "two scenarios are called `mine`: {a} and {b}; give one of them another `name`"
            ))
        );
        // One file by two paths is one.
        let also_a = dir.path().join("./a.toml");
        assert_eq!(
            names(&[], &[&a, also_a.to_str().unwrap()]).unwrap(),
            ["mine", "mine:2"]
        );
        let other = file("c.toml", "operations = ", "operations = 1");
        for before in ["vmap-stack", "all"] {
            assert_eq!(
                names(&[], &[before, &other]),
                Err(format!(
                    "two scenarios are called `vmap-stack`: the built-in one and {other}; give one of \
                     them another `name`"
                ))
            );
        }
    }

    #[test]
    fn a_run_is_of_the_scenario_before_its_number() {
        for (run, name) in [
            ("a-b", "a-b"),
            ("a-b:2", "a-b"),
            ("a-b:12", "a-b"),
            ("a-b:1", "a-b:1"),
            ("a-b:x", "a-b:x"),
            ("a-b:", "a-b:"),
            ("a:2:3", "a:2:3"),
        ] {
            assert_eq!(base_name(run), name);
        }
    }
}
