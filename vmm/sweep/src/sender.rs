//! The sender's side: the control vCPU stands at an instruction of what decides whom an operation
//! interrupts, while the target makes one whole entry.
//!
//! Which instructions are points: those of the deciding functions ([`DECIDING`]) in the trace of one
//! operation, with the first instruction of what they call in between left out. Up to the end of the
//! first sync each execution is a point. From there on an instruction is a point when it is first executed. A loop that
//! waits for other CPUs, which runs as often as they take, has no points.

mod waiting;

use std::collections::HashMap;

use ipirig_entry::KernelLayout;
use ipirig_entry::passage::Passage;
use ipirig_instruction::{Step, disassemble_at};

use crate::judge::{Invariant, JudgeContext, Outcome, Sent, Violation, judge};
use crate::name::{EventName, PathName, Side};
use crate::plan::{PlannedPath, PlannedPoint, RSP};
pub use waiting::ReadCode;
use waiting::wait_loops;

/// Functions that change text, or choose the CPUs to be interrupted and interrupt them: of
/// arch/x86/kernel/alternative.c, arch/x86/kernel/ipi_deferral.c, arch/x86/mm/tlb.c and kernel/smp.c.
/// Compilers add suffixes after a dot.
pub const DECIDING: [&str; 11] = [
    "text_poke_bp_batch",
    "text_poke_sync_kernel",
    "__text_poke_sync_kernel",
    "text_poke_sync",
    "ipi_deferral_sync_cond",
    "ipi_deferral_flush_cond",
    "ipi_deferral_mark_stale",
    "flush_tlb_kernel_range_deferrable",
    "__flush_tlb_kernel_range",
    "flush_tlb_kernel_range",
    CHOOSES,
];
/// The function that asks the condition of each CPU, sends the IPIs and waits (kernel/smp.c).
const CHOOSES: &str = "smp_call_function_many_cond";
/// The function that writes text (arch/x86/kernel/alternative.c).
const WRITES: &str = "__text_poke";

/// An operation whose sender is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sender {
    /// A static key is flipped: text is written and synced three times.
    Flip,
    /// vmalloc memory is freed and purged: its mappings are gone before the flush begins.
    Vunmap,
}

impl Sender {
    /// Each once.
    pub const ALL: [Self; 2] = [Self::Flip, Self::Vunmap];

    /// The name of its path while the target is in user space and comes in, or is in the kernel and leaves it.
    #[must_use]
    pub fn path(self, target: Side) -> PathName {
        let entry = match self {
            Self::Flip => "sender-flip",
            Self::Vunmap => "sender-vunmap",
        };
        PathName::new(entry, target)
    }

    /// The sender whose path is called `name`, and what the target does meanwhile.
    #[must_use]
    pub fn find(name: &PathName) -> Option<(Self, Side)> {
        let mut all = Self::ALL.into_iter();
        let found = all.find(|sender| sender.path(name.side) == *name);
        found.map(|sender| (sender, name.side))
    }

    /// The functions with which its decision begins: the first one that the kernel has.
    #[must_use]
    pub fn begins(self) -> &'static [&'static str] {
        match self {
            Self::Flip => &["text_poke_bp_batch"],
            Self::Vunmap => &[
                "flush_tlb_kernel_range_deferrable",
                "flush_tlb_kernel_range",
            ],
        }
    }
}

/// What a sender executes, as it was traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderPath {
    /// Its points.
    pub path: PlannedPath,
    /// Numbers, in the trace, of the first instructions of what changes text.
    pub changes: Vec<usize>,
}

