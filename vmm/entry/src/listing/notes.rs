//! One line of a listing.

use ipirig_instruction::control::{PCIDE, pcid};
use ipirig_instruction::decode::{Effect, Executed};

use crate::audit::{Audit, FlagWrite, TracedStep};
use crate::layout::KernelLayout;
use crate::paging::USER_TABLE;

/// Widths of the columns of address and instruction.
const PLACE: usize = 40;
const TEXT: usize = 38;

/// The line of `seen`: number, address, instruction, notes.
pub(super) fn line(seen: &TracedStep<'_>, layout: &KernelLayout, audit: &Audit) -> String {
    let place = layout.describe(seen.rip());
    let text = match &seen.executed {
        Some(executed) => instruction(executed, layout),
        None => format!("(unknown: {:02x?})", seen.step.code.bytes()),
    };
    let mut notes = seen
        .executed
        .as_ref()
        .map(|executed| memory(seen, executed, layout))
        .unwrap_or_default();
    notes.extend(control(seen));
    let mut line = format!(
        "{:6}  {place:PLACE$} {text:TEXT$} {}",
        seen.number,
        notes.join(", ")
    );
    for mark in marks(seen, audit) {
        line += "  <- ";
        line += mark;
    }
    line
}

/// The instruction, a direct branch with the name of its target.
fn instruction(executed: &Executed, layout: &KernelLayout) -> String {
    let text = executed.text();
    match (executed.target(), text.split_once(' ')) {
        (Some(target), Some((mnemonic, _))) => format!("{mnemonic} {}", layout.describe(target)),
        _ => text,
    }
}

/// What is at the addresses that it accesses.
fn memory(seen: &TracedStep<'_>, executed: &Executed, layout: &KernelLayout) -> Vec<String> {
    let registers = &seen.step.registers;
    let mut notes: Vec<String> = Vec::new();
    for access in &executed.accesses {
        let variable = access
            .per_cpu
            .then(|| layout.per_cpu(access.address, registers.gs_base))
            .flatten();
        let note = match variable {
            Some(name) => format!("per-CPU {name}"),
            // RSP.
            None if layout.is_task_stack(access.address, registers.general[4]) => {
                format!("task stack {:#x}", access.address)
            }
            None => layout.describe(access.address),
        };
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes
}

/// What it does to page tables and translations.
fn control(seen: &TracedStep<'_>) -> Option<String> {
    match seen.effect() {
        Effect::WriteCr3 { value } => {
            let table = |cr3: u64| {
                if cr3 & USER_TABLE == 0 {
                    "kernel"
                } else {
                    "user"
                }
            };
            // What clears a PCID; without PCIDs it is 0.
            let registers = &seen.step.registers;
            let kept = value >> 63 != 0 && registers.cr4 & PCIDE != 0;
            let flush = if kept {
                "keeps translations".to_owned()
            } else {
                format!("clears PCID {}", pcid(value, registers.cr4))
            };
            let from = table(seen.step.registers.cr3);
            Some(format!("{from} -> {} page table, {flush}", table(value)))
        }
        Effect::WriteCr4 { old, new } => Some(format!("CR4 {old:#x} -> {new:#x}")),
        Effect::Invlpg { address } => Some(format!("page {:#x}", address & !0xfff)),
        Effect::Invpcid { kind, descriptor } => {
            let of = descriptor.map(|(pcid, address)| match kind {
                0 => format!(", PCID {pcid}, page {:#x}", address & !0xfff),
                1 => format!(", PCID {pcid}"),
                _ => String::new(),
            });
            Some(format!("type {kind}{}", of.unwrap_or_default()))
        }
        Effect::Serialising => Some("serialises".into()),
        Effect::None => None,
    }
}

fn marks(seen: &TracedStep<'_>, audit: &Audit) -> impl Iterator<Item = &'static str> {
    let flag = seen.flag.map(|write| match write {
        FlagWrite::Set => "flag set",
        FlagWrite::Clear => "flag cleared",
        FlagWrite::Unclear => "flag written",
    });
    let here = |step: Option<usize>, mark| (step == Some(seen.number)).then_some(mark);
    [
        flag,
        here(audit.catch_up, "catch-up"),
        here(audit.first_instrumentable, "first instrumentable code"),
    ]
    .into_iter()
    .flatten()
}
