//! Several runs together: one table, one verdict.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use crate::paint::Paint;
use crate::render::ISOLATION_ONLY;
use crate::result::{RunResult, SCHEMA_VERSION};
use crate::verdict::{Verdict, isolation_held};

/// The results of several runs.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Suite {
    /// [`SCHEMA_VERSION`].
    #[schemars(extend("const" = SCHEMA_VERSION))]
    schema_version: u32,
    /// `violated` if one run is, else `error` if one is, else `skipped` if one is that may not be or if
    /// none is `held`, else `held`.
    verdict: Verdict,
    /// The names of the runs that may be skipped (`--allow-skipped`).
    may_skip: Vec<String>,
    /// Each run's result, in the order in which they were run.
    runs: Vec<RunResult>,
}

impl Suite {
    /// Puts results together.
    #[must_use]
    pub fn new(runs: Vec<RunResult>) -> Self {
        let may_skip = runs.iter().filter(|run| run.may_skip);
        Self {
            schema_version: SCHEMA_VERSION,
            verdict: overall(&runs),
            may_skip: may_skip.map(|run| run.scenario.name.clone()).collect(),
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

    /// The suite as indented JSON with a newline at its end.
    ///
    /// # Errors
    ///
    /// serde_json's; none of the types here can cause one.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Whether one of the runs that were skipped and may not be would be `held` if it were for isolation
    /// alone.
    #[must_use]
    pub fn isolation_held(&self) -> bool {
        let mut missing = self.runs.iter().filter(|run| is_missing(run));
        missing.any(|run| isolation_held(&run.checks))
    }

    /// The table, and for each run that is not `held` why, with a newline at the end.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let width = self.runs.iter().map(|run| run.scenario.name.len()).max();
        let width = width.unwrap_or(0);
        let mut out = String::new();
        for run in &self.runs {
            let verdict = paint.verdict(run.verdict, format!("{:<8}", run.verdict));
            let isolated = isolated_ipis(run);
            let seconds = run.timing.total_s;
            let _ = writeln!(
                out,
                "{verdict}  {:<width$}  {isolated:<28} {seconds:5.1} s",
                run.scenario.name
            );
            for check in run.checks.iter().filter(|c| c.status == run.verdict) {
                if run.verdict != Verdict::Held {
                    let _ = writeln!(out, "          {}: {}", check.name, check.evidence);
                }
            }
        }
        let count = |verdict| {
            self.runs
                .iter()
                .filter(|run| run.verdict == verdict)
                .count()
        };
        let isolation_only = self.runs.iter().any(|run| run.isolation_only);
        let _ = writeln!(
            out,
            "\n{}: {} held{}, {} violated, {} error, {} skipped",
            paint.verdict(self.verdict, self.verdict.to_string()),
            count(Verdict::Held),
            if isolation_only {
                format!(" ({ISOLATION_ONLY})")
            } else {
                String::new()
            },
            count(Verdict::Violated),
            count(Verdict::Error),
            count(Verdict::Skipped)
        );
        out
    }
}

/// IPIs to isolated vCPUs, in words.
fn isolated_ipis(run: &RunResult) -> String {
    if run.vcpus.is_empty() {
        return String::new();
    }
    let isolated = run.vcpus.iter().filter(|vcpu| vcpu.role == "isolated");
    let count: u64 = isolated.map(|vcpu| vcpu.window.ipis_targeted).sum();
    match count {
        0 => "no IPI to isolated vCPUs".to_owned(),
        1 => "1 IPI to isolated vCPUs".to_owned(),
        _ => format!("{count} IPIs to isolated vCPUs"),
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
    use super::*;
    use crate::conductor::fake::plan;
    use crate::verdict::Check;

    fn run(scenario: &str, verdict: Verdict) -> RunResult {
        let check = Check::new("run", verdict, "because");
        let mut run = RunResult::new(&plan(scenario, None), vec![check]);
        run.verdict = verdict;
        run.timing.total_s = 12.34;
        run
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
    fn what_is_missing_and_what_may_be_is_named() {
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
        let json: serde_json::Value = serde_json::from_str(&suite.to_json().unwrap()).unwrap();
        assert_eq!(json["may_skip"], serde_json::json!(["vunmap-storm"]));
    }

    #[test]
    fn each_run_is_a_line_and_what_is_not_held_says_why() {
        let suite = Suite::new(vec![
            run("static-key-flip", Verdict::Held),
            run("vunmap-storm", Verdict::Violated),
        ]);
        assert_eq!(
            suite.render(Paint::PLAIN),
            "\
held      static-key-flip                                12.3 s
violated  vunmap-storm                                   12.3 s
          run: because

violated: 1 held, 1 violated, 0 error, 0 skipped
"
        );
        let json: serde_json::Value = serde_json::from_str(&suite.to_json().unwrap()).unwrap();
        assert_eq!(json["verdict"], "violated");
        assert_eq!(json["runs"][1]["scenario"]["name"], "vunmap-storm");
    }

    #[test]
    fn a_suite_on_isolation_alone_says_so() {
        let only = RunResult {
            isolation_only: true,
            ..run("static-key-flip", Verdict::Held)
        };
        let last = |runs| {
            let text = Suite::new(runs).render(Paint::PLAIN);
            text.lines().last().unwrap().to_owned()
        };
        assert_eq!(
            last(vec![only]),
            "held: 1 held (isolation only, so deferred work need not have been done), 0 violated, 0 \
             error, 0 skipped"
        );
        assert_eq!(
            last(vec![run("static-key-flip", Verdict::Held)]),
            "held: 1 held, 0 violated, 0 error, 0 skipped"
        );
    }
}
