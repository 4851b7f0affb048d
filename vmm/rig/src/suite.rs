//! Several runs together: one table, one verdict.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use crate::paint::Paint;
use crate::result::{RunResult, SCHEMA_VERSION};
use crate::verdict::Verdict;

/// The results of several runs.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Suite {
    /// [`SCHEMA_VERSION`].
    #[schemars(extend("const" = SCHEMA_VERSION))]
    schema_version: u32,
    /// `violated` if one run is, else `error` if one is, else `held` if one is, else `skipped`.
    verdict: Verdict,
    /// Each run's result, in the order in which they were run.
    runs: Vec<RunResult>,
}

impl Suite {
    /// Puts results together.
    #[must_use]
    pub fn new(runs: Vec<RunResult>) -> Self {
        let verdicts: Vec<Verdict> = runs.iter().map(|run| run.verdict).collect();
        Self {
            schema_version: SCHEMA_VERSION,
            verdict: overall(&verdicts),
            runs,
        }
    }

    /// `violated` if one is, else `error` if one is, else `held` if one is, else `skipped`. Without
    /// a run `error`: nothing is known.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
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
        let _ = writeln!(
            out,
            "\n{}: {} held, {} violated, {} error, {} skipped",
            paint.verdict(self.verdict, self.verdict.to_string()),
            count(Verdict::Held),
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

/// See [`Suite::verdict`].
#[must_use]
pub fn overall(verdicts: &[Verdict]) -> Verdict {
    let order = [
        Verdict::Violated,
        Verdict::Error,
        Verdict::Held,
        Verdict::Skipped,
    ];
    let worst = order.into_iter().find(|verdict| verdicts.contains(verdict));
    worst.unwrap_or(Verdict::Error)
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
    fn the_verdict_follows_the_worst_and_one_that_holds_outweighs_those_skipped() {
        use Verdict::{Error, Held, Skipped, Violated};
        for (verdicts, expected) in [
            (&[][..], Error),
            (&[Held, Skipped], Held),
            (&[Skipped, Skipped], Skipped),
            (&[Held, Error, Skipped], Error),
            (&[Held, Error, Violated], Violated),
        ] {
            assert_eq!(overall(verdicts), expected, "{verdicts:?}");
        }
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
}
