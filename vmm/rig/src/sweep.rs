//! One sweep, from a plan to a result: makes a machine, has the conductor visit the points, and makes
//! another where a guest did not survive one.

use std::error::Error;
use std::time::{Duration, Instant};

use ipirig_evidence::ledger::DETAILS;
use ipirig_evidence::{Phase, chain};
use ipirig_machine::Host;
use ipirig_sweep::judge::{Invariant, Violation};
use ipirig_sweep::result::{SCHEMA_VERSION, Timing};
use ipirig_sweep::{Outcome, PointResult, SweepResult};

pub use crate::conductor::sweep::{SweepRequest, SweepRequestError, Swept};

use crate::conductor::{self, Ended};
use crate::run::{RunError, Setup, on_machine};

/// Most guests that may fail for other reasons than a point. What they did not come to is tried again.
const FAILURES_MAX: usize = 3;

/// Sweeps as `request` says. `phase` hears of each phase as it begins, `tick` of each point.
///
/// # Errors
///
/// What was given is wrong. A sweep that was interrupted has the points that were visited, and is not complete.
pub fn sweep(
    host: &Host,
    setup: &Setup,
    request: &SweepRequest,
    phase: &dyn Fn(Phase),
    tick: &dyn Fn(&Swept),
) -> Result<SweepResult, RunError> {
    let started = Instant::now();
    let mut swept = Swept::default();
    let mut failures = 0;
    let mut retried = None;
    let (complete, why, skipped) = loop {
        let outcome = on_machine(
            host,
            setup,
            DETAILS,
            phase,
            |machine, start, layout, ledger, phase| {
                conductor::sweep::sweep(
                    (machine, &setup.plan),
                    request,
                    start,
                    layout,
                    (ledger, phase),
                    (&mut swept, tick),
                )
            },
        );
        let outcome = match outcome {
            Err(interrupted @ RunError::Interrupted { .. }) => {
                break (false, Some(interrupted.to_string()), false);
            }
            outcome => outcome?,
        };
        let ended = match outcome.course.map(|conducted| conducted.evidence) {
            Ok(Ok(())) if swept.points.len() < swept.planned => {
                let why = "ended after as many violated points as were wanted";
                break (false, Some(why.to_owned()), false);
            }
            Ok(Ok(())) => break (true, None, false),
            Ok(Err(ended @ Ended::Lacking { .. })) => break (false, Some(chain(&ended)), true),
            Ok(Err(ended)) => ended,
            Err(error) => {
                break (false, Some(chain(&error)), error.is_lack());
            }
        };
        let why = chain(&ended);
        let Some(name) = swept.current.take() else {
            failures += 1;
            if failures <= FAILURES_MAX && !swept.points.is_empty() {
                continue;
            }
            break (false, Some(why), false);
        };
        let outcome = match &ended {
            Ended::Stopped { reason, .. } => Outcome::Violated(vec![Violation {
                invariant: Invariant::BackInUser,
                at: name.to_string(),
                words: format!("the guest did not survive it: {reason}"),
            }]),
            _ => {
                failures += 1;
                if failures <= FAILURES_MAX && retried.as_ref() != Some(&name) {
                    // With a new guest.
                    retried = Some(name);
                    continue;
                }
                Outcome::Error(why.clone())
            }
        };
        swept.points.push(PointResult::new(name, outcome, None));
        tick(&swept);
        if failures > FAILURES_MAX {
            break (false, Some(why), false);
        }
    };
    Ok(conclude(swept, request, started, (complete, why, skipped)))
}

/// The result of a sweep that came to no guest because of `why`: the host or the kernel lacks something, if it is
/// `skipped`, and else it failed or was ended.
#[must_use]
pub fn not_swept(request: &SweepRequest, why: &dyn Error, skipped: bool) -> SweepResult {
    let why = Some(chain(why));
    conclude(
        Swept::default(),
        request,
        Instant::now(),
        (false, why, skipped),
    )
}

fn conclude(
    swept: Swept,
    request: &SweepRequest,
    started: Instant,
    (complete, why, skipped): (bool, Option<String>, bool),
) -> SweepResult {
    let swept = with_earlier(swept, request);
    let Swept {
        version,
        paths,
        mut points,
        took,
        run,
        ..
    } = swept;
    points.sort_by(|one, other| one.point.cmp(&other.point));
    let verdict = if skipped {
        "skipped"
    } else {
        SweepResult::conclusion(&points, &paths, complete)
    };
    let seconds = |time: Duration| (time.as_secs_f64() * 1000.0).round() / 1000.0;
    let sweep_s = seconds(took);
    let rate = if sweep_s > 0.0 {
        run as f64 / sweep_s
    } else {
        0.0
    };
    SweepResult {
        schema_version: SCHEMA_VERSION,
        verdict: verdict.to_owned(),
        why,
        shard: request.shard.to_string(),
        complete,
        kernel: version,
        paths,
        points,
        timing: Timing {
            sweep_s,
            points_per_s: (rate * 10.0).round() / 10.0,
            total_s: seconds(started.elapsed()),
        },
    }
}

/// What is resumed is as it was if no guest came as far as to say which points there are: who writes the result where
/// the earlier one was loses nothing.
fn with_earlier(swept: Swept, request: &SweepRequest) -> Swept {
    match &request.earlier {
        Some(earlier) if swept.planned == 0 => Swept {
            version: earlier.kernel.clone(),
            paths: earlier.paths.clone(),
            points: earlier.points.clone(),
            ..swept
        },
        _ => swept,
    }
}

#[cfg(test)]
mod tests {
    use ipirig_sweep::{PathResult, PointName, Shard};

    use super::*;

    fn ended(swept: Swept, request: &SweepRequest) -> SweepResult {
        let why = Some("interrupted during: boot".to_owned());
        conclude(swept, request, Instant::now(), (false, why, false))
    }

    #[test]
    fn a_sweep_that_ends_before_its_points_are_known_keeps_those_that_it_resumes() {
        let point: PointName = "nmi@syscall+4".parse().unwrap();
        let mut request = SweepRequest::of_point(point.clone(), Shard::WHOLE).unwrap();
        let before = Swept {
            version: Some("Linux".to_owned()),
            paths: vec![PathResult::untraced(&point.path, "why".to_owned())],
            points: vec![PointResult::new(point, Outcome::Held, None)],
            planned: 1,
            ..Swept::default()
        };
        let earlier = ended(before, &request);
        assert_eq!(earlier.points.len(), 1);
        let nothing = ended(Swept::default(), &request);
        assert_eq!((&nothing.kernel, &nothing.points), (&None, &vec![]));

        request.earlier = Some(Box::new(earlier.clone()));
        let kept = ended(Swept::default(), &request);
        assert_eq!(
            (kept.kernel, kept.paths, kept.points, kept.complete),
            (earlier.kernel, earlier.paths, earlier.points, false)
        );
        // One that cannot be resumed is not passed off as this one.
        let other = Swept {
            planned: 1,
            ..Swept::default()
        };
        assert_eq!(ended(other, &request).points, []);
    }
}
