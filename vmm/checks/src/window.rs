//! Was every isolated vCPU in user space for the whole window?

use ipirig_abi::Role;
use ipirig_evidence::{Evidence, USER, WindowRecord};
use ipirig_scenario::plan::Plan;
use ipirig_scenario::{Expectations, Mode};

use crate::check::list;
use crate::check::{Check, ENTERED, KERNEL, USER_SPACE, Verdict, worst};

/// Three signs: privilege level 3 when the window opens and when it closes, a heart that beat in
/// between, and no interrupt taken. An isolated task makes no system calls in its loop, so with no
/// interrupt taken there is no way into the kernel and back.
///
/// Other interrupts are `error`, because the rig cannot blame the storm for them. Where IPIs are a
/// violation (`ipis`), being taken out of user space is one as well: the one follows from the other.
/// So it is where they prove nothing.
/// Where some are allowed, they must have interrupted user space.
pub(super) fn user_space_throughout(plan: &Plan, evidence: &Evidence, ipis: Verdict) -> Check {
    if plan.scenario.vcpus.isolated_in != Mode::User {
        return kernel_throughout(plan, evidence);
    }
    if !plan.scenario.enter_before.is_empty() {
        return entered(plan, evidence);
    }
    let expect = &plan.scenario.expect;
    let isolated = plan.cpus(Role::Isolated);
    let one = |window: &WindowRecord, cpu| throughout(evidence, window, cpu, ipis, expect);
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

/// Where the isolated vCPUs are to enter the kernel in mid-operation: in user space when the window opens,
/// and in the kernel from the change on that it was to be.
fn entered(plan: &Plan, evidence: &Evidence) -> Check {
    let isolated = plan.cpus(Role::Isolated);
    let mut findings = Vec::new();
    for (window, nth) in evidence.windows.iter().zip(&plan.scenario.enter_before) {
        for &cpu in &isolated {
            findings.push(entered_before(window, *nth, cpu));
        }
    }
    worst(ENTERED, findings)
}

fn entered_before(window: &WindowRecord, nth: u64, cpu: usize) -> (Verdict, String) {
    let error = |words: String| (Verdict::Error, format!("vCPU {cpu}: {words}"));
    let changes = window.changed.pokes + window.changed.flushes;
    if window.entered_before != Some(nth) {
        return error(format!("no change {nth} was seen, only {changes}"));
    }
    let Some((open, close)) = window.marks.get(&cpu) else {
        return error("not looked at".to_owned());
    };
    if let Some(stay) = window.released.get(&cpu)
        && stay.errno != 0
    {
        return error(format!("it did not stay (errno {})", stay.errno));
    }
    if (open.cpl, close.cpl == USER) != (USER, false) {
        return error(format!(
            "CPL {} at the beginning, {} at the end",
            open.cpl, close.cpl
        ));
    }
    let words = format!("vCPU {cpu}: in the kernel from before change {nth} of {changes} on");
    (Verdict::Held, words)
}

fn throughout(
    evidence: &Evidence,
    window: &WindowRecord,
    cpu: usize,
    ipis: Verdict,
    expect: &Expectations,
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
    if taken > 0 && ipis == Verdict::Skipped {
        let words =
            format!("vCPU {cpu}: taken out of user space by {taken} IPIs, as none is deferred");
        return (Verdict::Skipped, words);
    }
    if expect.interrupted() && evidence.ledger.counts_only {
        let words =
            format!("vCPU {cpu}: what its {taken} IPIs interrupted is not known of KVM's own APIC");
        return (Verdict::Skipped, words);
    }
    // One that comes while the CPU is still on its way out of the one before interrupts the kernel.
    if expect.interrupted() && tally.ipis_at_user.saturating_mul(2) < taken {
        let words = format!(
            "vCPU {cpu}: only {} of {taken} IPIs interrupted user space",
            tally.ipis_at_user
        );
        return (Verdict::Error, words);
    }
    let others = tally.other_interrupts();
    if (!expect.interrupted() && taken > 0) || (!expect.delivered() && others > 0) {
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
    let words = match (taken, others) {
        (0, 0) => "no interrupt taken".to_owned(),
        (_, 0) => format!(
            "interrupted there by {} of {taken} IPIs",
            tally.ipis_at_user
        ),
        (_, _) => format!(
            "interrupted there by {} of {taken} IPIs and by {}",
            tally.ipis_at_user,
            list(&tally.other)
        ),
    };
    let words = format!("vCPU {cpu}: CPL 3 at both ends, {beats} turns, {words}");
    (Verdict::Held, words)
}

/// Where the isolated vCPUs are to be in the kernel: at both ends of the window, and at each IPI.
fn kernel_throughout(plan: &Plan, evidence: &Evidence) -> Check {
    let isolated = plan.cpus(Role::Isolated);
    let mut findings = Vec::new();
    for window in &evidence.windows {
        for &cpu in &isolated {
            findings.push(in_kernel(plan, evidence, window, cpu));
        }
    }
    worst(KERNEL, findings)
}

/// Why `cpu` was not in the kernel throughout, where it was to be; `None` if it was, or was not to be.
pub(super) fn left_the_kernel(plan: &Plan, evidence: &Evidence, cpu: usize) -> Option<String> {
    if plan.scenario.vcpus.isolated_in == Mode::User {
        return None;
    }
    let mut findings = evidence
        .windows
        .iter()
        .map(|window| in_kernel(plan, evidence, window, cpu));
    let left = findings.find(|(status, _)| *status != Verdict::Held)?;
    Some(left.1)
}

fn in_kernel(
    plan: &Plan,
    evidence: &Evidence,
    window: &WindowRecord,
    cpu: usize,
) -> (Verdict, String) {
    let (Some((open, close)), Some(record)) =
        (window.marks.get(&cpu), evidence.ledger.cpus.get(cpu))
    else {
        return (Verdict::Error, format!("vCPU {cpu} was not looked at"));
    };
    if let Some(stay) = window.released.get(&cpu)
        && stay.errno != 0
    {
        let words = format!("vCPU {cpu}: it did not stay (errno {})", stay.errno);
        return (Verdict::Error, words);
    }
    if open.cpl == USER || close.cpl == USER {
        return (Verdict::Error, format!("vCPU {cpu}: it was in user space"));
    }
    let tally = &record.window;
    if tally.ipis_at_user > 0 {
        let words = format!(
            "vCPU {cpu}: {} IPIs interrupted user space",
            tally.ipis_at_user
        );
        return (Verdict::Error, words);
    }
    let taken = tally.ipi_deliveries();
    let idle = tally.ipis_at_idle;
    // One that comes while the CPU is still on its way back from the one before finds it awake.
    let known = !evidence.ledger.counts_only;
    if plan.scenario.vcpus.isolated_in.idles() && known && idle.saturating_mul(2) < taken {
        let words = format!("vCPU {cpu}: it waited in HLT at {idle} of {taken} IPIs only");
        return (Verdict::Error, words);
    }
    let words = if plan.scenario.vcpus.isolated_in.idles() {
        format!("vCPU {cpu}: CPL 0 at both ends and at each of {taken} IPIs, in HLT at {idle}")
    } else {
        format!("vCPU {cpu}: CPL 0 at both ends, and at each of {taken} IPIs")
    };
    (Verdict::Held, words)
}
