//! What an instruction leaves for the next one: where it is, and which registers are as they were.

use std::fmt;

use iced_x86::{
    ConditionCode, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};

use crate::disassemble::first;
use crate::step::{Step, StepRegisters};

/// Flags in RFLAGS (SDM vol. 1, 3.4.3).
const CF: u64 = 1;
const PF: u64 = 1 << 2;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
/// Place of RAX, RCX and RSP in [`StepRegisters::general`].
const RAX: usize = 0;
const RCX: usize = 1;
const RSP: usize = 4;

/// What an instruction leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where the next instruction is.
    pub next: Next,
    /// RSP afterwards, if that is known.
    pub rsp: Option<u64>,
    /// General registers that it may write, by their bits; RSP's does not count.
    written: u16,
    /// Whether it is a repeated string instruction, which an exception may interrupt (SDM vol. 1, 7.3.9.2). F2 and F3
    /// before anything else mean something else.
    pub repeats: bool,
    /// The return address that it pushes.
    pub pushes: Option<u64>,
}

/// Where the next instruction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// There.
    At(u64),
    /// At either: a branch to itself is one step however often it was executed, and of LOOP the registers are not
    /// looked at.
    Either(u64, u64),
    /// Where the return address at the top of the stack says.
    Return,
    /// Where memory says, of which a record has nothing: an indirect branch, an IRET.
    Anywhere,
    /// In a handler: it raises an exception.
    Handler,
    /// In user space.
    User,
    /// After an interrupt.
    Halt,
}

impl Flow {
    /// Whether a general register but RSP, by its place, is as it was.
    pub fn keeps(&self, register: usize) -> bool {
        register != RSP && self.written >> register & 1 == 0
    }
}

/// Finds the flow of steps.
pub struct Flows(InstructionInfoFactory);

impl Default for Flows {
    fn default() -> Self {
        Self(InstructionInfoFactory::new())
    }
}

// The factory has none.
impl fmt::Debug for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flows").finish_non_exhaustive()
    }
}

impl Flows {
    /// What `step` leaves; none if its bytes are no instruction.
    pub fn of(&mut self, step: &Step) -> Option<Flow> {
        let registers = &step.registers;
        let instruction = first(step.code.bytes(), registers.rip)?;
        let next = next(&instruction, registers);
        let calls = matches!(
            instruction.flow_control(),
            FlowControl::Call | FlowControl::IndirectCall
        ) && instruction.mnemonic() == Mnemonic::Call
            && !instruction.is_call_far_indirect();
        Some(Flow {
            next,
            rsp: self.rsp(&instruction, registers),
            written: self.written(&instruction),
            repeats: instruction.is_string_instruction()
                && (instruction.has_rep_prefix() || instruction.has_repne_prefix()),
            pushes: calls.then(|| instruction.next_ip()),
        })
    }

    fn rsp(&mut self, instruction: &Instruction, registers: &StepRegisters) -> Option<u64> {
        let rsp = registers.general[RSP];
        let writes = instruction.op0_kind() == OpKind::Register
            && instruction.op0_register().full_register() == Register::RSP;
        let moves = match instruction.mnemonic() {
            Mnemonic::Push | Mnemonic::Pushfq | Mnemonic::Call | Mnemonic::Ret => true,
            Mnemonic::Pop | Mnemonic::Popfq => !writes,
            _ => false,
        };
        if moves {
            let by = i64::from(instruction.stack_pointer_increment());
            return Some(rsp.wrapping_add_signed(by));
        }
        let kept = self
            .0
            .info(instruction)
            .used_registers()
            .iter()
            .all(|used| used.register().full_register() != Register::RSP || !write(used.access()));
        kept.then_some(rsp)
    }

    fn written(&mut self, instruction: &Instruction) -> u16 {
        let mut written = 0;
        for used in self.0.info(instruction).used_registers() {
            let register = used.register();
            if register.is_gpr() && write(used.access()) {
                written |= 1_u16
                    .checked_shl(register.full_register().number() as u32)
                    .unwrap_or(0);
            }
        }
        // A hypercall's result.
        if matches!(instruction.mnemonic(), Mnemonic::Vmcall | Mnemonic::Vmmcall) {
            written |= 1 << RAX;
        }
        written
    }
}

