//! What an observation found. It judges nothing unless it is told a number: what makes it
//! fail is that something was lost, or that the isolated vCPUs did not run.
//!
//! The checks that it has in common with a scenario's run are `ipirig-checks`'s; the observation itself is made
//! by `ipirig-rig`, written by `ipirig-document` and shown by `ipirig-report`.

#![forbid(unsafe_code)]

mod durations;
mod judge;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use ipirig_abi::{Ending, Role};
use ipirig_machine::StopReason;
use serde::Serialize;

pub use durations::{Bucket, Durations, Interruptions, NO_INTERRUPT, are_ratios};
use ipirig_evidence::blame::{Attribution, Taken, TimerAttribution, reason};
use ipirig_evidence::chain;
use ipirig_evidence::deliveries::{Delivered, delivered};
use ipirig_evidence::ledger::{Detail, Ledger};
use ipirig_evidence::origins::{Origin, count, origins};
use ipirig_evidence::vectors::Kind;
use ipirig_rig::conductor::{Ended, Observed};
use ipirig_rig::observe::{NAME, ObservationPlan};
use ipirig_rig::run::{Outcome, Setup};

use ipirig_checks::check::{Check, RUN, Verdict};
use ipirig_verdict::conclude::{self, without_evidence};
use ipirig_verdict::result::{KernelInfo, RunResult, ScenarioInfo, seconds_of_ns};

/// All there is to say about an observation: a run's result, and beside its fields these.
#[derive(Clone, Debug)]
pub struct Report {
    /// As of any run. `held`: the observation is complete, and its checks hold.
    pub run: RunResult,
    /// What was observed; absent if it did not come to that.
    pub observation: Option<Observation>,
}

/// What was observed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Observation {
    /// The command.
    pub command: CommandReport,
    /// Why the isolated vCPUs were not left alone before the command began, if they were not.
    pub unrest: Option<String>,
    /// The isolated vCPUs.
    pub isolated: Vec<Visited>,
    /// Where the IPIs to isolated vCPUs were sent from, most sends first. What is known of their
    /// causes is in `blame`.
    pub origins: Vec<Origin>,
    /// What timer interrupts of isolated vCPUs came for, most first. Those of which nothing is known are not here.
    pub timers: Vec<TimerReport>,
    /// What can be done about the causes that `blame` and `timers` have.
    pub advice: Vec<AdviceReport>,
}

/// What can be done about a cause, without another kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AdviceReport {
    /// The cause, as `blame` has it.
    pub cause: String,
    /// What to do.
    pub what: String,
    /// A file of the kernel or its documentation, or a manual page, that this is from.
    pub source: String,
}

/// Timer interrupts of an isolated vCPU that came for the same timers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TimerReport {
    /// The vCPU.
    pub cpu: usize,
    /// How many came.
    pub times: u64,
    /// What the vCPU was doing when it took them.
    pub taken: Taken,
    /// The timers that were due. None: they were gone when the interrupt came.
    pub due: Vec<DueReport>,
}

/// A timer that was due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DueReport {
    /// The named cause, such as `tick`; `timer` if no rule knows the function.
    pub cause: String,
    /// The function that tells, where the cause does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The function that the timer calls, or its address where that has no name.
    pub function: String,
    /// The function of the delayed work that it queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work: Option<String>,
}

impl TimerReport {
    /// What the interrupts came for, in words: `tick`, `timer by mce_timer_fn + vmstat`.
    #[must_use]
    pub fn reason(&self) -> String {
        let reasons: Vec<String> = self.reasons().into_iter().collect();
        reasons.join(" + ")
    }

    /// The same, each by itself.
    fn reasons(&self) -> BTreeSet<String> {
        if self.due.is_empty() {
            return [NOTHING_DUE.to_owned()].into();
        }
        let due = self.due.iter();
        due.map(|due| reason(&due.cause, due.by.as_deref()))
            .collect()
    }
}

impl From<&TimerAttribution> for TimerReport {
    fn from(timers: &TimerAttribution) -> Self {
        let due = timers.timers.iter().map(|timer| DueReport {
            cause: timer.cause.clone(),
            by: timer.by.clone(),
            function: timer.function.clone(),
            work: timer.work.clone(),
        });
        Self {
            cpu: timers.cpu,
            times: timers.taken.all(),
            taken: timers.taken,
            due: due.collect(),
        }
    }
}

