//! Mutants: kernels with one bug each, which some scenario must notice. From the results of their
//! runs to a table and a verdict on the rig's own checks.
//!
//! What a mutant is [`patches`](crate::patches) has; its kernel is built by `ipirig-guest`.

use std::collections::BTreeMap;

use serde::Serialize;

use ipirig_checks::check::Verdict;

use crate::trial_result::TrialResult;

/// A check of a scenario, or an invariant of a part of the sweep, that must say `violated`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// The scenario, or EVENT@PATH.
    pub scenario: String,
    /// The check, or the invariant.
    pub check: String,
}

/// What became of one mutant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub title: String,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a mutant, or of the reference kernel beside them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "fate")]
pub enum Fate {
    /// Every check that must notice it did.
    Noticed {
        /// These.
        by: Vec<Expected>,
    },
    /// Some check that must notice it did not.
    Survived {
        /// What each of them said instead.
        missed: Vec<Missed>,
    },
    /// Nothing can notice it yet.
    Waits {
        /// Why.
        why: String,
    },
    /// A guest on this host lacks what the mutant's bug needs: nothing can notice it here.
    Lacking {
        /// This.
        what: String,
    },
    /// Its patch does not apply to the source that it was to be tried on.
    Inapplicable {
        /// Where not.
        why: String,
    },
    /// It was not expected to be noticed and was.
    Unexpected {
        /// By these.
        by: Vec<Expected>,
    },
    /// The reference kernel: held in these scenarios.
    Held {
        /// These.
        scenarios: Vec<String>,
    },
    /// Nobody can tell: a run ended as `error`, twice.
    Error {
        /// Why.
        why: String,
    },
}

/// A check that did not notice what it must.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missed {
    /// Which.
    #[serde(flatten)]
    pub expected: Expected,
    /// What it said.
    pub status: Verdict,
    /// And why.
    pub evidence: String,
}

/// What one kernel came to, by scenario or EVENT@PATH.
pub type Results = BTreeMap<String, TrialResult>;

/// The result of `run`; of a second one if the first is an `error`, which may be a slow host's doing: a
/// boot that took too long says nothing of the kernel.
///
/// # Errors
/// `run`'s.
pub fn with_second_try<E>(
    mut run: impl FnMut() -> Result<TrialResult, E>,
) -> Result<TrialResult, E> {
    let first = run()?;
    if first.verdict() == Verdict::Error {
        return run();
    }
    Ok(first)
}

/// What became of a mutant that `expected` must notice. A check that did not notice it comes before
/// one that cannot tell.
#[must_use]
pub fn judge(expected: &[Expected], results: &Results) -> Fate {
    let mut missed = Vec::new();
    let mut errors = Vec::new();
    for expected in expected {
        let Some(result) = results.get(&expected.scenario) else {
            return Fate::Error {
                why: format!("{} was not run", expected.scenario),
            };
        };
        let (status, evidence) = result.check(&expected.check);
        let Expected { scenario, check } = expected;
        match status {
            Verdict::Violated => {}
            Verdict::Error => errors.push(format!("{scenario} {check} is {status}: {evidence}")),
            Verdict::Held | Verdict::Skipped => missed.push(Missed {
                expected: expected.clone(),
                status,
                evidence,
            }),
        }
    }
    match (missed.is_empty(), errors.is_empty()) {
        (false, _) => Fate::Survived { missed },
        (true, false) => Fate::Error {
            why: errors.join("; "),
        },
        (true, true) => Fate::Noticed {
            by: expected.to_vec(),
        },
    }
}

/// Whether PCIDs were in use in the guests of these runs. `None`: no run came to see that.
#[must_use]
pub fn pcids(results: &Results) -> Option<bool> {
    let seen = results.values().filter_map(|result| {
        let paging = result.run()?.kernel.as_ref()?.paging?;
        Some(paging.pcids)
    });
    seen.reduce(|all, one| all && one)
}

/// What became of a mutant that nothing is expected to notice, because of `why`, if it was run.
#[must_use]
pub fn judge_survivor(why: &str, results: &Results) -> Fate {
    let mut by = Vec::new();
    for (scenario, result) in results {
        by.extend(result.violated().into_iter().map(|check| Expected {
            scenario: scenario.clone(),
            check,
        }));
    }
    if !by.is_empty() {
        return Fate::Unexpected { by };
    }
    let error = results
        .iter()
        .find(|(_, result)| result.verdict() == Verdict::Error);
    match error {
        Some((scenario, result)) => Fate::Error {
            why: worst(scenario, result),
        },
        None => Fate::Waits {
            why: why.to_owned(),
        },
    }
}

