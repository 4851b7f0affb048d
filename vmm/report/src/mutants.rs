//! What became of the mutants, as a person reads it.

use std::fmt::Write as _;

use ipirig_checks::check::Verdict;
use ipirig_gate::mutants::{Expected, Fate, Row};

use crate::paint::Paint;

/// The table, with a newline at its end.
#[must_use]
pub fn render(rows: &[Row], paint: Paint) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for row in rows {
        let (word, status, words) = describe(&row.fate);
        let word = paint.verdict(status, format!("{word:<10}"));
        let _ = writeln!(out, "{:<width$}  {word}  {words}", row.name);
    }
    let count = |fits: fn(&Fate) -> bool| rows.iter().filter(|row| fits(&row.fate)).count();
    let _ = writeln!(
        out,
        "\n{} noticed, {} survived, {} wait, {} error{}",
        count(|fate| matches!(fate, Fate::Noticed { .. })),
        count(|fate| matches!(fate, Fate::Survived { .. })),
        count(|fate| matches!(fate, Fate::Waits { .. })),
        count(|fate| matches!(fate, Fate::Error { .. })),
        match count(|fate| matches!(fate, Fate::Lacking { .. })) {
            0 => String::new(),
            lacking => format!(", {lacking} lacking"),
        } + &match count(|fate| matches!(fate, Fate::Inapplicable { .. })) {
            0 => String::new(),
            inapplicable => format!(", {inapplicable} do not apply"),
        }
    );
    out
}

fn describe(fate: &Fate) -> (&'static str, Verdict, String) {
    let list = |by: &[Expected]| {
        let each: Vec<String> = by
            .iter()
            .map(|e| format!("{} {}", e.scenario, e.check))
            .collect();
        each.join(", ")
    };
    match fate {
        Fate::Noticed { by } => ("noticed", Verdict::Held, list(by)),
        Fate::Survived { missed } => {
            let each: Vec<String> = missed
                .iter()
                .map(|missed| {
                    let Expected { scenario, check } = &missed.expected;
                    format!(
                        "{scenario} {check} is {}: {}",
                        missed.status, missed.evidence
                    )
                })
                .collect();
            ("SURVIVED", Verdict::Violated, each.join("; "))
        }
        Fate::Waits { why } => ("waits", Verdict::Skipped, why.clone()),
        Fate::Lacking { what } => (
            "lacking",
            Verdict::Skipped,
            format!("needs {what}, of which a guest on this host has none"),
        ),
        Fate::Inapplicable { why } => ("no place", Verdict::Skipped, why.clone()),
        Fate::Unexpected { by } => (
            "UNEXPECTED",
            Verdict::Violated,
            format!(
                "noticed by {}, and its patch says that nothing does",
                list(by)
            ),
        ),
        Fate::Held { scenarios } => ("held", Verdict::Held, scenarios.join(", ")),
        Fate::Error { why } => ("error", Verdict::Error, why.clone()),
    }
}

#[cfg(test)]
mod tests {
    use ipirig_gate::mutants::Missed;

    use super::*;

    fn row(name: &str, fate: Fate) -> Row {
        Row {
            name: name.to_owned(),
            title: String::new(),
            fate,
        }
    }

    fn expected(check: &str) -> Expected {
        Expected {
            scenario: "static-key-flip".to_owned(),
            check: check.to_owned(),
        }
    }

    #[test]
    fn the_table_says_each_fate_and_counts_them() {
        let by = vec![expected("flag-order")];
        let missed = vec![Missed {
            expected: expected("flag-order"),
            status: Verdict::Held,
            evidence: "because".to_owned(),
        }];
        let words = |words: &str| words.to_owned();
        let rows = [
            row(
                "reference",
                Fate::Held {
                    scenarios: vec![words("static-key-flip")],
                },
            ),
            row("a", Fate::Noticed { by: by.clone() }),
            row(
                "b",
                Fate::Waits {
                    why: words("no PCID"),
                },
            ),
            row("c", Fate::Survived { missed }),
            row(
                "d",
                Fate::Error {
                    why: words("static-key-flip flag-order is error: because"),
                },
            ),
            row("e", Fate::Unexpected { by }),
        ];
        assert_eq!(
            render(&rows, Paint::PLAIN),
            "\
reference  held        static-key-flip
a          noticed     static-key-flip flag-order
b          waits       no PCID
c          SURVIVED    static-key-flip flag-order is held: because
d          error       static-key-flip flag-order is error: because
e          UNEXPECTED  noticed by static-key-flip flag-order, and its patch says that nothing does

1 noticed, 1 survived, 1 wait, 1 error
"
        );
    }

    #[test]
    fn a_mutant_that_does_not_apply_says_where_not() {
        let why = "mm/vmalloc.c: hunk 1".to_owned();
        assert_eq!(
            render(&[row("a", Fate::Inapplicable { why })], Paint::PLAIN),
            "\
a  no place    mm/vmalloc.c: hunk 1

0 noticed, 0 survived, 0 wait, 0 error, 1 do not apply
"
        );
    }

    #[test]
    fn a_mutant_whose_bug_a_host_cannot_have_is_lacking() {
        let what = "PCIDs".to_owned();
        assert_eq!(
            render(&[row("a", Fate::Lacking { what })], Paint::PLAIN),
            "\
a  lacking     needs PCIDs, of which a guest on this host has none

0 noticed, 0 survived, 0 wait, 0 error, 1 lacking
"
        );
    }
}
