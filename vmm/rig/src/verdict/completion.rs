//! Did the first entry after the window show what the storm had done?

use ipirig_abi::{Order, Role};

use super::{COMPLETED, Check, Verdict, worst};
use crate::conductor::{Entry, Evidence};
use crate::plan::Plan;
use crate::scenario::Completion;

/// Each isolated vCPU's first entry must take the new branch, or read the new page: the value that
/// the control vCPU reported, which must differ from what the same vCPU saw before the window
/// (else an entry that did nothing would pass).
pub(super) fn completed_on_entry(plan: &Plan, evidence: &Evidence) -> Check {
    if !evidence.module {
        let words = "the guest has no ipirig.ko to look from inside the kernel";
        return Check::new(COMPLETED, Verdict::Skipped, words);
    }
    let (asked, done) = (plan.scenario.storm.operations(), evidence.storm.done);
    if done != asked {
        let words = format!("the storm did {done} of {asked}, so what must be seen is not known");
        return Check::new(COMPLETED, Verdict::Error, words);
    }
    let findings = plan.cpus(Role::Isolated).into_iter().map(|cpu| {
        let entries = (evidence.baseline.get(&cpu), evidence.released.get(&cpu));
        let (Some(before), Some(after)) = entries else {
            return (Verdict::Error, format!("vCPU {cpu} made no entry"));
        };
        let (status, words) = one(plan, evidence.storm.value, before, after);
        (status, format!("vCPU {cpu}: {words}"))
    });
    worst(COMPLETED, findings.collect())
}

fn one(plan: &Plan, expected: u64, before: &Entry, after: &Entry) -> (Verdict, String) {
    for (when, entry) in [("baseline", before), ("first", after)] {
        if entry.errno != 0 || entry.order != Order::Probe {
            return (
                Verdict::Error,
                format!("the {when} probe failed (errno {})", entry.errno),
            );
        }
    }
    let (what, old, new) = match plan.scenario.storm.completion() {
        Completion::Branch => ("branch", u64::from(before.branch), u64::from(after.branch)),
        Completion::Alias => ("page behind the alias", before.alias, after.alias),
    };
    if old == expected {
        let words = format!("the storm left the {what} as it was ({old:#x}): nothing to see");
        return (Verdict::Error, words);
    }
    if new == expected {
        return (
            Verdict::Held,
            format!("the new {what} ({old:#x} -> {new:#x}) on first entry"),
        );
    }
    if new == old {
        return (
            Verdict::Violated,
            format!("still the old {what} ({old:#x}) on first entry"),
        );
    }
    let words =
        format!("{what} {new:#x} on first entry, neither old {old:#x} nor new {expected:#x}");
    (Verdict::Violated, words)
}
