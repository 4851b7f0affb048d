//! Mutants tried one after the other, after the reference kernel: which scenarios each is run on, and what
//! became of it. Runs are made by whoever asks; [`crate::mutants`] judges them.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::mutants::{
    Expected, Fate, Results, Row, judge, judge_reference, judge_survivor, pcids, with_second_try,
};
use crate::patches::{Mutant, Need, Wanted};
use crate::trial_result::{TrialKind, TrialResult};

/// What a mutant's patch says must notice it, and cannot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: Noticed-by: {what}", patch.display())]
pub struct NoSuchNotice {
    /// The patch.
    pub patch: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

/// A run that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<'a> {
    /// Whose kernel: the mutant's name, or `reference`.
    pub kernel: &'a str,
    /// The patch on top of the series; `None`: the reference kernel.
    pub patch: Option<&'a Path>,
    /// The scenario, or EVENT@PATH of the sweep: [`TrialKind::find`] has it.
    pub scenario: &'a str,
    /// Whether the first try ended as `error`.
    pub again: bool,
}

/// A mutant, and what is to be done with it.
struct Trial<'a> {
    mutant: &'a Mutant,
    expected: Vec<Expected>,
    scenarios: BTreeSet<String>,
}

/// What became of mutants.
#[derive(Debug)]
pub struct Tried<E> {
    /// The reference kernel's row, and each mutant's.
    pub rows: Vec<Row>,
    /// What ended the trials before all were made. The last row is of the kernel that they were at, and says so.
    pub ended: Option<E>,
}

