//! Whether the rig and the kernel's own trace saw the same IPIs (`ipirig-crosscheck`).

use ipirig_crosscheck::{NotCompared, compare};
use ipirig_evidence::Evidence;
use ipirig_scenario::plan::Plan;

use crate::check::{CROSS_CHECK, Check, Verdict};

/// The check: `held` if all agrees or is explained, `error` if not. `None`: nobody asked.
pub(super) fn cross_check(plan: &Plan, evidence: &Evidence) -> Option<Check> {
    let compared = match compare(plan, evidence)? {
        Ok(compared) => compared,
        Err(NotCompared::Lacking(words)) => {
            return Some(Check::new(CROSS_CHECK, Verdict::Skipped, words));
        }
        Err(NotCompared::Failed(words)) => {
            return Some(Check::new(CROSS_CHECK, Verdict::Error, words));
        }
    };
    let unexplained: u64 = compared.unexplained().map(|d| d.count).sum();
    if unexplained > 0 {
        let told: Vec<String> = compared
            .unexplained()
            .take(3)
            .map(ToString::to_string)
            .collect();
        let words = format!("{unexplained} unexplained, first {}", told.join("; "));
        return Some(Check::new(CROSS_CHECK, Verdict::Error, words));
    }
    let pairs: u64 = compared.cpus.iter().map(|cpu| cpu.pairs).sum();
    if pairs == 0 {
        let words = "neither the rig nor the guest has an IPI in the window, so there was nothing to \
                     compare";
        return Some(Check::new(CROSS_CHECK, Verdict::Skipped, words));
    }
    let each = compared.cpus.iter().map(|cpu| {
        let same = cpu.pairs;
        format!("vCPU {}: {same} IPIs in both records", cpu.cpu)
    });
    let explained: u64 = compared.differences.iter().map(|d| d.count).sum();
    let mut words = format!(
        "{}; {explained} differences, all explained",
        each.collect::<Vec<_>>().join(", ")
    );
    if compared.callsites.compared > 0 {
        words = format!("{words}; {}", compared.callsites);
    }
    Some(Check::new(CROSS_CHECK, Verdict::Held, words))
}
