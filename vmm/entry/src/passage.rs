//! What a CPU executed from the instruction on at which an event came, until it was back in user space.
//!
//! The kernel's assembly is written down instruction by instruction. What it calls is written down by
//! its first instruction and then runs freely until it returns.

use std::collections::BTreeSet;
use std::ops::Range;

use ipirig_instruction::Step;

use crate::record::{Began, Ended, Record};
use crate::whole::NotWhole;

/// Something that happens to a CPU while it stands before an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An NMI.
    Nmi,
    /// An NMI while the handler of another one runs that has executed an IRET, as the handler of an exception within it
    /// does: that unmasks NMIs (SDM vol. 3, 6.7.1). The CPU is made to have done so.
    NestedNmi,
    /// An interrupt with this vector.
    Interrupt(u8),
    /// A #DB, as a data breakpoint of the kernel's raises. Nothing masks it.
    Debug,
    /// A #MC without an error in any bank, after which the interrupted program can go on. Nothing masks it.
    MachineCheck,
    /// Nothing to the CPU itself, which stands there until it is told to go on.
    Stand,
}

/// An event, and the instruction before which it is to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventAt {
    /// The event.
    pub event: Event,
    /// The instruction's address, and RSP before it: together they tell its executions apart.
    pub rip: u64,
    /// See `rip`.
    pub rsp: u64,
    /// How often it is executed with this RSP before, after `first` and `outer` if there are such.
    pub skip: usize,
    /// An instruction that is executed before all that, and RSP then.
    pub first: Option<(u64, u64)>,
    /// An event that comes before.
    pub outer: Option<OuterEvent>,
    /// Where what is written down instruction by instruction is.
    pub assembly: Vec<Range<u64>>,
    /// If the instruction is not in `assembly`: the first one there that comes after it, and RSP then.
    pub resume: Option<(u64, u64)>,
    /// Guest-physical address of a byte to be written down with each instruction.
    pub flag: Option<u64>,
    /// Most instructions.
    pub limit: usize,
}

/// An event in whose handler another one is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterEvent {
    /// Which: one that the CPU takes.
    pub event: Event,
    /// The instruction before which it comes, and RSP then.
    pub rip: u64,
    /// See `rip`.
    pub rsp: u64,
    /// How often that is executed with this RSP before.
    pub skip: usize,
}

/// What became of the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The CPU took it: its handler's first instruction came next, with this on the stack.
    Taken(Frame),
    /// The CPU cannot take it there.
    Blocked(Blocked),
    /// The CPU did not take it, though nothing is known that would keep it from that.
    NotTaken,
    /// It stood there, and went on.
    Stood,
}

/// Why a CPU does not take an event at an instruction boundary (SDM vol. 3, 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// RFLAGS.IF is clear.
    InterruptsOff,
    /// The instruction before was an STI or a load of SS.
    Shadow,
    /// An NMI handler has not returned yet.
    NmiMasked,
    /// The kernel has no handler for it.
    NoHandler,
}

/// What the CPU pushes for an event in 64-bit mode (SDM vol. 3, figure 6-9), without the error code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// RIP.
    pub rip: u64,
    /// CS.
    pub cs: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RSP.
    pub rsp: u64,
    /// SS.
    pub ss: u64,
}

impl From<[u64; 5]> for Frame {
    fn from([rip, cs, rflags, rsp, ss]: [u64; 5]) -> Self {
        Self {
            rip,
            cs,
            rflags,
            rsp,
            ss,
        }
    }
}

/// What a CPU executed after an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// What became of the event.
    pub arrival: Arrival,
    /// What the CPU pushed for [`EventAt::outer`].
    pub outer: Option<Frame>,
    /// What was executed: from the handler's first instruction, or from where the CPU stood.
    pub steps: Vec<Crossed>,
    /// Why nothing more was written down.
    pub ended: PassageEnd,
    /// What the last instruction, if it is an IRET to user space, takes from the stack.
    pub frame: Option<Frame>,
}

impl Passage {
    /// Whether each instruction follows from the one before, but where code ran freely in between.
    ///
    /// # Errors
    /// One does not, and nothing should be concluded from it.
    pub fn check(&self) -> Result<(), NotWhole> {
        let mut stretches = self
            .steps
            .split_inclusive(|crossed| crossed.free)
            .peekable();
        while let Some(stretch) = stretches.next() {
            let last = stretches.peek().is_none();
            let ended = match self.ended {
                PassageEnd::User if last => Ended::User,
                _ => Ended::Limit,
            };
            // Of whichever way: it is the same that is asked for.
            let began = Began::Syscall;
            let record = Record {
                cpu: 0,
                began,
                handlers: BTreeSet::new(),
                steps: stretch.iter().map(|crossed| crossed.step).collect(),
                ended,
            };
            record.check(began)?;
        }
        Ok(())
    }
}

/// An instruction of a passage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossed {
    /// The CPU's state before it.
    pub step: Step,
    /// The byte at [`EventAt::flag`] before it.
    pub flag: Option<u8>,
    /// It is the first of code that was called, or gone back to, and then ran freely.
    pub free: bool,
}

/// Why a passage ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassageEnd {
    /// Its last instruction returns to user space.
    User,
    /// An exception came that nobody asked for. The CPU stands at its handler's first instruction.
    Exception {
        /// Its vector.
        vector: u8,
        /// The instruction that raised it.
        rip: u64,
        /// CR2: what a page fault is about.
        cr2: u64,
    },
    /// As many instructions as were asked for.
    Limit,
    /// The CPU waits in HLT.
    Halted,
    /// The event did not come, and nothing was written down.
    NoEvent,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::good;

    /// All of a way in and out, of which the instructions with these numbers, from 1, run freely.
    fn passage(ended: PassageEnd, free: &[usize]) -> Passage {
        let steps = (1..).zip(good().steps).map(|(number, step)| Crossed {
            step,
            flag: None,
            free: free.contains(&number),
        });
        Passage {
            arrival: Arrival::Stood,
            outer: None,
            steps: steps.collect(),
            ended,
            frame: None,
        }
    }

    #[test]
    fn what_is_missing_is_noticed_unless_code_ran_freely_there() {
        let ends = [PassageEnd::User, PassageEnd::Limit];
        for (free, missing, whole) in [(&[][..], 4, false), (&[4], 4, true), (&[4], 7, false)] {
            for ended in ends {
                let mut passage = passage(ended, free);
                assert_eq!(passage.check(), Ok(()), "{free:?}");
                passage.steps.remove(missing);
                assert_eq!(passage.check().is_ok(), whole, "{missing} of {free:?}");
            }
        }
    }

    #[test]
    fn who_is_said_to_be_back_in_user_space_was_last_seen_on_the_way_there() {
        let mut passage = passage(PassageEnd::User, &[4]);
        passage.steps.pop();
        assert!(passage.check().is_err());
        passage.ended = PassageEnd::Limit;
        assert_eq!(passage.check(), Ok(()));
    }

    #[test]
    fn a_frame_is_pushed_from_its_end() {
        let frame = Frame {
            rip: 1,
            cs: 2,
            rflags: 3,
            rsp: 4,
            ss: 5,
        };
        assert_eq!(Frame::from([1, 2, 3, 4, 5]), frame);
    }
}
