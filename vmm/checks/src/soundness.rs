//! Can the other checks be believed? The storm happened, nothing was lost, nothing went past us.

use ipirig_abi::Changes;
use ipirig_abi::Role;
use ipirig_evidence::ledger::changes::Changed;
use ipirig_evidence::vectors::{CALL_FUNCTION, IRQ_WORK, RESCHEDULE};
use ipirig_evidence::{Evidence, WindowRecord};
use ipirig_scenario::plan::Plan;

use crate::check::{Check, NO_WAY_ROUND, NOTHING_LOST, STORM_RAN, Verdict, worst};

/// The guest did what was asked, by its own count, and made as many changes as that takes; and every housekeeping vCPU, whom nothing
/// protects, got the storm's IPIs. With no housekeeping vCPU there is no such witness, and the
/// check says so.
pub(super) fn storm_ran(plan: &Plan, evidence: &Evidence) -> Check {
    let asked = plan.scenario.storm.operations() * evidence.windows.len() as u64;
    let reports = evidence.windows.iter().flat_map(|window| &window.storm);
    let done: u64 = reports.fold(0, |sum, report| sum.saturating_add(report.done));
    let least = plan.scenario.expect.housekeeping_ipis_min;
    if done != asked {
        let words = format!("the guest says it did {done} of {asked} operations");
        return Check::new(STORM_RAN, Verdict::Error, words);
    }
    if let Some(words) = pretended(plan, evidence) {
        let words = format!("{done} operations by the guest's count, but {words}");
        return Check::new(STORM_RAN, Verdict::Error, words);
    }
    let witnesses = plan.cpus(Role::Housekeeping);
    let changes = |window: &WindowRecord| window.changed.pokes > 0 || window.changed.flushes > 0;
    if plan.scenario.vcpus.housekeeping_in_user && evidence.windows.iter().all(changes) {
        // What those vCPUs got is what is looked at, and so no witness.
        let words =
            format!("{done} operations by the guest's count, and as many changes were seen");
        return Check::new(STORM_RAN, Verdict::Held, words);
    }
    if witnesses.is_empty() {
        let seen = plan.scenario.expect.delivered() || evidence.windows.iter().all(changes);
        let words =
            format!("{done} operations by the guest's count; no housekeeping vCPU to bear witness");
        return if seen {
            Check::new(STORM_RAN, Verdict::Held, words)
        } else {
            let words = format!("{words}, and no change was seen");
            Check::new(STORM_RAN, Verdict::Skipped, words)
        };
    }
    let findings = witnesses.into_iter().map(|cpu| {
        let sent = evidence
            .ledger
            .cpus
            .get(cpu)
            .map_or(0, |record| record.window.ipis_targeted());
        if sent < least {
            let words = format!(
                "{done} operations by the guest's count, but housekeeping vCPU {cpu} got {sent} \
                 IPIs, at least {least} expected: no witness"
            );
            return (Verdict::Error, words);
        }
        (
            Verdict::Held,
            format!("{done} operations; housekeeping vCPU {cpu} got {sent} IPIs"),
        )
    });
    worst(STORM_RAN, findings.collect())
}

/// What the rig saw too little of for the operations that the guest says it did in a window. Where it saw
/// nothing at all, the host may be unable to stop there, and the checks of entries say so.
fn pretended(plan: &Plan, evidence: &Evidence) -> Option<String> {
    let seen_some = |changed: &Changed, of| match of {
        Changes::Tlb => changed.flushes > 0,
        _ => changed.pokes > 0,
    };
    evidence.windows.iter().find_map(|window| {
        let kinds = [Changes::Text, Changes::Tlb].into_iter();
        let mut kinds = kinds.filter(|of| seen_some(&window.changed, *of));
        kinds.find_map(|of| too_few(plan, window, of))
    })
}

/// How many changes of a kind were seen in `window`, if they could be watched and are fewer than the storm's operations
/// take: then some operations were not done, or not seen.
pub(super) fn too_few(plan: &Plan, window: &WindowRecord, of: Changes) -> Option<String> {
    let changed = &window.changed;
    let (seen, blind, what) = match of {
        Changes::Text => (changed.pokes, &changed.blind.text, "pokes"),
        Changes::Tlb => (changed.flushes, &changed.blind.mappings, "flushes"),
        Changes::Some => return None,
    };
    let least = least(plan, of);
    let few = blind.is_none() && seen < least;
    let entry = window.entry;
    few.then(|| format!("{seen} {what} were seen before the entry by {entry}, of at least {least}"))
}

