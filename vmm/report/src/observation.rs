//! An observation as a person reads it.

mod durations;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use ipirig_checks::check::{ISOLATED_IPIS, Verdict};
use ipirig_evidence::blame::Taken;
use ipirig_evidence::origins::Origin;
use ipirig_observation::{AdviceReport, CommandReport, Observation, Report, Visited, are_ratios};
use ipirig_verdict::result::RunResult;

use crate::attribution::{Account, To};
use crate::paint::Paint;
use crate::render::{counts, describe, line, warnings};

/// Lines of the command's output that are shown: the first ones.
const OUTPUT_LINES: usize = 40;
/// Rows of the table of senders that are shown: the first ones.
const ROWS: usize = 30;

/// The whole report, with a newline at its end.
#[must_use]
pub fn render(report: &Report, paint: Paint) -> String {
    let run = &report.run;
    let mut out = String::new();
    let title = paint.bold(&run.scenario.name);
    line(&mut out, format!("{title}: {}", run.scenario.storm));
    if let Some(kernel) = &run.kernel {
        let apic = run
            .machine
            .as_ref()
            .map(|machine| format!(", {}", machine.apic));
        let about = format!("{}{}", describe(kernel), apic.unwrap_or_default());
        line(&mut out, paint.dim(about));
    }
    warnings(&mut out, run);
    if let Some(observation) = &report.observation {
        observed(&mut out, run, observation, paint);
    }
    if let Some(report) = &run.report {
        line(&mut out, "");
        line(&mut out, report.trim_end());
    }
    line(&mut out, "");
    let width = run.checks.iter().map(|check| check.name.len()).max();
    for check in &run.checks {
        let status = paint.verdict(check.status, format!("{:<8}", check.status));
        let (name, width) = (check.name, width.unwrap_or(0));
        line(
            &mut out,
            format!("{status}  {name:<width$}  {}", check.evidence),
        );
    }
    line(&mut out, "");
    line(&mut out, conclusion(run, paint));
    out
}

fn observed(out: &mut String, run: &RunResult, observation: &Observation, paint: Paint) {
    if let Some(unrest) = &observation.unrest {
        let words = format!("warning: not quiet before the command began: {unrest}");
        line(out, words);
    }
    line(out, "");
    let head = [
        "vCPU",
        "IPIs",
        "other interrupts",
        "taken in",
        "longest time alone",
    ];
    let rows = observation.isolated.iter().map(visited).collect();
    table(out, paint, head, rows, &[0]);

    line(out, "");
    if run.blame.is_empty() {
        origins(out, run, observation, paint);
    } else {
        *out += &Account::from(run).table(To::Isolated, paint);
    }
    timers(out, observation, paint);
    advised(out, observation, paint);
    let ratios = are_ratios(run.host.as_ref());
    for visited in &observation.isolated {
        durations::render(out, visited, ratios, paint);
    }
    switched_off(out, run, paint);
    printed(out, &observation.command, paint);
}

/// What timer interrupts came for.
fn timers(out: &mut String, observation: &Observation, paint: Paint) {
    let mut known: BTreeMap<(usize, String), u64> = BTreeMap::new();
    for timer in &observation.timers {
        let times = known.entry((timer.cpu, timer.reason())).or_default();
        *times = times.saturating_add(timer.times);
    }
    if known.is_empty() {
        return;
    }
    let mut rows: Vec<_> = known.into_iter().collect();
    rows.sort_by_key(|((cpu, _), times)| (*cpu, Reverse(*times)));
    line(out, "");
    let head = "timer interrupts of isolated vCPUs, by what was due";
    line(out, paint.dim(head));
    for ((cpu, reason), times) in rows {
        line(out, format!("{times:>7}  vCPU {cpu}: {reason}"));
    }
}

/// What can be done about the causes.
fn advised(out: &mut String, observation: &Observation, paint: Paint) {
    if observation.advice.is_empty() {
        return;
    }
    line(out, "");
    line(
        out,
        paint.dim("what can be done about it, with this kernel"),
    );
    for advice in &observation.advice {
        let AdviceReport {
            cause,
            what,
            source,
        } = advice;
        line(out, format!("  {cause}: {what} ({source})"));
    }
}

/// What nobody sees here because the rig keeps it away.
fn switched_off(out: &mut String, run: &RunResult, paint: Paint) {
    let setup = run.kernel.as_ref().and_then(|kernel| kernel.setup.as_ref());
    let Some(setup) = setup.filter(|setup| !setup.switched_off.is_empty()) else {
        return;
    };
    line(out, "");
    line(
        out,
        paint.dim("switched off in the guest; --as-is leaves it on"),
    );
    for off in &setup.switched_off {
        line(out, format!("  {off}"));
    }
}