/// Tries `mutants`. `inapplicable` says of one why its patch does not apply to the source that is tried, if it does
/// not. Those that nothing is expected to notice are run on the scenarios `survivors`. `once` makes
/// one run; of a scenario that ends as `error` two are made. The first row is the reference kernel's, which is run
/// on each scenario that a mutant is. An error of `once` ends the trials.
///
/// # Errors
///
/// [`NoSuchNotice`], before anything is run.
pub fn rows<E: fmt::Display>(
    mutants: &[Mutant],
    survivors: &BTreeSet<String>,
    mut inapplicable: impl FnMut(&Mutant) -> Result<Option<String>, E>,
    mut once: impl FnMut(Run<'_>) -> Result<TrialResult, E>,
) -> Result<Tried<E>, NoSuchNotice> {
    let trials = mutants.iter().map(|mutant| trial(mutant, survivors));
    let trials: Vec<Trial<'_>> = trials.collect::<Result<_, _>>()?;
    let mut run = |kernel: &str, patch: Option<&Path>, scenarios: &BTreeSet<String>| {
        let mut results = Results::new();
        for scenario in scenarios {
            let mut run = Run {
                kernel,
                patch,
                scenario,
                again: false,
            };
            let result = with_second_try(|| {
                let result = once(run);
                run.again = true;
                result
            })?;
            results.insert(scenario.clone(), result);
        }
        Ok::<_, E>(results)
    };
    let mut rows = Vec::new();
    let all = trials.iter().flat_map(|trial| trial.scenarios.clone());
    let reference = run("reference", None, &all.collect());
    let has_pcids = reference.as_ref().ok().and_then(pcids);
    let fate = reference.map(|results| judge_reference(&results));
    let mut ended = add(&mut rows, "reference", "the series as it is", fate);
    for Trial {
        mutant,
        expected,
        scenarios,
    } in &trials
    {
        if ended.is_some() {
            break;
        }
        let lacks = match mutant.needs {
            Some(Need::Pcids) if has_pcids == Some(false) => Some("PCIDs"),
            Some(Need::Pcids) | None => None,
        };
        let mut run = || run(&mutant.name, Some(&mutant.path), scenarios);
        let asked = lacks.is_none() && !scenarios.is_empty();
        let place = match asked {
            true => inapplicable(mutant),
            false => Ok(None),
        };
        let fate = match (place, &mutant.fate) {
            (Err(ended), _) => Err(ended),
            (Ok(Some(why)), _) => Ok(Fate::Inapplicable { why }),
            // Its kernel need not even be built.
            (Ok(None), Wanted::Noticed(_)) if let Some(what) = lacks => Ok(Fate::Lacking {
                what: what.to_owned(),
            }),
            (Ok(None), Wanted::Survives(why)) if scenarios.is_empty() => {
                Ok(Fate::Waits { why: why.clone() })
            }
            (Ok(None), Wanted::Survives(why)) => run().map(|results| judge_survivor(why, &results)),
            (Ok(None), Wanted::Noticed(_)) => run().map(|results| judge(expected, &results)),
        };
        ended = add(&mut rows, &mutant.name, &mutant.title, fate);
    }
    Ok(Tried { rows, ended })
}

/// Adds the row of a kernel, and gives back what ended the trials while they were at it.
fn add<E: fmt::Display>(
    rows: &mut Vec<Row>,
    name: &str,
    title: &str,
    fate: Result<Fate, E>,
) -> Option<E> {
    let (fate, ended) = match fate {
        Ok(fate) => (fate, None),
        Err(error) => {
            let why = error.to_string();
            (Fate::Error { why }, Some(error))
        }
    };
    rows.push(Row {
        name: name.to_owned(),
        title: title.to_owned(),
        fate,
    });
    ended
}

fn trial<'a>(mutant: &'a Mutant, survivors: &BTreeSet<String>) -> Result<Trial<'a>, NoSuchNotice> {
    let notices = match &mutant.fate {
        Wanted::Noticed(notices) => &notices[..],
        Wanted::Survives(_) => &[],
    };
    let mut expected = Vec::new();
    for notice in notices {
        let wrong = |what| NoSuchNotice {
            patch: mutant.path.clone(),
            what,
        };
        let kind = TrialKind::find(&notice.scenario).map_err(wrong)?;
        if !kind.has_check(&notice.check) {
            return Err(wrong(format!("no check `{}`", notice.check)));
        }
        expected.push(Expected {
            scenario: notice.scenario.clone(),
            check: notice.check.clone(),
        });
    }
    let scenarios = match &mutant.fate {
        Wanted::Noticed(_) => expected.iter().map(|e| e.scenario.clone()).collect(),
        Wanted::Survives(_) => survivors.clone(),
    };
    Ok(Trial {
        mutant,
        expected,
        scenarios,
    })
}

#[cfg(test)]
mod tests {
    use ipirig_checks::check::{Check, ISOLATED_IPIS, Verdict};
    use ipirig_fake::plan;
    use ipirig_verdict::result::RunResult;

    use super::*;
    use crate::mutants::verdict;
    use crate::patches::Notice;

    fn mutant(name: &str, fate: Wanted) -> Mutant {
        Mutant {
            name: name.to_owned(),
            title: format!("{name}'s bug"),
            source: "own".to_owned(),
            fate,
            needs: None,
            path: PathBuf::from(format!("{name}.patch")),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "as the trials ask for it")]
    fn applies<E>(_: &Mutant) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn noticed(scenario: &str, check: &str) -> Wanted {
        Wanted::Noticed(vec![Notice {
            scenario: scenario.to_owned(),
            check: check.to_owned(),
        }])
    }

    fn row(name: &str, title: &str, fate: Fate) -> Row {
        Row {
            name: name.to_owned(),
            title: title.to_owned(),
            fate,
        }
    }

