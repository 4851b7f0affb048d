//! Mutants tried one after the other, after the reference kernel: which scenarios each is run on, and what
//! became of it. Runs are made by whoever asks; [`crate::mutants`] judges them.

use std::collections::BTreeSet;
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

/// Tries `mutants`. `inapplicable` says of one why its patch does not apply to the source that is tried, if it does not. Those that nothing is expected to notice are run on the scenarios `survivors`. `once` makes
/// one run; of a scenario that ends as `error` two are made. The first row is the reference kernel's, which is run
/// on each scenario that a mutant is.
///
/// # Errors
///
/// [`NoSuchNotice`], before anything is run, and `once`'s.
pub fn rows<E: From<NoSuchNotice>>(
    mutants: &[Mutant],
    survivors: &BTreeSet<String>,
    mut inapplicable: impl FnMut(&Mutant) -> Result<Option<String>, E>,
    mut once: impl FnMut(Run<'_>) -> Result<TrialResult, E>,
) -> Result<Vec<Row>, E> {
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
    let all = trials.iter().flat_map(|trial| trial.scenarios.clone());
    let reference = run("reference", None, &all.collect())?;
    let mut rows = vec![Row {
        name: "reference".to_owned(),
        title: "the series as it is".to_owned(),
        fate: judge_reference(&reference),
    }];
    for Trial {
        mutant,
        expected,
        scenarios,
    } in &trials
    {
        let lacks = match mutant.needs {
            Some(Need::Pcids) if pcids(&reference) == Some(false) => Some("PCIDs"),
            Some(Need::Pcids) | None => None,
        };
        let mut run = || run(&mutant.name, Some(&mutant.path), scenarios);
        let asked = lacks.is_none() && !scenarios.is_empty();
        let inapplicable = if asked { inapplicable(mutant)? } else { None };
        let fate = match &mutant.fate {
            _ if let Some(why) = inapplicable => Fate::Inapplicable { why },
            // Its kernel need not even be built.
            Wanted::Noticed(_) if let Some(what) = lacks => Fate::Lacking {
                what: what.to_owned(),
            },
            Wanted::Survives(why) if scenarios.is_empty() => Fate::Waits { why: why.clone() },
            Wanted::Survives(why) => judge_survivor(why, &run()?),
            Wanted::Noticed(_) => judge(expected, &run()?),
        };
        rows.push(Row {
            name: mutant.name.clone(),
            title: mutant.title.clone(),
            fate,
        });
    }
    Ok(rows)
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
    use ipirig_fake::plan;
    use ipirig_verdict::check::{Check, ISOLATED_IPIS, Verdict};
    use ipirig_verdict::result::RunResult;

    use super::*;
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

    /// What ended a trial.
    #[derive(Debug, PartialEq)]
    struct Ended(NoSuchNotice);

    impl From<NoSuchNotice> for Ended {
        fn from(error: NoSuchNotice) -> Self {
            Self(error)
        }
    }

    #[test]
    fn the_reference_is_run_on_each_scenario_that_a_mutant_is_and_an_error_is_tried_again() {
        let mutants = [
            mutant("loud", noticed("static-key-flip", ISOLATED_IPIS)),
            mutant("quiet", Wanted::Survives("nobody looks".to_owned())),
        ];
        let mut made = Vec::new();
        let applies = |_: &Mutant| Ok(None);
        let rows = rows(&mutants, &BTreeSet::new(), applies, |run: Run<'_>| {
            made.push((run.kernel.to_owned(), run.scenario.to_owned(), run.again));
            let verdict = match (run.patch, run.again) {
                (None, _) => Verdict::Held,
                (Some(_), false) => Verdict::Error,
                (Some(_), true) => Verdict::Violated,
            };
            let check = Check::new(ISOLATED_IPIS, verdict, "because");
            let mut result = RunResult::new(&plan(run.scenario, None), vec![check]);
            result.verdict = verdict;
            Ok::<_, Ended>(TrialResult::Run(Box::new(result)))
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
            rows,
            [
                row("reference", "the series as it is", held),
                row("loud", "loud's bug", Fate::Noticed { by }),
                row("quiet", "quiet's bug", waits),
            ]
        );
    }

    #[test]
    fn a_mutant_whose_patch_does_not_apply_is_not_run() {
        let mutants = [mutant("x", noticed("static-key-flip", ISOLATED_IPIS))];
        let applies = |mutant: &Mutant| Ok::<_, Ended>(Some(format!("{}: no", mutant.name)));
        let rows = rows(&mutants, &BTreeSet::new(), applies, |run: Run<'_>| {
            assert_eq!(run.patch, None);
            let result = RunResult::new(&plan(run.scenario, None), vec![]);
            Ok(TrialResult::Run(Box::new(result)))
        });
        let why = "x: no".to_owned();
        assert_eq!(
            rows.unwrap()[1..],
            [row("x", "x's bug", Fate::Inapplicable { why })]
        );
    }

    #[test]
    fn a_check_that_there_is_not_is_said_before_anything_is_run() {
        let mutants = [mutant("x", noticed("static-key-flip", "no-check"))];
        let ended = rows(
            &mutants,
            &BTreeSet::new(),
            |_| Ok(None),
            |run: Run<'_>| -> Result<_, Ended> { panic!("{run:?}") },
        );
        assert_eq!(
            ended.unwrap_err().0.to_string(),
            "x.patch: Noticed-by: no check `no-check`"
        );
    }
}
