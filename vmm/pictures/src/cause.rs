//! Why an IPI was sent, as far as a result knows.

use ipirig_evidence::blame::{Attribution, Frame};
use ipirig_evidence::ledger::Write;
use ipirig_verdict::result::RunResult;

/// What is to blame for `write`: the IPIs that its sender sent from the same calls. `None` where no
/// stack was taken.
pub(crate) fn cause_of<'a>(run: &'a RunResult, write: &Write) -> Option<&'a Attribution> {
    write.chain?;
    let kind = write.kind.to_string();
    let alike = |blame: &&Attribution| {
        blame.number == write.chain && blame.source == write.source && blame.kind == kind
    };
    run.blame.iter().find(alike)
}

/// A call of a chain: `smp_call_function_many_cond+0x12`, or the address where no symbol is known.
pub(crate) fn call(frame: &Frame) -> String {
    match &frame.function {
        Some(function) => format!("{function}+{:#x}", frame.offset),
        None => format!("{:#x}", frame.address),
    }
}
