//! What is not as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};

use ipirig_scenario::EntryKind;

use super::baseline::{Baseline, Count};
use super::entries::EntryRelations;
use super::read::{Recorded, RecordedFlag, plain};

/// Most causes that are named for a change.
const CAUSES_MAX: usize = 5;
/// Most calls of a chain that are named.
const CALLS_MAX: usize = 4;

/// Something that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What.
    pub what: String,
    /// How it was.
    pub was: String,
    /// How it is.
    pub is: String,
    /// What is known about why, a line each.
    pub why: Vec<String>,
}

/// What of `run` is not as `baseline` has it, most telling first.
#[must_use]
pub fn changes(baseline: &Baseline, run: &Recorded) -> Vec<Change> {
    let now = Baseline::of(run);
    let mut found = Found::default();
    found.value("operations", &baseline.operations, &now.operations);
    found.values("vCPUs, ", "", &baseline.vcpus, &now.vcpus, "0");
    found.value("verdict", &baseline.verdict, &now.verdict);
    let from = found.changes.len();
    found.values("check ", "", &baseline.checks, &now.checks, "absent");
    for change in found.changes.iter_mut().skip(from) {
        let named = |name: &str| change.what.strip_prefix("check ") == Some(name);
        let check = run.checks.iter().find(|check| named(&check.name));
        change.why = check
            .map(|check| plain(&check.evidence))
            .into_iter()
            .collect();
    }
    let from = found.changes.len();
    let none = Count::exact(0);
    for kind in keys(&baseline.isolated_ipis, &now.isolated_ipis) {
        let get = |counts: &BTreeMap<String, Count>| counts.get(kind).copied().unwrap_or(none);
        let (was, is) = (get(&baseline.isolated_ipis), get(&now.isolated_ipis));
        let what = format!("IPIs to isolated vCPUs, {}", plain(kind));
        found.count(&what, Some(was), Some(is), now.operations);
    }
    if let Some(change) = found.changes.get_mut(from) {
        change.why = causes(run);
    }
    // One that sends at times, as an isolated vCPU that wakes another, need not.
    if !now.isolated_senders.is_subset(&baseline.isolated_senders) {
        found.value(
            "senders of IPIs to isolated vCPUs",
            &list(&baseline.isolated_senders),
            &list(&now.isolated_senders),
        );
    }
    let (was, is) = (baseline.housekeeping_ipis, now.housekeeping_ipis);
    found.count(
        "IPIs to housekeeping vCPUs",
        Some(was),
        Some(is),
        now.operations,
    );
    found.count("deferred", baseline.deferred, now.deferred, now.operations);
    found.count(
        "caught up",
        baseline.caught_up,
        now.caught_up,
        now.operations,
    );
    for kind in keys(&baseline.entries, &now.entries) {
        let (was, is) = (baseline.entries.get(kind), now.entries.get(kind));
        // What not every CPU has is compared where both have it.
        let by_cpu = EntryKind::find(kind).is_some_and(EntryKind::depends_on_cpu);
        if by_cpu && (was.is_none() || is.is_none()) {
            continue;
        }
        let from = found.changes.len();
        found.entry(&plain(kind), was, is);
        if let Some(change) = found.changes.get_mut(from) {
            change.why = entries(run, kind);
        }
    }
    found.changes
}

#[derive(Default)]
struct Found {
    changes: Vec<Change>,
}

impl Found {
    fn push(&mut self, what: &str, was: String, is: String) {
        self.changes.push(Change {
            what: what.to_owned(),
            was,
            is,
            why: Vec::new(),
        });
    }

    fn value<T: Display + PartialEq>(&mut self, what: &str, was: &T, is: &T) {
        if was != is {
            self.push(what, was.to_string(), is.to_string());
        }
    }

    /// Compares what is under each key of either; `absent` stands for nothing.
    fn values<T: Display + PartialEq>(
        &mut self,
        before: &str,
        after: &str,
        was: &BTreeMap<String, T>,
        is: &BTreeMap<String, T>,
        absent: &str,
    ) {
        for key in keys(was, is) {
            let (was, is) = (was.get(key), is.get(key));
            if was != is {
                let shown = |value: Option<&T>| value.map_or(absent.to_owned(), T::to_string);
                let what = format!("{before}{}{after}", plain(key));
                self.push(&what, shown(was), shown(is));
            }
        }
    }

