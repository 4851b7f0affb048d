//! What a kernel that was tried came to: on a scenario, or on one event and path of the sweep.

use ipirig_checks::check::{CHECKS, SPECIAL, Verdict};
use ipirig_scenario::Scenario;
use ipirig_sweep::{EventName, Invariant, NameError, PathName, Status, SweepResult};
use ipirig_verdict::result::RunResult;

/// What a kernel is tried on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrialKind {
    /// A scenario, by its name.
    Scenario(String),
    /// Each point of an event and a path, named as EVENT@PATH.
    Sweep {
        /// The event.
        event: EventName,
        /// The path.
        path: PathName,
    },
}

impl TrialKind {
    /// The one of this name.
    ///
    /// # Errors
    /// There is no such scenario, event or path: why, for a person.
    pub fn find(name: &str) -> Result<Self, String> {
        let Some((event, path)) = name.split_once('@') else {
            let scenario = Scenario::find(name).map_err(|error| error.to_string())?;
            return Ok(Self::Scenario(scenario.name));
        };
        let words = |error: NameError| error.to_string();
        let (event, path) = (event.parse().map_err(words)?, path.parse().map_err(words)?);
        Ok(Self::Sweep { event, path })
    }

    /// Whether `name` is a check of a scenario, or an invariant of the sweep.
    #[must_use]
    pub fn has_check(&self, name: &str) -> bool {
        match self {
            Self::Scenario(_) => CHECKS.contains(&name) || SPECIAL.contains(&name),
            Self::Sweep { .. } => Invariant::ALL.iter().any(|it| it.name() == name),
        }
    }
}

/// What it came to.
#[derive(Clone, Debug)]
pub enum TrialResult {
    /// A run of a scenario.
    Run(Box<RunResult>),
    /// A sweep.
    Sweep(Box<SweepResult>),
}

impl TrialResult {
    /// The verdict on all of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Run(result) => result.verdict,
            Self::Sweep(result) => Verdict::of(result),
        }
    }

    /// The run of a scenario.
    #[must_use]
    pub fn run(&self) -> Option<&RunResult> {
        match self {
            Self::Run(result) => Some(result),
            Self::Sweep(_) => None,
        }
    }

    /// What the check or the invariant `name` says, and why.
    #[must_use]
    pub fn check(&self, name: &str) -> (Verdict, String) {
        match self {
            Self::Run(result) => {
                // Without it, the run ended before there was evidence.
                let check = result.checks.iter().find(|check| check.name == name);
                match check.or(result.checks.first()) {
                    Some(check) => (check.status, check.evidence.clone()),
                    None => (Verdict::Error, "no checks were made".to_owned()),
                }
            }
            Self::Sweep(result) => invariant(result, name),
        }
    }

    /// The checks and invariants that are violated.
    #[must_use]
    pub fn violated(&self) -> Vec<String> {
        match self {
            Self::Run(result) => {
                let checks = result.checks.iter();
                let violated = checks.filter(|check| check.status == Verdict::Violated);
                violated.map(|check| check.name.to_owned()).collect()
            }
            Self::Sweep(result) => {
                let names = Invariant::ALL.map(Invariant::name).into_iter();
                let violated = names.filter(|name| invariant(result, name).0 == Verdict::Violated);
                violated.map(str::to_owned).collect()
            }
        }
    }
}

fn invariant(result: &SweepResult, name: &str) -> (Verdict, String) {
    let points = result.points.iter();
    let by_it = points.filter(|point| {
        point
            .violations
            .iter()
            .any(|it| it.invariant.name() == name)
    });
    let names: Vec<String> = by_it.map(|point| point.point.to_string()).collect();
    if let (Some(first), Some(last)) = (names.first(), names.last()) {
        let count = names.len();
        return (
            Verdict::Violated,
            format!("{count} points, {first} to {last}"),
        );
    }
    if result
        .points
        .iter()
        .any(|point| point.status == Status::Violated)
    {
        let words = "other invariants are violated, and not this one".to_owned();
        return (Verdict::Held, words);
    }
    let why = result.why.clone();
    let why = why.or_else(|| result.points.iter().find_map(|point| point.why.clone()));
    let why = why.or_else(|| result.paths.iter().find_map(|path| path.why.clone()));
    let hit = result
        .points
        .iter()
        .filter(|point| point.status == Status::Held)
        .count();
    match Verdict::of(result) {
        Verdict::Held => (Verdict::Held, format!("held at {hit} points")),
        Verdict::Skipped => (Verdict::Skipped, why.unwrap_or_default()),
        Verdict::Error | Verdict::Violated => (Verdict::Error, why.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use ipirig_sweep::{Outcome, PointResult, Violation};

    use super::*;

    fn sweep(verdict: &str, outcomes: Vec<Outcome>) -> TrialResult {
        let point = |(number, outcome)| {
            let name = format!("nmi@syscall+{number}").parse().unwrap();
            PointResult::new(name, outcome, None)
        };
        TrialResult::Sweep(Box::new(SweepResult {
            schema_version: ipirig_sweep::result::SCHEMA_VERSION,
            verdict: verdict.to_owned(),
            why: None,
            shard: "1/1".to_owned(),
            complete: true,
            kernel: None,
            paths: vec![],
            points: outcomes.into_iter().enumerate().map(point).collect(),
            timing: ipirig_sweep::result::Timing::default(),
        }))
    }

    fn violated(invariant: Invariant) -> Outcome {
        Outcome::Violated(vec![Violation {
            invariant,
            at: "there".to_owned(),
            words: "wrong".to_owned(),
        }])
    }

    #[test]
    fn an_invariant_says_at_which_points_it_is_violated() {
        let outcomes = vec![
            Outcome::Held,
            violated(Invariant::FlagSet),
            violated(Invariant::FlagSet),
            violated(Invariant::BackInUser),
        ];
        let result = sweep("violated", outcomes);
        let words = "2 points, nmi@syscall+1 to nmi@syscall+2".to_owned();
        assert_eq!(result.check("flag-set"), (Verdict::Violated, words));
        assert_eq!(result.check("caught-up").0, Verdict::Held);
        assert_eq!(result.violated(), ["flag-set", "back-in-user"]);
        assert_eq!(result.verdict(), Verdict::Violated);
    }

    #[test]
    fn a_sweep_that_cannot_tell_is_no_witness_for_the_kernel() {
        let result = sweep("error", vec![Outcome::Error("not there".to_owned())]);
        let expected = (Verdict::Error, "not there".to_owned());
        assert_eq!(result.check("flag-set"), expected);
        let held = sweep("held", vec![Outcome::Held]);
        let expected = (Verdict::Held, "held at 1 points".to_owned());
        assert_eq!(held.check("flag-set"), expected);
    }

    #[test]
    fn what_a_kernel_is_tried_on_has_checks_of_its_own() {
        let kind = |name| TrialKind::find(name).unwrap();
        assert!(kind("static-key-flip").has_check("flag-order"));
        assert!(!kind("static-key-flip").has_check("flag-set"));
        assert!(kind("nested-nmi@syscall+4/nmi-exit").has_check("flag-set"));
        assert!(!kind("nmi@syscall").has_check("flag-order"));
        for none in ["smi@syscall", "nmi@", "no-scenario"] {
            assert!(TrialKind::find(none).is_err(), "{none}");
        }
    }
}
