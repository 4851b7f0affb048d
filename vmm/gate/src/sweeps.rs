//! Sweeps beside a baseline: at which instructions of which path an event violates which invariant.
//!
//! Instructions are told by their places in the kernel's functions and not by their numbers on the path, which differ from
//! CPU to CPU (alternatives). A sweep of some paths or events is compared with what the baseline has of those.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ipirig_checks::check::Verdict;
use ipirig_sweep::{EventName, PointResult, SweepResult};
use serde::{Deserialize, Serialize};

use crate::read::{ReadError, json, plain, shaped, version};
use crate::{Change, Compared, Outcome};

/// The version of the file.
pub const SWEEP_BASELINE_VERSION: u32 = 1;
/// Its name in the directory of the baselines.
const FILE: &str = "sweep.json";
const WANTED: &str = "baseline of a sweep";

/// By invariant: where it is violated.
type Violated = BTreeMap<String, BTreeSet<String>>;

/// What is compared of a sweep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepBaseline {
    /// [`SWEEP_BASELINE_VERSION`].
    pub baseline_version: u32,
    /// By EVENT@PATH: where which invariant is violated.
    pub violated: BTreeMap<String, Violated>,
}

impl SweepBaseline {
    /// What is compared of `result`.
    #[must_use]
    pub fn of(result: &SweepResult) -> Self {
        let mut violated: BTreeMap<String, Violated> = BTreeMap::new();
        for point in &result.points {
            let of_part = violated.entry(part(point)).or_default();
            for violation in &point.violations {
                let places = of_part.entry(violation.invariant.name().to_owned());
                places.or_default().insert(place(result, point));
            }
        }
        Self {
            baseline_version: SWEEP_BASELINE_VERSION,
            violated,
        }
    }

    /// Where it is in `dir`.
    #[must_use]
    pub fn path(dir: &Path) -> PathBuf {
        dir.join(FILE)
    }

