//! Does the kernel itself say that it deferred work, where it may and nowhere else, and did it later?

use ipirig_abi::{Changes, Role};
use ipirig_evidence::guest_text::{Counters, CpuCounters};
use ipirig_evidence::{Evidence, NoRecord};
use ipirig_scenario::plan::Plan;

use super::{ipis, isolation};
use crate::check::{COUNTERS, Check, Verdict, worst};

/// With deferral on, each isolated CPU's counter for this kind of storm must have grown, and
/// entries must have caught up with all of it but what is pending again since. Where nothing was
/// deferred the ledger decides: if IPIs were sent instead, that is the violation, unless the window was
/// not clean ([`ipis`]); if not, the storm did not reach this CPU and the rig cannot say why. With deferral off the counters must stand
/// still, and then say nothing.
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
    let misplaced = match misplaced(plan, evidence, after) {
        Ok(misplaced) => misplaced,
        Err(words) => return Check::new(COUNTERS, Verdict::Error, words),
    };
    if !misplaced.is_empty() {
        return worst(COUNTERS, misplaced);
    }
    if plan.scenario.expect.delivered() {
        // What must be delivered may come with other work that may be deferred.
        let words =
            "this scenario is about IPIs that must be delivered, not about those that are deferred";
        return Check::new(COUNTERS, Verdict::Skipped, words);
    }
    let off = isolation::off(plan, evidence);
    let findings = plan.cpus(Role::Isolated).into_iter().map(|cpu| {
        let (status, words) = match growth(plan, before, after, cpu) {
            Some(growth) => {
                let record = evidence.ledger.cpus.get(cpu);
                let sent = record.map_or(0, |record| record.window.ipis_targeted());
                let (ipis, _) = ipis::of_cpu(plan, evidence, cpu);
                let entries = Entries::of(evidence, cpu);
                match (one(plan.deferral, &growth, entries, sent, ipis), &off) {
                    ((Verdict::Violated, words), Some(why)) if growth.deferred == 0 => {
                        (Verdict::Skipped, format!("{words}; {why}"))
                    }
                    (judged, _) => judged,
                }
            }
            None => (
                Verdict::Error,
                "no sane line in the kernel's counters".to_owned(),
            ),
        };
        (status, format!("CPU {cpu}: {words}"))
    });
    worst(COUNTERS, findings.collect())
}

/// What was deferred for CPUs for which nothing may be, as they have no entry from user mode that does it
/// later in time: housekeeping CPUs never, and isolated ones until their task is started. `Err`: counters
/// that cannot be judged.
fn misplaced(
    plan: &Plan,
    evidence: &Evidence,
    after: &Counters,
) -> Result<Vec<(Verdict, String)>, String> {
    let at_boot = match &evidence.at_boot {
        Ok(Some(at_boot)) => at_boot,
        Ok(None) => return Err("the kernel's counters came or went during the run".to_owned()),
        Err(words) => return Err(words.clone()),
    };
    let has_task = plan.scenario.vcpus.isolated_in.has_task();
    let deferred = |counters: &Counters, cpu: usize| {
        counters.get(&cpu).map_or(0, |counts| {
            counts.deferred_text.saturating_add(counts.deferred_tlb)
        })
    };
    let findings = plan.roles.iter().enumerate().filter_map(|(cpu, role)| {
        let (deferred, why) = match role {
            Role::Control | Role::Housekeeping => (deferred(after, cpu), ", which is not isolated"),
            Role::Isolated if has_task => {
                (deferred(at_boot, cpu), " between boot and its first task")
            }
            Role::Isolated => (deferred(after, cpu), ", which has had no task"),
            Role::Absent => return None,
        };
        (deferred > 0).then(|| {
            (
                Verdict::Violated,
                format!("CPU {cpu}: {deferred} deferred{why}"),
            )
        })
    });
    Ok(findings.collect())
}

/// Whether a CPU made the entries that end the windows, as it should where something was deferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entries {
    /// One after each window, or at least after the last.
    AfterLast,
    /// None after the last window, as this host or guest cannot produce that one.
    NotAfterLast,
    /// None at all.
    Never,
}

