//! `ipirig run`. Cheap checks first: arguments and scenario, then the kernel file, then the host,
//! then the guest build, then the boot.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{Context, anyhow};
use ipirig_args::{Apic, PictureOptions, RunArgs, RunOptions, Switch};
use ipirig_checks::check::Verdict;
use ipirig_checks::overall::isolation_held;
use ipirig_document::suite::Suite;
use ipirig_document::{RunDocument, SuiteDocument};
use ipirig_guest::{Flavour, Places, Request};
use ipirig_machine::{ApicMode, ConsoleSinks, ConsoleStyle, check_initramfs, check_kernel};
use ipirig_report::paint::Paint;
use ipirig_report::render::render;
use ipirig_report::suite;
use ipirig_rig::run::{KernelFiles, Setup, run as run_on};
use ipirig_scenario::plan::{Options, Plan};
use ipirig_scenario::{ALL, Scenario, base_name, select};
use ipirig_snapshots::Snapshots;
use ipirig_terminal::interrupt;
use ipirig_verdict::exit::{Code, host_verdict};
use ipirig_verdict::result::RunResult;
use ipirig_verdict::{conclude, not_run};

use super::host::host;
use super::{REPORT_TIME, check_interrupt};
use crate::failure::Failure;
use crate::output::{
    check_writable, not_written, print, print_file, stderr_paint, stdout_paint, write_file,
};
use crate::pictures;
use crate::progress::Progress;
use crate::reports::{Cut, Reports, is_stdout};
use crate::say::say;

pub(crate) fn run(args: RunArgs) -> Result<Code, Failure> {
    let mut scenarios = chosen(&args.group, &args.scenarios)?;
    let reports = Reports::new(&args.reports, args.options.json.as_deref(), &args.scenarios)?;
    let (mut options, pictures) = (args.options, args.pictures);
    options.isolation_only = args.isolation_only;
    check_names(&args.allow_skipped, &scenarios)?;
    pictures::check(&pictures)?;
    let json = options.json.clone();
    if scenarios.len() == 1
        && let Some(scenario) = scenarios.pop()
    {
        let outcome = perform(scenario, options)?;
        let code = publish(&outcome, json.as_deref(), &reports)?;
        pictures::write(&pictures, std::slice::from_ref(&outcome.result))?;
        outcome.advise();
        let outcome = outcome.whole()?;
        if code == Code::Skipped && isolation_held(&outcome.result.checks) {
            say(ISOLATION_HINT);
        }
        return Ok(code);
    }
    let performed = perform_all(scenarios, &options, &args.allow_skipped, &pictures)?;
    let code = performed.publish(json.as_deref(), &reports, &pictures)?;
    let suite = performed.whole()?;
    let missing: BTreeSet<&str> = suite.missing().into_iter().map(base_name).collect();
    if code == Code::Skipped && !missing.is_empty() {
        let names = Vec::from_iter(missing).join(",");
        say(&format!(
            "hint: what was skipped may be missing: `--allow-skipped {names}` if it need not run here\n"
        ));
    }
    if code == Code::Skipped && suite.isolation_held() {
        say(ISOLATION_HINT);
    }
    Ok(code)
}

/// Where nothing is missing but what says that deferred work was done.
const ISOLATION_HINT: &str = "hint: a kernel that drops deferred work would do the same; \
    `--isolation-only` if isolation is all that is wanted\n";

/// Checks that `--allow-skipped` names what is run: a name that is mistyped would allow nothing.
fn check_names(allowed: &[String], scenarios: &[Scenario]) -> Result<(), Failure> {
    let is_run =
        |name: &String| name == ALL || scenarios.iter().any(|s| base_name(&s.name) == name);
    match allowed.iter().find(|name| !is_run(name)) {
        Some(name) => Err(Failure::usage(anyhow!(
            "--allow-skipped: `{name}` is not among what is run"
        ))),
        None => Ok(()),
    }
}

