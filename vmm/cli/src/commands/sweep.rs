//! `ipirig sweep`.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::Context;
use ipirig_args::{MergeArgs, ReportArgs, SweepArgs};
use ipirig_checks::check::Verdict;
use ipirig_pictures::sweep::html;
use ipirig_report::sweep::{explained, junit, ktap, view};
use ipirig_rig::sweep::{SweepRequest, Swept, not_swept, sweep as sweep_on};
use ipirig_scenario::Scenario;
use ipirig_scenario::plan::Plan;
use ipirig_sweep::{PointName, SweepResult, merge as merge_all};
use ipirig_terminal::interrupt;
use ipirig_verdict::exit::{Code, host_verdict};

use super::host::host;
use super::run::{check_files, kernel_files, options, print_all, setup};
use super::{REPORT_TIME, check_interrupt};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::reports::check_places;

/// The scenario whose guest is swept.
pub(super) const SCENARIO: &str = "entry-matrix";
/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

pub(crate) fn sweep(args: SweepArgs) -> Result<Code, Failure> {
    let request = request(&args)?;
    let scenario = Scenario::find(SCENARIO).map_err(Failure::usage)?;
    let wanted = wanted(
        &args.reports,
        args.options.json.as_deref(),
        args.html.as_deref(),
    )?;
    let args = args.options;
    let plan = Plan::new(scenario, request.options(options(&args))).map_err(Failure::usage)?;
    check_files(&args)?;
    let host = match host() {
        Ok(host) => host,
        Err(error) => {
            let skipped = host_verdict(error) == Verdict::Skipped;
            return show(&not_swept(&request, error, skipped), wanted);
        }
    };
    let progress = Progress::new(args.console.is_some());
    let kernel = kernel_files(&args, plan.scenario.kernel, &progress);
    let kernel = match kernel.and_then(|kernel| check_interrupt().map(|()| kernel)) {
        Ok(kernel) => kernel,
        Err(failure) => {
            if !failure.is_usage() {
                let (verdict, why) = failure.outcome();
                let result = not_swept(&request, why, verdict == Verdict::Skipped);
                show(&result, wanted)?;
            }
            return Err(failure);
        }
    };
    let setup = setup(plan, kernel, args);
    // Ctrl-C ends it, and then there is a report of the points so far.
    let _orderly = interrupt::orderly(REPORT_TIME);
    let said = Cell::new(Instant::now());
    let tick = |swept: &Swept| {
        let last = swept.points.len() == swept.planned;
        if progress.is_live() || last || said.get().elapsed() >= LINE_EVERY {
            said.set(Instant::now());
            progress.stage(&how_far(swept));
        }
    };
    let result = sweep_on(
        host,
        &setup,
        &request,
        &|phase| progress.stage(&phase.to_string()),
        &tick,
    )?;
    progress.finish();
    let code = show(&result, wanted)?;
    if !result.complete {
        check_interrupt()?;
    }
    Ok(code)
}

pub(crate) fn merge(args: &MergeArgs) -> Result<Code, Failure> {
    let wanted = wanted(&args.reports, args.json.as_deref(), args.html.as_deref())?;
    let results = args.results.iter().map(|path| read(path));
    let result = merge_all(results.collect::<Result<_, _>>()?).map_err(Failure::usage)?;
    show(&result, wanted)
}

/// A format of a sweep's result.
type Format = fn(&SweepResult) -> anyhow::Result<String>;

/// The files that were asked for, each with its format.
fn wanted(
    reports: &ReportArgs,
    json: Option<&Path>,
    page: Option<&Path>,
) -> Result<Vec<(PathBuf, Format)>, Failure> {
    let to_json: Format =
        |result| serde_json::to_string_pretty(result).context("cannot put the result into JSON");
    let formats: [(Option<&Path>, Format); 4] = [
        (json, to_json),
        (page, |result| {
            let page = html(result, &|point| explained(result, point));
            page.context("cannot show the results")
        }),
        (reports.ktap.as_deref(), |result| Ok(ktap(result))),
        (reports.junit.as_deref(), |result| Ok(junit(result)?)),
    ];
    let wanted: Vec<(PathBuf, Format)> = formats
        .into_iter()
        .filter_map(|(path, format)| Some((path?.to_owned(), format)))
        .collect();
    check_places(wanted.iter().map(|(path, _)| path.as_path()), None)?;
    Ok(wanted)
}

fn show(result: &SweepResult, wanted: Vec<(PathBuf, Format)>) -> Result<Code, Failure> {
    let text = |(path, format): (PathBuf, Format)| Ok((path, format(result)?));
    let files: anyhow::Result<Vec<_>> = wanted.into_iter().map(text).collect();
    print_all(&|paint| view(result, paint), &files?)?;
    Ok(Verdict::of(result).into())
}

/// The result of a sweep that was written as JSON.
pub(super) fn read(path: &Path) -> Result<SweepResult, Failure> {
    let what = || format!("cannot read the result of a sweep from {}", path.display());
    let bytes = ipirig_gate::bytes(path).with_context(what);
    let bytes = bytes.and_then(|bytes| bytes.context(ipirig_gate::TOO_LONG).with_context(what));
    let bytes = bytes.map_err(Failure::usage)?;
    serde_json::from_slice(&bytes)
        .with_context(what)
        .map_err(Failure::usage)
}

/// Points done, points a second of those that take time, and time left.
fn how_far(swept: &Swept) -> String {
    let (done, planned) = (swept.points.len(), swept.planned);
    let (took, share) = (
        swept.took.as_secs_f64(),
        done as f64 / planned.max(1) as f64,
    );
    let rate = swept.run as f64 / took.max(0.001);
    let left = took / share.max(0.000_001) - took;
    format!("{done} of {planned} points, {rate:.1} a second, {left:.0} s left")
}

fn request(args: &SweepArgs) -> Result<SweepRequest, Failure> {
    let shard = args.shard.parse().map_err(Failure::usage)?;
    if let Some(point) = &args.point {
        let point: PointName = point.parse().map_err(Failure::usage)?;
        return SweepRequest::of_point(point, shard).map_err(Failure::usage);
    }
    let earlier = args.resume.as_deref().map(read).transpose()?;
    let request = SweepRequest::of(&parsed(&args.paths)?, &parsed(&args.event)?, shard)
        .map_err(Failure::usage)?;
    Ok(SweepRequest {
        pairs: args.pairs,
        earlier: earlier.map(Box::new),
        most_violated: args.max_violated.map(|most| most as usize),
        ..request
    })
}

/// The names in words of the command line.
fn parsed<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    words: &[String],
) -> Result<Vec<T>, Failure> {
    let parse = |word: &String| word.parse().map_err(Failure::usage);
    words.iter().map(parse).collect()
}