impl Entries {
    fn of(evidence: &Evidence, cpu: usize) -> Self {
        let mut produced = evidence
            .windows
            .iter()
            .map(|window| window.records.get(&cpu) != Some(&Err(NoRecord::NotProduced)));
        match (produced.next_back(), produced.any(|produced| produced)) {
            (Some(false), false) => Self::Never,
            (Some(false), true) => Self::NotAfterLast,
            (Some(true) | None, _) => Self::AfterLast,
        }
    }
}

/// Judges one CPU, to which `sent` IPIs were sent in the window, of which `ipis` is the judgement.
fn one(
    deferral: bool,
    growth: &Growth,
    entries: Entries,
    sent: u64,
    ipis: Verdict,
) -> (Verdict, String) {
    let Growth {
        deferred,
        caught_up,
        pending,
    } = *growth;
    match (deferral, deferred, caught_up) {
        (false, 0, _) => (
            Verdict::Skipped,
            "nothing deferred; deferral is off".to_owned(),
        ),
        (false, n, _) => (
            Verdict::Violated,
            format!("{n} deferred although deferral is off"),
        ),
        (true, 0, _) if sent > 0 && ipis == Verdict::Error => (
            Verdict::Error,
            format!("nothing deferred, {sent} IPIs sent instead, and the window was not clean"),
        ),
        (true, 0, _) if sent > 0 => (
            Verdict::Violated,
            format!("nothing deferred, {sent} IPIs sent instead"),
        ),
        (true, 0, _) => {
            let words = "nothing deferred and nothing sent: the storm did not reach it";
            (Verdict::Error, words.to_owned())
        }
        (true, n, c) if entries == Entries::Never && c.saturating_add(pending) < n => (
            Verdict::Skipped,
            format!("{n} deferred, {c} caught up with; no entry could be produced"),
        ),
        (true, n, 0) => (
            Verdict::Violated,
            format!("{n} deferred, no entry caught up"),
        ),
        (true, n, c) if entries == Entries::NotAfterLast && c.saturating_add(pending) < n => (
            Verdict::Skipped,
            format!(
                "{n} deferred, {c} caught up with; no entry could be produced after the last window"
            ),
        ),
        (true, n, c) if c.saturating_add(pending) < n => (
            Verdict::Violated,
            format!("{n} deferred, only {c} caught up with"),
        ),
        (true, n, c) => (Verdict::Held, format!("{n} deferred, {c} caught up with")),
    }
}

/// How a CPU's counters grew over the run.
struct Growth {
    /// Deferred, of the storm's kinds together; 0 if one of them was not.
    deferred: u64,
    /// Caught up with, of any kind.
    caught_up: u64,
    /// Deferred again since the last entry, of any kind; 0 if the kernel does not say.
    pending: u64,
}

