//! A sweep's verdicts: one for each strip, which is a path with an event.

use ipirig_sweep::{EventName, PointResult, SweepResult};

use ipirig_checks::check::Verdict;

/// A path and an event, or what a sweep could not come to.
#[derive(Clone, Debug)]
pub struct Strip<'r> {
    /// `EVENT@PATH`, the path that could not be traced, or `complete`.
    pub name: String,
    /// Of its points together.
    pub verdict: Verdict,
    /// How many points there are of which kind, or why there are none.
    pub summary: String,
    /// Its points, by rising number.
    pub points: Vec<&'r PointResult>,
}

/// The strips of a sweep, and what it could not come to.
#[must_use]
pub fn strips(result: &SweepResult) -> Vec<Strip<'_>> {
    let strip = |((path, event), points): ((String, EventName), Vec<_>)| {
        let tally = SweepResult::tally(&points);
        let verdict = if tally.violated > 0 {
            Verdict::Violated
        } else if tally.errors > 0 {
            Verdict::Error
        } else if tally.hit == 0 {
            Verdict::Skipped
        } else {
            Verdict::Held
        };
        Strip {
            name: format!("{event}@{path}"),
            verdict,
            summary: format!(
                "{} hit, {} missed, {} violated, {} errors",
                tally.hit, tally.missed, tally.violated, tally.errors
            ),
            points,
        }
    };
    let mut all: Vec<Strip<'_>> = result.strips().into_iter().map(strip).collect();
    // What a sweep could not come to is no less than what it found.
    for path in &result.paths {
        if let Some(why) = &path.why {
            all.push(Strip {
                name: path.path.clone(),
                verdict: Verdict::Error,
                summary: format!("not traced: {why}"),
                points: vec![],
            });
        }
    }
    if !result.complete {
        let why = result.why.as_deref().unwrap_or("not complete");
        all.push(Strip {
            name: "complete".to_owned(),
            verdict: match Verdict::of(result) {
                Verdict::Skipped => Verdict::Skipped,
                _ => Verdict::Error,
            },
            summary: why.to_owned(),
            points: vec![],
        });
    }
    all
}

impl Strip<'_> {
    /// A line for each invariant that does not hold, and each point of which nothing can be said.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let of = |point: &&PointResult| {
            let violations = point.violations.iter().map(|violation| {
                let number = violation.invariant.number();
                let (at, words) = (&violation.at, &violation.words);
                format!("{}: invariant {number}: {at} {words}", point.point)
            });
            let error = point.why.iter();
            let error = error.map(|why| format!("{}: error: {why}", point.point));
            violations.chain(error).collect::<Vec<_>>()
        };
        self.points.iter().flat_map(of).collect()
    }
}
