//! The gate: whether runs are as they were, and if not, what changed; and whether checks notice the
//! kernels that they must ([`mutants`], one after the other: [`trials`]; [`patches`] are what they are made with).
//!
//! A [`Baseline`] has of a run what is compared, and how exactly: relations, verdicts and counts, which are
//! the kernel's, and no instruction numbers, which are the host's. Results are read back
//! ([`Recorded`]) from the JSON that a run writes, so that those of another machine or of yesterday
//! will do.
//!
//! What this crate does not do: run a scenario (`ipirig-rig` does), build a kernel (`ipirig-guest`), write files (`ipirig`), or show what it
//! found (`ipirig-report`).

#![forbid(unsafe_code)]

mod baseline;
mod compare;
mod entries;
pub mod mutants;
pub mod patches;
mod read;
pub mod sweeps;
#[cfg(test)]
mod tests;
pub mod trial_result;
pub mod trials;

use ipirig_checks::check::Verdict;
use ipirig_verdict::exit::Code;

pub use baseline::{BASELINE_VERSION, Baseline, Count, Tolerances};
pub use compare::{Change, changes};
pub use entries::{CatchUp, EntryRelations, FlagCleared, FlagSet};
pub use read::{ReadError, Recorded, RecordedScenario, TOO_LONG, bytes};

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
    CannotTell {
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
    Some(Outcome::CannotTell {
        verdict: run.verdict,
        why: read::plain(&why.unwrap_or_default()),
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
            Outcome::CannotTell { verdict, .. } => *verdict,
        })
        .collect();
    Code::of_each(&verdicts)
}
