//! What changed, as a person reads it.

use std::fmt::Write as _;

use ipirig_checks::check::Verdict;
use ipirig_gate::{Baseline, Change, Compared, Outcome, Recorded};

use crate::paint::Paint;

/// A line a scenario, below it what changed, and a count, with a newline at the end.
#[must_use]
pub fn render(compared: &[Compared], paint: Paint) -> String {
    let mut out = String::new();
    for one in compared {
        let (verdict, word) = match &one.outcome {
            Outcome::Same => (Verdict::Held, "same"),
            Outcome::Changed(_) | Outcome::Alone { .. } => (Verdict::Violated, "changed"),
            Outcome::CannotTell { verdict, .. } => (*verdict, "not known"),
        };
        let word = paint.verdict(verdict, format!("{word:<10}"));
        let state = if one.deferral { "" } else { ", deferral off" };
        let _ = writeln!(out, "{word}  {}{state}", one.scenario);
        match &one.outcome {
            Outcome::Same => {}
            Outcome::Changed(changes) => {
                for change in changes {
                    let Change { what, was, is, why } = change;
                    let _ = writeln!(out, "            {what}: {was} -> {is}");
                    for line in why {
                        let _ = writeln!(out, "              {line}");
                    }
                }
            }
            Outcome::CannotTell { verdict, why } => {
                let _ = writeln!(out, "            {verdict}: {why}");
            }
            Outcome::Alone { only } => {
                let _ = writeln!(out, "            only in the {only} file");
            }
        }
    }
    let count = |test: fn(&Outcome) -> bool| compared.iter().filter(|c| test(&c.outcome)).count();
    let _ = writeln!(
        out,
        "\n{} same, {} changed, {} not known",
        count(|outcome| matches!(outcome, Outcome::Same)),
        count(|outcome| matches!(outcome, Outcome::Changed(_) | Outcome::Alone { .. })),
        count(|outcome| matches!(outcome, Outcome::CannotTell { .. })),
    );
    out
}

/// What two files' runs were of, and their counts beside each other, with a newline at the end.
#[must_use]
pub fn table(first: &[Recorded], second: &[Recorded]) -> String {
    let kernel = |runs: &[Recorded]| {
        let kernel = runs.iter().find_map(Recorded::kernel);
        kernel.unwrap_or("no kernel".to_owned())
    };
    let mut out = format!("A  {}\nB  {}\n\n", kernel(first), kernel(second));
    let mut rows = vec![
        [
            "",
            "scenario",
            "verdict",
            "isolated",
            "housekeeping",
            "deferred",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for run in first {
        let twins = second.iter().filter(|other| {
            other.scenario.name == run.scenario.name
                && other.scenario.deferral == run.scenario.deferral
        });
        rows.push(row("A", run));
        rows.extend(twins.take(1).map(|other| row("B", other)));
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..6).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| {
                // Numbers to the right, words to the left.
                if column < 3 {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            })
            .collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out.push('\n');
    out
}

fn row(file: &str, run: &Recorded) -> Vec<String> {
    let counts = Baseline::of(run);
    let isolated = counts.isolated_ipis.values().map(|count| count.count);
    let isolated = isolated.fold(0, u64::saturating_add);
    let state = if run.scenario.deferral {
        ""
    } else {
        " (deferral off)"
    };
    vec![
        file.to_owned(),
        format!("{}{state}", run.scenario.name),
        run.verdict.to_string(),
        isolated.to_string(),
        counts.housekeeping_ipis.count.to_string(),
        counts
            .deferred
            .map_or("-".to_owned(), |count| count.count.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use ipirig_checks::judge;
    use ipirig_fake::{Script, evidence};
    use ipirig_verdict::result::RunResult;

    use super::*;

    fn compared(outcome: Outcome) -> [Compared; 1] {
        [Compared {
            scenario: "static-key-flip".to_owned(),
            deferral: true,
            outcome,
        }]
    }

    #[test]
    fn each_scenario_is_a_line_and_what_changed_is_below_it_with_why() {
        assert_eq!(
            render(&compared(Outcome::Same), Paint::PLAIN),
            "same        static-key-flip\n\n1 same, 0 changed, 0 not known\n"
        );
        let change = |what: &str, why: &[&str]| Change {
            what: what.to_owned(),
            was: "held".to_owned(),
            is: "violated".to_owned(),
            why: why.iter().copied().map(str::to_owned).collect(),
        };
        let changes = vec![
            change("verdict", &[]),
            change("check isolated-ipis", &["202 IPIs", "2 purge"]),
        ];
        assert_eq!(
            render(&compared(Outcome::Changed(changes)), Paint::PLAIN),
            "\
changed     static-key-flip
            verdict: held -> violated
            check isolated-ipis: held -> violated
              202 IPIs
              2 purge

0 same, 1 changed, 0 not known
"
        );
        let says_nothing = Outcome::CannotTell {
            verdict: Verdict::Error,
            why: "nothing-lost: an event was lost".to_owned(),
        };
        assert_eq!(
            render(&compared(says_nothing), Paint::PLAIN),
            "not known   static-key-flip\n            error: nothing-lost: an event was lost\n\n\
             0 same, 0 changed, 1 not known\n"
        );
    }

    fn recorded(ipis_per_operation: u64) -> Recorded {
        let script = Script {
            ipis_per_operation,
            ..Script::default()
        };
        let (plan, evidence) = evidence("static-key-flip", None, script);
        let (checks, _) = judge(&plan, &evidence);
        let result = RunResult::new(&plan, checks).with_evidence(&plan, &evidence);
        Recorded::of(&result).unwrap()
    }

    #[test]
    fn two_files_stand_beside_each_other() {
        assert_eq!(
            table(&[recorded(0)], &[recorded(2)]),
            "\
A  no kernel
B  no kernel

   scenario         verdict   isolated  housekeeping  deferred
A  static-key-flip  held             0           101       303
B  static-key-flip  violated       202           101         0

"
        );
    }
}
