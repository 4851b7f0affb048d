//! The gate: whether runs are as they were, and if not, what changed.
//!
//! A [`Baseline`] has of a run what is compared, and how exactly: relations, verdicts and counts, which are
//! the kernel's, and no instruction numbers, which are the host's. Results are read back
//! ([`Recorded`]) from the JSON that a run writes, so that those of another machine or of yesterday
//! will do. Nothing here runs a scenario or writes a file.

mod baseline;
mod compare;
mod entries;
mod read;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use crate::exit::Code;
use crate::paint::Paint;
use crate::verdict::Verdict;

pub use baseline::{BASELINE_VERSION, Baseline, Count, Tolerances};
pub use compare::{Change, changes};
pub use entries::{CatchUp, EntryRelations, FlagCleared, FlagSet};
pub use read::{ReadError, Recorded, RecordedScenario};

/// What became of one scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// The scenario.
    pub scenario: String,
    /// Whether the kernel was told to defer.
    pub deferral: bool,
    /// What was found.
    pub outcome: Outcome,
}

/// How a run compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it was.
    Same,
    /// Not as it was.
    Changed(Vec<Change>),
    /// A run that says nothing: its verdict is `error` or `skipped`.
    NoTelling {
        /// That verdict.
        verdict: Verdict,
        /// Why.
        why: String,
    },
    /// Only one of two files has it.
    Alone {
        /// Which: `first` or `second`.
        only: &'static str,
    },
}

impl Compared {
    /// Compares `run` with `baseline`.
    #[must_use]
    pub fn new(baseline: &Baseline, run: &Recorded) -> Self {
        let outcome = no_telling(run).unwrap_or_else(|| {
            let changes = changes(baseline, run);
            if changes.is_empty() {
                Outcome::Same
            } else {
                Outcome::Changed(changes)
            }
        });
        Self::of(run, outcome)
    }

    fn of(run: &Recorded, outcome: Outcome) -> Self {
        Self {
            scenario: run.scenario.name.clone(),
            deferral: run.scenario.deferral,
            outcome,
        }
    }
}

/// Why a run can be no baseline: nothing is known of the kernel.
#[must_use]
pub fn no_telling(run: &Recorded) -> Option<Outcome> {
    if !matches!(run.verdict, Verdict::Error | Verdict::Skipped) {
        return None;
    }
    let check = run.checks.iter().find(|check| check.status == run.verdict);
    let why = check.map(|check| format!("{}: {}", check.name, check.evidence));
    Some(Outcome::NoTelling {
        verdict: run.verdict,
        why: compare::plain(&why.unwrap_or_default()),
    })
}

/// Compares two files' runs, by scenario and deferral; in the order of the first, then of the second.
#[must_use]
pub fn side_by_side(first: &[Recorded], second: &[Recorded]) -> Vec<Compared> {
    let twin = |run: &Recorded, others: &[Recorded]| {
        let key = |run: &Recorded| (run.scenario.name.clone(), run.scenario.deferral);
        let found = others.iter().find(|other| key(other) == key(run));
        found.cloned()
    };
    let of_first = first.iter().map(|run| match twin(run, second) {
        Some(other) => match no_telling(run) {
            Some(outcome) => Compared::of(run, outcome),
            None => Compared::new(&Baseline::of(run), &other),
        },
        None => Compared::of(run, Outcome::Alone { only: "first" }),
    });
    let only_second = second
        .iter()
        .filter(|run| twin(run, first).is_none())
        .map(|run| Compared::of(run, Outcome::Alone { only: "second" }));
    of_first.chain(only_second).collect()
}

/// The exit code: what changed comes before what cannot be told, and an `error` before a `skipped`.
#[must_use]
pub fn code(compared: &[Compared]) -> Code {
    let verdicts: Vec<Verdict> = compared
        .iter()
        .map(|compared| match &compared.outcome {
            Outcome::Same => Verdict::Held,
            Outcome::Changed(_) | Outcome::Alone { .. } => Verdict::Violated,
            Outcome::NoTelling { verdict, .. } => *verdict,
        })
        .collect();
    Code::of_each(&verdicts)
}

