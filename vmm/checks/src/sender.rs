//! Did the sender do its own share? An IPI goes to others: what the CPU that changed something has cached
//! itself, it has to drop itself, before the call that does that for all returns.
//!
//! A flush has to clear its pages there, or everything. A poke has to be followed by an instruction that
//! serialises; that is within `__text_poke`, whose return to the address space that it found loads CR3.

use ipirig_abi::{Changes, Role};
use ipirig_entry::{Began, Ended, KernelLayout, Record};
use ipirig_evidence::ledger::changes::{self, Change};
use ipirig_evidence::{Evidence, WindowRecord};
use ipirig_instruction::decode::Decoder;
use ipirig_scenario::Part;
use ipirig_scenario::plan::Plan;

use super::handlers::{Work, mostly_in};
use crate::check::{Check, SENDER_WORK, Verdict, worst};

/// Places of the registers of arguments in [`ipirig_instruction::StepRegisters::general`]: RDI, RSI, RDX, RCX, R8, R9.
const ARGUMENTS: [usize; 6] = [7, 6, 2, 1, 8, 9];
/// Addresses of user space are below it: text is poked through one (SDM vol. 1, 3.3.7.1).
const KERNEL: u64 = 1 << 63;
const PAGE: u64 = 4096;

/// Each change of the storm was made good on the CPU that made it. Only made where calls were followed.
pub(super) fn sender_work(plan: &Plan, evidence: &Evidence) -> Option<Check> {
    if !plan.scenario.expect.handlers {
        return None;
    }
    let layout = match &evidence.layout {
        Ok(layout) => layout,
        Err(why) => return Some(Check::new(SENDER_WORK, Verdict::Skipped, why.clone())),
    };
    let mut findings = Vec::new();
    for window in &evidence.windows {
        for (number, part) in plan.scenario.storm.parts().iter().enumerate() {
            for cpu in plan.cpus(Role::Control) {
                let (status, words) = of_part(layout, window, (number, part), cpu);
                findings.push((status, format!("vCPU {cpu}: {words}")));
            }
        }
    }
    Some(worst(SENDER_WORK, findings))
}

fn of_part(
    layout: &KernelLayout,
    window: &WindowRecord,
    (number, part): (usize, &Part),
    cpu: usize,
) -> (Verdict, String) {
    let points = changes::watched(|name| layout.symbols().function(name)).points;
    let text = part.changes == Changes::Text;
    let calls: Vec<(Change, &Record)> = window
        .handled
        .iter()
        .filter(|handled| (handled.part, handled.cpu) == (number, cpu))
        .map(|handled| &handled.record)
        .filter(|record| record.began == Began::Call)
        .filter_map(|record| {
            let first = record.steps.first()?.registers.rip;
            let point = points.iter().find(|point| point.address == first)?;
            Some((point.change, record))
        })
        .filter(|(change, _)| matches!(change, Change::Text(..)) == text)
        .collect();
    let (call, calls_words, done_words) = if text {
        ("poke", "pokes", "serialised its own stream")
    } else {
        ("flush", "flushes", "cleared its own translations")
    };
    let all = calls.len() as u64;
    let least = part.operations.saturating_mul(part.calls_each).max(1);
    let mut doubt = Vec::new();
    for (count, (change, record)) in (1..).zip(&calls) {
        if is_done(*change, record) {
            continue;
        }
        let steps = record.steps.len();
        if record.ended == Ended::Interrupted && record.check(Began::Call).is_ok() {
            let words = format!(
                "{call} {count} of {all} returned after {steps} instructions without having {done_words}"
            );
            return (Verdict::Violated, words);
        }
        doubt.push(record);
    }
    if let Some(first) = doubt.first() {
        let words = format!(
            "{} of {all} {calls_words} were not followed to the end ({})",
            doubt.len(),
            mostly_in(layout, first)
        );
        return (Verdict::Error, words);
    }
    if all < least {
        let words = format!("{all} {calls_words} were followed, of at least {least}");
        return (Verdict::Error, words);
    }
    (
        Verdict::Held,
        format!("in each of {all} {calls_words} it {done_words}"),
    )
}

