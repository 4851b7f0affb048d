//! From evidence to named checks, and from checks to the verdict.
//!
//! | some check is | and | verdict |
//! | --- | --- | --- |
//! | `violated` | whatever the others are | `violated` |
//! | `error` | none is `violated` | `error` |
//! | `skipped`, an essential one | none is `violated` or `error` | `skipped` |
//! | `held`, all essential ones | the others `held` or `skipped` | `held` |
//! | an essential one is missing altogether | none is `violated` | `error` |
//! | `changes-watched` or `entries-followed` is there | as for an essential one that is `skipped` | `skipped` |
//!
//! Which checks are essential is the plan's: that isolated CPUs were left alone always is, and where IPIs
//! are to be deferred also that the deferred work was done. A kernel that drops it leaves isolated CPUs
//! alone as well. Whoever wants to know of isolation alone has to ask for that
//! ([`Plan::isolation_only`]).
//!
//! `violated` comes before `error`: what was seen was seen, and a doubt elsewhere does not undo it.
//! A doubt that could itself have produced the finding is dealt with inside the check: it then
//! says `error`, not `violated`. `error` comes before `skipped`: a host that lacks something is no
//! excuse for a rig that cannot tell. `held` must be earned, so an essential check that nobody made
//! is an `error`.

mod causes;
mod completion;
mod counters;
mod entry;
mod handlers;
mod ipis;
mod isolation;
pub(crate) mod soundness;
#[cfg(test)]
pub(crate) mod tests;
mod waits;
mod window;

use std::fmt;

use ipirig_evidence::Evidence;
use ipirig_scenario::IsolatedIpis;
use ipirig_scenario::plan::Plan;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cross_check;
use crate::result::RecordedEntry;

/// What became of a check, and of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It was looked at, and it is so.
    Held,
    /// It was looked at, and it is not so.
    Violated,
    /// The rig could not tell.
    Error,
    /// Host or kernel lacks what is needed to look.
    Skipped,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Held => "held",
            Self::Violated => "violated",
            Self::Error => "error",
            Self::Skipped => "skipped",
        })
    }
}

/// One named question and its answer.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Check {
    /// A stable name, for machines too.
    pub name: &'static str,
    /// The answer.
    pub status: Verdict,
    /// What it rests on, in a sentence or two.
    pub evidence: String,
}

/// No IPI was sent to any isolated vCPU in the window.
pub const ISOLATED_IPIS: &str = "isolated-ipis";
/// Every isolated vCPU was in user space for the whole window.
pub const USER_SPACE: &str = "user-space-throughout";
/// Every isolated vCPU was in the kernel for the whole window, where that is what is looked at.
pub const KERNEL: &str = "kernel-throughout";
/// The storm happened.
pub const STORM_RAN: &str = "storm-ran";
/// The first entry did what was held back before it executed ordinary kernel code, and showed the
/// storm's outcome.
pub const COMPLETED: &str = "completed-on-entry";
/// Nothing that may be out of date was executed or touched before that.
pub const DANGER_ZONE: &str = "danger-zone";
/// What senders go by was set in time on the way in, and not cleared too early on the way out.
pub const FLAG_ORDER: &str = "flag-order";
/// The kernel counted deferred work, and that it was done.
pub const COUNTERS: &str = "kernel-counters";
/// The ledger is whole.
pub const NOTHING_LOST: &str = "nothing-lost";
/// No interrupt reached the guest behind the rig's back.
pub const NO_WAY_ROUND: &str = "no-way-round";
/// The guest's own trace of its IPIs agrees with the ledger. Only made where that was asked for.
pub const CROSS_CHECK: &str = "cross-check";
/// Every check of a run that came to its end, in the order of [`judge`].
pub const CHECKS: [&str; 9] = [
    ISOLATED_IPIS,
    USER_SPACE,
    STORM_RAN,
    COMPLETED,
    DANGER_ZONE,
    FLAG_ORDER,
    COUNTERS,
    NOTHING_LOST,
    NO_WAY_ROUND,
];
/// What the storm changed was seen. Only made where it was not: what was to be caught up with is then
/// not known, so there is nothing to hold.
pub const WATCHED: &str = "changes-watched";
/// An entry was followed. Only made where none was although some IPIs are allowed: what those did not do is
/// then not known to be done.
pub const FOLLOWED: &str = "entries-followed";
/// Checks that are only made where they are `skipped`, and a verdict on completion with them.
const UNKNOWN: [&str; 2] = [WATCHED, FOLLOWED];
/// Each housekeeping vCPU got every IPI, though it was in user space. Only made where it was.
pub const HOUSEKEEPING_IPIS: &str = "housekeeping-ipis";
/// Each IPI did what it was sent for before it returned. Only made where that was followed.
pub const HANDLER_WORK: &str = "handler-work";
/// No sender made its next change before the IPIs for the one before were taken. Only made where IPIs are
/// counted by cause.
pub const SENDER_WAITS: &str = "sender-waits";
/// Every isolated vCPU entered the kernel in mid-operation, and stayed. Only made where it was to.
pub const ENTERED: &str = "entered-in-mid-operation";
/// Checks that some scenarios have besides [`CHECKS`].
pub const SPECIAL: [&str; 3] = [HOUSEKEEPING_IPIS, HANDLER_WORK, SENDER_WAITS];
/// Stands for all others when a run ended before there was evidence.
pub const RUN: &str = "run";

/// Checks of which a run needs one that is `held`.
type AnyOf = &'static [&'static str];