    #[test]
    fn the_reference_is_run_on_each_scenario_that_a_mutant_is_and_an_error_is_tried_again() {
        let mutants = [
            mutant("loud", noticed("static-key-flip", ISOLATED_IPIS)),
            mutant("quiet", Wanted::Survives("nobody looks".to_owned())),
        ];
        let mut made = Vec::new();
        let tried = rows(&mutants, &BTreeSet::new(), applies, |run: Run<'_>| {
            made.push((run.kernel.to_owned(), run.scenario.to_owned(), run.again));
            let verdict = match (run.patch, run.again) {
                (None, _) => Verdict::Held,
                (Some(_), false) => Verdict::Error,
                (Some(_), true) => Verdict::Violated,
            };
            let check = Check::new(ISOLATED_IPIS, verdict, "because");
            let mut result = RunResult::new(&plan(run.scenario, None), vec![check]);
            result.verdict = verdict;
            Ok::<_, &str>(TrialResult::Run(Box::new(result)))
        })
        .unwrap();
        let scenario = "static-key-flip".to_owned();
        assert_eq!(
            made,
            [
                ("reference".to_owned(), scenario.clone(), false),
                ("loud".to_owned(), scenario.clone(), false),
                ("loud".to_owned(), scenario.clone(), true),
            ]
        );
        let by = vec![Expected {
            scenario: scenario.clone(),
            check: ISOLATED_IPIS.to_owned(),
        }];
        let held = Fate::Held {
            scenarios: vec![scenario],
        };
        let waits = Fate::Waits {
            why: "nobody looks".to_owned(),
        };
        assert_eq!(
            (tried.rows, tried.ended),
            (
                vec![
                    row("reference", "the series as it is", held),
                    row("loud", "loud's bug", Fate::Noticed { by }),
                    row("quiet", "quiet's bug", waits),
                ],
                None
            )
        );
    }

    #[test]
    fn a_mutant_whose_patch_does_not_apply_is_not_run() {
        let mutants = [mutant("x", noticed("static-key-flip", ISOLATED_IPIS))];
        let nowhere = |mutant: &Mutant| Ok::<_, &str>(Some(format!("{}: no", mutant.name)));
        let tried = rows(&mutants, &BTreeSet::new(), nowhere, |run: Run<'_>| {
            assert_eq!(run.patch, None);
            let result = RunResult::new(&plan(run.scenario, None), vec![]);
            Ok(TrialResult::Run(Box::new(result)))
        });
        let why = "x: no".to_owned();
        assert_eq!(
            tried.unwrap().rows[1..],
            [row("x", "x's bug", Fate::Inapplicable { why })]
        );
    }

    #[test]
    fn what_ends_the_trials_leaves_the_rows_before_and_one_that_says_so() {
        let names = ["a", "b", "c"];
        let mutants = names.map(|name| mutant(name, noticed("static-key-flip", ISOLATED_IPIS)));
        for (at, told) in [
            ("reference", &["reference"][..]),
            ("b", &["reference", "a", "b"]),
        ] {
            let tried = rows(&mutants, &BTreeSet::new(), applies, |run: Run<'_>| {
                if run.kernel == at {
                    return Err("interrupted");
                }
                let check = Check::new(ISOLATED_IPIS, Verdict::Violated, "because");
                let result = RunResult::new(&plan(run.scenario, None), vec![check]);
                Ok(TrialResult::Run(Box::new(result)))
            });
            let Tried { rows, ended } = tried.unwrap();
            let named: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
            assert_eq!((named.as_slice(), ended), (told, Some("interrupted")));
            let why = "interrupted".to_owned();
            assert_eq!(rows.last().unwrap().fate, Fate::Error { why });
            assert_eq!(verdict(&rows), Verdict::Error);
        }
    }

    #[test]
    fn a_check_that_there_is_not_is_said_before_anything_is_run() {
        let mutants = [mutant("x", noticed("static-key-flip", "no-check"))];
        let ended = rows(
            &mutants,
            &BTreeSet::new(),
            applies,
            |run: Run<'_>| -> Result<_, &str> { panic!("{run:?}") },
        );
        assert_eq!(
            ended.unwrap_err().to_string(),
            "x.patch: Noticed-by: no check `no-check`"
        );
    }
}