/// A line a scenario, below it what changed, and a count, with a newline at the end.
#[must_use]
pub fn render(compared: &[Compared], paint: Paint) -> String {
    let mut out = String::new();
    for one in compared {
        let (verdict, word) = match &one.outcome {
            Outcome::Same => (Verdict::Held, "same"),
            Outcome::Changed(_) | Outcome::Alone { .. } => (Verdict::Violated, "changed"),
            Outcome::NoTelling { verdict, .. } => (*verdict, "no telling"),
        };
        let word = paint.verdict(verdict, format!("{word:<10}"));
        let state = if one.deferral { "" } else { ", deferral off" };
        let _ = writeln!(out, "{word}  {}{state}", one.scenario);
        match &one.outcome {
            Outcome::Same => {}
            Outcome::Changed(changes) => {
                for change in changes {
                    let Change { what, was, is, why } = change;
                    let _ = writeln!(out, "            {what}: {was} -> {is}");
                    for line in why {
                        let _ = writeln!(out, "              {line}");
                    }
                }
            }
            Outcome::NoTelling { verdict, why } => {
                let _ = writeln!(out, "            {verdict}: {why}");
            }
            Outcome::Alone { only } => {
                let _ = writeln!(out, "            only in the {only} file");
            }
        }
    }
    let count = |test: fn(&Outcome) -> bool| compared.iter().filter(|c| test(&c.outcome)).count();
    let _ = writeln!(
        out,
        "\n{} same, {} changed, {} no telling",
        count(|outcome| matches!(outcome, Outcome::Same)),
        count(|outcome| matches!(outcome, Outcome::Changed(_) | Outcome::Alone { .. })),
        count(|outcome| matches!(outcome, Outcome::NoTelling { .. })),
    );
    out
}

/// What two files' runs were of, and their counts beside each other, with a newline at the end.
#[must_use]
pub fn table(first: &[Recorded], second: &[Recorded]) -> String {
    let kernel = |runs: &[Recorded]| {
        let kernel = runs.iter().find_map(|run| run.kernel.as_ref());
        kernel.map_or("no kernel".to_owned(), |kernel| {
            let name = kernel.release.as_ref().unwrap_or(&kernel.path);
            let series = kernel.series.as_ref();
            let series = series.map(|series| format!(", series {}", compare::plain(series)));
            format!("{}{}", compare::plain(name), series.unwrap_or_default())
        })
    };
    let mut out = format!("A  {}\nB  {}\n\n", kernel(first), kernel(second));
    let mut rows = vec![
        [
            "",
            "scenario",
            "verdict",
            "isolated",
            "housekeeping",
            "deferred",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for run in first {
        let twins = second.iter().filter(|other| {
            other.scenario.name == run.scenario.name
                && other.scenario.deferral == run.scenario.deferral
        });
        rows.push(row("A", run));
        rows.extend(twins.take(1).map(|other| row("B", other)));
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..6).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| {
                // Numbers to the right, words to the left.
                if column < 3 {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            })
            .collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out.push('\n');
    out
}

fn row(file: &str, run: &Recorded) -> Vec<String> {
    let counts = Baseline::of(run);
    let isolated = counts.isolated_ipis.values().map(|count| count.count);
    let isolated = isolated.fold(0, u64::saturating_add);
    let state = if run.scenario.deferral {
        ""
    } else {
        " (deferral off)"
    };
    vec![
        file.to_owned(),
        format!("{}{state}", run.scenario.name),
        run.verdict.to_string(),
        isolated.to_string(),
        counts.housekeeping_ipis.count.to_string(),
        counts
            .deferred
            .map_or("-".to_owned(), |count| count.count.to_string()),
    ]
}
