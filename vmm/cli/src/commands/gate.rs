//! `ipirig gate`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use ipirig_args::{GateArgs, RunOptions, Switch};
use ipirig_gate::sweeps::{SweepBaseline, says_nothing};
use ipirig_gate::{Baseline, Compared, Outcome, Recorded, code, no_telling};
use ipirig_guest::Places;
use ipirig_report::gate::render;
use ipirig_report::paint::Paint;
use ipirig_scenario::base_name;
use ipirig_verdict::exit::Code;

use super::run::{chosen, perform_all};
use super::sweep::read as read_sweep;
use crate::failure::Failure;
use crate::output::{not_written, print, stderr_paint, stdout_paint, write_file};
use crate::pictures;
use crate::reports::{Reports, annotate_on_github, is_stdout};
use crate::say::say;

pub(crate) fn gate(args: &GateArgs) -> Result<Code, Failure> {
    // Before runs that take minutes.
    let dir = directory(args.baseline.as_ref(), args.accept)?;
    if let Some(file) = &args.sweep {
        return sweep(&dir, file, args.accept);
    }
    pictures::check(&args.pictures)?;
    let reports = Reports::new(&args.reports, args.options.json.as_deref(), &args.scenarios)?;
    let taken = reports.takes_stdout() || args.options.json.as_deref().is_some_and(is_stdout);
    let runs = if args.from.is_empty() {
        run(args, &dir, &reports)?
    } else {
        read(args)?
    };
    if args.accept {
        return accept(&dir, &runs);
    }
    let compared: Vec<Compared> = runs
        .iter()
        .map(|run| Ok(Compared::new(&baseline(&dir, run)?, run)))
        .collect::<Result<_, Failure>>()?;
    if taken {
        say(&render(&compared, stderr_paint()));
    } else {
        print(&render(&compared, stdout_paint()))?;
    }
    Ok(conclude(&compared, "ipirig gate --accept"))
}

/// The exit code, with what changed told to GitHub, and how to `accept` it.
fn conclude(compared: &[Compared], accept: &str) -> Code {
    let changed: Vec<&Compared> = compared
        .iter()
        .filter(|one| matches!(one.outcome, Outcome::Changed(_)))
        .collect();
    for one in &changed {
        let message = render(std::slice::from_ref(*one), Paint::PLAIN);
        annotate_on_github(&format!("{}: gate", one.scenario), &message);
    }
    if !changed.is_empty() {
        say(&format!(
            "hint: if that is as it should be, `{accept}` makes it the baseline\n"
        ));
    }
    code(compared)
}

/// Compares the result of a sweep with its baseline, or makes it that.
fn sweep(dir: &Path, file: &Path, accept: bool) -> Result<Code, Failure> {
    let result = read_sweep(file)?;
    let path = SweepBaseline::path(dir);
    let again = format!("ipirig gate --sweep {} --accept", file.display());
    if accept {
        if let Some(outcome) = says_nothing(&result) {
            let compared = [Compared {
                scenario: "sweep".to_owned(),
                deferral: true,
                outcome,
            }];
            say(&render(&compared, stderr_paint()));
            say("ipirig: no baseline was written: that sweep says nothing\n");
            return Ok(code(&compared));
        }
        let text = SweepBaseline::of(&result).to_json();
        let text = text.context("cannot put a baseline into JSON")?;
        return write(dir, vec![(path, text)]);
    }
    let baseline = SweepBaseline::read(dir).map_err(Failure::usage)?;
    let baseline = baseline.ok_or_else(|| {
        let missing = anyhow!("no baseline {}: make it with {again}", path.display());
        Failure::usage(missing)
    })?;
    let compared = baseline.compare(&result);
    print(&render(&compared, stdout_paint()))?;
    Ok(conclude(&compared, &again))
}

/// Where baselines are. Those that are inside the program are in its cache, and not for anybody to change.
fn directory(given: Option<&PathBuf>, accept: bool) -> Result<PathBuf, Failure> {
    if let Some(dir) = given {
        return Ok(dir.clone());
    }
    let places = Places::find()?;
    if accept && places.agent.is_some() {
        let error =
            anyhow!("--accept: this program is not in a checkout: say where with --baseline DIR");
        return Err(Failure::usage(error));
    }
    Ok(places.workspace().join("results/baseline"))
}