impl SenderPath {
    /// The path of `sender` of which `trace` is, from the first instruction of its decision to its return, while the target
    /// comes in or leaves. `read` reads the kernel's code.
    #[must_use]
    pub fn new(
        (sender, target): (Sender, Side),
        trace: &[Step],
        (layout, read): (&KernelLayout, &ReadCode<'_>),
    ) -> Self {
        let places: Vec<(&str, u64)> = trace
            .iter()
            .map(|step| function(layout, step.registers.rip))
            .collect();
        let chooses = places.iter().position(|(name, _)| *name == CHOOSES);
        // What it calls is below its frame, and its caller above.
        let frame = chooses.and_then(|at| Some(trace.get(at)?.registers.general[RSP]));
        let synced = match (chooses, frame) {
            (Some(first), Some(frame)) => trace
                .iter()
                .skip(first)
                .position(|step| step.registers.general[RSP] > frame)
                .map_or(trace.len(), |left| first + left),
            _ => trace.len(),
        };
        let changes = places
            .iter()
            .enumerate()
            .filter(|(_, place)| **place == (WRITES, 0))
            .map(|(step, _)| step)
            .collect();
        let loops = wait_loops(trace, read);
        let waits = |rip| loops.iter().any(|it| it.contains(&rip));
        let mut before: HashMap<(u64, u64), usize> = HashMap::new();
        let mut points = Vec::new();
        for (step, (it, (name, _))) in trace.iter().zip(&places).enumerate() {
            let (rip, rsp) = (it.registers.rip, it.registers.general[RSP]);
            let seen = before.entry((rip, rsp)).or_default();
            if DECIDING.contains(name) && !waits(rip) && (step < synced || *seen == 0) {
                points.push(PlannedPoint {
                    number: points.len(),
                    step,
                    rip,
                    rsp,
                    skip: *seen,
                    resume: None,
                    rflags: it.registers.rflags,
                    address: layout.describe(rip),
                    text: disassemble_at(it.code.bytes(), rip)
                        .unwrap_or_else(|| "(unknown)".to_owned()),
                });
            }
            *seen += 1;
        }
        Self {
            path: PlannedPath {
                name: sender.path(target),
                points,
            },
            changes,
        }
    }

    /// Whether something is changed after a sender stood at `point`.
    #[must_use]
    pub fn changes_after(&self, point: &PlannedPoint) -> bool {
        self.changes.iter().any(|&change| change >= point.step)
    }
}

/// The function at `rip`, as its source calls it, and how far into it that is.
fn function(layout: &KernelLayout, rip: u64) -> (&str, u64) {
    layout.symbols().resolve(rip).map_or(("", 0), |found| {
        let name = found.name.split('.').next().unwrap_or(found.name);
        (name, found.offset)
    })
}

/// Judges what became of a sender that stood at `at` while the target came to `stand`, the first
/// instrumentable code of its way in, and stayed there until the sender interrupted it or was done.
/// `passage`: what the target executed then. A target that is left alone by an operation that still
/// `changes` something after that has caught up too early.
#[must_use]
pub fn judge_sender(
    context: &JudgeContext<'_>,
    (at, changes): (&PlannedPoint, bool),
    stand: &PlannedPoint,
    passage: &Passage,
    sent: Sent,
) -> Outcome {
    let skipped = sent.ipis == 0;
    // What was changed before the target came in, it caught up with as it did.
    let seen = Sent {
        ipis: if changes { sent.ipis } else { sent.ipis.max(1) },
        ..sent
    };
    let outcome = judge(context, stand, EventName::Flip, passage, Some(seen));
    if !(skipped && changes) || matches!(outcome, Outcome::Error(_) | Outcome::Missed(_)) {
        return outcome;
    }
    let mut violations = vec![Violation {
        invariant: Invariant::SentOrDeferred,
        at: at.address.clone(),
        words:
            "the sender changes text after this and sends no IPI to this CPU, which has already \
                caught up"
                .to_owned(),
    }];
    if let Outcome::Violated(more) = outcome {
        violations.extend(more);
    }
    Outcome::Violated(violations)
}

/// Judges what became of a sender that stood at `at` while the target, which had been in the kernel, went back to user
/// space. `passage`: what the target executed on its first entry after the sender was done, from its first instruction,
/// `first`. The sender may have interrupted it, or left it alone; but it must come to its end, and if it left it alone the
/// target catches up.
#[must_use]
pub fn judge_exit(
    context: &JudgeContext<'_>,
    at: &PlannedPoint,
    first: &PlannedPoint,
    passage: Option<&Passage>,
    sent: Sent,
) -> Outcome {
    if !sent.done {
        let words =
            "the sender waits for this CPU for good, which it has not interrupted after this";
        return Outcome::Violated(vec![Violation {
            invariant: Invariant::SentOrDeferred,
            at: at.address.clone(),
            words: words.to_owned(),
        }]);
    }
    match passage {
        Some(passage) => judge(context, first, EventName::Flip, passage, Some(sent)),
        None => Outcome::Error("the target did not come back from its next entry".to_owned()),
    }
}

#[cfg(test)]
mod tests;