/// What is said of a timer interrupt that came for nothing.
const NOTHING_DUE: &str = "timer that was gone";

/// What can be done about the causes of what was sent to one of `isolated`, and of its timers.
fn advice(blame: &[Attribution], timers: &[TimerReport], isolated: &[usize]) -> Vec<AdviceReport> {
    let sent = |one: &&Attribution| isolated.iter().any(|cpu| one.targets.contains_key(cpu));
    let sent = blame.iter().filter(sent).map(|one| &*one.cause);
    let due = timers.iter().flat_map(|timers| &timers.due);
    let causes: BTreeSet<&str> = sent.chain(due.map(|due| &*due.cause)).collect();
    let known = ipirig_blame::advice().unwrap_or_default().into_iter();
    let known = known.filter(|advice| causes.contains(&*advice.cause));
    let report = |advice: ipirig_blame::Advice| AdviceReport {
        cause: advice.cause,
        what: advice.what,
        source: advice.source,
    };
    known.map(report).collect()
}

/// The command, as the guest speaks of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CommandReport {
    /// Its words.
    pub words: Vec<String>,
    /// `exited`, `signalled`, `time-up` or, by Ctrl-C, `stopped`.
    pub ending: &'static str,
    /// Its exit code, or the number of the signal that killed it.
    pub code: u64,
    /// Bytes that it printed.
    pub printed: u64,
    /// The first MiB of that. What is no UTF-8 is replaced.
    pub output: String,
}

/// What came to one isolated vCPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Visited {
    /// The vCPU.
    pub id: usize,
    /// IPIs sent to it, by kind.
    pub ipis: BTreeMap<String, u64>,
    /// Other interrupts that it took, by kind: ticks, above all.
    pub other: BTreeMap<String, u64>,
    /// What it was doing when it took either.
    pub taken: Taken,
    /// The longest stretch of the window in which it took none, in seconds.
    pub longest_alone_s: f64,
    /// Turns of its task's loop in the window.
    pub turns: u64,
    /// How long it was kept from that loop, and by what; absent if its task could not measure it.
    pub durations: Option<Durations>,
}

/// The report on an observation by `setup`.
#[must_use]
pub fn conclude(setup: &Setup<ObservationPlan>, outcome: Outcome<Observed>) -> Report {
    let plan = &setup.plan;
    let mut observation = None;
    let run = conclude::finish(
        setup,
        outcome,
        |observed, kernel, ledger| {
            let report = Report::new(plan, observed, kernel, ledger);
            observation = report.observation;
            report.run
        },
        |verdict, why| not_run(plan, verdict, why),
    );
    Report { run, observation }
}

/// The report on an observation for which the host lacks something, or that failed before it began.
#[must_use]
pub fn not_begun(plan: &ObservationPlan, verdict: Verdict, why: &dyn Error) -> Report {
    Report {
        run: not_run(plan, verdict, why),
        observation: None,
    }
}

fn not_run(plan: &ObservationPlan, verdict: Verdict, why: &dyn Error) -> RunResult {
    result(plan, verdict, vec![Check::new(RUN, verdict, chain(why))])
}

/// A result has a place for a scenario; an observation's says what was run instead.
fn result(plan: &ObservationPlan, verdict: Verdict, checks: Vec<Check>) -> RunResult {
    let observed = ScenarioInfo {
        name: NAME.to_owned(),
        group: NAME.to_owned(),
        storm: plan.command.join(" "),
        operations: 0,
        deferral: plan.guest.deferral,
        must_deliver: false,
    };
    RunResult::of(observed, verdict, checks)
}

/// What the host lacks, if that is why the guest ended: its KVM emulates the guest's kernel, and does
/// not know an instruction.
fn lacking(ended: &Ended) -> Option<String> {
    let Ended::Stopped {
        phase,
        reason: StopReason::InternalError {
            cpu, instruction, ..
        },
        ..
    } = ended
    else {
        return None;
    };
    let name = ipirig_instruction::disassemble(instruction)?;
    let bytes: Vec<String> = instruction
        .iter()
        .take(ipirig_instruction::length(instruction)?)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Some(format!(
        "this host's KVM emulates the guest's kernel and cannot emulate `{name}` ({}), which vCPU \
         {cpu} came to during: {phase}; a host with VMX or SVM executes it",
        bytes.join(" ")
    ))
}

