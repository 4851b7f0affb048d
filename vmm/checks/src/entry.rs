//! What each recorded entry says: was everything done in time? What must not come before that, and the order of the
//! flag, is looked at in `order`.

use std::collections::BTreeSet;

use ipirig_abi::{Changes, Role};
use ipirig_entry::{Audit, Ended, Listing, Pending, PendingInput, Switch, audit};
use ipirig_evidence::ledger::changes::Changed;
use ipirig_evidence::{Evidence, NoRecord, WindowRecord};
use ipirig_scenario::plan::Plan;
use ipirig_scenario::{EntryKind, IsolatedIpis};

use crate::check::{Check, FOLLOWED, Verdict, WATCHED};
use crate::recorded::RecordedEntry;

/// One entry of one isolated vCPU, judged.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) kind: EntryKind,
    pub(crate) cpu: usize,
    pub(crate) outcome: Outcome,
}

/// What there is to say of an entry.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// This.
    Audit(Box<Audited>),
    /// Nothing, as host or kernel lacks something.
    Skipped(String),
    /// Nothing, although there should be.
    Error(String),
}

/// An audit, with what it was about.
#[derive(Debug)]
pub(crate) struct Audited {
    pub(crate) audit: Audit,
    /// The work was done by IPIs in the window, this many: nothing was left for the entry.
    pub(crate) by_ipis: u64,
    /// What was pending, in words.
    pub(crate) pending: String,
    /// Patched text.
    pub(super) text: Known,
    /// Unmapped memory.
    pub(super) translations: Known,
}

/// What is known of one kind of changes in a window.
#[derive(Debug)]
pub(super) struct Known {
    /// The storm makes them.
    needed: bool,
    /// Why it is not known which were made, if it is not: all may have been.
    pub(super) everything: Option<String>,
    /// They could not be watched, so that none may have been made.
    blind: bool,
}

impl Known {
    fn new(needed: bool, pending: &Pending, blind: bool) -> Self {
        Self {
            needed,
            everything: match pending {
                Pending::Everything { why } => Some(why.clone()),
                Pending::Known(_) => None,
            },
            blind,
        }
    }
}

/// Whether the storm patches text, and whether it unmaps memory by the functions that are watched.
fn needed(plan: &Plan) -> (bool, bool) {
    let (mut text, mut translations) = (false, false);
    for part in plan.scenario.storm.parts() {
        match part.changes {
            Changes::Text => text = true,
            // A flush after a change of attributes need not go by the functions that are watched.
            Changes::Tlb => translations |= !plan.scenario.expect.delivered(),
            Changes::Some => {}
        }
    }
    (text, translations)
}

/// What the storm changed and could not be watched, where work is to be deferred.
pub(super) fn changes_watched(plan: &Plan, evidence: &Evidence) -> Option<Check> {
    if plan.scenario.expect.delivered() || evidence.layout.is_err() {
        return None;
    }
    let (text, translations) = needed(plan);
    let mut words = Vec::new();
    for window in &evidence.windows {
        let blind = &window.changed.blind;
        let text = blind.text.as_ref().filter(|_| text);
        let mappings = blind.mappings.as_ref().filter(|_| translations);
        words.extend(text.map(|why| format!("text that is patched: {why}")));
        words.extend(mappings.map(|why| format!("memory that is unmapped: {why}")));
    }
    words.sort_unstable();
    words.dedup();
    if words.is_empty() {
        return None;
    }
    let words = format!("cannot be watched: {}", words.join("; "));
    Some(Check::new(WATCHED, Verdict::Skipped, words))
}

/// Why no entry was followed, where IPIs that are allowed may have done only some of the work.
pub(super) fn entries_followed(plan: &Plan, entries: &[Judged]) -> Option<Check> {
    if !matches!(plan.scenario.expect.isolated, IsolatedIpis::AtMost(1..)) {
        return None;
    }
    let mut words: Vec<&str> = Vec::new();
    for entry in entries {
        match &entry.outcome {
            Outcome::Skipped(why) if words.contains(&why.as_str()) => {}
            Outcome::Skipped(why) => words.push(why),
            Outcome::Audit(_) | Outcome::Error(_) => return None,
        }
    }
    Some(Check::new(FOLLOWED, Verdict::Skipped, words.join("; ")))
}

/// Judges every entry after every window.
pub(crate) fn judge(plan: &Plan, evidence: &Evidence) -> Vec<Judged> {
    let mut all = Vec::new();
    for window in &evidence.windows {
        for cpu in plan.cpus(Role::Isolated) {
            let outcome = one(plan, evidence, window, cpu);
            all.push(Judged {
                kind: window.entry,
                cpu,
                outcome,
            });
        }
    }
    all
}

