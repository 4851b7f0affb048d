//! An observation as a web page: who interrupted the isolated CPUs, why, for how long, and what can be done about it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use askama::Template;
use ipirig_checks::check::{ISOLATED_IPIS, Verdict};
use ipirig_evidence::blame::{Deferrable, Taken};
use ipirig_observation::{
    AdviceReport, Durations, Interruptions, Observation, Report, Visited, are_ratios,
};
use ipirig_verdict::result::RunResult;

use super::picture::Unit;
use super::view::{Run, kinds};
use super::words::{counted, duration, grouped};
use super::{HtmlError, Provenance, unprintable};

/// Characters of the command's output that are shown: the first ones.
const OUTPUT: usize = 16_000;
/// Of the picture of lengths: a bar's width with what is to its right, the highest, the lowest.
const BAR: f64 = 9.0;
const BETWEEN: f64 = 2.0;
const HIGH: f64 = 28.0;
const LOW: f64 = 2.0;

/// The page.
///
/// # Errors
///
/// [`HtmlError`], which only a bug could cause.
pub fn observation(report: &Report, made: &Provenance) -> Result<String, HtmlError> {
    let page = Page::new(report, made).render().map_err(HtmlError)?;
    Ok(page.replace(unprintable, "\u{fffd}"))
}