fn visited(
    cpu: usize,
    observed: &Observed,
    ledger: &Ledger,
    delivered: &[Delivered],
    timers: &[TimerAttribution],
) -> Visited {
    let evidence = &observed.evidence;
    let tally = evidence.ledger.cpus.get(cpu).map(|record| &record.window);
    let named = |counts: Option<&BTreeMap<Kind, u64>>| {
        let each = counts.into_iter().flatten();
        each.map(|(kind, count)| (kind.to_string(), *count))
            .collect()
    };
    let (opened, closed) = observed.open_ns;
    let mut taken = Taken::default();
    let (mut last, mut longest) = (opened, 0);
    for detail in ledger.details().iter() {
        let Detail::Delivery(delivery) = detail else {
            continue;
        };
        if delivery.cpu != cpu {
            continue;
        }
        count(&mut taken, delivery);
        longest = longest.max(delivery.time_ns.saturating_sub(last));
        last = last.max(delivery.time_ns);
    }
    longest = longest.max(closed.saturating_sub(last));
    let marks = evidence
        .windows
        .first()
        .and_then(|window| window.marks.get(&cpu));
    Visited {
        id: cpu,
        ipis: named(tally.map(|tally| &tally.targeted)),
        other: named(tally.map(|tally| &tally.other)),
        taken,
        longest_alone_s: seconds_of_ns(longest),
        turns: marks.map_or(0, |(open, close)| {
            close.heartbeat.saturating_sub(open.heartbeat)
        }),
        durations: observed.gaps.get(&cpu).and_then(|record| {
            let known = durations::Known {
                blame: &evidence.blame,
                timers,
            };
            durations::durations(cpu, record, delivered, known)
        }),
    }
}

impl Report {
    /// From how the conductor's work ended to a result, and to what was observed.
    #[must_use]
    pub fn new(
        plan: &ObservationPlan,
        outcome: Result<Observed, Ended>,
        kernel: KernelInfo,
        ledger: &Ledger,
    ) -> Self {
        let observed = match outcome {
            Ok(observed) => observed,
            Err(ended) => {
                let mut run = match lacking(&ended) {
                    Some(words) => {
                        let check = Check::new(RUN, Verdict::Skipped, words);
                        result(plan, check.status, vec![check])
                    }
                    None => not_run(plan, without_evidence(&ended), &ended),
                };
                run.report = ended.report().map(str::to_owned);
                run.kernel = Some(kernel);
                return Self {
                    run,
                    observation: None,
                };
            }
        };
        let checks = judge::judge(plan, &observed);
        let mut run = result(plan, judge::overall(&checks), checks);
        run.kernel = Some(kernel);
        let run = run.with_evidence(&plan.guest, &observed.evidence);

        let isolated = plan.guest.cpus(Role::Isolated);
        let symbols = observed.evidence.layout.as_ref().ok();
        let symbols = symbols.map(|layout| layout.symbols());
        let origins = origins(ledger.details().iter(), &isolated, symbols);
        let mut timers = ledger.timers();
        timers.retain(|timer| isolated.contains(&timer.cpu));
        // One window: there is none before it.
        let delivered = delivered(ledger.details().iter(), &[]);
        let visited = isolated
            .iter()
            .map(|&cpu| visited(cpu, &observed, ledger, &delivered, &timers));
        let reports: Vec<TimerReport> = timers.iter().map(Into::into).collect();
        let observation = Observation {
            isolated: visited.collect(),
            origins,
            advice: advice(&run.blame, &reports, &isolated),
            timers: reports,
            command: CommandReport {
                words: plan.command.clone(),
                ending: match observed.command.ending {
                    Ending::Exited => "exited",
                    Ending::Signalled => "signalled",
                    Ending::TimeUp => "time-up",
                    Ending::Stopped => "stopped",
                },
                code: observed.command.code,
                printed: observed.command.printed,
                output: String::from_utf8_lossy(&observed.command.output).into_owned(),
            },
            unrest: observed.unrest,
        };
        Self {
            run,
            observation: Some(observation),
        }
    }
}
