//! The recorder: waits for the vCPU to come from user space into the kernel, then writes down each
//! instruction that it executes there.

use std::collections::BTreeSet;

use ipirig_entry::{Began, Ended, Record};
use ipirig_instruction::step::INSTRUCTION_MAX;
use ipirig_instruction::{Code, Step, StepRegisters, invpcid_descriptor};
use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

use super::privilege;
use crate::assist::Cpu;
use crate::msr;

/// Vectors for which the CPU pushes an error code (SDM vol. 3, table 6-1).
const WITH_ERROR_CODE: [u8; 10] = [8, 10, 11, 12, 13, 14, 17, 21, 29, 30];

/// IRETQ.
pub(super) const IRETQ: [u8; 2] = [0x48, 0xcf];

/// What the recorder does.
#[derive(Debug, Default)]
pub(super) enum Recorder {
    /// Nothing.
    #[default]
    Off,
    /// It waits for one of these first instructions.
    Armed {
        entries: Vec<(u64, Began)>,
        limit: usize,
    },
    /// It records, up to a number of steps.
    Running {
        record: Record,
        limit: usize,
        /// How often the vCPU was stopped.
        stops: usize,
    },
    /// A record waits to be fetched.
    Done(Record),
}

impl Recorder {
    pub(super) fn armed(&self) -> bool {
        matches!(self, Self::Armed { .. })
    }

    /// Whether it waits for a return to user space that faults, and so for no other way in that comes first.
    pub(super) fn waits_for_return(&self) -> bool {
        matches!(self, Self::Armed { entries, .. }
            if entries.iter().any(|(_, began)| matches!(began, Began::FaultingReturn(_))))
    }

    /// One more way in to wait for.
    pub(super) fn expect(&mut self, address: u64, began: Began) {
        if let Self::Armed { entries, .. } = self
            && !entries.contains(&(address, began))
        {
            entries.push((address, began));
        }
    }

    /// Ends without a record, as `began`, which comes now, cannot be waited for.
    pub(super) fn give_up(&mut self, cpu: usize, began: Began) {
        if self.armed() {
            *self = Self::Done(Record {
                cpu,
                began,
                handlers: BTreeSet::new(),
                steps: vec![],
                ended: Ended::NoBreakpoint,
            });
        }
    }

    /// The way in whose first instruction is at `address`.
    pub(super) fn way_in(&self, address: u64) -> Option<Began> {
        match self {
            Self::Armed { entries, .. } => entries
                .iter()
                .find(|(first, _)| *first == address)
                .map(|(_, began)| *began),
            _ => None,
        }
    }

    /// The addresses it waits for.
    pub(super) fn addresses(&self) -> Vec<u64> {
        match self {
            Self::Armed { entries, .. } => entries.iter().map(|(address, _)| *address).collect(),
            _ => vec![],
        }
    }

    /// Begins a record of `cpu`, which is about to execute its first kernel instruction.
    /// `handlers`: the first instructions of those of its interrupts and exceptions.
    pub(super) fn begin(&mut self, cpu: usize, began: Began, handlers: BTreeSet<u64>) {
        if let Self::Armed { limit, .. } = *self {
            let record = Record {
                cpu,
                began,
                handlers,
                steps: vec![],
                ended: Ended::Limit,
            };
            *self = Self::Running {
                record,
                limit,
                stops: 0,
            };
        }
    }

    /// Takes down what the vCPU is about to execute; ends the record where that is too much, or where
    /// it leaves the kernel (`returns`). `true` while it goes on.
    pub(super) fn step(&mut self, step: Step, returns: bool) -> bool {
        let Self::Running {
            record,
            limit,
            stops,
        } = self
        else {
            return false;
        };
        // A repeated string instruction stops once an iteration and is one step.
        let patience = limit.saturating_mul(2);
        let ended = if step.registers.cpl == 3 {
            Some(Ended::User)
        } else if *stops >= patience || record.steps.len() >= *limit {
            Some(Ended::Limit)
        } else {
            None
        };
        if let Some(ended) = ended {
            self.end(ended);
            return false;
        }
        *stops += 1;
        // Not executed yet (an exit in the middle of it), or not for the last time.
        let again = record.steps.last().is_some_and(|last| {
            let (last, now) = (&last.registers, &step.registers);
            (last.rip, last.general[RSP]) == (now.rip, now.general[RSP])
        });
        if !again {
            record.steps.push(step);
        }
        if returns {
            self.end(Ended::User);
        }
        !returns
    }

    /// Ends a record that runs.
    pub(super) fn end(&mut self, ended: Ended) {
        if let Self::Running { mut record, .. } = std::mem::take(self) {
            record.ended = ended;
            *self = Self::Done(record);
        }
    }

    /// Instructions taken down so far.
    pub(super) fn steps(&self) -> usize {
        match self {
            Self::Running { record, .. } | Self::Done(record) => record.steps.len(),
            Self::Off | Self::Armed { .. } => 0,
        }
    }