#[derive(Debug, Template)]
#[template(path = "observation.html")]
struct Page {
    title: String,
    version: &'static str,
    time: Option<String>,
    command: Option<String>,
    /// What was run in the guest.
    words: String,
    kernel: Option<String>,
    word: &'static str,
    meaning: String,
    figures: Vec<(&'static str, String)>,
    warnings: Vec<String>,
    visited: Vec<VisitedRow>,
    causes: Vec<CauseRow>,
    /// What is said where there are none.
    no_causes: &'static str,
    durations: Vec<DurationTable>,
    switched_off: Vec<String>,
    /// What is said where there is none.
    nothing_off: &'static str,
    output: Option<String>,
    more_output: Option<String>,
    /// What it has in common with a scenario's run.
    run: Run,
}

/// What came to an isolated vCPU.
#[derive(Debug)]
struct VisitedRow {
    id: usize,
    ipis: String,
    kinds: String,
    other: String,
    other_kinds: String,
    taken: String,
    alone: String,
}

/// A cause of IPIs or of timer interrupts.
#[derive(Debug)]
struct CauseRow {
    count: u64,
    times: String,
    name: String,
    /// IPIs, or timer interrupts.
    what: &'static str,
    deferrable: &'static str,
    advice: Vec<AdviceReport>,
}

/// How long one vCPU was kept from its task.
#[derive(Debug)]
struct DurationTable {
    cpu: usize,
    caption: String,
    /// The head of the column with sums.
    total: &'static str,
    rows: Vec<DurationRow>,
}

#[derive(Debug)]
struct DurationRow {
    times: String,
    total: String,
    median: String,
    longest: String,
    by: String,
    unmeasured: Option<String>,
    width: Unit,
    height: Unit,
    label: String,
    bars: Vec<Bar>,
}

#[derive(Debug)]
struct Bar {
    x: Unit,
    y: Unit,
    width: Unit,
    height: Unit,
    title: String,
}

impl Page {
    fn new(report: &Report, made: &Provenance) -> Self {
        let result = &report.run;
        let observed = report.observation.as_ref();
        let ratios = are_ratios(result.host.as_ref());
        let mut run = Run::new(1, 1, &to_isolated(result));
        let mut warnings = std::mem::take(&mut run.warnings);
        let unrest = observed.and_then(|observed| observed.unrest.as_ref());
        warnings
            .extend(unrest.map(|unrest| format!("not quiet before the command began: {unrest}")));
        let kernel = result.kernel.as_ref();
        let setup = kernel.and_then(|kernel| kernel.setup.as_ref());
        let (word, meaning) = conclusion(result);
        let (output, more_output) = observed.map_or((None, None), printed);
        Self {
            title: format!("{}: {word}", result.scenario.storm),
            version: env!("CARGO_PKG_VERSION"),
            time: made
                .time
                .map(|time| humantime::format_rfc3339_seconds(time).to_string()),
            command: made.command.clone(),
            words: result.scenario.storm.clone(),
            kernel: kernel.map(|kernel| match &kernel.release {
                Some(release) => format!("Linux {release}"),
                None => kernel.path.clone(),
            }),
            word,
            meaning,
            figures: observed.map_or_else(Vec::new, |observed| figures(result, observed)),
            warnings,
            visited: observed.map_or_else(Vec::new, |observed| {
                observed.isolated.iter().map(VisitedRow::new).collect()
            }),
            causes: observed.map_or_else(Vec::new, |observed| causes(result, observed)),
            no_causes: if result
                .vcpus
                .iter()
                .any(|vcpu| vcpu.window.ipis_targeted > 0)
            {
                "No cause is known: call chains were not taken, or nothing came to an isolated vCPU."
            } else {
                "Nothing came that would need one."
            },
            durations: observed.map_or_else(Vec::new, |observed| {
                let table = |visited| DurationTable::new(visited, ratios);
                observed.isolated.iter().filter_map(table).collect()
            }),
            switched_off: setup.map_or_else(Vec::new, |setup| {
                setup.switched_off.iter().map(ToString::to_string).collect()
            }),
            nothing_off: match setup {
                Some(_) => "Nothing: the guest is as its kernel has it.",
                None => "Not known: the guest did not come to say it.",
            },
            output,
            more_output,
            run,
        }
    }
}

/// The result with the IPIs to isolated vCPUs alone.
fn to_isolated(run: &RunResult) -> RunResult {
    let mut run = run.clone();
    let isolated: Vec<usize> = run
        .vcpus
        .iter()
        .filter(|vcpu| vcpu.role == "isolated")
        .map(|vcpu| vcpu.id)
        .collect();
    for blame in &mut run.blame {
        blame.targets.retain(|cpu, _| isolated.contains(cpu));
    }
    run.blame.retain(|blame| !blame.targets.is_empty());
    run
}

fn conclusion(run: &RunResult) -> (&'static str, String) {
    let failed = |status| {
        let checks = run.checks.iter().filter(|check| check.status == status);
        let names: Vec<&str> = checks.map(|check| check.name).collect();
        names.join(", ")
    };
    let limited = run.checks.iter().any(|check| check.name == ISOLATED_IPIS);
    match run.verdict {
        Verdict::Held if limited => (
            "held",
            "No isolated vCPU got more IPIs than it may.".to_owned(),
        ),
        Verdict::Held => (
            "complete",
            "Nothing was lost. Nothing was judged: this is what came, and from where.".to_owned(),
        ),
        Verdict::Violated => (
            "violated",
            format!(
                "It is not as it was asked to be: {}.",
                failed(Verdict::Violated)
            ),
        ),
        Verdict::Error => (
            "error",
            format!(
                "The observation is not complete: {}.",
                failed(Verdict::Error)
            ),
        ),
        Verdict::Skipped => (
            "skipped",
            format!("Nothing was observed: {}.", failed(Verdict::Skipped)),
        ),
    }
}

/// What a reader wants to know first.
fn figures(run: &RunResult, observed: &Observation) -> Vec<(&'static str, String)> {
    let sum = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
    let isolated = &observed.isolated;
    let mut figures = vec![
        (
            "IPIs to isolated vCPUs",
            grouped(isolated.iter().map(|it| sum(&it.ipis)).sum()),
        ),
        (
            "other interrupts of theirs",
            grouped(isolated.iter().map(|it| sum(&it.other)).sum()),
        ),
    ];
    let alone = isolated.iter().map(|it| it.longest_alone_s);
    if let Some(alone) = alone.min_by(f64::total_cmp) {
        figures.push(("longest time alone", format!("{alone:.3} s")));
    }
    if let Some(window) = run.timing.window_s {
        figures.push(("observed", format!("{window:.2} s")));
    }
    figures
}

/// The causes of what came to isolated vCPUs, most first.
fn causes(run: &RunResult, observed: &Observation) -> Vec<CauseRow> {
    let advice = |cause: &str| -> Vec<AdviceReport> {
        let advice = observed.advice.iter();
        advice.filter(|it| it.cause == cause).cloned().collect()
    };
    let mut ipis: BTreeMap<(String, &str, Deferrable), u64> = BTreeMap::new();
    for blame in &run.blame {
        let to = observed.isolated.iter();
        let count: u64 = to.filter_map(|it| blame.targets.get(&it.id)).sum();
        if count > 0 {
            let key = (blame.reason(), &*blame.cause, blame.deferrable);
            *ipis.entry(key).or_default() += count;
        }
    }
    let mut rows: Vec<CauseRow> = ipis
        .into_iter()
        .map(|((name, cause, deferrable), count)| CauseRow {
            count,
            times: grouped(count),
            name,
            what: "IPIs",
            deferrable: match deferrable {
                Deferrable::Yes => "yes, until the CPU next enters the kernel",
                Deferrable::No => "no",
                Deferrable::Omit => "it need not come at all",
                Deferrable::Unknown => "not known",
            },
            advice: advice(cause),
        })
        .collect();
    let mut timers: BTreeMap<String, (u64, Vec<AdviceReport>)> = BTreeMap::new();
    for timer in &observed.timers {
        let (count, known) = timers.entry(timer.reason()).or_default();
        *count = count.saturating_add(timer.times);
        for due in &timer.due {
            for new in advice(&due.cause) {
                if !known.contains(&new) {
                    known.push(new);
                }
            }
        }
    }
    rows.extend(timers.into_iter().map(|(name, (count, advice))| CauseRow {
        count,
        times: grouped(count),
        name,
        what: "timer interrupts",
        deferrable: "",
        advice,
    }));
    rows.sort_by_key(|row| Reverse(row.count));
    rows
}

/// The command's output, and how much more there is.
fn printed(observed: &Observation) -> (Option<String>, Option<String>) {
    let output = &observed.command.output;
    if output.trim().is_empty() {
        return (None, None);
    }
    let shown: String = output.chars().take(OUTPUT).collect();
    let more = observed.command.printed.saturating_sub(shown.len() as u64);
    let more = (more > 0).then(|| format!("{} more.", counted(more, "byte", "bytes")));
    (Some(shown), more)
}

impl VisitedRow {
    fn new(visited: &Visited) -> Self {
        Self {
            id: visited.id,
            ipis: grouped(visited.ipis.values().sum()),
            kinds: kinds(&visited.ipis),
            other: grouped(visited.other.values().sum()),
            other_kinds: kinds(&visited.other),
            taken: places(visited.taken),
            alone: format!("{:.3} s", visited.longest_alone_s),
        }
    }
}

fn places(taken: Taken) -> String {
    let each = [
        (taken.user, "in user space"),
        (taken.kernel, "in the kernel"),
        (taken.idle, "idle"),
    ];
    let words: Vec<String> = each
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, place)| format!("{} {place}", grouped(count)))
        .collect();
    words.join(", ")
}

