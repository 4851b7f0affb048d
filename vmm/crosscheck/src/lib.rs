//! Compares the ledger with the guest's own trace of its IPIs, CPU by CPU and IPI by IPI, and explains
//! each difference by a rule or not at all.
//!
//! It does not say whether isolated CPUs were left alone; it says whether the rig and the kernel saw the
//! same. A difference that nothing explains means that one of them is wrong, so no verdict can be
//! trusted. What it means for a run says `ipirig-verdict` (its check `cross-check`).
//!
//! The way through: the trace's text ([`Recorded`]) → events → each beside the ICR write that it announces,
//! and beside the work that it was sent for → [`CrossCheck`].
//!
//! What this crate does not do: have the kernel trace (`ipirig-rig` does), or judge.

#![forbid(unsafe_code)]

mod calls;
mod callsites;
mod clock;
mod difference;
mod histogram;
mod sends;
#[cfg(test)]
mod tests;
mod times;
mod trace;

use std::collections::BTreeMap;

use ipirig_abi::Role;
use ipirig_apic::CpuSet;
use schemars::JsonSchema;
use serde::Serialize;

pub use callsites::Callsites;
pub use difference::{Difference, Rule, Side};
pub use histogram::Histogram;
pub use times::Times;

use ipirig_evidence::ledger::LedgerCounts;
use ipirig_evidence::{Evidence, Recorded, Tracing};
use ipirig_scenario::plan::GuestPlan;
use ipirig_scenario::role_name;

use clock::Clock;
use trace::{Stats, Why};

/// The comparison of two records.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize)]
pub struct CrossCheck {
    /// The trace events and their filters.
    pub filters: Vec<String>,
    /// The CPUs that were traced.
    pub cpus: Vec<Compared>,
    /// Where IPIs in both records were sent from, by the one and by the other.
    pub callsites: Callsites,
    /// What is in one record and not in the other, alike ones together.
    pub differences: Vec<Difference>,
    /// How long IPIs took.
    pub times: Times,
}

/// What both records have of one CPU, in all windows.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Compared {
    /// Its number.
    pub cpu: usize,
    /// `housekeeping` or `isolated`.
    pub role: &'static str,
    /// IPIs sent to it by the ledger, by kind.
    pub rig: BTreeMap<String, u64>,
    /// The same by the trace.
    pub guest: BTreeMap<String, u64>,
    /// IPIs that are in both.
    pub pairs: u64,
    /// Functions that were queued for it.
    pub queued: u64,
    /// Those of them for which an IPI was sent.
    pub queued_with_ipi: u64,
    /// Those of them that began to run.
    pub begun: u64,
    /// Events that its buffer lost.
    pub lost: u64,
}

impl CrossCheck {
    /// What nothing explains.
    pub fn unexplained(&self) -> impl Iterator<Item = &Difference> {
        self.differences.iter().filter(|d| d.rule.is_none())
    }
}

/// Why there is no comparison.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotCompared {
    /// The kernel has no such trace.
    #[error("{0}")]
    Lacking(String),
    /// There should be one, and it cannot be used.
    #[error("{0}")]
    Failed(String),
}

/// Compares. `None`: nobody asked.
#[must_use]
pub fn compare(plan: &GuestPlan, evidence: &Evidence) -> Option<Result<CrossCheck, NotCompared>> {
    match &evidence.tracing {
        Tracing::NotAsked => None,
        Tracing::Lacking(what) => Some(Err(NotCompared::Lacking(what.clone()))),
        Tracing::Failed(what) => Some(Err(NotCompared::Failed(what.clone()))),
        Tracing::On(_) => {
            let words = "tracing was not switched off".to_owned();
            Some(Err(NotCompared::Failed(words)))
        }
        Tracing::Recorded(recorded) => {
            let compared = compare_records(plan, recorded, &evidence.ledger);
            Some(compared.map_err(NotCompared::Failed))
        }
    }
}

