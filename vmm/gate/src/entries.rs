//! What must stay as it is of a kernel entry: relations between what it executes, which are those of the
//! kernel on every host. By which instruction it does something is one host's, and is not compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipirig_checks::check::{COMPLETED, Verdict};
use serde::{Deserialize, Serialize};

use super::read::{Recorded, RecordedAudit, RecordedFlag};

/// The relations of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryRelations {
    /// When the deferred work was executed.
    pub catch_up: CatchUp,
    /// What the entry must not do before the catch-up, but did: kinds of the audit's findings.
    pub danger: BTreeSet<String>,
    /// When the flag that senders read was set.
    pub flag_set: FlagSet,
    /// When the flag was cleared. Absent if the record ends before the way out, which depends on how
    /// much the host lets the kernel do; it is compared only where both have it.
    pub flag_cleared: Option<FlagCleared>,
}

/// When an entry executed what was deferred. The worse is the greater, here and below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CatchUp {
    /// Before the first instruction outside entry and noinstr text, which may be patched.
    BeforeInstrumentable,
    /// Only after that.
    AfterInstrumentable,
    /// Not that anybody saw.
    Never,
}

/// When an entry set the flag that senders read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlagSet {
    /// The kernel has no flag that is known.
    NoFlag,
    /// Before the catch-up, or before there was anything to catch up with.
    BeforeCatchUp,
    /// After the catch-up: what senders deferred in between is lost.
    AfterCatchUp,
    /// Not at all.
    Never,
}

/// When the way out cleared the flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlagCleared {
    /// Once the user page table was loaded.
    AfterUserTable,
    /// Before that, or without.
    BeforeUserTable,
    /// Not at all, although the CPU came back to user space.
    Never,
}

impl fmt::Display for CatchUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BeforeInstrumentable => "before the first patchable instruction",
            Self::AfterInstrumentable => "after the first patchable instruction",
            Self::Never => "never",
        })
    }
}

impl fmt::Display for FlagSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoFlag => "no known flag",
            Self::BeforeCatchUp => "before the catch-up",
            Self::AfterCatchUp => "after the catch-up",
            Self::Never => "never",
        })
    }
}

impl fmt::Display for FlagCleared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AfterUserTable => "after the user page table is loaded",
            Self::BeforeUserTable => "before the user page table is loaded",
            Self::Never => "never",
        })
    }
}

impl EntryRelations {
    /// The relations of each first entry of `run`, by entry kind; the worst if several isolated vCPUs
    /// entered in that way. Empty where nothing was deferred.
    pub(super) fn of(run: &Recorded) -> BTreeMap<String, Self> {
        let completed = run.checks.iter().find(|check| check.name == COMPLETED);
        let deferred = completed
            .is_some_and(|check| matches!(check.status, Verdict::Held | Verdict::Violated));
        let mut all: BTreeMap<String, Self> = BTreeMap::new();
        for entry in run.entries.iter().filter(|_| deferred) {
            let Some(audit) = &entry.audit else {
                continue;
            };
            let relations = Self::of_audit(audit);
            all.entry(entry.kind.clone())
                .and_modify(|worst| worst.worsen(&relations))
                .or_insert(relations);
        }
        all
    }

    fn of_audit(audit: &RecordedAudit) -> Self {
        let executed = audit.executed();
        Self {
            catch_up: match (executed, audit.first_instrumentable) {
                (None, _) => CatchUp::Never,
                (Some(step), Some(limit)) if step >= limit => CatchUp::AfterInstrumentable,
                (Some(_), _) => CatchUp::BeforeInstrumentable,
            },
            danger: audit.danger.iter().map(|one| one.what.clone()).collect(),
            flag_set: flag_set(audit, executed),
            flag_cleared: flag_cleared(audit),
        }
    }

    fn worsen(&mut self, other: &Self) {
        self.catch_up = self.catch_up.max(other.catch_up);
        self.danger.extend(other.danger.iter().cloned());
        self.flag_set = self.flag_set.max(other.flag_set);
        self.flag_cleared = self.flag_cleared.max(other.flag_cleared);
    }
}

impl RecordedAudit {
    /// The instruction after which all that was deferred had been executed; 0 if there was nothing.
    pub(super) fn executed(&self) -> Option<u64> {
        Some(self.text_cleared?.max(self.translations_cleared?))
    }
}

/// `audit.catch_up` is when all was executed with the flag set. If that was too late or never, although
/// all was executed in time, a part of it was before the flag.
fn flag_set(audit: &RecordedAudit, executed: Option<u64>) -> FlagSet {
    let RecordedFlag::Known { set, .. } = audit.flag else {
        return FlagSet::NoFlag;
    };
    let Some(set) = set else {
        return FlagSet::Never;
    };
    let in_time = |step: u64| audit.first_instrumentable.is_none_or(|limit| step < limit);
    let nothing_pending = executed == Some(0);
    let caught_up_after = audit
        .catch_up
        .is_some_and(|step| set < step && in_time(step));
    if !nothing_pending && !caught_up_after && executed.is_some_and(in_time) {
        FlagSet::AfterCatchUp
    } else {
        FlagSet::BeforeCatchUp
    }
}

fn flag_cleared(audit: &RecordedAudit) -> Option<FlagCleared> {
    let RecordedFlag::Known {
        cleared,
        user_table,
        ..
    } = audit.flag
    else {
        return None;
    };
    if audit.ended != "user" {
        return None;
    }
    Some(match (cleared, user_table) {
        (None, _) => FlagCleared::Never,
        (Some(cleared), Some(table)) if table < cleared => FlagCleared::AfterUserTable,
        (Some(_), _) => FlagCleared::BeforeUserTable,
    })
}
