//! Does the kernel itself say that it held work back, and did it later?

use ipirig_abi::Role;

use super::{COUNTERS, Check, Verdict, worst};
use crate::conductor::Evidence;
use crate::guest_text::{Counters, CpuCounters};
use crate::plan::Plan;
use crate::scenario::Deferred;

/// With deferral on, each isolated CPU's counter for this kind of storm must have grown, and an
/// entry must have caught up. Where nothing was deferred the ledger decides: if IPIs were sent
/// instead, that is the violation; if not, the storm did not reach this CPU and the rig cannot say
/// why. With deferral off the counters must stand still, and then say nothing.
pub(super) fn kernel_counters(plan: &Plan, evidence: &Evidence) -> Check {
    let (before, after) = match (&evidence.before.counters, &evidence.after.counters) {
        (Ok(Some(before)), Ok(Some(after))) => (before, after),
        (Ok(None), Ok(None)) => {
            let words = "the kernel has no /sys/kernel/debug/ipi_deferral";
            return Check::new(COUNTERS, Verdict::Skipped, words);
        }
        (Err(words), _) | (_, Err(words)) => {
            return Check::new(COUNTERS, Verdict::Error, words.clone());
        }
        _ => {
            let words = "the kernel's counters came or went during the run";
            return Check::new(COUNTERS, Verdict::Error, words);
        }
    };
    let findings = plan.cpus(Role::Isolated).into_iter().map(|cpu| {
        let Some((deferred, caught_up)) = growth(plan, before, after, cpu) else {
            return (
                Verdict::Error,
                format!("the kernel's counters have no sane line for CPU {cpu}"),
            );
        };
        let record = evidence.ledger.cpus.get(cpu);
        let sent = record.map_or(0, |record| record.window.ipis_targeted());
        match (plan.deferral, deferred, caught_up) {
            (false, 0, _) => (
                Verdict::Skipped,
                format!("CPU {cpu}: nothing deferred; deferral is off"),
            ),
            (false, n, _) => (
                Verdict::Violated,
                format!("CPU {cpu}: {n} deferred although deferral is off"),
            ),
            (true, 0, _) if sent > 0 => (
                Verdict::Violated,
                format!("CPU {cpu}: nothing deferred, {sent} IPIs sent instead"),
            ),
            (true, 0, _) => (
                Verdict::Error,
                format!("CPU {cpu}: nothing deferred and nothing sent: the storm did not reach it"),
            ),
            (true, n, 0) => (
                Verdict::Violated,
                format!("CPU {cpu}: {n} deferred, no entry caught up"),
            ),
            (true, n, c) => {
                let entries = if c == 1 { "entry" } else { "entries" };
                (
                    Verdict::Held,
                    format!("CPU {cpu}: {n} deferred, {c} {entries} caught up"),
                )
            }
        }
    });
    worst(COUNTERS, findings.collect())
}

/// How much was deferred on `cpu` because of the storm's kind of operation, and how many entries
/// caught up. `None`: a CPU without a line, or a count that went down.
fn growth(plan: &Plan, before: &Counters, after: &Counters, cpu: usize) -> Option<(u64, u64)> {
    let (before, after) = (before.get(&cpu)?, after.get(&cpu)?);
    let column = |counters: &CpuCounters| match plan.scenario.storm.deferred() {
        Deferred::Text => counters.deferred_text,
        Deferred::Tlb => counters.deferred_tlb,
    };
    let deferred = column(after).checked_sub(column(before))?;
    Some((deferred, after.caught_up.checked_sub(before.caught_up)?))
}
