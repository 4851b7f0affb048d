//! Was any isolated vCPU sent an IPI in the window?

use ipirig_abi::Role;
use ipirig_evidence::Evidence;
use ipirig_evidence::blame;
use ipirig_evidence::ledger::Tally;
use ipirig_scenario::IsolatedIpis;
use ipirig_scenario::plan::Plan;

use super::{causes, isolation, window};
use crate::check::{Check, ISOLATED_IPIS, Verdict, list, worst};

/// Sends are counted, not deliveries: two sends that were merged into one delivery are two.
///
/// A send to a CPU that is in the kernel is right, deferral or not. The ledger knows what each IPI
/// interrupted. If the only IPIs are those that a timer or another interrupt may have let in, the
/// window was not clean and the answer is `error`. Each such interrupt may let in any number of
/// IPIs while the CPU is in the kernel, and one that was sent then and lands just after the return.
/// Anything beyond that interrupted user space and is `violated`. With KVM's own APICs the ledger knows at
/// least how many interrupted user space, if the host's trace says it, and else of none: a bound that
/// proves a violation where it is high enough, and leaves `error` where it is not.
pub(super) fn isolated_ipis(plan: &Plan, evidence: &Evidence) -> Check {
    let findings = plan.cpus(Role::Isolated).into_iter().map(|cpu| {
        let (status, words) = of_cpu(plan, evidence, cpu);
        (status, format!("vCPU {cpu}: {words}"))
    });
    worst(ISOLATED_IPIS, findings.collect())
}

/// The same of one isolated vCPU, without its name.
pub(super) fn of_cpu(plan: &Plan, evidence: &Evidence, cpu: usize) -> (Verdict, String) {
    let Some(record) = evidence.ledger.cpus.get(cpu) else {
        return (Verdict::Error, "not in the ledger".to_owned());
    };
    let tally = &record.window;
    let words = match tally.ipis_targeted() {
        0 => "no IPI".to_owned(),
        _ => describe(plan, evidence, cpu, tally),
    };
    let (status, words) = match plan.scenario.expect.isolated {
        IsolatedIpis::AtMost(most) => at_most(most, tally, words, evidence.ledger.counts_only),
        IsolatedIpis::AtLeast(least) => match at_least(least, tally, &words) {
            (Verdict::Held, words) => match causes::of_cpu(plan, evidence, cpu) {
                Some((Verdict::Held, causes)) => (Verdict::Held, format!("{words}, {causes}")),
                Some((status, causes)) => (status, format!("{words}, but {causes}")),
                None => (Verdict::Held, words),
            },
            violated => violated,
        },
    };
    let (status, words) = match (status, after_entry(plan, evidence, cpu)) {
        (Verdict::Held, Some(lost)) => (Verdict::Violated, format!("{words}, but {lost}")),
        (status, _) => (status, words),
    };
    // Nothing to blame the kernel for.
    let (status, words) = match (status, isolation::off(plan, evidence)) {
        (Verdict::Violated, Some(why)) if !plan.scenario.expect.delivered() => {
            (Verdict::Skipped, format!("{words}; {why}"))
        }
        (status, _) => (status, words),
    };
    // One that came back to user space may have been spared rightly.
    match (status, window::left_the_kernel(plan, evidence, cpu)) {
        (Verdict::Violated, Some(why)) => (
            Verdict::Error,
            format!("{words}, if it had been in the kernel all the while: {why}"),
        ),
        (status, _) => (status, words),
    }
}

/// What `cpu` did not get after it had entered the kernel in mid-operation: each change from then on has to
/// be told to it.
fn after_entry(plan: &Plan, evidence: &Evidence, cpu: usize) -> Option<String> {
    if plan.scenario.enter_before.is_empty() {
        return None;
    }
    let lost = evidence.windows.iter().filter_map(|window| {
        let nth = window.entered_before?;
        let changes = window.changed.pokes.saturating_add(window.changed.flushes);
        let least = (changes + 1).saturating_sub(nth);
        let came = window.ipis.get(&cpu).copied().unwrap_or_default();
        let words = || format!("{came} of {least} after it entered the kernel before change {nth}");
        (came < least).then(words)
    });
    let lost: Vec<String> = lost.collect();
    (!lost.is_empty()).then(|| lost.join(", "))
}

/// `words` says what was sent. `bound`: what it interrupted is known of some of it only.
fn at_most(most: u64, window: &Tally, words: String, bound: bool) -> (Verdict, String) {
    let sent = window.ipis_targeted();
    if sent == 0 {
        return (Verdict::Held, words);
    }
    if sent <= most {
        return (Verdict::Held, format!("{words}; {most} allowed"));
    }
    let others = window.other_interrupts();
    let at_user = window.ipis_at_user;
    if others > 0 && at_user <= others {
        let words = format!(
            "{words}, but {others} other interrupts had it in the kernel: window not clean"
        );
        return (Verdict::Error, words);
    }
    if others > 0 && bound {
        let words = format!(
            "{words}; at least {at_user} interrupted user space, of which {others} other interrupts \
             excuse at most {others}"
        );
        return (Verdict::Violated, words);
    }
    (Verdict::Violated, words)
}

/// Where deferring would be a bug, each IPI has to come.
fn at_least(least: u64, window: &Tally, words: &str) -> (Verdict, String) {
    let sent = window.ipis_targeted();
    if sent < least {
        return (
            Verdict::Violated,
            format!("{words}; at least {least} must be delivered, deferring them is a bug"),
        );
    }
    (
        Verdict::Held,
        format!("{words}, as it must be: at least {least}"),
    )
}

/// `303 IPIs (call-function 303) from vCPU 0, 3.00 per operation`, and their causes where stacks
/// were taken.
fn describe(plan: &Plan, evidence: &Evidence, cpu: usize, window: &Tally) -> String {
    let sent = window.ipis_targeted();
    let operations = plan.scenario.storm.operations() * evidence.windows.len().max(1) as u64;
    let sources: Vec<String> = window.targeted_by.keys().map(ToString::to_string).collect();
    // Counts of IPIs stay far below 2^53.
    let rate = sent as f64 / operations.max(1) as f64;
    let why = blame::summary(&evidence.blame, cpu).map(|causes| format!(": {causes}"));
    format!(
        "{sent} IPIs ({}) from vCPU {}, {rate:.2} per operation{}",
        list(&window.targeted),
        sources.join(", "),
        why.unwrap_or_default()
    )
}
