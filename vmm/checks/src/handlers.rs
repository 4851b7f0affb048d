//! Did the IPIs do what they were sent for? An interrupt that was taken is not yet a TLB flushed.
//!
//! What a CPU executes from the first instruction of an IPI's handler to the return must have
//! synchronised its instruction stream, or cleared its translations. The return itself would serialise as
//! well, but comes after the sender has been told that the work is done.

use std::collections::{BTreeMap, BTreeSet};

use ipirig_abi::{Changes, Role};
use ipirig_entry::{Ended, KernelLayout, Record};
use ipirig_evidence::{Evidence, WindowRecord};
use ipirig_instruction::decode::{Decoder, Effect};
use ipirig_scenario::Part;
use ipirig_scenario::plan::Plan;

use crate::check::{Check, HANDLER_WORK, Verdict, worst};

/// CR4.PGE and CR4.PCIDE (SDM vol. 3, 2.5).
const PGE: u64 = 1 << 7;
const PCIDE: u64 = 1 << 17;
/// In a value for CR3: keep what is cached (SDM vol. 3, 4.10.4.1).
const NOFLUSH: u64 = 1 << 63;
const PAGE_SHIFT: u32 = 12;

/// What one interrupt did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    serialised: bool,
    /// All translations of kernel memory that is not global were cleared.
    pub(super) flushed: bool,
    /// Pages whose translations were cleared one by one.
    pub(super) pages: BTreeSet<u64>,
}

impl Work {
    /// What was executed before the return.
    pub(super) fn of(record: &Record) -> Self {
        let mut decoder = Decoder::new();
        let mut work = Self::default();
        let steps = match (record.ended, record.steps.split_last()) {
            (Ended::User | Ended::Interrupted, Some((_, rest))) => rest,
            _ => &record.steps,
        };
        for step in steps {
            let Some(executed) = decoder.decode(step) else {
                continue;
            };
            work.add(executed.effect, step.registers.cr4);
        }
        work
    }

    fn add(&mut self, effect: Effect, cr4: u64) {
        self.serialised |= effect.serialises();
        match effect {
            Effect::Invlpg { address } => {
                self.pages.insert(address >> PAGE_SHIFT);
            }
            Effect::WriteCr4 { old, new } => self.flushed |= (old ^ new) & PGE != 0,
            // All PCIDs, with or without what is global.
            Effect::Invpcid { kind: 2 | 3, .. } => self.flushed = true,
            // Other PCIDs keep what they have.
            Effect::WriteCr3 { value } => self.flushed |= cr4 & PCIDE == 0 && value & NOFLUSH == 0,
            Effect::None | Effect::Invpcid { .. } | Effect::Serialising => {}
        }
    }

    /// Whether that is what an IPI for `part` is to do, of which each flush is of `size` pages.
    fn is_done(&self, part: &Part, size: u64) -> bool {
        match part.changes {
            Changes::Text => self.serialised,
            Changes::Tlb | Changes::Some => self.flushed || self.pages.len() as u64 >= size.max(1),
        }
    }
}

/// Each IPI for a part of the storm that has to come did its work. Only made where handlers were followed.
pub(super) fn handler_work(plan: &Plan, evidence: &Evidence) -> Option<Check> {
    if !plan.scenario.expect.handlers {
        return None;
    }
    let layout = match &evidence.layout {
        Ok(layout) => layout,
        Err(why) => return Some(Check::new(HANDLER_WORK, Verdict::Skipped, why.clone())),
    };
    let mut findings = Vec::new();
    for window in &evidence.windows {
        for (number, part) in plan.scenario.storm.parts().iter().enumerate() {
            for cpu in plan.cpus(Role::Isolated) {
                let (status, words) = of_part(plan, layout, window, (number, part), cpu);
                findings.push((status, format!("vCPU {cpu}: {words}")));
            }
        }
    }
    Some(worst(HANDLER_WORK, findings))
}

/// Where the steps of a record that is cut off went: what a CPU waited for, or was busy with.
pub(super) fn mostly_in(layout: &KernelLayout, record: &Record) -> String {
    let mut counts = BTreeMap::<_, usize>::new();
    for step in &record.steps {
        let symbol = layout.symbols().resolve(step.registers.rip);
        *counts
            .entry(symbol.map_or("no symbol", |it| it.name))
            .or_default() += 1;
    }
    let all = record.steps.len();
    match counts.into_iter().max_by_key(|(_, count)| *count) {
        Some((name, count)) => format!("{count} of {all} instructions in {name}"),
        None => "no instructions".to_owned(),
    }
}

