//! `ipirig mutants`: the reference kernel first, then one kernel after the other.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, anyhow};
use ipirig_gate::mutants::{
    Expected, Fate, Results, Row, is_check, judge, judge_reference, judge_survivor, pcids, verdict,
    with_second_try,
};
use ipirig_guest::{Fate as Wanted, Mutant, Need, Places, Request};
use ipirig_machine::{ApicMode, ConsoleSinks, Host};
use ipirig_report::mutants::render;
use ipirig_rig::run::{KernelFiles, Setup, run as run_on};
use ipirig_scenario::Scenario;
use ipirig_scenario::plan::{Options, Plan};
use ipirig_scenario::suggest::closest;
use ipirig_verdict::conclude;
use ipirig_verdict::exit::{Code, host_verdict};
use ipirig_verdict::result::RunResult;

use super::check_interrupt;
use super::run::{built, file, flavour, print_both, snapshots};
use crate::args::MutantsArgs;
use crate::failure::Failure;
use crate::output::{check_writable, say};
use crate::progress::Progress;

pub(crate) fn mutants(args: &MutantsArgs) -> Result<Code, Failure> {
    let mutants = chosen(&args.names)?;
    let wanted: Vec<Vec<Expected>> = mutants.iter().map(expected).collect::<Result<_, _>>()?;
    let json = args.json.as_deref();
    if let Some(path) = file(json) {
        check_writable(path).map_err(Failure::usage)?;
    }
    let host = match Host::probe() {
        Ok(host) => host,
        Err(error) => {
            say(&format!("ipirig: {error}\n"));
            return Ok(host_verdict(&error).into());
        }
    };
    // One that survives might be noticed by any scenario.
    let every: BTreeSet<String> = Scenario::all()
        .context("a built-in scenario is broken")?
        .into_iter()
        .map(|scenario| scenario.name)
        .collect();
    let runs: Vec<BTreeSet<String>> = wanted
        .iter()
        .map(|wanted| match wanted.is_empty() {
            false => wanted.iter().map(|e| e.scenario.clone()).collect(),
            true if args.survivors => every.clone(),
            true => BTreeSet::new(),
        })
        .collect();

    let progress = Progress::new(false);
    let bench = Bench {
        host: &host,
        progress: &progress,
        options: Options {
            timeout_s: args.timeout,
            ..Options::default()
        },
    };
    let all: BTreeSet<String> = runs.iter().flatten().cloned().collect();
    let reference = bench.run("reference", &Request::default(), &all)?;
    let mut rows = vec![Row {
        name: "reference".to_owned(),
        title: "the series as it is".to_owned(),
        fate: judge_reference(&reference),
    }];
    for ((mutant, wanted), scenarios) in mutants.iter().zip(&wanted).zip(&runs) {
        let request = Request {
            extra_patches: vec![mutant.path.clone()],
            ..Request::default()
        };
        let lacks = match mutant.needs {
            Some(Need::Pcids) if pcids(&reference) == Some(false) => Some("PCIDs"),
            Some(Need::Pcids) | None => None,
        };
        let fate = match &mutant.fate {
            // Its kernel need not even be built.
            Wanted::Noticed(_) if let Some(what) = lacks => Fate::Lacking {
                what: what.to_owned(),
            },
            Wanted::Survives(why) if scenarios.is_empty() => Fate::Waits { why: why.clone() },
            Wanted::Survives(why) => {
                judge_survivor(why, &bench.run(&mutant.name, &request, scenarios)?)
            }
            Wanted::Noticed(_) => judge(wanted, &bench.run(&mutant.name, &request, scenarios)?),
        };
        rows.push(Row {
            name: mutant.name.clone(),
            title: mutant.title.clone(),
            fate,
        });
    }
    progress.finish();
    publish(&rows, json)
}

/// The mutants of these names, or all.
fn chosen(names: &[String]) -> Result<Vec<Mutant>, Failure> {
    let all = ipirig_guest::mutants::all(&Places::find()?)?;
    if names.is_empty() {
        return Ok(all);
    }
    let find = |name: &String| {
        let found = all.iter().find(|mutant| mutant.name == *name).cloned();
        found.ok_or_else(|| {
            let known = all.iter().map(|mutant| mutant.name.as_str());
            let help = match closest(name, known.clone()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("there are {}", known.collect::<Vec<_>>().join(", ")),
            };
            Failure::usage(anyhow!("no mutant `{name}`: {help}"))
        })
    };
    names.iter().map(find).collect()
}

/// The checks that must notice `mutant`; none if it is to survive.
fn expected(mutant: &Mutant) -> Result<Vec<Expected>, Failure> {
    let Wanted::Noticed(notices) = &mutant.fate else {
        return Ok(vec![]);
    };
    let check = |notice: &ipirig_guest::Notice| {
        let wrong =
            |what: String| Failure::usage(anyhow!("{}: Noticed-by: {what}", mutant.path.display()));
        Scenario::find(&notice.scenario).map_err(|error| wrong(error.to_string()))?;
        if !is_check(&notice.check) {
            return Err(wrong(format!("no check `{}`", notice.check)));
        }
        Ok(Expected {
            scenario: notice.scenario.clone(),
            check: notice.check.clone(),
        })
    };
    notices.iter().map(check).collect()
}

/// Builds kernels and runs scenarios on them.
struct Bench<'a> {
    host: &'a Host,
    progress: &'a Progress,
    options: Options,
}

impl Bench<'_> {
    /// Runs `scenarios` on the kernel of `request`, which is `name`'s.
    fn run(
        &self,
        name: &str,
        request: &Request,
        scenarios: &BTreeSet<String>,
    ) -> Result<Results, Failure> {
        let mut results = Results::new();
        if scenarios.is_empty() {
            return Ok(results);
        }
        for scenario in scenarios {
            let mut tries = 0;
            let result = with_second_try(|| {
                tries += 1;
                let again = if tries > 1 { ", once more" } else { "" };
                self.once(&format!("{name}: {scenario}{again}"), request, scenario)
            })?;
            results.insert(scenario.clone(), result);
        }
        Ok(results)
    }

    fn once(&self, shown: &str, request: &Request, scenario: &str) -> Result<RunResult, Failure> {
        check_interrupt()?;
        let scenario = Scenario::find(scenario).map_err(Failure::usage)?;
        let plan = Plan::new(scenario, self.options.clone()).map_err(Failure::usage)?;
        let request = Request {
            flavour: flavour(plan.scenario.kernel),
            ..request.clone()
        };
        // From the cache for the second scenario of a kernel.
        let kernel = built(&request, self.progress)?;
        let setup = setup(plan, kernel);
        self.progress.stage(shown);
        let outcome = run_on(self.host, &setup, &|_| {})?;
        Ok(conclude(&setup, outcome))
    }
}

fn setup(plan: Plan, kernel: KernelFiles) -> Setup {
    Setup {
        plan,
        kernel,
        apic: ApicMode::Auto,
        console: ConsoleSinks::default(),
        snapshots: snapshots(),
    }
}

fn publish(rows: &[Row], json: Option<&Path>) -> Result<Code, Failure> {
    let text = || -> anyhow::Result<String> {
        let text = serde_json::to_string_pretty(rows).context("cannot put the table into JSON")?;
        Ok(text + "\n")
    };
    print_both(&|paint| render(rows, paint), &text, json)?;
    Ok(verdict(rows).into())
}