/// `None`: a CPU without a line, or a count that went down.
fn growth(plan: &Plan, before: &Counters, after: &Counters, cpu: usize) -> Option<Growth> {
    let (before, after) = (before.get(&cpu)?, after.get(&cpu)?);
    let mut deferred = None;
    for part in plan.scenario.storm.parts() {
        let column = |counters: &CpuCounters| match part.changes {
            Changes::Text => counters.deferred_text,
            Changes::Tlb => counters.deferred_tlb,
            Changes::Some => counters.deferred_text.saturating_add(counters.deferred_tlb),
        };
        let grown = column(after).checked_sub(column(before))?;
        // Each part must have been deferred: none stands for all.
        deferred = match deferred {
            None => Some(grown),
            Some(0) => Some(0),
            Some(_) if grown == 0 => Some(0),
            Some(sum) => Some(grown.saturating_add(sum)),
        };
    }
    Some(Growth {
        deferred: deferred?,
        caught_up: after.caught_up.checked_sub(before.caught_up)?,
        pending: after
            .pending
            .map_or(0, |pending| u64::try_from(pending).unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    use Entries::{AfterLast, Never, NotAfterLast};
    use Verdict::{Error, Held, Skipped, Violated};

    use super::*;

    /// Judges: deferred, caught up with, pending; which entries there were; IPIs sent, and the judgement of those.
    fn judged(
        deferral: bool,
        [deferred, caught_up, pending]: [u64; 3],
        entries: Entries,
        (sent, ipis): (u64, Verdict),
    ) -> (Verdict, String) {
        let growth = Growth {
            deferred,
            caught_up,
            pending,
        };
        one(deferral, &growth, entries, sent, ipis)
    }

    #[test]
    fn what_was_deferred_must_be_caught_up_with_but_for_what_is_pending() {
        let none = (0, Held);
        for (counts, entries, status, words) in [
            ([9, 9, 0], AfterLast, Held, "9 deferred, 9 caught up with"),
            ([9, 8, 1], AfterLast, Held, "9 deferred, 8 caught up with"),
            (
                [9, 8, 0],
                AfterLast,
                Violated,
                "9 deferred, only 8 caught up with",
            ),
            (
                [9, 7, 1],
                AfterLast,
                Violated,
                "9 deferred, only 7 caught up with",
            ),
            (
                [9, 0, 0],
                AfterLast,
                Violated,
                "9 deferred, no entry caught up",
            ),
            (
                [9, 0, 9],
                AfterLast,
                Violated,
                "9 deferred, no entry caught up",
            ),
            (
                [9, 8, 0],
                NotAfterLast,
                Skipped,
                "9 deferred, 8 caught up with; no entry could be produced after the last window",
            ),
            (
                [9, 8, 1],
                NotAfterLast,
                Held,
                "9 deferred, 8 caught up with",
            ),
            (
                [9, 0, 0],
                NotAfterLast,
                Violated,
                "9 deferred, no entry caught up",
            ),
            (
                [9, 0, 8],
                Never,
                Skipped,
                "9 deferred, 0 caught up with; no entry could be produced",
            ),
            ([9, 8, 1], Never, Held, "9 deferred, 8 caught up with"),
        ] {
            let found = judged(true, counts, entries, none);
            assert_eq!(found, (status, words.to_owned()), "{counts:?}");
        }
    }

    #[test]
    fn where_nothing_was_deferred_ipis_decide() {
        let words = |sent: u64| format!("nothing deferred, {sent} IPIs sent instead");
        let nothing = "nothing deferred and nothing sent: the storm did not reach it".to_owned();
        for ((sent, ipis), expected) in [
            ((0, Held), (Error, nothing.clone())),
            ((0, Error), (Error, nothing)),
            ((1, Violated), (Violated, words(1))),
            ((1, Held), (Violated, words(1))),
            (
                (1, Error),
                (Error, format!("{}, and the window was not clean", words(1))),
            ),
        ] {
            let found = judged(true, [0, 3, 0], AfterLast, (sent, ipis));
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn with_deferral_off_nothing_may_be_deferred() {
        let found = [0, 1].map(|deferred| judged(false, [deferred, 1, 0], AfterLast, (1, Held)));
        let expected = [
            (Skipped, "nothing deferred; deferral is off".to_owned()),
            (Violated, "1 deferred although deferral is off".to_owned()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn of_a_storm_of_two_kinds_both_must_be_deferred() {
        let (plan, _) =
            ipirig_fake::evidence("target-in-kernel", None, ipirig_fake::Script::default());
        let grown = |deferred_text, deferred_tlb| {
            let after = CpuCounters {
                deferred_text,
                deferred_tlb,
                caught_up: 7,
                pending: Some(-1),
            };
            let (before, after) = ([(2, CpuCounters::default())], [(2, after)]);
            let grown = growth(&plan, &before.into(), &after.into(), 2)?;
            Some([grown.deferred, grown.caught_up, grown.pending])
        };
        let counts = [(3, 4), (3, 0), (0, 4), (0, 0)];
        let expected = [7, 0, 0, 0].map(|deferred| Some([deferred, 7, 0]));
        assert_eq!(counts.map(|(text, tlb)| grown(text, tlb)), expected);
    }
}
