//! A result as the templates want it: words and numbers, in the order in which they are shown.

use std::collections::BTreeMap;

use askama::Template;
use ipirig_checks::check::Verdict;
use ipirig_checks::recorded::RecordedEntry;
use ipirig_document::suite::overall;
use ipirig_entry::Extent;
use ipirig_evidence::blame::{Attribution, Deferrable, Frame};
use ipirig_verdict::result::{RunResult, Vcpu};

use super::Provenance;
use super::facts::{Facts, facts};
use super::matrix::Matrix;
use super::picture::{Phases, Picture};
use super::words::{counted, duration, grouped, isolated_ipis, meaning};
use crate::cause::call;

/// The whole page.
#[derive(Debug, Template)]
#[template(path = "page.html")]
pub(super) struct Page {
    pub(super) title: String,
    pub(super) version: &'static str,
    pub(super) time: Option<String>,
    pub(super) command: Option<String>,
    /// Of all runs, if there are several.
    pub(super) suite: Option<Suite>,
    pub(super) runs: Vec<Run>,
}

/// What stands above several runs.
#[derive(Debug)]
pub(super) struct Suite {
    pub(super) verdict: Verdict,
    pub(super) mark: &'static str,
    pub(super) counts: String,
}

/// One run.
#[derive(Debug)]
pub(super) struct Run {
    /// Its place on the page, from 1.
    pub(super) number: usize,
    /// The level of its headings: its own and those in it.
    pub(super) level: u8,
    pub(super) name: String,
    pub(super) storm: String,
    pub(super) deferral: &'static str,
    pub(super) verdict: Verdict,
    pub(super) mark: &'static str,
    pub(super) meaning: String,
    pub(super) isolated: String,
    pub(super) total: String,
    pub(super) figures: Vec<(&'static str, String)>,
    pub(super) warnings: Vec<String>,
    pub(super) checks: Vec<CheckRow>,
    pub(super) report: Option<String>,
    pub(super) picture: Option<Picture>,
    pub(super) phases: Option<Phases>,
    pub(super) left_out: Option<String>,
    pub(super) journeys: Vec<Journeys>,
    pub(super) vcpus: Vec<VcpuRow>,
    pub(super) matrix: Option<Matrix>,
    /// No IPI was sent in the windows.
    pub(super) silent: bool,
    pub(super) causes: Vec<Cause>,
    pub(super) entries: Vec<EntryView>,
    pub(super) facts: Vec<Facts>,
}

#[derive(Debug)]
pub(super) struct CheckRow {
    pub(super) name: &'static str,
    pub(super) status: Verdict,
    pub(super) mark: &'static str,
    pub(super) evidence: String,
}

#[derive(Debug)]
pub(super) struct VcpuRow {
    pub(super) id: usize,
    pub(super) role: &'static str,
    pub(super) isolated: bool,
    pub(super) writes: String,
    pub(super) targeted: String,
    pub(super) kinds: String,
    pub(super) taken: String,
    pub(super) other: String,
    pub(super) other_kinds: String,
    pub(super) deferred: String,
    pub(super) caught_up: String,
}

/// How long the IPIs to a vCPU were under way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Journeys {
    pub(super) cpu: usize,
    pub(super) role: &'static str,
    pub(super) sent: String,
    pub(super) taken: String,
    pub(super) median: String,
    pub(super) longest: String,
}

#[derive(Debug)]
pub(super) struct Cause {
    pub(super) sends: String,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) source: usize,
    pub(super) targets: Vec<(usize, String)>,
    pub(super) deferrable: &'static str,
    pub(super) taken: Option<String>,
    pub(super) chain: Vec<Call>,
    pub(super) broken: Option<String>,
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) call: String,
    pub(super) inlined: Vec<String>,
}

#[derive(Debug)]
pub(super) struct EntryView {
    pub(super) cpu: usize,
    pub(super) title: String,
    pub(super) summary: String,
    /// Something is wrong with it.
    pub(super) bad: bool,
    pub(super) listing: Option<String>,
}

/// A sign beside a verdict, so that it is not told by colour alone.
fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Held => "✓",
        Verdict::Violated => "✗",
        Verdict::Error => "!",
        Verdict::Skipped => "–",
    }
}

impl Page {
    pub(super) fn new(runs: &[RunResult], made: &Provenance) -> Self {
        let (suite, title) = match runs {
            [run] => (None, format!("{}: {}", run.scenario.name, run.verdict)),
            _ => {
                let suite = Suite::new(runs);
                let title = format!("{} runs: {}", runs.len(), suite.verdict);
                (Some(suite), title)
            }
        };
        let level = if suite.is_some() { 2 } else { 1 };
        Self {
            title,
            version: env!("CARGO_PKG_VERSION"),
            time: made
                .time
                .map(|time| humantime::format_rfc3339_seconds(time).to_string()),
            command: made.command.clone(),
            suite,
            runs: (1..)
                .zip(runs)
                .map(|(number, run)| Run::new(number, level, run))
                .collect(),
        }
    }
}

