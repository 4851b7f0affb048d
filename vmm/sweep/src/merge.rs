//! Results of parts of one sweep, put together.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::name::PointName;
use crate::plan::Shard;
use crate::result::{PathResult, PointResult, Status, SweepResult, Timing};

/// Why results are not of one sweep.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MergeError {
    /// There is nothing to be put together.
    #[error("there are no results")]
    Nothing,
    /// Two of them are not of one kernel, or not of the same paths.
    #[error("the results are not of one sweep: {0}")]
    Differ(String),
    /// A part is called what is no part.
    #[error("`{0}` is no part of a sweep")]
    Shard(String),
    /// A point became one thing in one of them, and another in another.
    #[error("{0} is {1:?} in one result and {2:?} in another")]
    Contradiction(String, Status, Status),
}

impl SweepResult {
    /// In what this is not of the kernel `version` with these `paths`, if so.
    #[must_use]
    pub fn differs(&self, version: Option<&str>, paths: &[PathResult]) -> Option<String> {
        if self.kernel.as_deref() != version {
            let name = |version: Option<&str>| version.unwrap_or("none").trim().to_owned();
            let (one, other) = (name(self.kernel.as_deref()), name(version));
            return Some(format!("one is of `{one}`, the other of `{other}`"));
        }
        let mut both = self.paths.iter().filter_map(|one| {
            let other = paths.iter().find(|other| other.path == one.path)?;
            Some((one, other))
        });
        let (one, _) = both.find(|(one, other)| one.instructions != other.instructions)?;
        Some(format!("{} has other instructions", one.path))
    }
}

/// One result of `results`, of parts of a sweep. It is complete if each part is there and is complete. An
/// error gives way to what became of the point elsewhere.
///
/// # Errors
///
/// The results are not of one sweep, or contradict each other.
pub fn merge(results: Vec<SweepResult>) -> Result<SweepResult, MergeError> {
    let first = results.first().ok_or(MergeError::Nothing)?;
    let of = shard(first)?.of;
    // Verdict and the like are known at the end.
    let mut merged = SweepResult {
        schema_version: first.schema_version,
        verdict: String::new(),
        why: None,
        shard: Shard::WHOLE.to_string(),
        complete: false,
        kernel: first.kernel.clone(),
        paths: first.paths.clone(),
        points: vec![],
        timing: Timing {
            sweep_s: 0.0,
            points_per_s: 0.0,
            total_s: 0.0,
        },
    };
    let mut done = BTreeSet::new();
    let mut points: BTreeMap<PointName, PointResult> = BTreeMap::new();
    let mut run = 0.0;
    for result in results {
        if let Some(what) = merged.differs(result.kernel.as_deref(), &result.paths) {
            return Err(MergeError::Differ(what));
        }
        let part = shard(&result)?;
        if part.of != of {
            let what = format!("one is in {of} parts, the other in {}", part.of);
            return Err(MergeError::Differ(what));
        }
        let names = |paths: &[PathResult]| -> Vec<String> {
            paths.iter().map(|path| path.path.clone()).collect()
        };
        if names(&result.paths) != names(&merged.paths) {
            let what = "they are not of the same paths".to_owned();
            return Err(MergeError::Differ(what));
        }
        done.extend(result.complete.then_some(part.index));
        run += result.timing.points_per_s * result.timing.sweep_s;
        merged.timing.sweep_s += result.timing.sweep_s;
        merged.timing.total_s += result.timing.total_s;
        add(&mut points, result.points)?;
    }
    merged.points = points.into_values().collect();
    let missing: Vec<String> = (1..=of)
        .filter(|index| !done.contains(index))
        .map(|index| format!("{index}/{of}"))
        .collect();
    merged.complete = missing.is_empty();
    merged.why = (!merged.complete).then(|| format!("not complete: {}", missing.join(", ")));
    let complete = merged.complete;
    merged.verdict = SweepResult::conclusion(&merged.points, &merged.paths, complete).to_owned();
    let Timing { sweep_s, .. } = merged.timing;
    merged.timing.points_per_s = if sweep_s > 0.0 {
        (run / sweep_s * 10.0).round() / 10.0
    } else {
        0.0
    };
    Ok(merged)
}

/// Which part of a sweep a result is of.
fn shard(result: &SweepResult) -> Result<Shard, MergeError> {
    let none = |_| MergeError::Shard(result.shard.clone());
    result.shard.parse().map_err(none)
}