fn one(plan: &Plan, evidence: &Evidence, window: &WindowRecord, cpu: usize) -> Outcome {
    let layout = match &evidence.layout {
        Ok(layout) => layout,
        Err(why) => return Outcome::Skipped(why.clone()),
    };
    let record = match window.records.get(&cpu) {
        Some(Ok(record)) => record,
        Some(Err(NoRecord::CannotStep)) => {
            return Outcome::Skipped("this host's KVM cannot stop a guest kernel".to_owned());
        }
        Some(Err(NoRecord::InKernel)) => {
            return Outcome::Skipped("it was in the kernel all the while: no entry".to_owned());
        }
        Some(Err(NoRecord::NotProduced)) => {
            return Outcome::Skipped("this host or guest cannot produce it".to_owned());
        }
        Some(Err(NoRecord::NotSeen)) | None => {
            return Outcome::Error("the entry was not seen".to_owned());
        }
    };
    if let Err(why) = record.check(window.entry.began()) {
        return Outcome::Error(format!("its trace says nothing: {why}"));
    }
    let changed = &window.changed;
    let (text, translations) = needed(plan);
    for (needed, pending, what) in [
        (text, &changed.text, "patched"),
        (translations, &changed.translations, "unmapped"),
    ] {
        if needed && pending.is_empty() {
            return Outcome::Error(format!("nothing was seen to be {what} in the window"));
        }
    }
    let input = PendingInput {
        text: changed.text.clone(),
        translations: changed.translations.clone(),
        // User space runs only after all of them were applied (init/main.c, kernel_init), and a
        // module's are applied before it is live.
        alternatives_open: false,
        paging: evidence.paging.unwrap_or_default(),
    };
    Outcome::Audit(Box::new(Audited {
        audit: audit(record, layout, &input),
        by_ipis: window.ipis.get(&cpu).copied().unwrap_or_default(),
        pending: in_words(changed),
        text: Known::new(text, &changed.text, changed.blind.text.is_some()),
        translations: Known::new(
            translations,
            &changed.translations,
            changed.blind.mappings.is_some(),
        ),
    }))
}

/// What was pending. What was not watched is not said to be none.
fn in_words(changed: &Changed) -> String {
    let pokes = match changed.blind.text {
        Some(_) => "pokes not watched".to_owned(),
        None => plural(changed.pokes, "poke"),
    };
    let flushes = match changed.blind.mappings {
        Some(_) => "flushes not watched".to_owned(),
        None => plural(changed.flushes, "flush"),
    };
    format!("{pokes}, {flushes}")
}