/// What is said of a run that did not hold.
fn worst(scenario: &str, result: &TrialResult) -> String {
    let verdict = result.verdict();
    let words = match result {
        TrialResult::Run(result) => {
            let worst = result.checks.iter().find(|c| c.status == verdict);
            worst.map(|check| format!("{}: {}", check.name, check.evidence))
        }
        TrialResult::Sweep(_) => {
            let mut names = result.violated().into_iter();
            let name = names.next().unwrap_or_default();
            Some(format!("{name}: {}", result.check(&name).1))
        }
    };
    let words = words.unwrap_or_default();
    format!("{scenario} is {verdict}, not held: {words}")
}

/// The reference kernel, which must hold wherever a mutant must not.
#[must_use]
pub fn judge_reference(results: &Results) -> Fate {
    let bad = results
        .iter()
        .find(|(_, result)| result.verdict() != Verdict::Held);
    match bad {
        None => Fate::Held {
            scenarios: results.keys().cloned().collect(),
        },
        Some((scenario, result)) => Fate::Error {
            why: worst(scenario, result),
        },
    }
}

/// The verdict on the checks: every mutant that must be noticed was. Where the patches of some do not apply, at least one was.
#[must_use]
pub fn verdict(rows: &[Row]) -> Verdict {
    let any = |fits: fn(&Fate) -> bool| rows.iter().any(|row| fits(&row.fate));
    if any(|fate| matches!(fate, Fate::Error { .. })) {
        Verdict::Error
    } else if any(|fate| matches!(fate, Fate::Survived { .. } | Fate::Unexpected { .. })) {
        Verdict::Violated
    } else if any(|fate| matches!(fate, Fate::Inapplicable { .. }))
        && !any(|fate| matches!(fate, Fate::Noticed { .. }))
    {
        Verdict::Skipped
    } else {
        Verdict::Held
    }
}

#[cfg(test)]
mod tests {
    use ipirig_checks::check::Check;
    use ipirig_entry::Paging;
    use ipirig_fake::plan;
    use ipirig_rig::run::KernelFiles;
    use ipirig_verdict::result::{KernelInfo, RunResult};

    use super::*;

