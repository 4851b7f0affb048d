//! A check: its name, its status, and what it rests on.

use std::collections::BTreeMap;
use std::fmt;

use ipirig_sweep::SweepResult;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

impl Verdict {
    /// That of a sweep, whose crate stands below this one and has it by name.
    #[must_use]
    pub fn of(sweep: &SweepResult) -> Self {
        match sweep.verdict.as_str() {
            "held" => Self::Held,
            "violated" => Self::Violated,
            "skipped" => Self::Skipped,
            _ => Self::Error,
        }
    }
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
/// The first entry did what was deferred before it executed ordinary kernel code, and showed the
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
/// Every check of a run that came to its end, in the order of [`judge`](crate::judge).
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
pub(crate) const UNKNOWN: [&str; 2] = [WATCHED, FOLLOWED];
/// Each housekeeping vCPU got every IPI, though it was in user space. Only made where it was.
pub const HOUSEKEEPING_IPIS: &str = "housekeeping-ipis";
/// Each IPI did what it was sent for before it returned. Only made where that was followed.
pub const HANDLER_WORK: &str = "handler-work";
/// Each sender did for itself what its IPIs have others do. Only made where that was followed.
pub const SENDER_WORK: &str = "sender-work";
/// No sender made its next change before the IPIs for the one before were taken. Only made where IPIs are
/// counted by cause.
pub const SENDER_WAITS: &str = "sender-waits";
/// Every isolated vCPU entered the kernel in mid-operation, and stayed. Only made where it was to.
pub const ENTERED: &str = "entered-in-mid-operation";
/// Checks that some scenarios have besides [`CHECKS`].
pub const SPECIAL: [&str; 4] = [HOUSEKEEPING_IPIS, HANDLER_WORK, SENDER_WORK, SENDER_WAITS];
/// Stands for all others when a run ended before there was evidence.
pub const RUN: &str = "run";

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

/// Joins what was found of several entries: as [`worst`], but what could not be looked at does not
/// hide what was.
pub(crate) fn joined(name: &'static str, findings: Vec<(Verdict, String)>) -> Check {
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
pub fn worst(name: &'static str, findings: Vec<(Verdict, String)>) -> Check {
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

/// `call-function 300, reschedule 3`
pub(crate) fn list<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    counts
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use ipirig_sweep::result::{SCHEMA_VERSION, Timing};

    use super::*;

    #[test]
    fn a_sweep_has_the_verdict_of_that_name_and_an_unknown_name_is_an_error() {
        use Verdict::{Error, Held, Skipped, Violated};
        let of = |name: &str| {
            Verdict::of(&SweepResult {
                schema_version: SCHEMA_VERSION,
                verdict: name.to_owned(),
                why: None,
                shard: "1/1".to_owned(),
                complete: true,
                kernel: None,
                paths: vec![],
                points: vec![],
                timing: Timing::default(),
            })
        };
        for (name, verdict) in ["held", "violated", "error", "skipped"]
            .into_iter()
            .zip([Held, Violated, Error, Skipped])
        {
            assert_eq!(
                (of(name), format!("{verdict:>9}")),
                (verdict, format!("{name:>9}"))
            );
        }
        assert_eq!(of("Held"), Error);
    }
}