fn visited(visited: &Visited) -> [String; 5] {
    [
        visited.id.to_string(),
        counts(&visited.ipis),
        counts(&visited.other),
        places(visited.taken),
        format!("{:.3} s", visited.longest_alone_s),
    ]
}

/// What the ledger alone tells of the senders: call chains were not taken.
fn origins(out: &mut String, run: &RunResult, observation: &Observation, paint: Paint) {
    if observation.origins.is_empty() {
        line(out, "no IPI was sent to an isolated vCPU");
        return;
    }
    let row = |origin: &Origin| {
        let sends: u64 = origin.targets.values().sum();
        let role = run.vcpus.get(origin.source).map_or("", |vcpu| vcpu.role);
        let place = origin.function.clone();
        [
            sends.to_string(),
            origin.kind.clone(),
            format!("vCPU {} {role}", origin.source),
            place.unwrap_or_else(|| format!("{:#x}", origin.address)),
            places(origin.taken),
        ]
    };
    let rows = observation.origins.iter().take(ROWS).map(row).collect();
    let mut lines = columns(["sends", "kind", "from", "at", "taken in"], rows, &[0]).into_iter();
    line(out, paint.dim(lines.next().unwrap_or_default()));
    for text in lines {
        line(out, text);
    }
    let more = observation.origins.len().saturating_sub(ROWS);
    if more > 0 {
        line(out, format!("       and {more} more"));
    }
}

fn printed(out: &mut String, command: &CommandReport, paint: Paint) {
    let mut lines = command.output.lines();
    let shown: Vec<&str> = lines.by_ref().take(OUTPUT_LINES).collect();
    if shown.is_empty() {
        return;
    }
    line(out, "");
    line(out, paint.dim("the command printed"));
    for text in shown {
        // A guest must not steer the terminal.
        let text = ipirig_terminal::text::line(text);
        line(out, format!("  | {text}"));
    }
    let more = lines.count();
    if more > 0 {
        line(
            out,
            format!("  | ({more} more lines; --output FILE writes all of them)"),
        );
    }
}

fn places(taken: Taken) -> String {
    let each = [
        ("user", taken.user),
        ("kernel", taken.kernel),
        ("idle", taken.idle),
    ];
    let counts: BTreeMap<&str, u64> = each.into_iter().filter(|(_, count)| *count > 0).collect();
    let words: Vec<String> = each
        .iter()
        .filter(|(name, _)| counts.contains_key(name))
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(", ")
    }
}

fn table<const N: usize>(
    out: &mut String,
    paint: Paint,
    head: [&str; N],
    rows: Vec<[String; N]>,
    to_the_right: &[usize],
) {
    let mut lines = columns(head, rows, to_the_right).into_iter();
    line(out, paint.dim(lines.next().unwrap_or_default()));
    for text in lines {
        line(out, paint.bold(text));
    }
}

/// Lines of equal columns, the head first.
fn columns<const N: usize>(
    head: [&str; N],
    rows: Vec<[String; N]>,
    to_the_right: &[usize],
) -> Vec<String> {
    let head = head.map(str::to_owned);
    let all: Vec<[String; N]> = [head].into_iter().chain(rows).collect();
    let mut widths = [0; N];
    for row in &all {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let padded = |row: &[String; N]| {
        let cells = row
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(i, (cell, width))| {
                if to_the_right.contains(&i) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
        cells.collect::<Vec<_>>().join("  ")
    };
    all.iter().map(padded).collect()
}

fn conclusion(run: &RunResult, paint: Paint) -> String {
    let with = |status| {
        let names = run.checks.iter().filter(|check| check.status == status);
        names.map(|check| check.name).collect::<Vec<_>>().join(", ")
    };
    let limited = run.checks.iter().any(|check| check.name == ISOLATED_IPIS);
    let (word, why) = match run.verdict {
        Verdict::Held if limited => (
            "held",
            "no isolated vCPU got more IPIs than it may".to_owned(),
        ),
        Verdict::Held => (
            "complete",
            "nothing was lost; nothing was judged".to_owned(),
        ),
        Verdict::Violated => ("violated", with(Verdict::Violated)),
        Verdict::Error => ("error", format!("not complete: {}", with(Verdict::Error))),
        Verdict::Skipped => (
            "skipped",
            format!("not observed: {}", with(Verdict::Skipped)),
        ),
    };
    let timing = &run.timing;
    let mut times = String::new();
    if let (Some(ready), Some(window)) = (timing.ready(), timing.window_s) {
        let total = timing.total_s;
        let _ = write!(
            times,
            " [{ready}, observed {window:.2} s, total {total:.1} s]"
        );
    }
    format!(
        "{}: {why}{}",
        paint.verdict(run.verdict, word),
        paint.dim(times)
    )
}

#[cfg(test)]
mod tests;
