//! What makes an observation complete, and what it may be told to check.

use crate::durations::agree;
use ipirig_abi::observe::{LOAD, NO_LOAD};
use ipirig_abi::{Ending, Role};

use ipirig_rig::conductor::Observed;
use ipirig_rig::observe::ObservationPlan;

use ipirig_checks::check::{Check, ISOLATED_IPIS, Verdict, worst};
use ipirig_checks::soundness::{no_way_round, nothing_lost};

/// The command ran, and the isolated vCPUs did all the while.
pub(super) const OBSERVED: &str = "observed";

/// What isolated tasks measured is all that they say they did.
pub(super) const DURATIONS: &str = "durations";

/// Every check of an observation.
pub(super) fn judge(plan: &ObservationPlan, observed: &Observed) -> Vec<Check> {
    let limit = plan
        .max_ipis
        .map(|most| isolated_ipis(plan, most, observed));
    let sound = [
        was_observed(plan, observed),
        nothing_lost(&observed.evidence, "a shorter --for will do"),
        no_way_round(&observed.evidence),
    ];
    limit
        .into_iter()
        .chain(sound)
        .chain(durations_agree(observed))
        .collect()
}

/// What the checks of an observation amount to: none may fail. One that could not be made takes
/// nothing away from what was seen.
pub(super) fn overall(checks: &[Check]) -> Verdict {
    let any = |status| checks.iter().any(|check| check.status == status);
    if any(Verdict::Violated) {
        Verdict::Violated
    } else if any(Verdict::Error) {
        Verdict::Error
    } else {
        let observed = checks.iter().find(|check| check.name == OBSERVED);
        observed.map_or(Verdict::Error, |check| check.status)
    }
}

/// No isolated vCPU got more IPIs than it may.
fn isolated_ipis(plan: &ObservationPlan, most: u64, observed: &Observed) -> Check {
    let findings = plan.guest.cpus(Role::Isolated).into_iter().map(|cpu| {
        let Some(record) = observed.evidence.ledger.cpus.get(cpu) else {
            return (Verdict::Error, format!("vCPU {cpu} is not in the ledger"));
        };
        let got = record.window.ipis_targeted();
        if got > most {
            let words = format!("vCPU {cpu}: {got} IPIs, at most {most} allowed");
            return (Verdict::Violated, words);
        }
        (Verdict::Held, format!("vCPU {cpu}: {got} IPIs"))
    });
    worst(ISOLATED_IPIS, findings.collect())
}

/// Nothing is said of durations without a second source for them.
fn durations_agree(observed: &Observed) -> Option<Check> {
    let each = observed.gaps.iter();
    let findings: Vec<_> = each.map(|(&cpu, record)| agree(cpu, record)).collect();
    (!findings.is_empty()).then(|| worst(DURATIONS, findings))
}

/// The task of each isolated vCPU ran in the window: one that is not there gets no IPIs either.
fn was_observed(plan: &ObservationPlan, observed: &Observed) -> Check {
    let is_load = plan.command.first().is_some_and(|word| word == LOAD);
    let command = &observed.command;
    if is_load && command.ending == Ending::Exited && command.code == u64::from(NO_LOAD) {
        let words = "the kernel offers none of these loads; their output says what it lacks";
        return Check::new(OBSERVED, Verdict::Skipped, words);
    }
    let marks = observed
        .evidence
        .windows
        .first()
        .map(|window| &window.marks);
    let findings = plan.guest.cpus(Role::Isolated).into_iter().map(|cpu| {
        let turns = marks
            .and_then(|marks| marks.get(&cpu))
            .map_or(0, |(open, close)| {
                close.heartbeat.saturating_sub(open.heartbeat)
            });
        if turns == 0 {
            let words = format!("the task of vCPU {cpu} did not run");
            return (Verdict::Error, words);
        }
        (Verdict::Held, format!("vCPU {cpu} made {turns} turns"))
    });
    let check = worst(OBSERVED, findings.collect());
    let (words, failed) = match command.ending {
        Ending::Exited => (
            format!("the command exited with {}", command.code),
            command.code != 0,
        ),
        Ending::Signalled => (
            format!("the command was killed by signal {}", command.code),
            true,
        ),
        Ending::Stopped => ("the command ran until Ctrl-C ended it".to_owned(), false),
        Ending::TimeUp => ("the command ran until its time was up".to_owned(), false),
    };
    // Nobody knows what a command that failed would have done.
    if failed && !plan.any_exit_code {
        let words = format!(
            "{words}: see what it printed; --ignore-exit-code takes that for an end like any other; {}",
            check.evidence
        );
        return Check::new(OBSERVED, Verdict::Error, words);
    }
    Check {
        evidence: format!("{words}; {}", check.evidence),
        ..check
    }
}
