//! Several runs together: one table, one verdict.

use ipirig_checks::check::Verdict;
use ipirig_checks::overall::isolation_held;
use ipirig_verdict::result::RunResult;

/// The results of several runs.
#[derive(Debug)]
pub struct Suite {
    /// `violated` if one run is, else `error` if one is, else `skipped` if one is that may not be or if
    /// none is `held`, else `held`.
    verdict: Verdict,
    /// Each run's result, in the order in which they were run.
    runs: Vec<RunResult>,
}

impl Suite {
    /// Puts results together.
    #[must_use]
    pub fn new(runs: Vec<RunResult>) -> Self {
        Self {
            verdict: overall(&runs),
            runs,
        }
    }

    /// Puts together those results that there are of a suite that was ended before all of it ran: what the rest would
    /// have been is not known, so it is `violated` if one is, else `error`.
    #[must_use]
    pub fn cut_short(runs: Vec<RunResult>) -> Self {
        Self {
            verdict: match overall(&runs) {
                Verdict::Violated => Verdict::Violated,
                Verdict::Error | Verdict::Skipped | Verdict::Held => Verdict::Error,
            },
            runs,
        }
    }

    /// `violated` if one is, else `error` if one is, else `skipped` if one is that may not be or if none
    /// is `held`, else `held`. Without a run `error`: nothing is known.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The names of the runs that were skipped and may not be.
    #[must_use]
    pub fn missing(&self) -> Vec<&str> {
        let missing = self.runs.iter().filter(|run| is_missing(run));
        missing.map(|run| run.scenario.name.as_str()).collect()
    }

    /// Each run's result, in the order in which they were run.
    #[must_use]
    pub fn runs(&self) -> &[RunResult] {
        &self.runs
    }

    /// Whether one of the runs that were skipped and may not be would be `held` if it were for isolation
    /// alone.
    #[must_use]
    pub fn isolation_held(&self) -> bool {
        let mut missing = self.runs.iter().filter(|run| is_missing(run));
        missing.any(|run| isolation_held(&run.checks))
    }
}

fn is_missing(run: &RunResult) -> bool {
    run.verdict == Verdict::Skipped && !run.may_skip
}

/// See [`Suite::verdict`]. In a CI whose host has lost something, what the missing runs would have found
/// is not known: those that held do not make up for them, unless somebody said so. Nor does a suite
/// hold in which nothing did, whatever may be skipped.
#[must_use]
pub fn overall(runs: &[RunResult]) -> Verdict {
    let has = |verdict| runs.iter().any(|run| run.verdict == verdict);
    if has(Verdict::Violated) {
        Verdict::Violated
    } else if has(Verdict::Error) || runs.is_empty() {
        Verdict::Error
    } else if runs.iter().any(is_missing) || !has(Verdict::Held) {
        Verdict::Skipped
    } else {
        Verdict::Held
    }
}

#[cfg(test)]
mod tests {
    use ipirig_checks::check::Check;
    use ipirig_fake::plan;

    use super::*;

    fn run(scenario: &str, verdict: Verdict) -> RunResult {
        let check = Check::new("run", verdict, "because");
        let mut run = RunResult::new(&plan(scenario, None), vec![check]);
        run.verdict = verdict;
        run.timing.total_s = 12.34;
        run
    }

    #[test]
    fn a_suite_that_was_cut_short_never_holds() {
        for (verdict, expected) in [
            (Verdict::Held, Verdict::Error),
            (Verdict::Skipped, Verdict::Error),
            (Verdict::Error, Verdict::Error),
            (Verdict::Violated, Verdict::Violated),
        ] {
            let suite = Suite::cut_short(vec![run("static-key-flip", verdict)]);
            assert_eq!((suite.verdict(), suite.runs().len()), (expected, 1));
        }
        assert_eq!(Suite::cut_short(vec![]).verdict(), Verdict::Error);
    }

    #[test]
    fn the_verdict_follows_the_worst_and_none_may_be_missing_unless_it_may_be_skipped() {
        use Verdict::{Error, Held, Skipped, Violated};
        let may_skip = |verdict| RunResult {
            may_skip: true,
            ..run("vunmap-storm", verdict)
        };
        let one = |verdict| run("static-key-flip", verdict);
        for (runs, expected) in [
            (vec![], Error),
            (vec![one(Held), one(Held)], Held),
            (vec![one(Held), one(Skipped)], Skipped),
            (vec![one(Held), may_skip(Skipped)], Held),
            (vec![one(Held), may_skip(Skipped), one(Skipped)], Skipped),
            (vec![may_skip(Skipped), may_skip(Skipped)], Skipped),
            (vec![one(Held), may_skip(Error)], Error),
            (vec![one(Held), may_skip(Violated), one(Skipped)], Violated),
            (vec![one(Held), one(Error), one(Skipped)], Error),
            (vec![one(Held), one(Error), one(Violated)], Violated),
        ] {
            let verdicts: Vec<_> = runs.iter().map(|run| (run.verdict, run.may_skip)).collect();
            assert_eq!(overall(&runs), expected, "{verdicts:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let may_skip = RunResult {
            may_skip: true,
            ..run("vunmap-storm", Verdict::Skipped)
        };
        let suite = Suite::new(vec![
            run("static-key-flip", Verdict::Held),
            may_skip,
            run("set-memory", Verdict::Skipped),
        ]);
        assert_eq!(suite.missing(), ["set-memory"]);
    }
}
