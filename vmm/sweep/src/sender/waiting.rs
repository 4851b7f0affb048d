//! Loops in which a sender waits for other CPUs: how often they run, and whether at all, is a matter of time.

use std::ops::Range;

use ipirig_instruction::decode::Decoder;
use ipirig_instruction::{Code, Step};

/// PAUSE, which such a loop has in it (SDM vol. 2).
const PAUSE: [u8; 2] = [0xf3, 0x90];
/// Longest such loop, in bytes: a load, a test, a PAUSE and a jump take 9.
const LONGEST: u64 = 64;

/// Reads code: the bytes at an address; `None` where there are none.
pub type ReadCode<'a> = dyn Fn(Range<u64>) -> Option<Vec<u8>> + 'a;

/// The loops of the code in `trace` that have a PAUSE in them, executed or not: each from its first instruction in memory to
/// the jump back, which was executed.
pub(super) fn wait_loops(trace: &[Step], read: &ReadCode<'_>) -> Vec<Range<u64>> {
    let mut decoder = Decoder::new();
    let mut loops: Vec<Range<u64>> = Vec::new();
    for step in trace {
        let rip = step.registers.rip;
        if loops.iter().any(|it| it.contains(&rip)) {
            continue;
        }
        let Some(jump) = decoder.decode(step) else {
            continue;
        };
        let Some(first) = jump.target().filter(|&to| to <= rip && rip - to < LONGEST) else {
            continue;
        };
        let body = first..rip.saturating_add(jump.length as u64);
        if pauses(&mut decoder, step, &body, read) {
            loops.push(body);
        }
    }
    loops
}

/// Whether a PAUSE is among the instructions of `body`.
fn pauses(decoder: &mut Decoder, like: &Step, body: &Range<u64>, read: &ReadCode<'_>) -> bool {
    let Some(bytes) = read(body.clone()) else {
        return false;
    };
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        if rest.starts_with(&PAUSE) {
            return true;
        }
        let step = Step {
            code: Code::new(rest),
            ..*like
        };
        let Some(length) = decoder.decode(&step).map(|it| it.length) else {
            return false;
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    false
}