/// `1 poke`, `2 flushes`.
fn plural(count: u64, what: &str) -> String {
    let ending = match (count, what.ends_with('h')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{count} {what}{ending}")
}

/// The entries as results have them.
pub(super) fn recorded(evidence: &Evidence, entries: Vec<Judged>) -> Vec<RecordedEntry> {
    entries
        .into_iter()
        .map(|entry| {
            let window = evidence.windows.iter().find(|w| w.entry == entry.kind);
            let record = window
                .and_then(|window| window.records.get(&entry.cpu))
                .and_then(|record| record.as_ref().ok());
            let (audit, why) = match entry.outcome {
                Outcome::Audit(audited) => (Some(audited.audit), None),
                Outcome::Skipped(why) | Outcome::Error(why) => (None, Some(why)),
            };
            let listing = record
                .zip(evidence.layout.as_ref().ok())
                .zip(audit.as_ref())
                .map(|((record, layout), audit)| Listing::new(record, layout, audit));
            RecordedEntry {
                cpu: entry.cpu,
                kind: entry.kind.name(),
                title: entry.kind.to_string(),
                listing,
                audit,
                why,
            }
        })
        .collect()
}

/// What a check finds at one entry.
pub(super) enum EntryFinding {
    /// All is well: what all such entries share, and what is this one's own.
    Held { shared: String, own: String },
    /// Something else.
    Other(Verdict, String),
}

/// What `look` finds at each entry; those that share what they say are said once.
pub(super) fn findings(
    entries: &[Judged],
    look: impl Fn(&Audited) -> EntryFinding,
) -> Vec<(Verdict, String)> {
    let mut said: Vec<(Verdict, usize, String, Vec<String>)> = Vec::new();
    for entry in entries {
        let looked = match &entry.outcome {
            Outcome::Audit(audited) => look(audited),
            Outcome::Skipped(why) => EntryFinding::Other(Verdict::Skipped, why.clone()),
            Outcome::Error(why) => EntryFinding::Other(Verdict::Error, why.clone()),
        };
        let (status, words, item) = match looked {
            EntryFinding::Held { shared, own } => {
                (Verdict::Held, shared, format!("{} {own}", entry.kind))
            }
            EntryFinding::Other(status, words) => (status, words, entry.kind.to_string()),
        };
        let same = said
            .iter_mut()
            .find(|(s, cpu, w, _)| (*s, *cpu, w) == (status, entry.cpu, &words));
        match same {
            Some((.., items)) => items.push(item),
            None => said.push((status, entry.cpu, words, vec![item])),
        }
    }
    let sentence = |(status, cpu, words, items): (Verdict, usize, String, Vec<String>)| {
        let items = items.join(", ");
        let text = if status == Verdict::Held {
            format!("vCPU {cpu}: {words}: {items}")
        } else {
            format!("vCPU {cpu}, {items}: {words}")
        };
        (status, text)
    };
    said.into_iter().map(sentence).collect()
}

/// Whether `step` comes, and before ordinary code does.
fn in_time(step: Option<usize>, audit: &Audit) -> bool {
    let limit = audit.first_instrumentable;
    step.is_some_and(|step| limit.is_none_or(|limit| step < limit))
}

/// Was what had been deferred done before the entry came to ordinary kernel code, and for each of the
/// `spaces` other address spaces that it was to go through before memory was touched there?
pub(super) fn completed(audited: &Audited, spaces: u64) -> EntryFinding {
    let audit = &audited.audit;
    if let Some(skipped) = nothing_deferred(audited) {
        return skipped;
    }
    let kinds = [
        (
            "text",
            "which text was patched",
            audit.text_cleared,
            &audited.text,
        ),
        (
            "translations",
            "which memory was unmapped",
            audit.translations_cleared,
            &audited.translations,
        ),
    ];
    let (mut late, mut not_known) = (Vec::new(), Vec::new());
    for (what, which, cleared, known) in kinds {
        let in_time = in_time(cleared, audit);
        match &known.everything {
            // There need have been none. That those of the storm were caught up with shows nothing then,
            // and that others were not shows no fault.
            Some(why) if known.blind && known.needed == in_time => {
                not_known.push(format!("{which} is not known: {why}"));
            }
            _ if !in_time => late.push(what),
            _ => {}
        }
    }
    if late.is_empty() && !not_known.is_empty() {
        return EntryFinding::Other(Verdict::Skipped, not_known.join("; "));
    }
    if !late.is_empty() {
        let what = late.join(" and ");
        let (status, words) = match audit.first_instrumentable {
            Some(step) => (
                Verdict::Violated,
                format!(
                    "{what} not caught up with before instruction {step}, ordinary kernel code"
                ),
            ),
            None => (
                Verdict::Error,
                format!(
                    "{what} not caught up with in the {} instructions recorded, which are no \
                     whole entry",
                    audit.steps
                ),
            ),
        };
        return EntryFinding::Other(status, words);
    }
    if let Some(finding) = audit.stale_pcids.first() {
        return EntryFinding::Other(Verdict::Violated, finding.to_string());
    }
    let through = match (spaces > 0).then(|| through(audit, spaces)) {
        Some(Err(words)) => return EntryFinding::Other(Verdict::Error, words),
        Some(Ok(words)) => words,
        None => String::new(),
    };
    let done = audit.text_cleared.max(audit.translations_cleared);
    EntryFinding::Held {
        shared: format!(
            "by what was executed, caught up ({} pending) at instruction",
            audited.pending
        ),
        own: format!("{} of {}{through}", done.unwrap_or_default(), audit.steps),
    }
}

/// What the entry shows of address spaces that it went through; `Err` if they are fewer than there
/// are, the task's own, to which it came back, not counted.
fn through(audit: &Audit, spaces: u64) -> Result<String, String> {
    let distinct =
        |of: fn(&Switch) -> u64| -> BTreeSet<u64> { audit.switches.iter().map(of).collect() };
    let seen = distinct(|switch| switch.page_table).len() as u64;
    if seen <= spaces || audit.ended != Ended::User {
        return Err(format!(
            "the {} instructions recorded are to go through {spaces} other address spaces and back, \
             but load {seen} page tables",
            audit.steps
        ));
    }
    let pcids = distinct(|switch| switch.pcid.into());
    let flushed = audit
        .switches
        .iter()
        .filter(|switch| switch.flushed)
        .count();
    let how = if pcids.iter().all(|&pcid| pcid == 0) {
        "no PCIDs in use: each load of CR3 flushes".to_owned()
    } else {
        let all = audit.switches.len();
        format!(
            "{} PCIDs, none stale: {flushed} of {all} loads of CR3 flush",
            pcids.len()
        )
    };
    Ok(format!(
        ", then through {spaces} other address spaces and back ({how})"
    ))
}

/// Nothing was deferred where IPIs did the work in the window.
pub(super) fn nothing_deferred(audited: &Audited) -> Option<EntryFinding> {
    (audited.by_ipis > 0).then(|| {
        let words = format!(
            "nothing was deferred, {} IPIs did the work",
            audited.by_ipis
        );
        EntryFinding::Other(Verdict::Skipped, words)
    })
}