/// Runs what is asked for. All baselines must be there: to miss one after minutes would be late.
fn run(args: &GateArgs, dir: &Path, reports: &Reports) -> Result<Vec<Recorded>, Failure> {
    let scenarios = chosen(&args.group, &args.scenarios)?;
    let deferral = args.options.deferral == Switch::On;
    if !args.accept {
        for scenario in &scenarios {
            find(dir, base_name(&scenario.name), deferral)?;
        }
    }
    let options = RunOptions {
        isolation_only: args.isolation_only,
        ..args.options.clone()
    };
    let performed = perform_all(scenarios, &options, &[], &args.pictures)?;
    performed.publish(args.options.json.as_deref(), reports, &args.pictures)?;
    let suite = performed.whole()?;
    let recorded = |run| Recorded::of(run).context("cannot read a result back");
    let runs: anyhow::Result<Vec<Recorded>> = suite.runs().iter().map(recorded).collect();
    Ok(runs?)
}

/// The runs in files, of the scenarios that are asked for.
fn read(args: &GateArgs) -> Result<Vec<Recorded>, Failure> {
    let mut runs: Vec<Recorded> = Vec::new();
    for path in &args.from {
        for run in Recorded::read(path).map_err(Failure::usage)? {
            let (name, deferral) = (&run.scenario.name, run.scenario.deferral);
            let same = |other: &Recorded| {
                other.scenario.name == *name && other.scenario.deferral == deferral
            };
            if runs.iter().any(same) {
                let error = anyhow!("--from: {name} is there twice");
                return Err(Failure::usage(error));
            }
            runs.push(run);
        }
    }
    let wanted = chosen(&args.group, &args.scenarios)?;
    if wanted.is_empty() {
        return Ok(runs);
    }
    for scenario in &wanted {
        if !runs
            .iter()
            .any(|run| run.scenario.base_name() == scenario.name)
        {
            let error = anyhow!("--from: no result of {}", scenario.name);
            return Err(Failure::usage(error));
        }
    }
    runs.retain(|run| wanted.iter().any(|s| s.name == run.scenario.base_name()));
    Ok(runs)
}

fn baseline(dir: &Path, run: &Recorded) -> Result<Baseline, Failure> {
    find(dir, run.scenario.base_name(), run.scenario.deferral)
}

/// The baseline of a scenario.
fn find(dir: &Path, scenario: &str, deferral: bool) -> Result<Baseline, Failure> {
    let found = Baseline::read(dir, scenario, deferral).map_err(Failure::usage)?;
    found.ok_or_else(|| {
        let path = Baseline::path(dir, scenario, deferral);
        let accept = Baseline::accept(scenario, deferral);
        Failure::usage(anyhow!(
            "no baseline {}: make it with {accept}",
            path.display()
        ))
    })
}

/// Writes the baselines of `runs`: all, or none if one of them says nothing.
fn accept(dir: &Path, runs: &[Recorded]) -> Result<Code, Failure> {
    let mut files = Vec::with_capacity(runs.len());
    for run in runs {
        let scenario = &run.scenario;
        if let Some(outcome) = no_telling(run) {
            let compared = Compared {
                scenario: scenario.name.clone(),
                deferral: scenario.deferral,
                outcome,
            };
            let compared = [compared];
            say(&render(&compared, stderr_paint()));
            say("ipirig: no baseline was written: that run says nothing\n");
            return Ok(code(&compared));
        }
        let name = scenario.base_name();
        let old = Baseline::tolerances(dir, name, scenario.deferral);
        let new = Baseline::of(run).in_place_of(&old);
        let text = new.to_json().context("cannot put a baseline into JSON")?;
        files.push((Baseline::path(dir, name, scenario.deferral), text));
    }
    write(dir, files)
}

fn write(dir: &Path, files: Vec<(PathBuf, String)>) -> Result<Code, Failure> {
    fs::create_dir_all(dir)
        .with_context(|| format!("cannot create {}", dir.display()))
        .map_err(Failure::usage)?;
    for (path, text) in files {
        write_file(&path, &text).map_err(not_written)?;
        say(&format!("ipirig: wrote {}\n", path.display()));
    }
    Ok(Code::Ok)
}