/// What came of several runs.
#[derive(Debug)]
pub(super) struct Performed {
    /// The last is the one that was cut short, if one was.
    suite: Suite,
    /// How many there were to be, and how many came to their end.
    planned: usize,
    ended: usize,
    /// Why those are not the same, if they are not.
    failure: Option<Failure>,
}

impl Performed {
    /// Writes and prints what there is, and says how to exit if that is all.
    pub(super) fn publish(
        &self,
        json: Option<&Path>,
        reports: &Reports,
        pictures: &PictureOptions,
    ) -> Result<Code, Failure> {
        let planned = self.planned;
        let cut = self.failure.as_ref();
        let cut = cut.map(|failure| Cut { planned, failure });
        let code = publish_suite(&self.suite, cut, json, reports)?;
        pictures::write(pictures, self.suite.runs())?;
        Ok(code)
    }

    /// All of it.
    ///
    /// # Errors
    /// What ended it before.
    pub(super) fn whole(self) -> Result<Suite, Failure> {
        let Some(failure) = self.failure else {
            return Ok(self.suite);
        };
        let (ended, planned) = (self.ended, self.planned);
        say(&format!(
            "ipirig: {ended} of {planned} scenarios ended, and their results are told\n"
        ));
        Err(failure)
    }
}

/// Runs each of `scenarios`, of which those with names in `may_skip` may be skipped, for `pictures` of all of them. What
/// ends one of them for another reason than its own ends them all, and leaves what had ended before, and of that one why
/// it did not.
///
/// # Errors
/// The first could not begin for what the user gave.
pub(super) fn perform_all(
    scenarios: Vec<Scenario>,
    options: &RunOptions,
    may_skip: &[String],
    pictures: &PictureOptions,
) -> Result<Performed, Failure> {
    let planned = scenarios.len();
    let mut outcomes = Vec::with_capacity(planned);
    let mut ended = 0;
    let mut failure = None;
    for scenario in scenarios {
        let name = scenario.name.clone();
        say(&format!("ipirig: {name}\n"));
        match perform(scenario, options.clone()) {
            Ok(mut outcome) => {
                outcome.result.may_skip = may_skip
                    .iter()
                    .any(|may| may == base_name(&name) || may == ALL);
                // There may be hundreds of runs.
                if pictures.none() {
                    outcome.result.drop_pictures();
                }
                failure = outcome.failure.take();
                outcomes.push(outcome);
            }
            Err(wrong) if outcomes.is_empty() => return Err(wrong),
            Err(wrong) => failure = Some(wrong),
        }
        if failure.is_some() {
            break;
        }
        ended += 1;
    }
    // The host lacks the same for each.
    if let Some(first) = outcomes.first() {
        first.advise();
    }
    let results = outcomes.into_iter().map(|outcome| outcome.result).collect();
    let suite = match failure {
        None => Suite::new(results),
        Some(_) => Suite::cut_short(results),
    };
    Ok(Performed {
        suite,
        planned,
        ended,
        failure,
    })
}

/// The scenarios that are asked for.
pub(super) fn chosen(groups: &[String], names: &[String]) -> Result<Vec<Scenario>, Failure> {
    select(groups, names).map_err(Failure::usage)
}

/// What came of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) result: RunResult,
    /// What to do about a host that lacks something.
    advice: Option<&'static str>,
    /// What ended it, if not it itself: that is what its result says, too.
    failure: Option<Failure>,
}

impl Outcome {
    /// Of a run that `failure` ended. What the user gave wrong, nothing comes of.
    fn cut(plan: &Plan, failure: Failure) -> Result<Self, Failure> {
        if failure.is_usage() {
            return Err(failure);
        }
        let (verdict, why) = failure.outcome();
        Ok(Self {
            result: not_run(plan, verdict, why),
            advice: None,
            failure: Some(failure),
        })
    }

    /// All of it, once what there is has been told.
    ///
    /// # Errors
    /// What ended it before.
    pub(super) fn whole(self) -> Result<Self, Failure> {
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(self),
        }
    }

    pub(super) fn advise(&self) {
        if let Some(advice) = self.advice {
            say(&format!("hint: {advice}\n"));
        }
    }
}