impl Suite {
    fn new(runs: &[RunResult]) -> Self {
        let verdicts: Vec<Verdict> = runs.iter().map(|run| run.verdict).collect();
        let verdict = overall(runs);
        let all = [
            Verdict::Held,
            Verdict::Violated,
            Verdict::Error,
            Verdict::Skipped,
        ];
        let counts: Vec<String> = all
            .into_iter()
            .map(|wanted| {
                let count = verdicts
                    .iter()
                    .filter(|verdict| **verdict == wanted)
                    .count();
                format!("{count} {wanted}")
            })
            .collect();
        Self {
            verdict,
            mark: mark(verdict),
            counts: counts.join(", "),
        }
    }
}

impl Run {
    pub(super) fn new(number: usize, level: u8, run: &RunResult) -> Self {
        let scenario = &run.scenario;
        let left_out = run.timeline.left_out;
        Self {
            number,
            level,
            name: scenario.name.clone(),
            storm: scenario.storm.clone(),
            deferral: if scenario.deferral { "on" } else { "off" },
            verdict: run.verdict,
            mark: mark(run.verdict),
            meaning: meaning(run),
            isolated: if run.vcpus.is_empty() {
                "–".to_owned()
            } else {
                grouped(isolated_ipis(run))
            },
            total: format!("{:.1} s", run.timing.total_s),
            figures: figures(run),
            warnings: run
                .machine
                .iter()
                .flat_map(|machine| machine.warnings.clone())
                .collect(),
            checks: run
                .checks
                .iter()
                .map(|check| CheckRow {
                    name: check.name,
                    status: check.status,
                    mark: mark(check.status),
                    evidence: check.evidence.clone(),
                })
                .collect(),
            report: run.report.clone(),
            picture: Picture::new(run),
            phases: Phases::new(run),
            left_out: (left_out > 0).then(|| counted(left_out, "event is", "events are")),
            journeys: journeys(run),
            vcpus: run.vcpus.iter().map(VcpuRow::new).collect(),
            matrix: Matrix::new(run),
            silent: run.vcpus.iter().all(|vcpu| vcpu.window.ipi_writes == 0),
            causes: run.blame.iter().map(Cause::new).collect(),
            entries: run.entries.iter().map(EntryView::new).collect(),
            facts: facts(run),
        }
    }

    /// The level of the headings in it.
    pub(super) fn below(&self) -> u8 {
        self.level + 1
    }
}

/// What a reader wants to know first.
fn figures(run: &RunResult) -> Vec<(&'static str, String)> {
    if run.vcpus.is_empty() {
        return Vec::new();
    }
    let isolated = isolated_ipis(run);
    let operations = run.scenario.operations;
    let isolated_vcpus = || run.vcpus.iter().filter(|vcpu| vcpu.role == "isolated");
    let mut figures = vec![
        ("IPIs to isolated vCPUs", grouped(isolated)),
        ("storm operations", grouped(operations)),
    ];
    if isolated > 0 && operations > 0 {
        // Counts of IPIs stay far below 2^53.
        let rate = isolated as f64 / operations as f64;
        figures.push(("IPIs per operation", format!("{rate:.2}")));
    } else if let Some(deferred) = isolated_vcpus().map(|vcpu| vcpu.deferred).sum() {
        figures.push(("pieces of work deferred", grouped(deferred)));
    }
    if let Some(window) = run.timing.window_s {
        figures.push(("in windows", format!("{window:.2} s")));
    }
    figures
}

impl VcpuRow {
    fn new(vcpu: &Vcpu) -> Self {
        let window = &vcpu.window;
        let number = |count: Option<u64>| count.map_or("–".to_owned(), grouped);
        Self {
            id: vcpu.id,
            role: vcpu.role,
            isolated: vcpu.role == "isolated",
            writes: grouped(window.ipi_writes),
            targeted: grouped(window.ipis_targeted),
            kinds: kinds(&window.by_vector),
            taken: grouped(window.ipi_deliveries),
            other: grouped(window.other_interrupts.values().sum()),
            other_kinds: kinds(&window.other_interrupts),
            deferred: number(vcpu.deferred),
            caught_up: number(vcpu.caught_up),
        }
    }
}

/// `call-function 303, reschedule 2`, or the name alone if there is one.
pub(super) fn kinds(counts: &BTreeMap<String, u64>) -> String {
    if counts.len() == 1 {
        return counts.keys().cloned().collect();
    }
    let each = counts.iter();
    let each: Vec<String> = each
        .map(|(name, count)| format!("{name} {}", grouped(*count)))
        .collect();
    each.join(", ")
}

