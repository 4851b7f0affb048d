//! Why an IPI was sent, as far as a result knows.

use ipirig_rig::blame::{Blame, Frame};
use ipirig_rig::ledger::Write;
use ipirig_rig::result::RunResult;

/// What is to blame for `write`. A result blames all IPIs that are alike together: `None` where the
/// sender has sent the same kind for several reasons, and where nothing is known.
pub(crate) fn cause_of<'a>(run: &'a RunResult, write: &Write) -> Option<&'a Blame> {
    let kind = write.kind.to_string();
    let mut alike = run
        .blame
        .iter()
        .filter(|blame| blame.source == write.source && blame.kind == kind);
    let only = alike.next()?;
    alike.next().is_none().then_some(only)
}

/// A call of a chain: `smp_call_function_many_cond+0x12`, or the address where no symbol is known.
pub(crate) fn call(frame: &Frame) -> String {
    match &frame.function {
        Some(function) => format!("{function}+{:#x}", frame.offset),
        None => format!("{:#x}", frame.address),
    }
}
