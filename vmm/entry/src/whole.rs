//! Whether a record is whole: each instruction follows from the one before, and the record is that of
//! the entry that was ordered.
//!
//! A record has registers and code, and no memory. So where an instruction takes its successor from
//! memory (IRET, an indirect branch, a return whose call was not recorded), only the registers tell:
//! those that the instruction does not write must be as they were.

use std::collections::BTreeMap;

use ipirig_instruction::Step;
use ipirig_instruction::decode::{Decoder, Effect};
use ipirig_instruction::flow::{Flow, Flows, Next};
use thiserror::Error;

use crate::listing;
use crate::record::{Began, Ended, Record};
use crate::shadow::control_after;

/// Place of RSP in [`ipirig_instruction::StepRegisters::general`].
const RSP: usize = 4;
/// Most that the CPU pushes for an interrupt or exception, in bytes (SDM vol. 3, figure 6-9).
const FRAME: u64 = 48;

/// Why nothing can be said from a record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotWhole {
    /// It is of another entry.
    #[error(
        "the CPU came into the kernel by {} before {} did",
        listing::way(*.began),
        listing::way(*.ordered)
    )]
    Other {
        /// The way in that was recorded.
        began: Began,
        /// The way in that was ordered.
        ordered: Began,
    },
    /// [`Ended::NoBreakpoint`].
    #[error("no debug register was left for the handler of {}", listing::way(*.0))]
    NoBreakpoint(Began),
    /// It has no instructions.
    #[error("no instruction was recorded")]
    Empty,
    /// An instruction is none that is known.
    #[error("instruction {step}, at {rip:#x}, cannot be decoded")]
    Undecodable {
        /// Its number, from 1.
        step: usize,
        /// Its address.
        rip: u64,
    },
    /// One or more instructions are missing.
    #[error("instructions are missing after {step}, from {rip:#x} to {next:#x}")]
    Hole {
        /// The number of the last instruction before the hole, from 1.
        step: usize,
        /// Its address.
        rip: u64,
        /// The address of the first instruction after the hole.
        next: u64,
    },
    /// It ends otherwise than by what its last instruction does.
    #[error("instructions are missing after the last, {step}, at {rip:#x}")]
    End {
        /// The number of the last instruction, from 1.
        step: usize,
        /// Its address.
        rip: u64,
    },
}

impl Record {
    /// Whether this is the whole record of the entry `ordered`, as far as its instructions tell.
    ///
    /// # Errors
    /// It is not, and nothing should be concluded from it.
    pub fn check(&self, ordered: Began) -> Result<(), NotWhole> {
        if self.began != ordered {
            return Err(NotWhole::Other {
                began: self.began,
                ordered,
            });
        }
        if self.ended == Ended::NoBreakpoint {
            return Err(NotWhole::NoBreakpoint(self.began));
        }
        let last = self.steps.last().ok_or(NotWhole::Empty)?;
        let mut walk = Walk::default();
        for (number, pair) in (1..).zip(self.steps.windows(2)) {
            if let [step, next] = pair
                && !walk.follows(self, (number, step), next)?
            {
                return Err(NotWhole::Hole {
                    step: number,
                    rip: step.registers.rip,
                    next: next.registers.rip,
                });
            }
        }
        let (step, rip) = (self.steps.len(), last.registers.rip);
        let flow = walk
            .flows
            .of(last)
            .ok_or(NotWhole::Undecodable { step, rip })?;
        let ends = match self.ended {
            // An IRET goes wherever its frame says.
            Ended::User => matches!(flow.next, Next::User | Next::Anywhere),
            Ended::Interrupted if self.began == Began::Call => flow.next == Next::Return,
            Ended::Interrupted => flow.next == Next::Anywhere,
            Ended::Halted => flow.next == Next::Halt,
            Ended::Limit | Ended::NoBreakpoint => true,
        };
        if ends {
            Ok(())
        } else {
            Err(NotWhole::End { step, rip })
        }
    }
}

/// What is known on the way along a record.
#[derive(Debug, Default)]
struct Walk {
    flows: Flows,
    decoder: Decoder,
    /// Return addresses on the stack, by their place, that were seen to be put there.
    returns: BTreeMap<u64, u64>,
}

impl Walk {
    /// Whether `next` can come right after `step`.
    fn follows(
        &mut self,
        record: &Record,
        (number, step): (usize, &Step),
        next: &Step,
    ) -> Result<bool, NotWhole> {
        let (before, after) = (&step.registers, &next.registers);
        let undecodable = NotWhole::Undecodable {
            step: number,
            rip: before.rip,
        };
        let Some(flow) = self.flows.of(step) else {
            return Err(undecodable);
        };
        let effect = self.store(step, &flow);
        let registers = kept(step, next, |register| flow.keeps(register))
            && control_after(effect, before) == (after.cr3, after.cr4)
            && flow.rsp.is_none_or(|rsp| rsp == after.general[RSP]);
        let goes_on = match flow.next {
            Next::At(rip) => after.rip == rip,
            Next::Either(one, other) => after.rip == one || after.rip == other,
            Next::Return => self
                .returns
                .remove(&before.general[RSP])
                .is_none_or(|rip| after.rip == rip),
            Next::Anywhere => true,
            Next::Handler | Next::User => false,
            // A trace that goes on after HLT is that of what woke the CPU.
            Next::Halt => false,
        };
        if goes_on && registers {
            return Ok(true);
        }
        // An exception that the instruction raised: it has changed nothing, unless it repeats.
        let pushed = after.general[RSP];
        let raised = record.handlers.contains(&after.rip)
            && pushed.is_multiple_of(8)
            && (before.cr3, before.cr4) == (after.cr3, after.cr4)
            && kept(step, next, |register| {
                register != RSP && (!flow.repeats || flow.keeps(register))
            });
        if raised {
            self.forget(pushed, pushed.saturating_add(FRAME));
        }
        Ok(raised)
    }

    /// Follows what `step` does to return addresses on the stack. What it does to CR3 and CR4.
    fn store(&mut self, step: &Step, flow: &Flow) -> Effect {
        let Some(executed) = self.decoder.decode(step) else {
            return Effect::None;
        };
        for access in executed.accesses.iter().filter(|access| access.write) {
            let known = self.returns.contains_key(&access.address) && access.size == 8;
            self.forget(access.address, access.end());
            if known && let Some(value) = executed.stored {
                self.returns.insert(access.address, value);
            }
        }
        if let Some(address) = flow.pushes {
            let place = step.registers.general[RSP].wrapping_sub(8);
            self.returns.insert(place, address);
        }
        executed.effect
    }

    /// The stack from `start` to `end` was written to.
    fn forget(&mut self, start: u64, end: u64) {
        let overlapping: Vec<u64> = self
            .returns
            .range(start.saturating_sub(7)..end.max(start.saturating_sub(7)))
            .map(|(&place, _)| place)
            .collect();
        for place in overlapping {
            self.returns.remove(&place);
        }
    }
}

/// Whether those general registers for which `same` holds are the same at `step` and at `next`.
fn kept(step: &Step, next: &Step, same: impl Fn(usize) -> bool) -> bool {
    let (before, after) = (&step.registers.general, &next.registers.general);
    let mut pairs = before.iter().zip(after).enumerate();
    pairs.all(|(register, (before, after))| !same(register) || before == after)
}

#[cfg(test)]
mod tests;