    /// A run with these checks beside those that always are there, and hold.
    fn result(checks: &[(&'static str, Verdict)]) -> RunResult {
        let made = checks
            .iter()
            .map(|&(name, status)| Check::new(name, status, "because"))
            .collect();
        let mut result = RunResult::new(&plan("static-key-flip", None), made);
        let worst = [Verdict::Violated, Verdict::Error, Verdict::Skipped];
        let is = |verdict: &Verdict| checks.iter().any(|(_, status)| status == verdict);
        result.verdict = worst.into_iter().find(is).unwrap_or(Verdict::Held);
        result
    }

    fn results(checks: &[(&'static str, Verdict)]) -> Results {
        let run = TrialResult::Run(Box::new(result(checks)));
        BTreeMap::from([("static-key-flip".to_owned(), run)])
    }

    fn expected(check: &str) -> Expected {
        Expected {
            scenario: "static-key-flip".to_owned(),
            check: check.to_owned(),
        }
    }

    #[test]
    fn only_a_violated_check_has_noticed() {
        let must = [expected("danger-zone")];
        let judged = |status| judge(&must, &results(&[("danger-zone", status)]));
        let by = must.to_vec();
        assert_eq!(judged(Verdict::Violated), Fate::Noticed { by });
        for status in [Verdict::Held, Verdict::Skipped] {
            let missed = vec![Missed {
                expected: must[0].clone(),
                status,
                evidence: "because".to_owned(),
            }];
            assert_eq!(judged(status), Fate::Survived { missed });
        }
    }

    #[test]
    fn each_check_that_must_notice_has_to() {
        let must = [expected("danger-zone"), expected("flag-order")];
        let one = results(&[
            ("danger-zone", Verdict::Violated),
            ("flag-order", Verdict::Held),
        ]);
        let Fate::Survived { missed } = judge(&must, &one) else {
            panic!("half is not enough");
        };
        assert_eq!(missed[0].expected, must[1]);
    }

    #[test]
    fn a_check_that_cannot_tell_is_an_error_and_no_survivor() {
        let must = [expected("danger-zone"), expected("flag-order")];
        let judged = |zone, order| {
            judge(
                &must,
                &results(&[("danger-zone", zone), ("flag-order", order)]),
            )
        };
        let why = "static-key-flip flag-order is error: because".to_owned();
        assert_eq!(
            judged(Verdict::Violated, Verdict::Error),
            Fate::Error { why }
        );
        let survived = judged(Verdict::Held, Verdict::Error);
        assert!(matches!(survived, Fate::Survived { .. }), "{survived:?}");
    }

    #[test]
    fn a_run_that_ended_early_is_an_error() {
        let must = [expected("danger-zone")];
        let why = "static-key-flip danger-zone is error: because".to_owned();
        let early = results(&[("run", Verdict::Error)]);
        assert_eq!(judge(&must, &early), Fate::Error { why });
        assert!(matches!(judge(&must, &Results::new()), Fate::Error { .. }));
        let why = "static-key-flip is error, not held: run: because".to_owned();
        assert_eq!(judge_survivor("no PCID", &early), Fate::Error { why });
    }

    #[test]
    fn a_run_that_ends_as_an_error_is_tried_once_more_and_no_other() {
        use Verdict::{Error, Held, Skipped, Violated};
        for (ends, tries, last) in [
            ([Held, Error], 1, Held),
            ([Violated, Held], 1, Violated),
            ([Skipped, Held], 1, Skipped),
            ([Error, Violated], 2, Violated),
            ([Error, Error], 2, Error),
        ] {
            let mut left = ends.iter();
            let run = with_second_try(|| {
                let verdict = left.next().ok_or("a third try")?;
                let result = result(&[("run", *verdict)]);
                Ok::<_, &str>(TrialResult::Run(Box::new(result)))
            });
            let verdict = run.map(|run| run.verdict());
            assert_eq!((verdict, 2 - left.len()), (Ok(last), tries), "{ends:?}");
        }
    }

    #[test]
    fn one_that_needs_what_guests_here_lack_is_neither_noticed_nor_survives() {
        let seen = |pcids: Option<bool>| {
            let mut result = result(&[]);
            let files = KernelFiles::new("k", "i");
            let mut kernel = KernelInfo::new(&files, "");
            kernel.paging = pcids.map(|pcids| Paging {
                pcids,
                ..Paging::default()
            });
            result.kernel = Some(kernel);
            TrialResult::Run(Box::new(result))
        };
        let runs = |all: &[Option<bool>]| -> Results {
            let named = all.iter().enumerate();
            named.map(|(n, &one)| (n.to_string(), seen(one))).collect()
        };
        assert_eq!(pcids(&runs(&[])), None);
        assert_eq!(pcids(&runs(&[None, Some(true)])), Some(true));
        assert_eq!(pcids(&runs(&[Some(false), Some(true)])), Some(false));

        let rows = [Row {
            name: "a".to_owned(),
            title: String::new(),
            fate: Fate::Lacking {
                what: "PCIDs".to_owned(),
            },
        }];
        assert_eq!(verdict(&rows), Verdict::Held);

        let row = |fate| Row {
            name: "b".to_owned(),
            title: String::new(),
            fate,
        };
        let why = "nowhere".to_owned();
        let nowhere = row(Fate::Inapplicable { why });
        assert_eq!(verdict(std::slice::from_ref(&nowhere)), Verdict::Skipped);
        let noticed = row(Fate::Noticed { by: vec![] });
        assert_eq!(verdict(&[nowhere, noticed]), Verdict::Held);
    }

    #[test]
    fn a_survivor_that_is_noticed_is_a_finding() {
        let waits = judge_survivor("no PCID", &results(&[("danger-zone", Verdict::Held)]));
        let why = "no PCID".to_owned();
        assert_eq!(waits, Fate::Waits { why });
        let noticed = judge_survivor("no PCID", &results(&[("danger-zone", Verdict::Violated)]));
        let by = vec![expected("danger-zone")];
        assert_eq!(noticed, Fate::Unexpected { by });
    }

    #[test]
    fn the_table_says_each_fate_and_the_verdict_follows_the_worst() {
        let row = |name: &str, fate| Row {
            name: name.to_owned(),
            title: String::new(),
            fate,
        };
        let held = judge_reference(&results(&[("isolated-ipis", Verdict::Violated)]));
        assert!(matches!(held, Fate::Error { .. }), "{held:?}");
        let must = [expected("flag-order")];
        let mut rows = vec![
            row(
                "reference",
                Fate::Held {
                    scenarios: vec!["static-key-flip".to_owned()],
                },
            ),
            row(
                "a",
                judge(&must, &results(&[("flag-order", Verdict::Violated)])),
            ),
            row("b", judge_survivor("no PCID", &Results::new())),
        ];
        assert_eq!(verdict(&rows), Verdict::Held);
        rows.push(row(
            "c",
            judge(&must, &results(&[("flag-order", Verdict::Held)])),
        ));
        assert_eq!(verdict(&rows), Verdict::Violated);
        rows.push(row("d", judge(&must, &results(&[("run", Verdict::Error)]))));
        // Exit code 3.
        assert_eq!(verdict(&rows), Verdict::Error);
    }
}