    /// Reads it; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read, or is something else.
    pub fn read(dir: &Path) -> Result<Option<Self>, ReadError> {
        let path = Self::path(dir);
        let value = match json(&path, WANTED) {
            Err(ReadError::Unreadable { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(None);
            }
            read => read?,
        };
        let read = ("baseline_version", SWEEP_BASELINE_VERSION);
        let next = || "make it anew with ipirig gate --sweep FILE --accept".to_owned();
        version(&path, WANTED, &value, read, next)?;
        Ok(Some(shaped(&path, WANTED, value)?))
    }

    /// The file's text.
    ///
    /// # Errors
    /// serde_json's.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Compares `result` with it, an event and a path after the other.
    #[must_use]
    pub fn compare(&self, result: &SweepResult) -> Vec<Compared> {
        if let Some(outcome) = says_nothing(result) {
            return vec![compared("sweep".to_owned(), outcome)];
        }
        let now = Self::of(result);
        let mut all: Vec<Compared> = now
            .violated
            .iter()
            .map(|(name, is)| {
                let changes = match self.violated.get(name) {
                    Some(was) => changes(result, name, was, is),
                    None => vec![change("points", "not in the baseline", "there", vec![])],
                };
                let outcome = match changes.is_empty() {
                    true => Outcome::Same,
                    false => Outcome::Changed(changes),
                };
                compared(name.clone(), outcome)
            })
            .collect();
        // A path of the baseline that cannot be traced any longer.
        for path in result.paths.iter().filter(|path| path.why.is_some()) {
            let suffix = format!("@{}", path.path);
            let before = self.violated.keys().find(|name| name.ends_with(&suffix));
            if let Some(name) = before {
                let why = path.why.iter().map(|why| plain(why)).collect();
                let changes = vec![change("path", "traced", "not traced", why)];
                all.push(compared(name.clone(), Outcome::Changed(changes)));
            }
        }
        all
    }
}

/// Why a sweep can be no baseline, and cannot be compared: nothing is known of the kernel, or not all of what was asked.
#[must_use]
pub fn says_nothing(result: &SweepResult) -> Option<Outcome> {
    let verdict = Verdict::of(result);
    // A point that is an error hides what it would have been, even beside one that is violated.
    let error = result.points.iter().find_map(|point| point.why.as_ref());
    if error.is_none() && result.complete && verdict != Verdict::Skipped {
        return None;
    }
    let why = error.or(result.why.as_ref()).map(|why| plain(why));
    Some(Outcome::CannotTell {
        verdict: match verdict {
            Verdict::Skipped => Verdict::Skipped,
            _ => Verdict::Error,
        },
        why: why.unwrap_or_else(|| "the sweep did not come to its end".to_owned()),
    })
}

fn changes(result: &SweepResult, name: &str, was: &Violated, is: &Violated) -> Vec<Change> {
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    let none = BTreeSet::new();
    let places = |of: &Violated, invariant: &str| of.get(invariant).unwrap_or(&none).clone();
    let differ = names.into_iter().filter_map(|invariant| {
        let (was, is) = (places(was, invariant), places(is, invariant));
        let words = |places: &BTreeSet<String>| match places.len() {
            0 => "held".to_owned(),
            _ => format!(
                "violated at {}",
                places.iter().cloned().collect::<Vec<_>>().join(", ")
            ),
        };
        (was != is).then(|| {
            let new = is.difference(&was).next();
            let why = new.and_then(|place| words_of(result, name, invariant, place));
            change(
                invariant,
                &words(&was),
                &words(&is),
                why.into_iter().collect(),
            )
        })
    });
    differ.collect()
}

/// What is wrong at the first point of `name` that is at `place` and violates `invariant`.
fn words_of(result: &SweepResult, name: &str, invariant: &str, place_: &str) -> Option<String> {
    let mut points = result.points.iter();
    points
        .find_map(|point| {
            if part(point) != name || place(result, point) != place_ {
                return None;
            }
            let mut violations = point.violations.iter();
            violations.find(|violation| violation.invariant.name() == invariant)
        })
        .map(|violation| plain(&format!("{} {}", violation.at, violation.words)))
}

/// EVENT@PATH of a point.
fn part(point: &PointResult) -> String {
    format!(
        "{}@{}",
        EventName::name(point.point.event),
        point.point.path
    )
}

/// The instruction of a point, as `symbol+0xoffset`.
fn place(result: &SweepResult, point: &PointResult) -> String {
    let path = point.point.path.to_string();
    let mut paths = result.paths.iter();
    paths
        .find(|it| it.path == path)
        .and_then(|it| it.instructions.get(point.point.number))
        .map_or_else(
            || format!("+{}", point.point.number),
            |it| plain(&it.address),
        )
}

fn change(what: &str, was: &str, is: &str, why: Vec<String>) -> Change {
    Change {
        what: what.to_owned(),
        was: was.to_owned(),
        is: is.to_owned(),
        why,
    }
}

fn compared(scenario: String, outcome: Outcome) -> Compared {
    Compared {
        scenario,
        deferral: true,
        outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ipirig_sweep::result::{InstructionResult, SCHEMA_VERSION, Timing};
    use ipirig_sweep::{Invariant, Outcome as PointOutcome, PathResult, Violation};
    use tempfile::TempDir;

    use super::*;

    /// A sweep of nmi@syscall whose points became this.
    fn sweep(outcomes: Vec<PointOutcome>) -> SweepResult {
        let instructions = (0..outcomes.len()).map(|number| InstructionResult {
            address: format!("entry+{number:#x}"),
            text: "nop".to_owned(),
        });
        let paths = vec![PathResult {
            path: "syscall".to_owned(),
            instructions: instructions.collect(),
            why: None,
        }];
        let point = |(number, outcome)| {
            let name = format!("nmi@syscall+{number}").parse().unwrap();
            PointResult::new(name, outcome, None)
        };
        let points: Vec<_> = outcomes.into_iter().enumerate().map(point).collect();
        SweepResult {
            schema_version: SCHEMA_VERSION,
            verdict: SweepResult::conclusion(&points, &paths, true).to_owned(),
            why: None,
            shard: "1/1".to_owned(),
            complete: true,
            kernel: None,
            paths,
            points,
            timing: Timing::default(),
        }
    }

    fn flag_set() -> PointOutcome {
        PointOutcome::Violated(vec![Violation {
            invariant: Invariant::FlagSet,
            at: "handler".to_owned(),
            words: "runs with the flag clear".to_owned(),
        }])
    }

    fn only(compared: Vec<Compared>) -> Outcome {
        let [one] = <[Compared; 1]>::try_from(compared).unwrap();
        one.outcome
    }

    #[test]
    fn a_point_that_is_violated_and_was_not_is_a_change_with_its_place_and_reason() {
        let good = sweep(vec![PointOutcome::Held, PointOutcome::Held]);
        let bad = sweep(vec![PointOutcome::Held, flag_set()]);
        let baseline = SweepBaseline::of(&good);
        assert_eq!(only(baseline.compare(&good)), Outcome::Same);
        let expected = Change {
            what: "flag-set".to_owned(),
            was: "held".to_owned(),
            is: "violated at entry+0x1".to_owned(),
            why: vec!["handler runs with the flag clear".to_owned()],
        };
        assert_eq!(
            only(baseline.compare(&bad)),
            Outcome::Changed(vec![expected])
        );
        let mended = only(SweepBaseline::of(&bad).compare(&good));
        assert!(matches!(mended, Outcome::Changed(changes) if changes[0].is == "held"));
    }

    #[test]
    fn a_point_that_cannot_be_told_makes_the_sweep_say_nothing_whatever_the_others_are() {
        let good = SweepBaseline::of(&sweep(vec![PointOutcome::Held, PointOutcome::Held]));
        let unclear = sweep(vec![flag_set(), PointOutcome::Error("lost".to_owned())]);
        let expected = Outcome::CannotTell {
            verdict: Verdict::Error,
            why: "lost".to_owned(),
        };
        assert_eq!(only(good.compare(&unclear)), expected);
        let mut half = sweep(vec![PointOutcome::Held]);
        half.complete = false;
        assert!(says_nothing(&half).is_some());
    }

    #[test]
    fn a_part_of_a_sweep_is_compared_with_that_part_and_a_path_that_is_gone_is_told() {
        let mut baseline = SweepBaseline::of(&sweep(vec![PointOutcome::Held]));
        baseline
            .violated
            .insert("flip@timer".to_owned(), Violated::new());
        assert_eq!(
            only(baseline.compare(&sweep(vec![PointOutcome::Held]))),
            Outcome::Same
        );
        let mut gone = sweep(vec![PointOutcome::Held]);
        gone.paths.push(PathResult {
            path: "timer".to_owned(),
            instructions: vec![],
            why: Some("two traces of it differ".to_owned()),
        });
        let told = baseline.compare(&gone);
        assert_eq!(told[1].scenario, "flip@timer");
        assert!(matches!(&told[1].outcome, Outcome::Changed(_)));
        let new = SweepBaseline {
            violated: BTreeMap::new(),
            ..baseline
        };
        assert!(matches!(
            only(new.compare(&sweep(vec![PointOutcome::Held]))),
            Outcome::Changed(_)
        ));
    }

    #[test]
    fn a_baseline_is_read_as_it_was_written_and_another_file_is_refused() {
        let dir = TempDir::new().unwrap();
        assert_eq!(SweepBaseline::read(dir.path()).unwrap(), None);
        let written = SweepBaseline::of(&sweep(vec![PointOutcome::Held, flag_set()]));
        let path = SweepBaseline::path(dir.path());
        fs::write(&path, written.to_json().unwrap()).unwrap();
        assert_eq!(
            SweepBaseline::read(dir.path()).unwrap(),
            Some(written.clone())
        );
        let newer = SweepBaseline {
            baseline_version: SWEEP_BASELINE_VERSION + 1,
            ..written
        };
        fs::write(&path, newer.to_json().unwrap()).unwrap();
        let refused = SweepBaseline::read(dir.path()).unwrap_err();
        assert!(matches!(refused, ReadError::Version { .. }), "{refused}");
        fs::write(&path, "{}").unwrap();
        assert!(SweepBaseline::read(dir.path()).is_err());
    }
}