fn journeys(run: &RunResult) -> Vec<Journeys> {
    let mut sent: BTreeMap<usize, (u64, Vec<u64>)> = BTreeMap::new();
    for journey in run.timeline.journeys() {
        let (count, times) = sent.entry(journey.target).or_default();
        *count += 1;
        let taken = journey.taken.map(|taken| taken.time_ns);
        times.extend(taken.map(|taken| taken.saturating_sub(journey.write.time_ns)));
    }
    sent.into_iter()
        .map(|(cpu, (count, mut times))| {
            times.sort_unstable();
            let time = |index: usize| times.get(index).copied().map_or("–".to_owned(), duration);
            let role = run.vcpus.iter().find(|vcpu| vcpu.id == cpu);
            Journeys {
                cpu,
                role: role.map_or("", |vcpu| vcpu.role),
                sent: grouped(count),
                taken: grouped(times.len() as u64),
                median: time(times.len() / 2),
                longest: time(times.len().saturating_sub(1)),
            }
        })
        .collect()
}

impl Cause {
    fn new(blame: &Attribution) -> Self {
        let taken = blame.taken;
        let parts = [
            (taken.user, "in user space"),
            (taken.kernel, "in the kernel"),
            (taken.idle, "idle"),
        ];
        let found: Vec<String> = parts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, place)| format!("{} {place}", grouped(count)))
            .collect();
        Self {
            sends: counted(blame.targets.values().sum(), "IPI", "IPIs"),
            name: blame.reason(),
            kind: blame.kind.clone(),
            source: blame.source,
            targets: blame
                .targets
                .iter()
                .map(|(cpu, count)| (*cpu, grouped(*count)))
                .collect(),
            deferrable: match blame.deferrable {
                Deferrable::Yes => "can wait until a CPU in user space enters the kernel",
                Deferrable::No => "must be delivered",
                Deferrable::Omit => "a CPU in user space could do without it altogether",
                Deferrable::Unknown => "not known whether it could wait",
            },
            taken: (!found.is_empty()).then(|| found.join(", ")),
            chain: blame.chain.iter().map(Call::new).collect(),
            broken: blame.broken.clone(),
        }
    }
}

impl Call {
    fn new(frame: &Frame) -> Self {
        Self {
            call: call(frame),
            inlined: frame.inlined.clone(),
        }
    }
}

impl EntryView {
    fn new(entry: &RecordedEntry) -> Self {
        let (summary, bad) = match (&entry.audit, &entry.why) {
            (Some(audit), _) => {
                let catch_up = match audit.catch_up {
                    None => "no catch-up".to_owned(),
                    Some(0) => "nothing to catch up with".to_owned(),
                    Some(step) => format!("catch-up by instruction {step}"),
                };
                let all = counted(audit.steps as u64, "instruction", "instructions");
                let findings = [&audit.danger, &audit.order, &audit.stale_pcids];
                let findings: usize = findings.into_iter().map(Vec::len).sum();
                let bad = match findings {
                    0 => String::new(),
                    count => format!(", {}", counted(count as u64, "finding", "findings")),
                };
                (format!("{catch_up}, {all} recorded{bad}"), findings > 0)
            }
            (None, Some(why)) => (why.clone(), false),
            (None, None) => ("not recorded".to_owned(), false),
        };
        Self {
            cpu: entry.cpu,
            title: entry.title.clone(),
            summary,
            bad,
            listing: entry
                .listing
                .as_ref()
                .map(|listing| listing.text(Extent::Ends)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::specimen;

    #[test]
    fn ipis_are_timed_from_the_send_to_the_taking() {
        let row = |cpu, role, taken: &str, median: &str| Journeys {
            cpu,
            role,
            sent: "2".into(),
            taken: taken.into(),
            median: median.into(),
            longest: median.into(),
        };
        assert_eq!(
            journeys(&specimen::violated()),
            [
                row(1, "housekeeping", "1", "400 ns"),
                Journeys {
                    longest: "900 ns".into(),
                    ..row(2, "isolated", "2", "900 ns")
                },
            ]
        );
    }

    #[test]
    fn figures_tell_the_rate_of_what_came_and_the_work_where_nothing_came() {
        let mut run = specimen::violated();
        let figures_of = |run: &RunResult| -> Vec<String> {
            let figures = figures(run).into_iter();
            figures
                .map(|(name, value)| format!("{name} {value}"))
                .collect()
        };
        assert_eq!(
            figures_of(&run),
            [
                "IPIs to isolated vCPUs 2",
                "storm operations 101",
                "IPIs per operation 0.02",
                "in windows 0.00 s"
            ]
        );
        run.vcpus[2].window.ipis_targeted = 0;
        assert_eq!(figures_of(&run)[2], "pieces of work deferred 7");
        run.vcpus.clear();
        assert_eq!(figures_of(&run), Vec::<String>::new());
    }
}