fn add(
    points: &mut BTreeMap<PointName, PointResult>,
    more: Vec<PointResult>,
) -> Result<(), MergeError> {
    for point in more {
        let name = point.point.clone();
        match points.get(&name).map(|known| known.status) {
            Some(known) if known == point.status || point.status == Status::Error => {}
            Some(known) if known != Status::Error => {
                let text = name.to_string();
                return Err(MergeError::Contradiction(text, known, point.status));
            }
            Some(_) | None => _ = points.insert(name, point),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::Outcome;
    use ipirig_entry::passage::Blocked;

    fn part(shard: &str, points: &[(&str, Outcome)]) -> SweepResult {
        let points: Vec<PointResult> = points
            .iter()
            .map(|(name, outcome)| PointResult::new(name.parse().unwrap(), outcome.clone(), None))
            .collect();
        SweepResult {
            schema_version: crate::result::SCHEMA_VERSION,
            verdict: SweepResult::conclusion(&points, &[], true).to_owned(),
            why: None,
            shard: shard.to_owned(),
            complete: true,
            kernel: Some("Linux 6.12".to_owned()),
            paths: vec![],
            points,
            timing: Timing {
                sweep_s: 2.0,
                points_per_s: 10.0,
                total_s: 3.0,
            },
        }
    }

    fn error() -> Outcome {
        Outcome::Error("not in time".to_owned())
    }

    #[test]
    fn parts_in_any_order_give_the_whole() {
        let missed = Outcome::Missed(Blocked::NmiMasked);
        let one = part("1/2", &[("nmi@syscall+0", Outcome::Held)]);
        let two = part("2/2", &[("nmi@nmi+1", missed.clone())]);
        let mut expected = part(
            "1/1",
            &[("nmi@nmi+1", missed), ("nmi@syscall+0", Outcome::Held)],
        );
        expected.timing = Timing {
            sweep_s: 4.0,
            points_per_s: 10.0,
            total_s: 6.0,
        };
        assert_eq!(merge(vec![one.clone(), two.clone()]), Ok(expected.clone()));
        assert_eq!(merge(vec![two, one]), Ok(expected));
    }

    #[test]
    fn a_part_that_is_missing_makes_it_an_error_that_names_the_part() {
        let merged = merge(vec![part("2/3", &[("nmi@syscall+1", Outcome::Held)])]).unwrap();
        let expected = SweepResult {
            verdict: "error".to_owned(),
            why: Some("not complete: 1/3, 3/3".to_owned()),
            complete: false,
            ..part("1/1", &[("nmi@syscall+1", Outcome::Held)])
        };
        assert_eq!(merged, expected);
    }

    #[test]
    fn an_error_gives_way_and_a_contradiction_is_refused() {
        let held = part("1/1", &[("nmi@syscall+1", Outcome::Held)]);
        let failed = part("1/1", &[("nmi@syscall+1", error())]);
        let points = |merged: Result<SweepResult, MergeError>| merged.unwrap().points;
        assert_eq!(
            points(merge(vec![failed.clone(), held.clone()])),
            held.points
        );
        assert_eq!(points(merge(vec![held.clone(), failed])), held.points);
        let violated = part("1/1", &[("nmi@syscall+1", Outcome::Violated(vec![]))]);
        assert_eq!(
            merge(vec![held.clone(), violated]),
            Err(MergeError::Contradiction(
                "nmi@syscall+1".to_owned(),
                Status::Held,
                Status::Violated
            ))
        );
        let mut other = held.clone();
        other.kernel = Some("Linux 7.2".to_owned());
        assert!(matches!(
            merge(vec![held, other]),
            Err(MergeError::Differ(_))
        ));
        assert_eq!(merge(vec![]), Err(MergeError::Nothing));
    }

    #[test]
    fn a_result_is_read_as_it_was_written() {
        let result = part(
            "1/1",
            &[
                ("entry@sender-flip+3", error()),
                ("nmi@nmi+1", Outcome::Missed(Blocked::NmiMasked)),
            ],
        );
        let text = serde_json::to_string(&result).unwrap();
        assert_eq!(serde_json::from_str::<SweepResult>(&text).unwrap(), result);
        let unknown = text.replace("nmi-masked", "tired");
        let told = serde_json::from_str::<SweepResult>(&unknown).unwrap_err();
        assert!(told.to_string().contains("no point is missed by a rule"));
    }
}
