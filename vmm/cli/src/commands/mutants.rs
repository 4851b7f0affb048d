//! `ipirig mutants`: the reference kernel first, then one kernel after the other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use ipirig_args::MutantsArgs;
use ipirig_gate::mutants::{Row, verdict};
use ipirig_gate::patches::{self, Mutant};
use ipirig_gate::trial_result::{TrialKind, TrialResult};
use ipirig_gate::trials::{NoSuchNotice, Run, Tried, rows};
use ipirig_guest::linux_tree::GitSource;
use ipirig_guest::stock::{self, StockKernel, StockRequest};
use ipirig_guest::{Flavour, GuestError, Places, Request};
use ipirig_machine::{ApicMode, ConsoleSinks, Host};
use ipirig_report::mutants::render;
use ipirig_rig::run::{KernelFiles, Setup, run as run_on};
use ipirig_rig::sweep::{SweepRequest, sweep as sweep_on};
use ipirig_scenario::Scenario;
use ipirig_scenario::plan::{Options, Plan};
use ipirig_scenario::suggest::closest;
use ipirig_sweep::Shard;
use ipirig_terminal::interrupt;
use ipirig_verdict::conclude;
use ipirig_verdict::exit::{Code, host_verdict};

use super::host::host;
use super::run::{built, file, print_both, snapshots};
use super::sweep::SCENARIO;
use super::{REPORT_TIME, check_interrupt};
use crate::failure::Failure;
use crate::output::check_writable;
use crate::progress::Progress;
use crate::say::say;

pub(crate) fn mutants(args: &MutantsArgs) -> Result<Code, Failure> {
    let mutants = chosen(&args.names)?;
    let json = args.json.as_deref();
    if let Some(path) = file(json) {
        check_writable(path).map_err(Failure::usage)?;
    }
    let progress = Progress::new(false);
    // Once: each is tried on the same, whatever is done in the tree meanwhile.
    let tree = args.tree.as_deref();
    let tree = tree.map(|dir| GitSource::of(dir, &progress)).transpose()?;
    let host = match host() {
        Ok(host) => host,
        Err(error) => {
            say(&format!("ipirig: {error}\n"));
            return Ok(host_verdict(error).into());
        }
    };
    let survivors = match args.survivors {
        // Any scenario might notice one.
        true => Scenario::all()
            .context("a built-in scenario is broken")?
            .into_iter()
            .map(|scenario| scenario.name)
            .collect(),
        false => BTreeSet::new(),
    };
    let bench = Bench {
        host,
        base: match (&tree, &args.stock) {
            (Some(source), _) => Base::Tree(source),
            (None, Some(version)) => Base::Stock(version),
            (None, None) => Base::Reference,
        },
        progress: &progress,
        options: Options {
            timeout_s: args.timeout,
            ..Options::default()
        },
    };
    let inapplicable = |mutant: &Mutant| bench.inapplicable(mutant);
    let Tried { rows, ended } = rows(&mutants, &survivors, inapplicable, |run| bench.once(run))?;
    progress.finish();
    // Ctrl-C leaves the rows of those that were tried, and one that says where it came.
    let _orderly = interrupt::orderly(REPORT_TIME);
    let code = publish(&rows, json)?;
    match ended {
        Some(failure) => Err(failure),
        None => Ok(code),
    }
}

