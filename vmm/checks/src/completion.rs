//! Did the first entry after the window do what was deferred, and show what the storm had done?

use ipirig_abi::{Changes, Completion, Order, Role};
use ipirig_evidence::{EntryReport, Evidence, NOT_PRODUCED, StormReport, WindowRecord};
use ipirig_scenario::Part;
use ipirig_scenario::plan::Plan;

use super::entry::{self, Judged};
use super::soundness;
use crate::check::{COMPLETED, Check, Verdict, joined};

/// What the CPU executed decides: whether what was pending was cleared before ordinary code came.
/// Where the entry was a look from the module, it must have taken the new branch, or read the new
/// page, as well: the value that the control vCPU reported, which must differ from what the same
/// vCPU saw before the window (else an entry that did nothing would pass). A stale value is a
/// violation whatever was executed; the right value alone proves little, as staleness may not bite.
pub(super) fn completed_on_entry(plan: &Plan, evidence: &Evidence, entries: &[Judged]) -> Check {
    let spaces = plan.scenario.vcpus.address_spaces;
    let look = |audited: &_| entry::completed(audited, spaces);
    let mut executed = entry::findings(entries, look);
    let mut seen = Vec::new();
    for window in &evidence.windows {
        for (part, report) in plan.scenario.storm.parts().iter().zip(&window.storm) {
            seen.extend(values(plan, evidence, window, part, *report));
        }
    }
    let judged = executed
        .iter()
        .any(|(status, _)| *status != Verdict::Skipped);
    let stale = seen.iter().any(|(status, _)| *status != Verdict::Held);
    if !judged && !stale {
        // What was seen does not replace what was executed.
        for (_, words) in seen {
            executed.push((Verdict::Skipped, format!("{words}, which proves little")));
        }
        return joined(COMPLETED, executed);
    }
    executed.extend(seen);
    joined(COMPLETED, executed)
}

/// What each isolated vCPU saw of one part of the storm, if it looked.
fn values(
    plan: &Plan,
    evidence: &Evidence,
    window: &WindowRecord,
    part: &Part,
    report: StormReport,
) -> Vec<(Verdict, String)> {
    let (asked, done) = (part.operations, report.done);
    if done != asked {
        let words = format!("the storm did {done} of {asked}, so what must be seen is not known");
        return vec![(Verdict::Error, words)];
    }
    let looked = |cpu: usize| {
        let (before, after) = (window.baseline.get(&cpu), window.released.get(&cpu));
        match (before, after) {
            (Some(before), Some(after)) => {
                let (status, words) = one(part.completion?, report.value, before, after);
                // What the storm left is the guest's word: that it did what it says is to be seen.
                let blind = match part.changes {
                    Changes::Text => &window.changed.blind.text,
                    _ => &window.changed.blind.mappings,
                };
                let unwitnessed = || soundness::unwitnessed(plan, evidence, part.changes);
                let few = soundness::too_few(plan, window, part.changes);
                match few.or_else(|| blind.as_ref().and_then(|_| unwitnessed())) {
                    Some(few) if status == Verdict::Violated => {
                        let words = format!("vCPU {cpu}: {words}, but {few}: that may be right");
                        Some((Verdict::Error, words))
                    }
                    _ => Some((status, format!("vCPU {cpu}: {words}"))),
                }
            }
            // Another way in: the vCPU did not look.
            (None, Some(after)) if after.errno != 0 && after.errno != NOT_PRODUCED => {
                let words = format!(
                    "vCPU {cpu}: {} failed in the guest (errno {})",
                    window.entry, after.errno
                );
                Some((Verdict::Error, words))
            }
            _ => None,
        }
    };
    plan.cpus(Role::Isolated)
        .into_iter()
        .filter_map(looked)
        .collect()
}

fn one(
    completion: Completion,
    expected: u64,
    before: &EntryReport,
    after: &EntryReport,
) -> (Verdict, String) {
    for (when, entry) in [("baseline", before), ("first", after)] {
        let looked = matches!(entry.order, Order::Probe | Order::Relay);
        if entry.errno != 0 || !looked {
            return (
                Verdict::Error,
                format!("the {when} probe failed (errno {})", entry.errno),
            );
        }
    }
    let (what, old, new) = match completion {
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