fn compare_records(
    plan: &GuestPlan,
    recorded: &Recorded,
    ledger: &LedgerCounts,
) -> Result<CrossCheck, String> {
    if ledger.dropped > 0 {
        return Err("events did not fit into the ledger: it cannot be compared".to_owned());
    }
    if recorded.cut {
        return Err("the guest's trace is too long; a smaller storm's is not".to_owned());
    }
    let text = |error: trace::TraceError| error.to_string();
    let trace = trace::parse(&recorded.trace).map_err(text)?;
    let stats: BTreeMap<usize, Stats> = recorded
        .stats
        .iter()
        .map(|(&cpu, stats)| Ok((cpu, trace::stats(stats).map_err(text)?)))
        .collect::<Result<_, String>>()?;
    let entries: u64 = stats.values().map(|stats| stats.entries).sum();
    if entries != trace.events.len() as u64 {
        let seen = trace.events.len();
        return Err(format!(
            "the guest's buffers have {entries} events, its trace {seen}"
        ));
    }
    let clock = Clock::new(&recorded.edges)
        .ok_or("the guest's time-stamp counters do not count: events have no time")?;
    let spans = clock::spans(&recorded.edges);
    let time = (&clock, &spans[..]);
    let cpus = |role: Role| plan.cpus(role).into_iter().collect::<CpuSet>();
    let isolated = cpus(Role::Isolated);
    let targets = isolated | cpus(Role::Housekeeping);
    let lost = stats.iter().map(|(&cpu, stats)| (cpu, stats.lost));
    let mut lost: BTreeMap<usize, u64> = lost.collect();
    for cpu in trace.lost {
        // It does not always say how many.
        lost.entry(cpu)
            .and_modify(|count| *count = (*count).max(1))
            .or_insert(1);
    }
    let paired = sends::pair(
        &trace.events,
        &recorded.details,
        time,
        targets,
        &lost,
        &recorded.callers,
    );
    let calls = calls::account(&trace.events, time, (targets, isolated), &lost);
    let mut differences = paired.differences;
    differences.extend(calls.differences);
    let cpus = targets.iter().map(|cpu| {
        let queued = calls.queued.get(&cpu).copied().unwrap_or_default();
        let pairs = |why| paired.pairs.get(&(cpu, why)).copied().unwrap_or_default();
        Compared {
            cpu,
            role: plan.roles.get(cpu).map_or("", |role| role_name(*role)),
            rig: sends::written(&recorded.details, cpu),
            guest: sends::traced(&trace.events, time, cpu),
            pairs: [Why::CallFunction, Why::Reschedule, Why::IrqWork]
                .map(pairs)
                .iter()
                .sum(),
            queued: queued.all,
            queued_with_ipi: queued.with_ipi,
            begun: queued.begun,
            lost: lost.get(&cpu).copied().unwrap_or_default(),
        }
    });
    let cpus: Vec<Compared> = cpus.collect();
    for compared in &cpus {
        agrees_with_counters(compared, ledger)?;
    }
    let (sent_to_taken, sent_to_handler) = times::measured(&recorded.details, &recorded.handled);
    let counted_by_guest =
        Histogram::of_kernel(&recorded.histogram, |ticks| clock.duration_ns(ticks))?;
    Ok(CrossCheck {
        filters: recorded.filters.lines().map(str::to_owned).collect(),
        cpus,
        callsites: paired.callsites,
        differences: difference::joined(differences),
        times: Times {
            queued_to_begun: Histogram::of(calls.times),
            counted_by_guest,
            sent_to_taken,
            sent_to_handler,
        },
    })
}

/// The ledger's records must add up to its counters, by which other checks go.
fn agrees_with_counters(compared: &Compared, ledger: &LedgerCounts) -> Result<(), String> {
    let recorded: u64 = compared.rig.values().sum();
    let record = ledger.cpus.get(compared.cpu);
    let counted = record.map_or(0, |record| record.window.ipis_targeted());
    if recorded == counted {
        return Ok(());
    }
    Err(format!(
        "the ledger counts {counted} IPIs to vCPU {}, and has records of {recorded}",
        compared.cpu
    ))
}