    /// Gives the finished record away.
    pub(super) fn take(&mut self) -> Option<Record> {
        match std::mem::take(self) {
            Self::Done(record) => Some(record),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// Place of RSP in [`StepRegisters::general`].
pub(super) const RSP: usize = 4;

/// The vCPU's state, and the bytes that it will execute.
pub(super) fn look(cpu: &Cpu<'_>) -> Result<Step, errno::Error> {
    let (regs, sregs) = (cpu.fd.get_regs()?, cpu.fd.get_sregs()?);
    Ok(step(&regs, &sregs, |address, buffer| {
        cpu.read_virtual(address, buffer)
    }))
}

/// The same from registers that are known, with `read` for what is at a linear address.
pub(super) fn step(
    regs: &kvm_regs,
    sregs: &kvm_sregs,
    mut read: impl FnMut(u64, &mut [u8]) -> bool,
) -> Step {
    let mut bytes = [0; INSTRUCTION_MAX];
    let mut len = INSTRUCTION_MAX;
    // The page after it need not be mapped.
    while len > 0 && !read(regs.rip, bytes.get_mut(..len).unwrap_or_default()) {
        let in_page = 0x1000 - (regs.rip & 0xfff) as usize;
        len = if in_page < len { in_page } else { 0 };
    }
    let mut step = Step {
        registers: StepRegisters {
            general: [
                regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi,
                regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
            ],
            rip: regs.rip,
            rflags: regs.rflags,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            fs_base: sregs.fs.base,
            gs_base: sregs.gs.base,
            cpl: privilege(&sregs.ss, &sregs.cs),
        },
        code: Code::new(bytes.get(..len).unwrap_or_default()),
        descriptor: None,
    };
    step.descriptor = invpcid_descriptor(&step).and_then(|address| {
        let mut words = [[0; 8]; 2];
        read(address, words.as_flattened_mut()).then(|| words.map(u64::from_le_bytes))
    });
    step
}

/// Whether `step` is the return to CPL 3: SYSRET, or IRET with a CS of CPL 3 on the stack. What comes
/// after it must not be stepped: in CPL 3, some KVMs let the guest see the #DB of a step, and some do
/// not stop.
pub(super) fn returns_to_user(cpu: &Cpu<'_>, step: &Step) -> bool {
    match step.code.bytes() {
        [0x0f, 0x07, ..] | [0x48, 0x0f, 0x07, ..] => true,
        code if code.starts_with(&IRETQ) => {
            let mut cs = [0; 8];
            let rsp = step.registers.general[RSP];
            cpu.read_virtual(rsp.wrapping_add(8), &mut cs) && cs[0] & 3 == 3
        }
        _ => false,
    }
}

/// The address of the instruction that comes after `step`, if that is known.
pub(super) fn successor(cpu: &Cpu<'_>, step: &Step) -> Option<u64> {
    if !step.code.bytes().starts_with(&IRETQ) {
        return ipirig_instruction::successor(step);
    }
    let mut rip = [0; 8];
    let rsp = step.registers.general[RSP];
    cpu.read_virtual(rsp, &mut rip)
        .then(|| u64::from_le_bytes(rip))
}

/// Whether the vCPU, at the first instruction of the handler of `vector`, came from CPL 3: by the CS
/// that the CPU pushed (SDM vol. 3, figure 6-9).
pub(super) fn from_user(cpu: &Cpu<'_>, vector: u8) -> Result<bool, errno::Error> {
    Ok(pushed(cpu, vector)?.is_some_and(|[_, cs, _, _]| cs & 3 == 3))
}

/// Whether it came from an IRET to CPL 3 that raised the exception `vector`: the frame that it would have
/// taken is still there.
pub(super) fn from_return(cpu: &Cpu<'_>, vector: u8) -> Result<bool, errno::Error> {
    let Some([rip, cs, _, rsp]) = pushed(cpu, vector)? else {
        return Ok(false);
    };
    let (mut code, mut wanted) = ([0; 2], [0; 8]);
    let read =
        cpu.read_virtual(rip, &mut code) && cpu.read_virtual(rsp.wrapping_add(8), &mut wanted);
    Ok(read && cs & 3 == 0 && code == IRETQ && wanted[0] & 3 == 3)
}

/// Bytes of the error code that the CPU pushes for `vector`.
pub(super) fn error_code(vector: u8) -> u64 {
    if WITH_ERROR_CODE.contains(&vector) {
        8
    } else {
        0
    }
}

/// RIP, CS, RFLAGS and RSP as the CPU pushed them for `vector`; `None` if they cannot be read.
fn pushed(cpu: &Cpu<'_>, vector: u8) -> Result<Option<[u64; 4]>, errno::Error> {
    let rsp = cpu.fd.get_regs()?.rsp;
    let error_code = error_code(vector);
    let mut frame = [[0; 8]; 4];
    let read = cpu.read_virtual(rsp.wrapping_add(error_code), frame.as_flattened_mut());
    Ok(read.then(|| frame.map(u64::from_le_bytes)))
}

/// Where SYSENTER goes. KVM's SVM has the low half of it (`svm_get_msr` of arch/x86/kvm/svm/svm.c), as a CPU of
/// AMD's makes no use of the rest; a kernel's entry is in the highest 2 GiB.
pub(super) fn sysenter(fd: &VcpuFd) -> Result<u64, errno::Error> {
    Ok(whole_address(msr::read(fd, msr::SYSENTER_EIP)?))
}

fn whole_address(address: u64) -> u64 {
    match u32::try_from(address) {
        Ok(low) => i64::from(low.cast_signed()).cast_unsigned(),
        Err(_) => address,
    }
}

/// Where SYSCALL goes.
pub(super) fn lstar(fd: &VcpuFd) -> Result<u64, errno::Error> {
    msr::read(fd, msr::LSTAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(rip: u64, cpl: u8) -> Step {
        let registers = StepRegisters {
            rip,
            cpl,
            ..StepRegisters::default()
        };
        Step {
            registers,
            code: Code::new(&[0x90]),
            descriptor: None,
        }
    }

    fn running(limit: usize) -> Recorder {
        let mut recorder = Recorder::Armed {
            entries: vec![(1, Began::Syscall)],
            limit,
        };
        recorder.begin(2, Began::Syscall, BTreeSet::new());
        recorder
    }

    fn record(steps: &[u64], ended: Ended) -> Record {
        Record {
            cpu: 2,
            began: Began::Syscall,
            handlers: BTreeSet::new(),
            steps: steps.iter().map(|&rip| step(rip, 0)).collect(),
            ended,
        }
    }

    #[test]
    fn a_record_that_is_in_user_space_unawares_ends_without_its_instruction() {
        let mut recorder = running(9);
        assert!(recorder.step(step(1, 0), false));
        assert!(recorder.step(step(2, 0), false));
        assert!(!recorder.step(step(7, 3), false));
        assert_eq!(recorder.take(), Some(record(&[1, 2], Ended::User)));
        assert_eq!(recorder.take(), None);
    }

    #[test]
    fn a_record_ends_with_the_return_to_user_space() {
        let mut recorder = running(9);
        assert!(recorder.step(step(1, 0), false));
        assert!(!recorder.step(step(2, 0), true));
        assert_eq!(recorder.take(), Some(record(&[1, 2], Ended::User)));
    }

    #[test]
    fn an_entry_that_cannot_be_waited_for_is_told_by_name() {
        let mut recorder = Recorder::Armed {
            entries: vec![(1, Began::Syscall)],
            limit: 9,
        };
        recorder.give_up(2, Began::Vector(0xfd));
        let told = Record {
            began: Began::Vector(0xfd),
            ..record(&[], Ended::NoBreakpoint)
        };
        assert_eq!(recorder.take(), Some(told.clone()));
        assert!(told.check(Began::Vector(0xfd)).is_err());
        // A record that runs is not ended by it.
        let mut recorder = running(9);
        recorder.give_up(2, Began::Vector(0xfd));
        assert_eq!(recorder.take(), None);
    }

    #[test]
    fn only_a_return_that_is_to_fault_keeps_other_ways_in_from_being_recorded() {
        let armed = |began| Recorder::Armed {
            entries: vec![(1, began)],
            limit: 9,
        };
        assert!(armed(Began::FaultingReturn(13)).waits_for_return());
        assert!(!armed(Began::Vector(13)).waits_for_return());
        assert!(!running(9).waits_for_return());
    }

    #[test]
    fn half_of_an_address_of_a_kernel_stands_for_the_whole() {
        let whole = 0xffff_ffff_81c0_0080;
        assert_eq!(whole_address(whole), whole);
        assert_eq!(whole_address(0x81c0_0080), whole);
        assert_eq!(whole_address(0), 0);
    }

    #[test]
    fn an_instruction_that_is_stopped_at_twice_is_one_step() {
        let mut recorder = running(9);
        for rip in [1, 1, 2, 2, 2, 3] {
            assert!(recorder.step(step(rip, 0), false));
        }
        recorder.end(Ended::Halted);
        assert_eq!(recorder.take(), Some(record(&[1, 2, 3], Ended::Halted)));
    }

    #[test]
    fn neither_many_instructions_nor_one_that_repeats_makes_a_record_grow_for_ever() {
        let mut recorder = running(2);
        assert!(recorder.step(step(1, 0), false) && recorder.step(step(2, 0), false));
        assert!(!recorder.step(step(3, 0), false));
        assert_eq!(recorder.take(), Some(record(&[1, 2], Ended::Limit)));
        let mut recorder = running(2);
        let stops = (0..)
            .take_while(|_| recorder.step(step(1, 0), false))
            .count();
        assert_eq!(stops, 4);
        assert_eq!(recorder.take(), Some(record(&[1], Ended::Limit)));
    }
}
