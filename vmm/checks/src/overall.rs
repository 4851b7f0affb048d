//! From checks to the verdict.
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

use ipirig_scenario::IsolatedIpis;
use ipirig_scenario::plan::Plan;

use crate::check::{
    COMPLETED, Check, DANGER_ZONE, ENTERED, FLAG_ORDER, HANDLER_WORK, ISOLATED_IPIS, KERNEL,
    NOTHING_LOST, RUN, SENDER_WORK, STORM_RAN, UNKNOWN, USER_SPACE, Verdict,
};

/// Checks of which a run needs one that is `held`.
pub(crate) type AnyOf = &'static [&'static str];

/// Checks without which no run can be `held`: isolation.
pub(crate) const ISOLATION: [AnyOf; 4] = [
    &[ISOLATED_IPIS],
    &[USER_SPACE, KERNEL, ENTERED],
    &[STORM_RAN],
    &[NOTHING_LOST],
];
/// Those that say, too, that deferred work was done, and in time.
const COMPLETION: [AnyOf; 3] = [&[COMPLETED], &[DANGER_ZONE], &[FLAG_ORDER]];

/// Those that say that IPIs which came did their work, and their sender its own.
const HANDLED: [AnyOf; 2] = [&[HANDLER_WORK], &[SENDER_WORK]];

/// What has to be `held` besides [`ISOLATION`]. Where some IPIs are allowed, those that come may do the
/// work, and leave nothing for the entry to do: then it is enough that none of [`UNKNOWN`] is there.
pub(crate) fn completion(plan: &Plan) -> &'static [AnyOf] {
    match plan.scenario.expect.isolated {
        _ if plan.isolation_only => &[],
        _ if plan.scenario.expect.handlers => &HANDLED,
        IsolatedIpis::AtMost(0) => &COMPLETION,
        IsolatedIpis::AtMost(_) | IsolatedIpis::AtLeast(_) => &[],
    }
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
