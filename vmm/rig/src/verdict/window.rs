//! Was every isolated vCPU in user space for the whole window?

use ipirig_abi::Role;

use super::ipis::list;
use super::{Check, USER_SPACE, Verdict, worst};
use crate::conductor::quiet::USER;
use crate::conductor::{Evidence, Window};
use crate::plan::Plan;

/// Three signs: privilege level 3 when the window opens and when it closes, a heart that beat in
/// between, and no interrupt taken. An isolated task makes no system calls in its loop, so with no
/// interrupt taken there is no way into the kernel and back.
///
/// Other interrupts are `error`, because the rig cannot blame the storm for them. Where IPIs are a
/// violation (`ipis`), being taken out of user space is one as well: the one follows from the other.
pub(super) fn user_space_throughout(plan: &Plan, evidence: &Evidence, ipis: Verdict) -> Check {
    let isolated = plan.cpus(Role::Isolated);
    let one = |window: &Window, cpu| throughout(evidence, window, cpu, ipis);
    let mut findings: Vec<(Verdict, String)> = Vec::new();
    for window in &evidence.windows {
        for &cpu in &isolated {
            let finding = one(window, cpu);
            // Of many windows that were clean the first will do; each that was not is named.
            if finding.0 != Verdict::Held || findings.len() < isolated.len() {
                findings.push(finding);
            }
        }
    }
    let mut check = worst(USER_SPACE, findings);
    if check.status == Verdict::Held && evidence.windows.len() > 1 {
        check.evidence += &format!(" (first of {} windows alike)", evidence.windows.len());
    }
    check
}

fn throughout(
    evidence: &Evidence,
    window: &Window,
    cpu: usize,
    ipis: Verdict,
) -> (Verdict, String) {
    let (Some(&(open, close)), Some(record)) =
        (window.marks.get(&cpu), evidence.ledger.cpus.get(cpu))
    else {
        return (Verdict::Error, format!("vCPU {cpu} was not looked at"));
    };
    let tally = &record.window;
    if close.heartbeat == open.heartbeat {
        return (
            Verdict::Error,
            format!("vCPU {cpu}: its task did not run at all"),
        );
    }
    let taken = tally.ipi_deliveries();
    if taken > 0 && ipis == Verdict::Violated {
        let words = format!("vCPU {cpu}: taken out of user space by {taken} IPIs");
        return (Verdict::Violated, words);
    }
    if taken > 0 || tally.other_interrupts() > 0 {
        let all = [&tally.delivered, &tally.other];
        let all: Vec<String> = all
            .into_iter()
            .filter(|counts| !counts.is_empty())
            .map(list)
            .collect();
        let words = format!("vCPU {cpu}: window not clean, it took {}", all.join(", "));
        return (Verdict::Error, words);
    }
    for (when, mark) in [("opened", open), ("closed", close)] {
        if mark.cpl != USER {
            let words = format!(
                "vCPU {cpu}: in the kernel at {:#x} when the window {when}",
                mark.rip
            );
            return (Verdict::Error, words);
        }
    }
    let beats = close.heartbeat.wrapping_sub(open.heartbeat);
    let words = format!("vCPU {cpu}: CPL 3 at both ends, {beats} turns, no interrupt taken");
    (Verdict::Held, words)
}