/// The address of the instruction that comes after `step`, unless it raises an exception. `None` where
/// that depends on memory, or the bytes are no instruction.
#[must_use]
pub fn successor(step: &Step) -> Option<u64> {
    let registers = &step.registers;
    match next(&first(step.code.bytes(), registers.rip)?, registers) {
        Next::At(rip) => Some(rip),
        _ => None,
    }
}

fn write(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

fn next(instruction: &Instruction, registers: &StepRegisters) -> Next {
    let after = instruction.next_ip();
    match instruction.mnemonic() {
        Mnemonic::Hlt => return Next::Halt,
        Mnemonic::Sysret | Mnemonic::Sysretq | Mnemonic::Sysexit | Mnemonic::Sysexitq => {
            return Next::User;
        }
        Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => return Next::Anywhere,
        // Not what a kernel executes, and no business of this.
        Mnemonic::Syscall | Mnemonic::Sysenter | Mnemonic::Rsm | Mnemonic::Xbegin => {
            return Next::Anywhere;
        }
        Mnemonic::Vmcall | Mnemonic::Vmmcall => return Next::At(after),
        _ => {}
    }
    let target = || instruction.near_branch_target();
    match instruction.flow_control() {
        FlowControl::Next => Next::At(after),
        FlowControl::UnconditionalBranch | FlowControl::Call => match instruction.op0_kind() {
            OpKind::NearBranch64 => Next::At(target()),
            _ => Next::Anywhere,
        },
        FlowControl::IndirectBranch | FlowControl::IndirectCall => {
            match (instruction.op0_kind(), instruction.op0_register()) {
                (OpKind::Register, register) if register.is_gpr64() => registers
                    .general
                    .get(register.number())
                    .map_or(Next::Anywhere, |&to| Next::At(to)),
                _ => Next::Anywhere,
            }
        }
        FlowControl::ConditionalBranch => {
            let to = target();
            if to == registers.rip {
                return Next::Either(to, after);
            }
            match taken(instruction, registers) {
                Some(true) => Next::At(to),
                Some(false) => Next::At(after),
                None => Next::Either(to, after),
            }
        }
        FlowControl::Return if instruction.mnemonic() == Mnemonic::Ret => Next::Return,
        FlowControl::Interrupt | FlowControl::Exception => Next::Handler,
        _ => Next::Anywhere,
    }
}

/// Whether a conditional branch is taken (SDM vol. 2, Jcc and LOOP).
fn taken(instruction: &Instruction, registers: &StepRegisters) -> Option<bool> {
    let flag = |flag| registers.rflags & flag != 0;
    let rcx = registers.general[RCX];
    match instruction.mnemonic() {
        Mnemonic::Jrcxz => return Some(rcx == 0),
        Mnemonic::Jecxz => return Some(rcx & u64::from(u32::MAX) == 0),
        // Of RCX or ECX and perhaps ZF; no kernel's entry has one.
        Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne => return None,
        _ => {}
    }
    Some(match instruction.condition_code() {
        ConditionCode::o => flag(OF),
        ConditionCode::no => !flag(OF),
        ConditionCode::b => flag(CF),
        ConditionCode::ae => !flag(CF),
        ConditionCode::e => flag(ZF),
        ConditionCode::ne => !flag(ZF),
        ConditionCode::be => flag(CF) || flag(ZF),
        ConditionCode::a => !flag(CF) && !flag(ZF),
        ConditionCode::s => flag(SF),
        ConditionCode::ns => !flag(SF),
        ConditionCode::p => flag(PF),
        ConditionCode::np => !flag(PF),
        ConditionCode::l => flag(SF) != flag(OF),
        ConditionCode::ge => flag(SF) == flag(OF),
        ConditionCode::le => flag(ZF) || flag(SF) != flag(OF),
        ConditionCode::g => !flag(ZF) && flag(SF) == flag(OF),
        ConditionCode::None => return None,
    })
}

#[cfg(test)]
mod tests;