/// The mutants of these names or paths, or all.
fn chosen(names: &[String]) -> Result<Vec<Mutant>, Failure> {
    let all = patches::all(&Places::find()?.guest)?;
    if names.is_empty() {
        return Ok(all);
    }
    let find = |name: &String| {
        if name.ends_with(".patch") {
            let path = std::path::absolute(name).context("no current directory")?;
            return Ok(Mutant::read(path)?);
        }
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

impl From<NoSuchNotice> for Failure {
    fn from(error: NoSuchNotice) -> Self {
        Self::usage(error)
    }
}

/// So many violated points of a sweep show that a mutant is noticed: more may take long, if each is a sender that hangs.
const VIOLATED: usize = 10;

/// What the patches of mutants are applied to.
#[derive(Clone, Copy)]
enum Base<'a> {
    /// The reference series.
    Reference,
    /// The series for another version.
    Stock(&'a str),
    /// What is in a git tree of the user's.
    Tree(&'a GitSource),
}

/// Builds kernels and runs scenarios on them.
struct Bench<'a> {
    host: &'a Host,
    base: Base<'a>,
    progress: &'a Progress,
    options: Options,
}

impl Bench<'_> {
    /// The kernel of sources other than the reference series', with a patch. `None`: it is that series.
    fn other(&self, patch: Option<&Path>) -> Option<Result<StockKernel, GuestError>> {
        let patches: Vec<PathBuf> = patch.map(Path::to_owned).into_iter().collect();
        match self.base {
            Base::Reference => None,
            Base::Stock(version) => {
                let request = StockRequest {
                    version: version.to_owned(),
                    series: true,
                    extra_patches: patches,
                    keep_tree: true,
                    ..StockRequest::default()
                };
                Some(stock::build(&request, self.progress))
            }
            Base::Tree(source) => Some(source.patched(&patches, self.progress)),
        }
    }

    fn kernel(&self, flavour: Flavour, patch: Option<&Path>) -> Result<KernelFiles, Failure> {
        let Some(kernel) = self.other(patch) else {
            let request = Request {
                flavour,
                extra_patches: patch.map(Path::to_owned).into_iter().collect(),
                ..Request::default()
            };
            return built(&request, self.progress);
        };
        let kernel = kernel?;
        let initramfs = stock::initramfs(&kernel, self.progress)?.path;
        Ok(KernelFiles {
            package: Some(kernel.package),
            series: kernel.series,
            ..KernelFiles::new(kernel.vmlinux, initramfs)
        })
    }

    /// Why a mutant's patch does not apply. To the reference series each must: there it is an error.
    fn inapplicable(&self, mutant: &Mutant) -> Result<Option<String>, Failure> {
        check_interrupt()?;
        match self.other(Some(&mutant.path)) {
            None | Some(Ok(_)) => Ok(None),
            Some(Err(GuestError::Patch(failure))) => {
                let why = failure.to_string();
                Ok(why.lines().next().map(str::to_owned))
            }
            Some(Err(error)) => Err(error.into()),
        }
    }

    fn once(&self, run: Run<'_>) -> Result<TrialResult, Failure> {
        check_interrupt()?;
        let kind = TrialKind::find(run.scenario).map_err(|why| Failure::usage(anyhow!(why)))?;
        let options = self.options.clone();
        let (scenario, options, sweep) = match kind {
            TrialKind::Scenario(name) => (name, options, None),
            TrialKind::Sweep { event, path } => {
                let sweep = SweepRequest::of(&[path], &[event], Shard::WHOLE);
                let sweep = SweepRequest {
                    most_violated: Some(VIOLATED),
                    ..sweep.map_err(Failure::usage)?
                };
                (SCENARIO.to_owned(), sweep.options(options), Some(sweep))
            }
        };
        let scenario = Scenario::find(&scenario).map_err(Failure::usage)?;
        let plan = Plan::new(scenario, options).map_err(Failure::usage)?;
        // From the cache for the second scenario of a kernel.
        let kernel = self.kernel(plan.scenario.kernel, run.patch)?;
        let setup = setup(plan, kernel);
        let again = if run.again { ", once more" } else { "" };
        let stage = format!("{}: {}{again}", run.kernel, run.scenario);
        self.progress.stage(&stage);
        let _orderly = interrupt::orderly(REPORT_TIME);
        Ok(match sweep {
            None => {
                let outcome = run_on(self.host, &setup, &|_| {})?;
                TrialResult::Run(Box::new(conclude(&setup, outcome)))
            }
            Some(sweep) => {
                let result = sweep_on(self.host, &setup, &sweep, &|_| {}, &|_| {})?;
                TrialResult::Sweep(Box::new(result))
            }
        })
    }
}

fn setup(plan: Plan, kernel: KernelFiles) -> Setup {
    Setup {
        plan,
        kernel,
        apic: ApicMode::Auto,
        sandbox: true,
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