/// Checks without which no run can be `held`: isolation.
const ISOLATION: [AnyOf; 4] = [
    &[ISOLATED_IPIS],
    &[USER_SPACE, KERNEL, ENTERED],
    &[STORM_RAN],
    &[NOTHING_LOST],
];
/// Those that say, too, that deferred work was done, and in time.
const COMPLETION: [AnyOf; 3] = [&[COMPLETED], &[DANGER_ZONE], &[FLAG_ORDER]];

/// Those that say that IPIs which came did their work.
const HANDLED: [AnyOf; 1] = [&[HANDLER_WORK]];

/// What has to be `held` besides [`ISOLATION`]. Where some IPIs are allowed, those that come may do the
/// work, and leave nothing for the entry to do: then it is enough that none of [`UNKNOWN`] is there.
fn completion(plan: &Plan) -> &'static [AnyOf] {
    match plan.scenario.expect.isolated {
        _ if plan.isolation_only => &[],
        _ if plan.scenario.expect.handlers => &HANDLED,
        IsolatedIpis::AtMost(0) => &COMPLETION,
        IsolatedIpis::AtMost(_) | IsolatedIpis::AtLeast(_) => &[],
    }
}

impl Check {
    /// What `name` found.
    pub fn new(name: &'static str, status: Verdict, evidence: impl Into<String>) -> Self {
        Self {
            name,
            status,
            evidence: evidence.into(),
        }
    }
}

/// Makes every check, in the order in which people want to read them, and gives the entries that
/// they rest on.
#[must_use]
pub fn judge(plan: &Plan, evidence: &Evidence) -> (Vec<Check>, Vec<RecordedEntry>) {
    let isolated_ipis = ipis::isolated_ipis(plan, evidence);
    let entries = entry::judge(plan, evidence);
    let user_space = window::user_space_throughout(plan, evidence, isolated_ipis.status);
    let mut checks = vec![
        isolated_ipis,
        user_space,
        soundness::storm_ran(plan, evidence),
        completion::completed_on_entry(plan, evidence, &entries),
        entry::danger_zone(&entries),
        entry::flag_order(evidence, &entries),
        counters::kernel_counters(plan, evidence),
        soundness::nothing_lost(evidence),
        soundness::no_way_round(evidence),
    ];
    checks.extend(handlers::handler_work(plan, evidence));
    checks.extend(causes::housekeeping_ipis(plan, evidence));
    checks.extend(waits::sender_waits(plan, evidence));
    checks.extend(entry::changes_watched(plan, evidence));
    checks.extend(entry::entries_followed(plan, &entries));
    checks.extend(cross_check::check(plan, evidence));
    (checks, entry::recorded(evidence, entries))
}

/// Whether a run would be `held` if it were for isolation alone.
#[must_use]
pub fn isolation_held(checks: &[Check]) -> bool {
    on(checks, &[]) == Verdict::Held
}

/// The verdict on a run; the table above.
#[must_use]
pub fn overall(plan: &Plan, checks: &[Check]) -> Verdict {
    let verdict = on(checks, completion(plan));
    let unknown = checks.iter().any(|check| UNKNOWN.contains(&check.name));
    if verdict == Verdict::Held && unknown && !plan.isolation_only {
        Verdict::Skipped
    } else {
        verdict
    }
}

/// The verdict where `completion` is essential besides [`ISOLATION`].
fn on(checks: &[Check], completion: &[AnyOf]) -> Verdict {
    let any = |status| checks.iter().any(|check| check.status == status);
    if any(Verdict::Violated) {
        return Verdict::Violated;
    }
    if any(Verdict::Error) {
        return Verdict::Error;
    }
    // A run that ended before there was evidence has one check, which says why.
    if let [only] = checks
        && only.name == RUN
    {
        return if only.status == Verdict::Held {
            Verdict::Error
        } else {
            only.status
        };
    }
    let mut verdict = Verdict::Held;
    for essential in ISOLATION.iter().chain(completion) {
        match checks
            .iter()
            .find(|check| essential.contains(&check.name))
            .map(|check| check.status)
        {
            Some(Verdict::Held) => {}
            Some(_) => verdict = Verdict::Skipped,
            None => return Verdict::Error,
        }
    }
    verdict
}

/// Joins what was found of several entries: as [`worst`], but what could not be looked at does not
/// hide what was.
fn joined(name: &'static str, findings: Vec<(Verdict, String)>) -> Check {
    let is = |status| move |finding: &(Verdict, String)| finding.0 == status;
    let looked = findings.iter().any(is(Verdict::Held));
    if !looked || !findings.iter().any(is(Verdict::Skipped)) {
        return worst(name, findings);
    }
    let (skipped, seen): (Vec<_>, Vec<_>) = findings.into_iter().partition(is(Verdict::Skipped));
    let mut check = worst(name, seen);
    if check.status == Verdict::Held {
        let words: Vec<String> = skipped.into_iter().map(|(_, words)| words).collect();
        check.evidence = format!("{}; not looked at: {}", check.evidence, words.join("; "));
    }
    check
}

/// Joins what was found, worst first: the status of the worst and the words of all that share it.
pub(crate) fn worst(name: &'static str, findings: Vec<(Verdict, String)>) -> Check {
    let rank = |status| match status {
        Verdict::Violated => 3,
        Verdict::Error => 2,
        Verdict::Skipped => 1,
        Verdict::Held => 0,
    };
    let status = findings
        .iter()
        .map(|(status, _)| *status)
        .max_by_key(|status| rank(*status))
        // Nothing looked at is nothing known.
        .unwrap_or(Verdict::Error);
    let words: Vec<String> = findings
        .into_iter()
        .filter(|(s, _)| *s == status)
        .map(|(_, words)| words)
        .collect();
    let evidence = if words.is_empty() {
        "there was nothing to look at".to_owned()
    } else {
        words.join("; ")
    };
    Check {
        name,
        status,
        evidence,
    }
}