/// How many changes of a kind the storm of a window makes at least.
fn least(plan: &Plan, of: Changes) -> u64 {
    let parts = plan.scenario.storm.parts();
    let parts = parts.iter().filter(|part| part.changes == of);
    parts.fold(0, |sum, part| {
        sum.saturating_add(part.operations.saturating_mul(part.calls_each))
    })
}

/// Why nobody but the guest says that the storm was what was asked for: no housekeeping vCPU got an IPI for at least every
/// second change. One may stand for several.
pub(super) fn unwitnessed(plan: &Plan, evidence: &Evidence, of: Changes) -> Option<String> {
    let least = least(plan, of).saturating_mul(evidence.windows.len() as u64);
    let sent = |cpu: usize| {
        evidence
            .ledger
            .cpus
            .get(cpu)
            .map(|record| record.window.ipis_targeted())
    };
    let most = plan
        .cpus(Role::Housekeeping)
        .into_iter()
        .filter_map(sent)
        .max();
    let few = most.unwrap_or(0).saturating_mul(2) < least;
    few.then(|| format!("no housekeeping vCPU got IPIs for {least} changes"))
}

/// No event was dropped, none named a vCPU that does not exist, and no IPI of the window went to
/// nobody: it may have been meant for an isolated vCPU. `remedy` ends the sentence on events that did
/// not fit into the ledger: what the user may do about that.
pub fn nothing_lost(evidence: &Evidence, remedy: &str) -> Check {
    let ledger = &evidence.ledger;
    let undeliverable: u64 = ledger.cpus.iter().map(|cpu| cpu.window.undeliverable).sum();
    let mut lost = Vec::new();
    if ledger.dropped > 0 {
        lost.push(format!(
            "{} events did not fit into the ledger; {remedy}",
            ledger.dropped
        ));
    }
    if ledger.strangers > 0 {
        lost.push(format!(
            "{} events of vCPUs that do not exist",
            ledger.strangers
        ));
    }
    if undeliverable > 0 {
        lost.push(format!(
            "{undeliverable} IPIs in the window that no vCPU takes"
        ));
    }
    if !lost.is_empty() {
        return Check::new(NOTHING_LOST, Verdict::Error, lost.join("; "));
    }
    let events: u64 = ledger
        .cpus
        .iter()
        .map(|cpu| cpu.window.writes + cpu.window.ipi_deliveries() + cpu.window.other_interrupts())
        .sum();
    Check::new(
        NOTHING_LOST,
        Verdict::Held,
        format!("all {events} events of the window recorded"),
    )
}

/// The kernel's own counts of interrupts taken cannot exceed what our APICs delivered; if they do,
/// something (a paravirtual IPI, a posted interrupt) went past the rig.
///
/// The two readings of the ledger lie just outside the kernel's two readings, so ours may be more,
/// never less.
pub fn no_way_round(evidence: &Evidence) -> Check {
    let rows: [(&str, &[u8]); 3] = [
        ("CAL", &CALL_FUNCTION),
        ("RES", &RESCHEDULE),
        ("IWI", &IRQ_WORK),
    ];
    let (before, after) = (
        &evidence.before.interrupts.rows,
        &evidence.after.interrupts.rows,
    );
    let mut findings = Vec::new();
    for (label, vectors) in rows {
        let (Some(before), Some(after)) = (before.get(label), after.get(label)) else {
            continue;
        };
        let (mut kernel_sum, mut ours_sum) = (0, 0);
        for (cpu, count) in after {
            let taken = |counts: &ipirig_evidence::ledger::LedgerCounts| {
                counts
                    .cpus
                    .get(*cpu)
                    .map_or(0, |record| record.taken(vectors))
            };
            let kernel = u64::from(count.wrapping_sub(before.get(cpu).copied().unwrap_or(0)));
            let ours = taken(&evidence.ledger).saturating_sub(taken(&evidence.ledger_before));
            if kernel > ours {
                let words = format!(
                    "vCPU {cpu} took {kernel} {label} interrupts by its own count, but the rig \
                     delivered {ours}: something goes past the APIC"
                );
                findings.push((Verdict::Error, words));
            }
            kernel_sum += kernel;
            ours_sum += ours;
        }
        let words = format!("{label}: the kernel counts {kernel_sum}, the rig {ours_sum}");
        findings.push((Verdict::Held, words));
    }
    if findings.is_empty() {
        let words = "the guest's /proc/interrupts has no rows CAL, RES or IWI";
        return Check::new(NO_WAY_ROUND, Verdict::Skipped, words);
    }
    worst(NO_WAY_ROUND, findings)
}