/// Runs `scenario` as `args` say.
///
/// # Errors
/// What the user gave is wrong.
pub(super) fn perform(scenario: Scenario, args: RunOptions) -> Result<Outcome, Failure> {
    let plan = Plan::new(scenario, options(&args)).map_err(Failure::usage)?;
    check_files(&args)?;
    let host = match host() {
        Ok(host) => host,
        Err(error) => {
            return Ok(Outcome {
                result: not_run(&plan, host_verdict(error), error),
                advice: error.advice(),
                failure: None,
            });
        }
    };
    let progress = Progress::new(args.console.is_some());
    let kernel = kernel_files(&args, plan.scenario.kernel, &progress);
    let kernel = match kernel.and_then(|kernel| check_interrupt().map(|()| kernel)) {
        Ok(kernel) => kernel,
        Err(failure) => return Outcome::cut(&plan, failure),
    };
    let setup = setup(plan, kernel, args);
    // Ctrl-C ends the run, and that is its result.
    let _orderly = interrupt::orderly(REPORT_TIME);
    let outcome = run_on(host, &setup, &|phase| progress.stage(&phase.to_string()));
    progress.finish();
    match outcome {
        Ok(outcome) => Ok(Outcome {
            result: conclude(&setup, outcome),
            advice: None,
            failure: None,
        }),
        Err(error) => Outcome::cut(&setup.plan, error.into()),
    }
}

/// What of the arguments a plan is made with.
pub(super) fn options(args: &RunOptions) -> Options {
    Options {
        vcpus: args.vcpus,
        no_deferral: args.deferral == Switch::Off,
        pin: args.pin.clone(),
        memory_mib: args.memory,
        kernel: args.flavour,
        own_kernel: args.kernel.is_some(),
        build_id: args.build_id.clone(),
        append: args.append.clone(),
        without: args.without.clone(),
        as_is: false,
        timeout_s: args.timeout,
        no_stacks: args.no_stacks,
        cross_check: args.cross_check,
        isolation_only: args.isolation_only,
    }
}

/// Checks the files that the arguments name.
pub(super) fn check_files(args: &RunOptions) -> Result<(), Failure> {
    if let Some(kernel) = &args.kernel {
        check_kernel(kernel).map_err(Failure::usage)?;
    }
    if let Some(initramfs) = &args.initramfs {
        check_initramfs(initramfs).map_err(Failure::usage)?;
    }
    for path in file(args.json.as_deref())
        .into_iter()
        .chain(args.log.as_deref())
    {
        check_writable(path).map_err(Failure::usage)?;
    }
    Ok(())
}

/// What a run needs besides a host.
pub(super) fn setup<P>(plan: P, kernel: KernelFiles, args: RunOptions) -> Setup<P> {
    Setup {
        plan,
        kernel,
        apic: match args.apic {
            Apic::Auto => ApicMode::Auto,
            Apic::Xapic => ApicMode::Xapic,
            Apic::X2apic => ApicMode::X2apic,
            Apic::Kernel => ApicMode::Kernel,
        },
        sandbox: !args.no_sandbox,
        console: ConsoleSinks {
            terminal: args.console.map(|style| match style {
                ipirig_args::ConsoleStyle::Text => ConsoleStyle::Text,
                ipirig_args::ConsoleStyle::Raw => ConsoleStyle::Raw,
            }),
            log: args.log,
        },
        snapshots: if args.cold { None } else { snapshots() },
    }
}

/// Where snapshots of booted guests are. Without a cache directory each run boots, and the reason is
/// said once.
pub(super) fn snapshots() -> Option<Snapshots> {
    static SAID: Once = Once::new();
    match Places::find_cache() {
        Ok(cache) => Some(Snapshots::new(cache.join("snapshot"))),
        Err(error) => {
            let error = anyhow::Error::from(error);
            SAID.call_once(|| {
                say(&format!(
                    "ipirig: each run boots, as no snapshot can be kept: {error:#}\n"
                ));
            });
            None
        }
    }
}