fn of_part(
    plan: &Plan,
    layout: &KernelLayout,
    window: &WindowRecord,
    (number, part): (usize, &Part),
    cpu: usize,
) -> (Verdict, String) {
    let records: Vec<&Record> = window
        .handled
        .iter()
        .filter(|handled| (handled.part, handled.cpu) == (number, cpu))
        .map(|handled| &handled.record)
        .collect();
    for (record, count) in records.iter().zip(1..) {
        if let Err(why) = record.check(record.began) {
            let words = format!("the trace of IPI {count} says nothing: {why}");
            return (Verdict::Error, words);
        }
    }
    let size = plan.scenario.storm.size;
    let what = match part.changes {
        Changes::Text => "serialised",
        Changes::Tlb | Changes::Some => "flushed what was unmapped",
    };
    let works: Vec<Work> = records.iter().map(|record| Work::of(record)).collect();
    let done = works.iter().filter(|work| work.is_done(part, size)).count() as u64;
    let least = part.operations.saturating_mul(part.calls_each);
    let taken = works.len() as u64;
    if done >= least && least > 0 {
        let words =
            format!("{done} of {taken} IPIs {what} before they returned, of {least} that must");
        return (Verdict::Held, words);
    }
    // One that was not followed to its end may have done it later.
    let open = |(work, record): &(&Work, &&Record)| {
        !work.is_done(part, size) && !matches!(record.ended, Ended::User | Ended::Interrupted)
    };
    let opened: Vec<_> = works.iter().zip(&records).filter(open).collect();
    let open = opened.len() as u64;
    if let Some((_, record)) = opened.first()
        && done.saturating_add(open) >= least
        && least > 0
    {
        let most = mostly_in(layout, record);
        let words = format!(
            "{done} of {taken} IPIs {what}, of {least} that must, and {open} were not followed to the \
             end ({most})"
        );
        return (Verdict::Error, words);
    }
    if taken < least {
        let words = format!("{taken} IPIs were followed, of at least {least} that must come");
        return (Verdict::Error, words);
    }
    let lazy = works.iter().position(|work| !work.is_done(part, size));
    let steps = lazy
        .and_then(|at| records.get(at))
        .map_or(0, |record| record.steps.len());
    let words = format!(
        "only {done} of {taken} IPIs {what} before they returned, of {least} that must; IPI {} did \
         not in {steps} instructions",
        lazy.map_or(0, |at| at + 1)
    );
    (Verdict::Violated, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(effects: &[Effect], cr4: u64, changes: Changes, size: u64) -> bool {
        let mut work = Work::default();
        for &effect in effects {
            work.add(effect, cr4);
        }
        let part = Part {
            kind: ipirig_abi::StormKind::StaticKeyFlip,
            operations: 1,
            size,
            changes,
            calls_each: 1,
            completion: None,
        };
        work.is_done(&part, size)
    }

    #[test]
    fn text_needs_an_instruction_that_serialises() {
        for count in [1, 2] {
            let effects = vec![Effect::Serialising; count];
            assert!(done(&effects, 0, Changes::Text, 0), "{count}");
        }
        assert!(done(
            &[Effect::WriteCr3 { value: NOFLUSH }],
            PCIDE,
            Changes::Text,
            0
        ));
        let kind = Effect::Invpcid {
            kind: 2,
            descriptor: None,
        };
        assert!(!done(&[Effect::None, kind], 0, Changes::Text, 0));
        assert!(!done(&[], 0, Changes::Text, 0));
    }

    #[test]
    fn mappings_need_each_page_or_all_of_the_tlb_flushed() {
        let page = |page: u64| Effect::Invlpg {
            address: page << PAGE_SHIFT,
        };
        let tlb = |effects: &[Effect], cr4| done(effects, cr4, Changes::Tlb, 3);
        assert!(tlb(&[page(1), page(2), page(3)], 0));
        assert!(!tlb(&[page(1), page(2), page(2)], 0));
        assert!(!tlb(&[Effect::Serialising], 0));
        assert!(tlb(&[Effect::WriteCr4 { old: PGE, new: 0 }], 0));
        assert!(!tlb(
            &[Effect::WriteCr4 {
                old: PGE,
                new: PGE | 1
            }],
            0
        ));
        for (kind, all) in [(0, false), (1, false), (2, true), (3, true)] {
            let invpcid = Effect::Invpcid {
                kind,
                descriptor: None,
            };
            assert_eq!(tlb(&[invpcid], PCIDE), all, "{kind}");
        }
        assert!(tlb(&[Effect::WriteCr3 { value: 0x1000 }], 0));
        assert!(tlb(&[Effect::WriteCr3 { value: 0x1000 }; 2], 0));
        // Those of another PCID stay.
        assert!(!tlb(&[Effect::WriteCr3 { value: 0x1000 }], PCIDE));
    }

    #[test]
    fn the_return_is_no_work() {
        let iret = ipirig_instruction::Step {
            registers: ipirig_instruction::StepRegisters::default(),
            code: ipirig_instruction::Code::new(&[0x48, 0xcf]),
            descriptor: None,
        };
        let serialised = |steps: usize, ended| {
            let record = Record {
                cpu: 2,
                began: ipirig_entry::Began::Vector(0xfc),
                handlers: BTreeSet::new(),
                steps: vec![iret; steps],
                ended,
            };
            Work::of(&record).serialised
        };
        assert!(!serialised(1, Ended::Interrupted));
        assert!(!serialised(1, Ended::User));
        assert!(serialised(2, Ended::Interrupted));
        // Not followed to the return: the last is one like any other.
        assert!(serialised(1, Ended::Limit));
        assert!(!serialised(0, Ended::Limit));
    }
}
