//! What follows from a record: which instruction caught up, what went wrong before it, and whether
//! the flag was kept in order.
//!
//! An instruction's number counts from 1; 0 stands for the state before the first. The danger zone
//! is what a CPU executes before it catches up. The instruction that catches up is not counted in
//! it but checked with it, for it is fetched before it has an effect.

mod danger;
mod finding;
mod flag;
mod trace;

use schemars::JsonSchema;
use serde::Serialize;

use crate::layout::KernelLayout;
use crate::paging::Paging;
use crate::pending::Pending;
use crate::record::{Began, Ended, Record};
use crate::shadow::Shadow;

pub use finding::{Finding, What};
pub use flag::Flag;
use trace::Cleared;
pub(crate) use trace::{FlagWrite, Trace, TracedStep};

/// Most findings of a kind that are kept. A CPU that runs on without catching up makes many.
const FINDINGS_MAX: usize = 256;

/// What was deferred while the CPU was in user space.
///
/// To judge an entry whatever the window held, everything is pending. Where nothing is pending
/// nothing has to be caught up with, and no danger is found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingInput {
    /// Text that was patched: run-time addresses.
    pub text: Pending,
    /// Addresses that were unmapped.
    pub translations: Pending,
    /// Whether alternatives may still be applied. They are while the kernel boots, and for modules.
    pub alternatives_open: bool,
    /// How the kernel's page tables are set up.
    pub paging: Paging,
}

/// What follows from a record.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Audit {
    /// The vCPU.
    pub cpu: usize,
    /// How it came in.
    pub began: Began,
    /// Why the record ends.
    pub ended: Ended,
    /// Number of instructions.
    pub steps: usize,
    /// The instruction after which no patched text was pending; 0 if none ever was.
    pub text_cleared: Option<usize>,
    /// The instruction after which no translation was pending in the PCID of the kernel page table
    /// in force, from there to the first instrumentable code; 0 if none ever was.
    pub translations_cleared: Option<usize>,
    /// The flag that senders read.
    pub flag: Flag,
    /// The instruction that caught up with text and translations for good: after senders could see
    /// the CPU in the kernel, if the kernel has a known flag. Until then they may rely on an
    /// instruction to come.
    pub catch_up: Option<usize>,
    /// Instructions before the catch-up; if there is none, before the first instrumentable code.
    pub danger_zone: usize,
    /// The first instruction outside entry and noinstr text.
    pub first_instrumentable: Option<usize>,
    /// What the CPU must not do in the danger zone, but did.
    pub danger: Vec<Finding>,
    /// What is wrong with the order of flag, catch-up and page tables.
    pub order: Vec<Finding>,
    /// Changes of address space, in order; no more than the first 256.
    pub switches: Vec<Switch>,
    /// Memory touched under a PCID that had translations pending: another address space's, where the
    /// entry cleared but the one in force.
    pub stale_pcids: Vec<Finding>,
}

/// A change of address space: a kernel page table loaded in place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Switch {
    /// The instruction's number, from 1.
    pub step: usize,
    /// Physical address of the page table.
    pub page_table: u64,
    /// Its PCID; 0 where there are none.
    pub pcid: u16,
    /// Whether the load itself cleared what the CPU held for the PCID.
    pub flushed: bool,
}

/// Judges `record`, taken from a CPU on which `pending` was deferred, of the kernel in `layout`.
#[must_use]
pub fn audit(record: &Record, layout: &KernelLayout, pending: &PendingInput) -> Audit {
    let trace = Trace::new(record, layout);
    let instrumentable = trace.first_instrumentable();
    let Paging {
        isolated, global, ..
    } = pending.paging;
    let shadow = || Shadow::new(pending.text.clone(), &pending.translations, global);

    let whole = trace.cleared(shadow(), 0, instrumentable, isolated);
    let set = flag::first_set(&trace);
    let (catch_up, seen) = match set {
        Some(step) => {
            let after = trace.cleared(shadow(), step, instrumentable, isolated);
            (after.both(), after)
        }
        None => (whole.both(), whole.clone()),
    };
    let zone = match (catch_up, instrumentable) {
        (Some(step), _) | (None, Some(step)) => step.saturating_sub(1),
        (None, None) => record.steps.len(),
    };
    // The instruction that catches up, with the rest; none if there was nothing to catch up with.
    let checked = match catch_up {
        Some(step) => step,
        None => zone,
    };
    let nothing = pending.text.is_empty() && pending.translations.is_empty();
    let danger = if nothing {
        Vec::new()
    } else {
        danger::find(&trace, layout, pending, checked, catch_up)
    };
    Audit {
        cpu: record.cpu,
        began: record.began,
        ended: record.ended,
        steps: record.steps.len(),
        text_cleared: whole.text,
        translations_cleared: whole.translations,
        flag: flag::seen(&trace, layout),
        catch_up,
        danger_zone: if nothing { 0 } else { zone },
        first_instrumentable: instrumentable,
        danger,
        order: flag::order(&trace, layout, record.ended, catch_up),
        switches: trace.switches(isolated),
        stale_pcids: seen.stale_pcids,
    }
}

/// Adds a finding, unless there are enough.
fn push(
    findings: &mut Vec<Finding>,
    seen: &TracedStep<'_>,
    address: u64,
    what: What,
    words: String,
) {
    if findings.len() < FINDINGS_MAX {
        findings.push(Finding {
            step: seen.number,
            address,
            what,
            words,
        });
    }
}

impl Cleared {
    /// The instruction after which neither text nor translations were pending.
    fn both(&self) -> Option<usize> {
        Some(self.text?.max(self.translations?))
    }
}

#[cfg(test)]
mod tests;