/// Whether the call did the sender's own share of `change`.
fn is_done(change: Change, record: &Record) -> bool {
    let argument = |place: usize| {
        let first = record.steps.first()?;
        let register = *ARGUMENTS.get(place)?;
        first.registers.general.get(register).copied()
    };
    match change {
        Change::Text(..) => {
            let mut decoder = Decoder::new();
            let mut serialised = false;
            for step in &record.steps {
                let Some(executed) = decoder.decode(step) else {
                    continue;
                };
                let mut accesses = executed.accesses.iter();
                if accesses.any(|access| access.write && access.address < KERNEL) {
                    serialised = false;
                }
                serialised |= executed.effect.serialises();
            }
            serialised
        }
        Change::Mappings(start, end) => {
            let work = Work::of(record);
            match (argument(start), argument(end)) {
                (Some(start), Some(end)) => work.clears(start, end),
                _ => false,
            }
        }
    }
}

impl Work {
    /// Whether the translations of all pages from `start` to `end` were cleared.
    fn clears(&self, start: u64, end: u64) -> bool {
        let pages = start / PAGE..end.div_ceil(PAGE);
        // No more than were seen are counted.
        let count = pages.end.saturating_sub(pages.start);
        self.flushed || self.pages.range(pages).count() as u64 == count
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ipirig_instruction::{Code, Step, StepRegisters};

    use super::*;

    const RET: &[u8] = &[0xc3];

    /// A call with these arguments that executes `code`, with RDI as it was, and returns.
    fn call(arguments: [u64; 2], code: &[&[u8]]) -> Record {
        let mut general = [0; 16];
        (general[7], general[6]) = (arguments[0], arguments[1]);
        let steps = code
            .iter()
            .chain([&RET])
            .scan(0xffff_ffff_8100_0000, |rip, code| {
                let registers = StepRegisters {
                    general,
                    rip: *rip,
                    ..StepRegisters::default()
                };
                *rip += code.len() as u64;
                Some(Step {
                    registers,
                    code: Code::new(code),
                    descriptor: None,
                })
            });
        Record {
            cpu: 0,
            began: Began::Call,
            handlers: BTreeSet::new(),
            steps: steps.collect(),
            ended: Ended::Interrupted,
        }
    }

    /// mov [rdi], rax
    const STORE: &[u8] = &[0x48, 0x89, 0x07];
    const CPUID: &[u8] = &[0x0f, 0xa2];
    /// invlpg [rdi]
    const INVLPG: &[u8] = &[0x0f, 0x01, 0x3f];

    #[test]
    fn a_poke_is_done_with_what_serialises_after_the_last_store_to_the_text() {
        let poke = |code: &[&[u8]]| is_done(Change::Text(1, 3), &call([0x1000, 0], code));
        assert!(poke(&[STORE, CPUID]));
        assert!(poke(&[STORE, CPUID, CPUID]));
        assert!(!poke(&[CPUID, STORE]));
        assert!(!poke(&[STORE, CPUID, STORE]));
        // Stores of the kernel's own are none.
        let own = call([0xffff_8880_0000_1000, 0], &[STORE, CPUID, STORE]);
        assert!(is_done(Change::Text(1, 3), &own));
    }

    #[test]
    fn a_flush_is_done_with_each_of_its_pages() {
        let flush = |end: u64, code: &[&[u8]]| {
            let start = 0xffff_c900_0000_0000;
            is_done(Change::Mappings(0, 1), &call([start, start + end], code))
        };
        assert!(flush(0x1000, &[INVLPG]));
        assert!(!flush(0x2000, &[INVLPG]));
        assert!(!flush(0x1000, &[CPUID]));
        // mov cr3, rax
        assert!(flush(0x20_0000, &[&[0x0f, 0x22, 0xd8]]));
        // All that there is.
        assert!(!is_done(
            Change::Mappings(0, 1),
            &call([0, u64::MAX], &[INVLPG])
        ));
    }
}