/// The path, unless it stands for standard output.
pub(super) fn file(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| !is_stdout(path))
}

/// The files to boot; built where the user gave none.
pub(super) fn kernel_files(
    args: &RunOptions,
    wanted: Flavour,
    progress: &Progress,
) -> Result<KernelFiles, Failure> {
    let Some(kernel) = &args.kernel else {
        let request = Request {
            flavour: wanted,
            ..Request::default()
        };
        return built(&request, progress);
    };
    let initramfs = match &args.initramfs {
        Some(path) => path.to_owned(),
        None => ipirig_guest::initramfs_without_module(progress)?.path,
    };
    Ok(KernelFiles {
        symbols: super::tree::symbols(args),
        package: args.package.clone(),
        ..KernelFiles::new(kernel, initramfs)
    })
}

/// The files of a guest that we build.
pub(super) fn built(request: &Request, progress: &Progress) -> Result<KernelFiles, Failure> {
    let guest = ipirig_guest::build(request, progress)?;
    Ok(KernelFiles {
        package: Some(guest.package),
        series: Some(guest.series),
        ..KernelFiles::new(guest.vmlinux, guest.initramfs)
    })
}

/// Prints the result and says how to exit.
fn publish(outcome: &Outcome, json: Option<&Path>, reports: &Reports) -> Result<Code, Failure> {
    let _orderly = interrupt::orderly(REPORT_TIME);
    let result = &outcome.result;
    let runs = std::slice::from_ref(result);
    // One that is skipped is all that was planned.
    let ended = outcome.failure.as_ref();
    let ended = ended.filter(|_| result.verdict != Verdict::Skipped);
    let cut = ended.map(|failure| Cut {
        planned: 1,
        failure,
    });
    let mut files = reports.texts(runs, cut)?;
    if let Some(path) = json {
        let text = RunDocument::from(result).to_json();
        files.push((path.to_owned(), text.context(NO_JSON)?));
    }
    print_all(&|paint| render(result, paint), &files)?;
    reports.tell_github(runs);
    Ok(result.verdict.into())
}

/// The same for several results.
fn publish_suite(
    suite: &Suite,
    cut: Option<Cut<'_>>,
    json: Option<&Path>,
    reports: &Reports,
) -> Result<Code, Failure> {
    let _orderly = interrupt::orderly(REPORT_TIME);
    let mut files = reports.texts(suite.runs(), cut)?;
    if let Some(path) = json {
        let text = SuiteDocument::from(suite).to_json();
        files.push((path.to_owned(), text.context(NO_JSON)?));
    }
    print_all(&|paint| suite::render(suite, paint), &files)?;
    reports.tell_github(suite.runs());
    Ok(suite.verdict().into())
}

const NO_JSON: &str = "cannot put the results into JSON";

/// Prints what is for people, and writes what is for machines where `json` says.
pub(super) fn print_both(
    people: &dyn Fn(Paint) -> String,
    machines: &dyn Fn() -> anyhow::Result<String>,
    json: Option<&Path>,
) -> Result<(), Failure> {
    let files: Vec<(PathBuf, String)> = match json {
        Some(path) => vec![(path.to_owned(), machines()?)],
        None => Vec::new(),
    };
    print_all(people, &files)
}

/// Prints what is for people, and writes each of `files`. One that is to be standard output takes
/// the place of what is for people, which then goes to standard error.
pub(super) fn print_all(
    people: &dyn Fn(Paint) -> String,
    files: &[(PathBuf, String)],
) -> Result<(), Failure> {
    let printed = match files.iter().find(|(path, _)| is_stdout(path)) {
        Some((_, text)) => {
            say(&people(stderr_paint()));
            print_file(text)
        }
        None => print(&people(stdout_paint())),
    };
    // Whatever became of one of them, the others are written.
    let mut written = Ok(());
    for (path, text) in files.iter().filter(|(path, _)| !is_stdout(path)) {
        written = written.and(write_file(path, text));
    }
    printed?;
    written.map_err(not_written)
}
