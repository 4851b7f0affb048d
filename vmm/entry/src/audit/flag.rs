//! The per-CPU byte by which senders decide whether a CPU may be left alone.
//!
//! While it is clear, senders rely on the CPU to catch up before it executes ordinary kernel code.
//! So it has to be set before the catch-up, and cleared only when no more kernel code comes than
//! what runs on the user page table.

use schemars::JsonSchema;
use serde::Serialize;

use crate::audit::trace::{FlagWrite, Trace, TracedStep};
use crate::audit::{Finding, What, push};
use crate::layout::KernelLayout;
use crate::paging::USER_TABLE;
use crate::record::Ended;

/// What was seen of the flag.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Flag {
    /// The kernel has none that is known.
    Unknown,
    /// The kernel has one.
    Known {
        /// The symbol that holds it.
        name: &'static str,
        /// The instruction that set it first.
        set: Option<usize>,
        /// The instruction that cleared it last.
        cleared: Option<usize>,
        /// The instruction that loaded a user page table last.
        user_table: Option<usize>,
    },
}

/// The first instruction that sets the flag.
pub(super) fn first_set(trace: &Trace<'_>) -> Option<usize> {
    trace
        .steps()
        .iter()
        .find(|seen| seen.flag == Some(FlagWrite::Set))
        .map(|seen| seen.number)
}

/// What was seen of the flag.
pub(super) fn seen(trace: &Trace<'_>, layout: &KernelLayout) -> Flag {
    layout.flag().map_or(Flag::Unknown, |flag| Flag::Known {
        name: flag.name,
        set: first_set(trace),
        cleared: last(trace, |seen| seen.flag == Some(FlagWrite::Clear)).map(|seen| seen.number),
        user_table: last(trace, |seen| seen.cr3().is_some_and(is_user)).map(|seen| seen.number),
    })
}

/// What is wrong with the order.
pub(super) fn order(
    trace: &Trace<'_>,
    layout: &KernelLayout,
    ended: Ended,
    catch_up: Option<usize>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if layout.flag().is_none() {
        return findings;
    }
    for seen in trace.steps() {
        if seen.flag == Some(FlagWrite::Unclear) {
            let words = "writes the flag, but what is not known".to_owned();
            push(&mut findings, seen, seen.rip(), What::FlagUnclear, words);
        }
    }
    way_in(&mut findings, trace, ended, catch_up);
    clear_in_kernel(&mut findings, trace);
    if ended == Ended::User {
        way_out(&mut findings, trace);
    }
    findings.sort_by_key(|finding| finding.step);
    findings
}

fn way_in(findings: &mut Vec<Finding>, trace: &Trace<'_>, ended: Ended, catch_up: Option<usize>) {
    // Where the way in ends. A record that was cut off before does not tell.
    let end = match trace.first_instrumentable() {
        Some(number) => trace.steps().get(number - 1),
        None if ended == Ended::Limit => None,
        None => trace.steps().last(),
    };
    let Some(end) = end else {
        return;
    };
    match first_set(trace) {
        Some(set) if set < end.number => {
            if catch_up.is_none_or(|step| step >= end.number) {
                let words = format!(
                    "ends the way in, with no catch-up after the flag was set by instruction {set}"
                );
                push(findings, end, end.rip(), What::NoCatchUpAfterFlag, words);
            }
        }
        _ => {
            let words = "ends the way in with the flag not set".to_owned();
            push(findings, end, end.rip(), What::FlagNotSet, words);
        }
    }
}

/// Instrumentable code that runs after the flag was cleared.
fn clear_in_kernel(findings: &mut Vec<Finding>, trace: &Trace<'_>) {
    let mut cleared = None;
    for seen in trace.steps() {
        match seen.flag {
            Some(FlagWrite::Clear) => cleared = Some(seen.number),
            Some(FlagWrite::Set | FlagWrite::Unclear) => cleared = None,
            None => {}
        }
        if seen.place.is_instrumentable()
            && let Some(number) = cleared.take()
        {
            let words =
                format!("is in instrumentable code with the flag cleared by instruction {number}");
            push(findings, seen, seen.rip(), What::FlagClearInKernel, words);
        }
    }
}

fn way_out(findings: &mut Vec<Finding>, trace: &Trace<'_>) {
    let write = last(trace, |seen| seen.flag.is_some());
    match write.and_then(|seen| Some((seen, seen.flag?))) {
        Some((seen, FlagWrite::Clear)) => {
            let table = last(trace, |seen| seen.cr3().is_some());
            let words = match table {
                Some(table) if !table.cr3().is_some_and(is_user) => {
                    "clears the flag, but the CPU stays on a kernel page table"
                }
                Some(table) if table.number > seen.number => {
                    "clears the flag before the user page table is loaded"
                }
                Some(_) => return,
                None => "clears the flag, but no page table is loaded",
            };
            push(
                findings,
                seen,
                seen.rip(),
                What::FlagClearedEarly,
                words.to_owned(),
            );
        }
        Some((_, FlagWrite::Set)) => {
            if let Some(end) = trace.steps().last() {
                let words = "is the last in the kernel, with the flag still set".to_owned();
                push(findings, end, end.rip(), What::FlagNotCleared, words);
            }
        }
        // Said already: not known, or never set.
        Some((_, FlagWrite::Unclear)) | None => {}
    }
}

fn last<'t, 'a>(
    trace: &'t Trace<'a>,
    which: impl Fn(&TracedStep<'a>) -> bool,
) -> Option<&'t TracedStep<'a>> {
    trace.steps().iter().rev().find(|seen| which(seen))
}

pub(super) fn is_user(cr3: u64) -> bool {
    cr3 & USER_TABLE != 0
}