impl DurationTable {
    fn new(visited: &Visited, ratios: bool) -> Option<Self> {
        let durations = visited.durations.as_ref()?;
        let times = counted(durations.times(), "time", "times");
        let total = durations.total_ns();
        let share = durations.share(total);
        let cpu = visited.id;
        let mut caption = if ratios {
            format!(
                "vCPU {cpu} was kept from its task {times}, for {share} of the time. CPUs are emulated here: there are \
                 parts of the time, and multiples of the shortest median"
            )
        } else {
            format!(
                "vCPU {cpu} was kept from its task {times}, for {} in all, {share} of {}; gaps from {} on",
                duration(total),
                duration(durations.measured_ns),
                duration(durations.threshold_ns)
            )
        };
        if durations.lost > 0 {
            caption += &format!(
                "; {} more came too fast to be told",
                grouped(durations.lost)
            );
        }
        let row = |one| DurationRow::new(one, durations, ratios);
        Some(Self {
            cpu,
            caption,
            total: if ratios { "Of the time" } else { "In all" },
            rows: durations.causes.iter().map(row).collect(),
        })
    }
}

impl DurationRow {
    fn new(one: &Interruptions, durations: &Durations, ratios: bool) -> Self {
        let time = |ns| {
            if one.times == 0 {
                "–".to_owned()
            } else if ratios {
                durations.multiple(ns)
            } else {
                duration(ns)
            }
        };
        let total = if ratios && one.times > 0 {
            durations.share(one.total_ns)
        } else {
            time(one.total_ns)
        };
        let unmeasured = one.unmeasured;
        let words = |ns, times| format!("{} up to {}", grouped(times), time(ns));
        let most = one.histogram.iter().map(|bucket| bucket.times).max();
        let most = most.unwrap_or(1).max(1) as f64;
        let bars: Vec<Bar> = (0..)
            .zip(&one.histogram)
            .map(|(place, bucket)| {
                // Counts of gaps stay far below 2^53.
                let height = (bucket.times as f64 / most * HIGH).max(LOW);
                Bar {
                    x: Unit(f64::from(place) * BAR),
                    y: Unit(HIGH - height),
                    width: Unit(BAR - BETWEEN),
                    height: Unit(height),
                    title: words(bucket.up_to_ns, bucket.times),
                }
            })
            .collect();
        let titles: Vec<&str> = bars.iter().map(|bar| &*bar.title).collect();
        Self {
            times: grouped(one.times),
            total,
            median: time(one.median_ns),
            longest: time(one.longest_ns),
            by: one.reason().to_owned(),
            unmeasured: (unmeasured > 0)
                .then(|| format!("{} more in no gap that was measured", grouped(unmeasured))),
            width: Unit(bars.len() as f64 * BAR),
            height: Unit(HIGH),
            label: format!("Lengths of gaps: {}", titles.join(", ")),
            bars,
        }
    }
}

#[cfg(test)]
mod tests;
