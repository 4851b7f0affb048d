//! From evidence to named checks, and from checks to a verdict.
//!
//! Each file makes one or two checks ([`check`]), with what they rest on; [`overall`] makes a verdict of all. The
//! comparison of `ipirig-crosscheck` is one of them.
//!
//! What this crate does not do: run a guest (`ipirig-rig` does), or make a result of a run of it and say how to exit
//! (`ipirig-verdict`).

#![forbid(unsafe_code)]

mod causes;
pub mod check;
mod completion;
mod counters;
mod cross_check;
mod entry;
mod handlers;
mod ipis;
mod isolation;
mod joined;
mod order;
pub mod overall;
pub mod recorded;
mod sender;
pub mod soundness;
#[cfg(test)]
pub(crate) mod tests;
mod waits;
mod window;

use crate::check::Check;
use crate::recorded::RecordedEntry;
use ipirig_evidence::Evidence;
use ipirig_scenario::plan::Plan;

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
        order::danger_zone(&entries),
        order::flag_order(evidence, &entries),
        counters::kernel_counters(plan, evidence),
        soundness::nothing_lost(evidence, "a smaller storm will"),
        soundness::no_way_round(evidence),
    ];
    checks.extend(handlers::handler_work(plan, evidence));
    checks.extend(sender::sender_work(plan, evidence));
    checks.extend(causes::housekeeping_ipis(plan, evidence));
    checks.extend(waits::sender_waits(plan, evidence));
    checks.extend(entry::changes_watched(plan, evidence));
    checks.extend(entry::entries_followed(plan, &entries));
    checks.extend(cross_check::cross_check(plan, evidence));
    (checks, entry::recorded(evidence, entries))
}
