//! What must not be done before an entry has caught up, and when the flag must be set and cleared.

use ipirig_entry::{Finding, Flag, What};
use ipirig_evidence::Evidence;

use super::entry::{Audited, EntryFinding, Judged, findings, nothing_deferred};
use crate::check::{Check, DANGER_ZONE, FLAG_ORDER, Verdict, joined};

/// Findings of one entry that a check's evidence shows.
const FINDINGS_SHOWN: usize = 3;

/// Was anything that may be out of date executed or touched before the catch-up?
pub(super) fn danger_zone(entries: &[Judged]) -> Check {
    let look = |audited: &Audited| {
        if let Some(skipped) = nothing_deferred(audited) {
            return skipped;
        }
        let audit = &audited.audit;
        if !audit.danger.is_empty() {
            return EntryFinding::Other(Verdict::Violated, shown(&audit.danger));
        }
        let not_known: Vec<String> = [
            ("text executed there was patched", &audited.text),
            ("memory touched there was unmapped", &audited.translations),
        ]
        .into_iter()
        .filter_map(|(what, known)| {
            let why = known.everything.as_ref()?;
            Some(format!("whether {what} is not known: {why}"))
        })
        .collect();
        if !not_known.is_empty() {
            return EntryFinding::Other(Verdict::Skipped, not_known.join("; "));
        }
        EntryFinding::Held {
            shared: "nothing patchable executed and no stale memory touched before that, in \
                     instructions"
                .to_owned(),
            own: audit.danger_zone.to_string(),
        }
    };
    joined(DANGER_ZONE, findings(entries, look))
}

/// Was the flag that senders read set before the catch-up, and cleared only once the user page table
/// was loaded?
pub(super) fn flag_order(evidence: &Evidence, entries: &[Judged]) -> Check {
    if let Ok(layout) = &evidence.layout
        && layout.flag().is_none()
    {
        let words = "the kernel has no flag that is known: kernel_cr3 or kernel_cr3_loaded";
        return Check::new(FLAG_ORDER, Verdict::Skipped, words);
    }
    if let Some(paging) = evidence.paging
        && !paging.isolated
    {
        let words = "page table isolation is off: there is no kernel page table to load at entry";
        return Check::new(FLAG_ORDER, Verdict::Skipped, words);
    }
    let look = |audited: &Audited| {
        let audit = &audited.audit;
        // With PCIDs, an entry that has nothing to catch up with may keep its translations.
        let needless =
            |finding: &Finding| audited.by_ipis > 0 && finding.what == What::NoCatchUpAfterFlag;
        let order: Vec<Finding> = audit
            .order
            .iter()
            .filter(|f| !needless(f))
            .cloned()
            .collect();
        if !order.is_empty() {
            return EntryFinding::Other(Verdict::Violated, shown(&order));
        }
        let late = order.len() < audit.order.len() || audit.catch_up.is_none();
        if let (true, Some(skipped)) = (late, nothing_deferred(audited)) {
            return skipped;
        }
        let Flag::Known {
            set: Some(set),
            cleared,
            user_table,
            ..
        } = &audit.flag
        else {
            return EntryFinding::Other(Verdict::Error, "the flag was not followed".to_owned());
        };
        let Some(catch_up) = audit.catch_up else {
            return EntryFinding::Other(Verdict::Error, "no catch-up to compare with".to_owned());
        };
        let way_out = match (user_table, cleared) {
            (Some(_), Some(_)) => "cleared with the user page table loaded",
            _ => "the way out not recorded",
        };
        EntryFinding::Held {
            shared: format!("flag set before the catch-up, {way_out}; by instruction"),
            own: format!("{set} < {catch_up}"),
        }
    };
    joined(FLAG_ORDER, findings(entries, look))
}

fn shown(findings: &[Finding]) -> String {
    let mut words: Vec<String> = findings
        .iter()
        .take(FINDINGS_SHOWN)
        .map(ToString::to_string)
        .collect();
    if findings.len() > FINDINGS_SHOWN {
        words.push(format!("and {} more", findings.len() - FINDINGS_SHOWN));
    }
    words.join(", ")
}
