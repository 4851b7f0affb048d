//! The follower: has each interrupt of some vectors recorded, whatever it interrupts, from the first
//! instruction of its handler to the return; or each call of some functions.

use ipirig_entry::{Began, Ended, Record};
use ipirig_instruction::Step;

/// Most instructions of all records together: 60 MB of them.
const STEPS_MAX: usize = 300_000;

const IRETQ: [u8; 2] = [0x48, 0xcf];
/// RET.
const RET: u8 = 0xc3;
/// Place of RSP in `StepRegisters::general`.
const RSP: usize = 4;

/// What is to be recorded, and what has been.
#[derive(Debug)]
pub(super) struct Follower {
    /// First instructions of handlers.
    entries: Vec<(u64, Began)>,
    /// Most instructions of one record.
    pub(super) limit: usize,
    /// Where RSP was at the first instruction of the record that runs: at what the CPU pushed.
    frame: u64,
    /// It came from user space.
    user: bool,
    /// It is of a call.
    call: bool,
    records: Vec<Record>,
    /// Instructions of these.
    steps: usize,
}

impl Follower {
    pub(super) fn new(entries: Vec<(u64, Began)>, limit: usize) -> Self {
        Self {
            entries,
            limit,
            frame: 0,
            user: false,
            call: false,
            records: Vec::new(),
            steps: 0,
        }
    }

    /// The interrupt whose handler begins at `address`, if it is to be recorded.
    pub(super) fn way_in(&self, address: u64) -> Option<Began> {
        let mut entries = self.entries.iter();
        let found = entries.find(|(first, _)| *first == address);
        found.map(|(_, began)| *began)
    }

    /// Where to stop; nowhere once there is no more room.
    pub(super) fn addresses(&self) -> Vec<u64> {
        if self.steps >= STEPS_MAX {
            return vec![];
        }
        self.entries.iter().map(|(address, _)| *address).collect()
    }

    /// A record of `began` begins with RSP at `frame`, from user space or not.
    pub(super) fn begin(&mut self, began: Began, frame: u64, user: bool) {
        (self.frame, self.user, self.call) = (frame, user, began == Began::Call);
    }

    /// Whether `step` is the return from the interrupt: the IRET that takes what the CPU pushed for it. One
    /// that a handler makes for itself, to serialise, has its frame further down. Of a call, the RET that takes
    /// its return address.
    pub(super) fn returns(&self, step: &Step) -> bool {
        let code = step.code.bytes();
        let returns = if self.call {
            code.first() == Some(&RET)
        } else {
            code.starts_with(&IRETQ)
        };
        returns && step.registers.general[RSP] == self.frame
    }

    /// Keeps a record that has ended.
    pub(super) fn keep(&mut self, mut record: Record) {
        let last = record.steps.last();
        let returned = last.is_some_and(|step| self.returns(step));
        if record.ended == Ended::User && returned && !self.user {
            record.ended = Ended::Interrupted;
        }
        self.steps = self.steps.saturating_add(record.steps.len());
        self.records.push(record);
    }

    /// Gives away what it has.
    pub(super) fn take(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ipirig_instruction::{Code, StepRegisters};

    use super::*;

    const CALL: Began = Began::Vector(0xfc);

    fn step(rsp: u64, code: &[u8]) -> Step {
        let mut general = [0; 16];
        general[RSP] = rsp;
        Step {
            registers: StepRegisters {
                general,
                ..StepRegisters::default()
            },
            code: Code::new(code),
            descriptor: None,
        }
    }

    fn record(steps: Vec<Step>, ended: Ended) -> Record {
        Record {
            cpu: 1,
            began: CALL,
            handlers: BTreeSet::new(),
            steps,
            ended,
        }
    }

    #[test]
    fn the_return_is_the_iret_that_takes_the_interrupts_own_frame() {
        let mut follower = Follower::new(vec![(0x1000, CALL)], 9);
        assert_eq!(follower.way_in(0x1000), Some(CALL));
        assert_eq!(follower.way_in(0x1001), None);
        follower.begin(CALL, 0x8000, false);
        assert!(follower.returns(&step(0x8000, &IRETQ)));
        assert!(!follower.returns(&step(0x7f00, &IRETQ)));
        assert!(!follower.returns(&step(0x8000, &[0x90])));
    }

    #[test]
    fn a_call_is_over_with_the_ret_that_takes_its_return_address() {
        let mut follower = Follower::new(vec![(0x1000, Began::Call)], 9);
        follower.begin(Began::Call, 0x8000, false);
        assert!(follower.returns(&step(0x8000, &[RET])));
        assert!(!follower.returns(&step(0x7ff8, &[RET])));
        assert!(!follower.returns(&step(0x8000, &IRETQ)));
    }

    #[test]
    fn a_record_says_whether_the_interrupted_code_or_user_space_is_next() {
        let mut follower = Follower::new(vec![(0x1000, CALL)], 9);
        follower.begin(CALL, 0x8000, false);
        let back = vec![step(0x8000, &IRETQ)];
        let user = vec![step(0x100, &IRETQ)];
        follower.keep(record(back.clone(), Ended::User));
        follower.keep(record(user.clone(), Ended::User));
        follower.begin(CALL, 0x8000, true);
        follower.keep(record(back.clone(), Ended::User));
        let expected = vec![
            record(back.clone(), Ended::Interrupted),
            record(user, Ended::User),
            record(back, Ended::User),
        ];
        assert_eq!(follower.take(), expected);
        assert_eq!(follower.take(), vec![]);
    }

    #[test]
    fn what_it_keeps_does_not_grow_for_ever() {
        let mut follower = Follower::new(vec![(0x1000, CALL)], usize::MAX);
        assert_eq!(follower.addresses(), [0x1000]);
        follower.keep(record(vec![step(0, &[0x90]); STEPS_MAX], Ended::Limit));
        assert_eq!(follower.addresses(), Vec::<u64>::new());
    }
}
