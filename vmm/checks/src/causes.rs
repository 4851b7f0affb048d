//! Did as many IPIs come as each cause has to send? One of another cause does not make up for one that
//! is lost.

use std::collections::BTreeMap;

use ipirig_abi::Role;
use ipirig_blame::UNKNOWN;
use ipirig_evidence::Evidence;
use ipirig_scenario::plan::Plan;

use super::joined::joined;
use crate::check::{Check, HOUSEKEEPING_IPIS, Verdict, worst};

/// What is to be said of the causes of IPIs to `cpu`: `None` if nothing is expected of them, or nobody
/// knows them.
pub(super) fn of_cpu(plan: &Plan, evidence: &Evidence, cpu: usize) -> Option<(Verdict, String)> {
    let expected = &plan.scenario.expect.by_cause;
    let tally = &evidence.ledger.cpus.get(cpu)?.window;
    let sent = tally.ipis_targeted();
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for blame in &evidence.blame {
        let count = blame.targets.get(&cpu).copied().unwrap_or_default();
        *seen.entry(&blame.cause).or_default() += count;
    }
    let known: u64 = seen.values().sum();
    if expected.is_empty() || (known == 0 && sent > 0) {
        return None;
    }
    // Those whose stack was not taken may be of any cause, as may those whose stack says nothing.
    let any = sent.saturating_sub(known) + seen.get(UNKNOWN).copied().unwrap_or_default();
    let mut lost = Vec::new();
    let mut doubt = Vec::new();
    let mut enough = Vec::new();
    for (cause, &least) in expected {
        let came = seen.get(cause.as_str()).copied().unwrap_or_default();
        let words = format!("{came} of at least {least} for {cause}");
        let joined = if came < least {
            joined(evidence, expected, cause, cpu)
        } else {
            0
        };
        if came < least && came.saturating_add(joined) >= least {
            enough.push(format!(
                "{words}, as {joined} may have joined another IPI that was pending"
            ));
        } else if came >= least {
            enough.push(format!("at least {least} for {cause}"));
        } else if came.saturating_add(any).saturating_add(joined) < least {
            lost.push(words);
        } else {
            doubt.push(words);
        }
    }
    Some(match (lost.is_empty(), doubt.is_empty()) {
        (false, _) => (Verdict::Violated, lost.join(", ")),
        (true, false) => {
            let words = doubt.join(", ");
            (
                Verdict::Error,
                format!("{words}, and the cause of {any} is not known"),
            )
        }
        (true, true) => (Verdict::Held, enough.join(", ")),
    })
}

/// Nothing may be deferred for a housekeeping CPU, wherever it is. Only made where it is in user space.
pub(super) fn housekeeping_ipis(plan: &Plan, evidence: &Evidence) -> Option<Check> {
    if !plan.scenario.vcpus.housekeeping_in_user {
        return None;
    }
    let least = plan.scenario.expect.housekeeping_ipis_min;
    let findings = plan.cpus(Role::Housekeeping).into_iter().map(|cpu| {
        let Some(record) = evidence.ledger.cpus.get(cpu) else {
            return (Verdict::Error, format!("vCPU {cpu} was not looked at"));
        };
        let tally = &record.window;
        let sent = tally.ipis_targeted();
        let at_user = tally.ipis_at_user;
        let of_causes = of_cpu(plan, evidence, cpu);
        let (status, words) = match of_causes {
            _ if sent < least => (
                Verdict::Violated,
                format!(
                    "{sent} IPIs, at least {least} must be delivered to a CPU that is not isolated"
                ),
            ),
            Some((status, words)) => (status, format!("{sent} IPIs: {words}")),
            None => (Verdict::Held, format!("{sent} IPIs, at least {least}")),
        };
        // Without interrupting user space they prove nothing of what is done for it.
        if status == Verdict::Held
            && !evidence.ledger.counts_only
            && at_user.saturating_mul(2) < sent
        {
            let words = format!("vCPU {cpu}: only {at_user} of {sent} IPIs interrupted user space");
            return (Verdict::Error, words);
        }
        (
            status,
            format!("vCPU {cpu}: {words}; {at_user} interrupted user space"),
        )
    });
    Some(worst(HOUSEKEEPING_IPIS, findings.collect()))
}
