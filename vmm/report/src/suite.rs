//! Several runs as a person reads them: a table.

use std::fmt::Write as _;

use ipirig_checks::check::Verdict;
use ipirig_document::suite::Suite;
use ipirig_verdict::result::RunResult;

use crate::paint::Paint;
use crate::render::ISOLATION_ONLY;

/// The table, and for each run that is not `held` why, with a newline at the end.
#[must_use]
pub fn render(suite: &Suite, paint: Paint) -> String {
    let width = suite.runs().iter().map(|run| run.scenario.name.len()).max();
    let width = width.unwrap_or(0);
    let mut out = String::new();
    for run in suite.runs() {
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
        suite
            .runs()
            .iter()
            .filter(|run| run.verdict == verdict)
            .count()
    };
    let isolation_only = suite.runs().iter().any(|run| run.isolation_only);
    let _ = writeln!(
        out,
        "\n{}: {} held{}, {} violated, {} error, {} skipped",
        paint.verdict(suite.verdict(), suite.verdict().to_string()),
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
    fn each_run_is_a_line_and_what_is_not_held_says_why() {
        let suite = Suite::new(vec![
            run("static-key-flip", Verdict::Held),
            run("vunmap-storm", Verdict::Violated),
        ]);
        assert_eq!(
            render(&suite, Paint::PLAIN),
            "\
held      static-key-flip                                12.3 s
violated  vunmap-storm                                   12.3 s
          run: because

violated: 1 held, 1 violated, 0 error, 0 skipped
"
        );
    }

    #[test]
    fn a_suite_on_isolation_alone_says_so() {
        let only = RunResult {
            isolation_only: true,
            ..run("static-key-flip", Verdict::Held)
        };
        let last = |runs| {
            let text = render(&Suite::new(runs), Paint::PLAIN);
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
