//! `ipirig sweep`.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use ipirig_report::sweep::view;
use ipirig_rig::sweep::{SweepErrand, Swept, sweep as sweep_on};
use ipirig_scenario::plan::Plan;
use ipirig_scenario::{EntryKind, Scenario};
use ipirig_sweep::{EventName, PathName, PointName, Sender, Side};
use ipirig_verdict::check::Verdict;
use ipirig_verdict::exit::{Code, host_verdict};

use super::check_interrupt;
use super::host::host;
use super::run::{check_files, kernel_files, options, print_both, setup};
use crate::args::SweepArgs;
use crate::failure::Failure;
use crate::progress::Progress;

/// The scenario whose guest is swept.
const SCENARIO: &str = "entry-matrix";
/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

pub(crate) fn sweep(args: SweepArgs) -> Result<Code, Failure> {
    let errand = errand(&args)?;
    let scenario = Scenario::find(SCENARIO).map_err(Failure::usage)?;
    let json = args.options.json.clone();
    let args = args.options;
    let plan = Plan::new(scenario, options(&args)).map_err(Failure::usage)?;
    check_files(&args)?;
    let host = match host() {
        Ok(host) => host,
        Err(error) => {
            let code = host_verdict(error).into();
            return Err(Failure::with_code(code, error.into()));
        }
    };
    let progress = Progress::new(args.console);
    let kernel = kernel_files(&args, plan.scenario.kernel, &progress)?;
    check_interrupt()?;
    let setup = setup(plan, kernel, args);
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
        &errand,
        &|phase| progress.stage(&phase.to_string()),
        &tick,
    )?;
    progress.finish();
    let text = || serde_json::to_string_pretty(&result).context("cannot put the result into JSON");
    print_both(&|paint| view(&result, paint), &text, json.as_deref())?;
    Ok(Verdict::of(&result).into())
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

fn errand(args: &SweepArgs) -> Result<SweepErrand, Failure> {
    let shard = args.shard.parse().map_err(Failure::usage)?;
    if let Some(point) = &args.point {
        let point: PointName = point.parse().map_err(Failure::usage)?;
        let sender = Sender::find(&point.path);
        if sender.is_some() != point.event.is_of_sender() {
            return Err(Failure::usage(anyhow!(
                "`entry` is the event of the paths sender-flip and sender-vunmap, and of no others"
            )));
        }
        return Ok(SweepErrand {
            paths: match sender {
                Some(_) => vec![],
                None => vec![path(&point.path)?],
            },
            senders: sender.into_iter().collect(),
            events: vec![point.event],
            only: Some(point),
            shard,
        });
    }
    let mut senders = Vec::new();
    let paths = if args.paths.is_empty() {
        senders.extend(Sender::ALL);
        let sides = |entry| [(entry, Side::In), (entry, Side::Out)];
        // Those that not every host has only by name.
        EntryKind::ALL
            .into_iter()
            .filter(|entry| !entry.depends_on_cpu())
            .flat_map(sides)
            .collect()
    } else {
        let mut paths = Vec::new();
        for name in &args.paths {
            let name: PathName = name.parse().map_err(Failure::usage)?;
            match Sender::find(&name) {
                Some(sender) => senders.push(sender),
                None => paths.push(path(&name)?),
            }
        }
        paths
    };
    let events = if args.event.is_empty() {
        EventName::ALL.to_vec()
    } else {
        let find = |name: &String| name.parse().map_err(Failure::usage);
        args.event.iter().map(find).collect::<Result<_, _>>()?
    };
    Ok(SweepErrand {
        paths,
        senders,
        events,
        only: None,
        shard,
    })
}

fn path(name: &PathName) -> Result<(EntryKind, Side), Failure> {
    let entry = EntryKind::find(&name.entry).ok_or_else(|| {
        let all = EntryKind::ALL.map(EntryKind::name).join(", ");
        Failure::usage(anyhow!(
            "no path is called `{name}`; the entry kinds are {all}, each with or without -exit; and there are sender-flip and \
             sender-vunmap"
        ))
    })?;
    Ok((entry, name.side))
}