    fn entry(&mut self, kind: &str, was: Option<&EntryRelations>, is: Option<&EntryRelations>) {
        let (Some(was), Some(is)) = (was, is) else {
            let recorded = |entry: Option<_>| entry.map_or("not recorded", |_| "recorded");
            let what = format!("entry by {kind}");
            return self.value(&what, &recorded(was), &recorded(is));
        };
        let what = |relation: &str| format!("entry by {kind}, {relation}");
        self.value(&what("catch-up"), &was.catch_up, &is.catch_up);
        self.value(
            &what("before the catch-up"),
            &list(&was.danger),
            &list(&is.danger),
        );
        self.value(&what("flag set"), &was.flag_set, &is.flag_set);
        if let (Some(was), Some(is)) = (was.flag_cleared, is.flag_cleared) {
            self.value(&what("flag cleared"), &was, &is);
        }
    }

    fn count(&mut self, what: &str, was: Option<Count>, is: Option<Count>, operations: u64) {
        let shown = |count: Option<Count>| {
            count.map_or("not counted".to_owned(), |count| count.count.to_string())
        };
        let same = match (was, is) {
            (Some(was), Some(is)) => was.allows(is.count),
            (was, is) => was.is_none() && is.is_none(),
        };
        if same {
            return;
        }
        let mut before = shown(was);
        if let Some(tolerance) = was.map(|was| was.tolerance).filter(|t| *t > 0) {
            let _ = write!(before, " ± {tolerance}");
        }
        let mut now = shown(is);
        if let Some(is) = is
            && operations > 0
        {
            #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
            let rate = is.count as f64 / operations as f64;
            let _ = write!(now, " ({rate:.2} an operation)");
        }
        self.push(what, before, now);
    }
}

/// The keys of both, in order.
fn keys<'a, T>(a: &'a BTreeMap<String, T>, b: &'a BTreeMap<String, T>) -> BTreeSet<&'a str> {
    a.keys().chain(b.keys()).map(String::as_str).collect()
}

fn list(words: &BTreeSet<String>) -> String {
    if words.is_empty() {
        return "none".to_owned();
    }
    let words: Vec<String> = words.iter().map(|word| plain(word)).collect();
    words.join(", ")
}

/// What the result says of the entries of one kind: instructions of this run, or why there are none.
fn entries(run: &Recorded, kind: &str) -> Vec<String> {
    let of_kind = run.entries.iter().filter(|entry| entry.kind == kind);
    let words = of_kind.map(|entry| match (&entry.audit, &entry.why) {
        (Some(audit), _) => {
            let step = |step: Option<u64>| step.map_or("none".to_owned(), |n| n.to_string());
            let flag = match audit.flag {
                RecordedFlag::Unknown => String::new(),
                RecordedFlag::Known { set, .. } => format!("flag set {}, ", step(set)),
            };
            format!(
                "by instruction: {flag}caught up {}, first patchable {}",
                step(audit.executed()),
                step(audit.first_instrumentable)
            )
        }
        (None, why) => plain(why.as_deref().unwrap_or("no record")),
    });
    words.collect()
}

/// Who sent IPIs to isolated vCPUs, as far as the result says, most first.
fn causes(run: &Recorded) -> Vec<String> {
    let isolated: BTreeSet<usize> = run
        .vcpus
        .iter()
        .filter(|vcpu| vcpu.role == "isolated")
        .map(|vcpu| vcpu.id)
        .collect();
    let mut causes: Vec<(u64, String)> = Vec::new();
    for blame in &run.blame {
        let to_isolated = blame
            .targets
            .iter()
            .filter(|(cpu, _)| isolated.contains(cpu));
        let sent = to_isolated.fold(0_u64, |sum, (_, sent)| sum.saturating_add(*sent));
        if sent == 0 {
            continue;
        }
        let calls: Vec<String> = blame
            .chain
            .iter()
            .filter_map(|frame| frame.function.as_deref())
            .take(CALLS_MAX)
            .map(plain)
            .collect();
        let by = if calls.is_empty() {
            String::new()
        } else {
            format!(": {}", calls.join(" < "))
        };
        let cause = plain(&blame.cause);
        causes.push((sent, format!("{sent} {cause}, vCPU {}{by}", blame.source)));
    }
    causes.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    causes.truncate(CAUSES_MAX);
    causes.into_iter().map(|(_, words)| words).collect()
}
