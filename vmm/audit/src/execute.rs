//! What one instruction of entry text does, as far as it matters here: to the page table in force, to
//! the flag, to the base of GS, and to what is known of registers.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use ipirig_entry::paging::USER_TABLE_BIT;

use crate::state::{Conditions, Origin, State};
use crate::text::{Patched, number};
use crate::value::Value;
use crate::walk::{Open, Walk};

/// IA32_GS_BASE (SDM vol. 4, table 2-2).
const GS_BASE: u64 = 0xc000_0101;
/// The bit of a base that says whether it is a kernel address.
const KERNEL_BIT: u32 = 63;
/// In the low bits of CS: the privilege level (SDM vol. 3, 3.4.2); in a selector, with the table: bit 2.
const PRIVILEGE: u64 = 3;
const LOCAL_TABLE: u64 = 4;
const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// At an address that the instruction has, relative to GS or not.
    At { address: u64, per_cpu: bool },
    /// Relative to the stack pointer.
    Stack { offset: u64 },
    /// Through other registers.
    Registers { base: Register, index: Register },
}

/// The memory operand that `instruction` names, if it does.
pub(crate) fn memory(instruction: &Instruction) -> Option<Memory> {
    let names =
        (0..instruction.op_count()).any(|index| instruction.op_kind(index) == OpKind::Memory);
    if !names || instruction.mnemonic() == Mnemonic::Lea || instruction.mnemonic() == Mnemonic::Nop
    {
        return None;
    }
    let per_cpu = instruction.memory_segment() == Register::GS;
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    Some(if instruction.is_ip_rel_memory_operand() {
        Memory::At {
            address: instruction.ip_rel_memory_address(),
            per_cpu,
        }
    } else if base == Register::None && index == Register::None {
        Memory::At {
            address: instruction.memory_displacement64(),
            per_cpu,
        }
    } else if base == Register::RSP && index == Register::None {
        Memory::Stack {
            offset: instruction.memory_displacement64(),
        }
    } else {
        Memory::Registers { base, index }
    })
}

impl Walk<'_, '_> {
    /// What comes after an instruction that goes on to the next.
    pub(crate) fn execute(&mut self, mut state: State, at: u64, patched: &Patched) -> Vec<State> {
        let instruction = &patched.instruction;
        let memory = memory(instruction);
        // The stack pointer comes from a per-CPU variable too, and leads to the entry stack or the task's.
        if !state.caught_up
            && let Some(Memory::Registers { base, index }) = memory
        {
            let leads_anywhere =
                |register| number(register).is_some_and(|number| state.register(number).per_cpu);
            if leads_anywhere(base) || leads_anywhere(index) {
                self.open(at, Open::Pointer);
            }
        }
        if instruction.mnemonic() == Mnemonic::Mov && instruction.op0_register() == Register::CR3 {
            let value = self.operand(&state, instruction, 1, memory);
            return match value.bit(USER_TABLE_BIT) {
                Some(user) => {
                    self.switch(&mut state, at, user);
                    vec![state]
                }
                None => {
                    self.open(at, Open::PageTable);
                    let mut other = state.clone();
                    self.switch(&mut state, at, false);
                    self.switch(&mut other, at, true);
                    vec![state, other]
                }
            };
        }
        if self.is_flag(memory) && patched.writes {
            let stores = matches!(instruction.mnemonic(), Mnemonic::Mov);
            let value = self.operand(&state, instruction, 1, None);
            let set = value.whole(1).map(|byte| byte != 0);
            self.store_flag(&mut state, at, set.filter(|_| stores));
        }
        self.update(&mut state, patched, memory);
        vec![state]
    }

    fn is_flag(&self, memory: Option<Memory>) -> bool {
        let Some(Memory::At { address, per_cpu }) = memory else {
            return false;
        };
        per_cpu && self.kernel.flag.is_some_and(|flag| flag.address == address)
    }

    /// Whether a value that is compared with the stack is the address of the IRET to user mode, whole
    /// or cut off by a fault on a stack of 16 bits: if it is found there, that IRET has faulted
    /// (`error_entry` in arch/x86/entry/entry_64.S).
    fn is_iret(&self, value: Value, memory: Option<Memory>) -> bool {
        let iret = self.kernel.symbols().address("native_irq_return_iret");
        matches!(memory, Some(Memory::Stack { .. }))
            && value
                .whole(8)
                .zip(iret)
                .is_some_and(|(value, iret)| value == iret || value == iret & u64::from(u32::MAX))
    }

    /// What is known of an operand.
    fn operand(
        &self,
        state: &State,
        instruction: &Instruction,
        index: u32,
        memory: Option<Memory>,
    ) -> Value {
        match instruction.op_kind(index) {
            OpKind::Register => match instruction.op_register(index) {
                Register::CR3 => state.cr3(),
                // The high byte of a register is not followed.
                Register::AH | Register::CH | Register::DH | Register::BH => Value::UNKNOWN,
                register => {
                    number(register).map_or(Value::UNKNOWN, |number| state.register(number))
                }
            },
            OpKind::Memory => match memory {
                Some(Memory::At { per_cpu: true, .. }) if self.is_flag(memory) => {
                    Value::constant(u64::from(state.now.flag))
                }
                Some(Memory::At { per_cpu: true, .. }) => Value::UNKNOWN.with_per_cpu(true),
                Some(Memory::Registers { base, .. }) => {
                    let through = number(base).is_some_and(|base| state.register(base).per_cpu);
                    Value::UNKNOWN.with_per_cpu(through)
                }
                _ => Value::UNKNOWN,
            },
            _ => instruction
                .try_immediate(index)
                .map_or(Value::UNKNOWN, Value::constant),
        }
    }

    /// What is known of registers and conditions afterwards.
    fn update(&self, state: &mut State, patched: &Patched, memory: Option<Memory>) {
        let instruction = &patched.instruction;
        let operand = |state: &State, index| self.operand(state, instruction, index, memory);
        let (zero, one) = (operand(state, 0), operand(state, 1));
        let size = operand_size(instruction);
        let result = match instruction.mnemonic() {
            Mnemonic::Mov => Some(one),
            Mnemonic::Movzx if self.is_flag(memory) => Some(one),
            Mnemonic::And => Some(zero.and(one)),
            Mnemonic::Or => Some(zero.or(one)),
            Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => {
                Some(Value::constant(instruction.ip_rel_memory_address()))
            }
            Mnemonic::Sub => sum(zero, one, size, u64::wrapping_sub),
            Mnemonic::Add => sum(zero, one, size, u64::wrapping_add),
            Mnemonic::Dec => sum(zero, Value::constant(1), size, u64::wrapping_sub),
            Mnemonic::Xor if same_register(instruction) => Some(Value::constant(0)),
            Mnemonic::Xor => Some(zero.xor(one)),
            Mnemonic::Bts => bit_number(one).map(|bit| zero.with_bit(bit, Some(true))),
            Mnemonic::Btr => bit_number(one).map(|bit| zero.with_bit(bit, Some(false))),
            Mnemonic::Rdgsbase => Some(Value::bit_is(KERNEL_BIT, !state.now.user_gs)),
            _ => None,
        };
        let conditions = self.conditions(state, instruction, memory, result);
        match instruction.mnemonic() {
            Mnemonic::Swapgs => state.now.user_gs = !state.now.user_gs,
            Mnemonic::Wrgsbase => {
                // What was read from memory is the kernel's.
                state.now.user_gs = zero.bit(KERNEL_BIT) == Some(false);
            }
            _ => {}
        }
        let rdmsr_gs = instruction.mnemonic() == Mnemonic::Rdmsr
            && state.register(RCX).whole(4) == Some(GS_BASE);
        let to = number(instruction.op0_register());
        let old = to.map_or(Value::UNKNOWN, |number| state.register(number));
        state.forget(patched.written);
        if let (Some(to), Some(result)) = (to, result)
            && instruction.op0_kind() == OpKind::Register
            && !is_high(instruction.op0_register())
        {
            state.set_register(to, old.written(result, size));
        }
        if rdmsr_gs {
            state.set_register(RAX, Value::UNKNOWN);
            state.set_register(RDX, Value::bit_is(31, !state.now.user_gs));
        }
        if instruction.rflags_modified() != 0 {
            state.conditions = conditions;
        }
    }

    /// The conditions after an instruction that changes them.
    fn conditions(
        &self,
        state: &State,
        instruction: &Instruction,
        memory: Option<Memory>,
        result: Option<Value>,
    ) -> Conditions {
        let operand = |index| self.operand(state, instruction, index, memory);
        let size = operand_size(instruction);
        let of = |value: Value| Conditions {
            carry: Some(false),
            zero: value.is_zero(size),
            sign: value.bit(size as u32 * 8 - 1),
        };
        match instruction.mnemonic() {
            Mnemonic::And | Mnemonic::Or | Mnemonic::Xor => result.map(of).unwrap_or_default(),
            Mnemonic::Test => {
                let zero = of_selector(state, instruction, memory);
                if zero.is_some() {
                    return Conditions {
                        carry: Some(false),
                        zero,
                        sign: None,
                    };
                }
                if same_register(instruction) {
                    of(operand(0))
                } else {
                    of(operand(0).and(operand(1)))
                }
            }
            Mnemonic::Sub | Mnemonic::Add | Mnemonic::Dec => Conditions {
                carry: None,
                ..result.map(of).unwrap_or_default()
            },
            Mnemonic::Cmp if self.is_iret(operand(1), memory) => Conditions {
                // What else can fault is not on the user's page table.
                zero: (!state.found.user_table).then_some(false),
                ..Conditions::default()
            },
            Mnemonic::Cmp => {
                let equal = match (operand(0).whole(size), operand(1).whole(size)) {
                    (Some(a), Some(b)) => (Some(a < b), Some(a == b)),
                    _ => (None, None),
                };
                Conditions {
                    carry: equal.0,
                    zero: equal.1,
                    sign: None,
                }
            }
            // Only CF is defined or kept (SDM vol. 2, BT).
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => Conditions {
                carry: bit_number(operand(1)).and_then(|bit| operand(0).bit(bit)),
                zero: None,
                sign: None,
            },
            _ => Conditions::default(),
        }
    }
}

/// Whether a test of a selector in the frame that the CPU pushed gives zero: of CS for the privilege
/// level, of SS for the local descriptor table, which the kernel's never has.
fn of_selector(state: &State, instruction: &Instruction, memory: Option<Memory>) -> Option<bool> {
    let Some(Memory::Stack { offset }) = memory else {
        return None;
    };
    let kernel = state.origin == Origin::Kernel;
    match instruction.try_immediate(1).ok()? {
        PRIVILEGE => Some(kernel),
        LOCAL_TABLE if kernel && offset % 8 == 0 => Some(true),
        _ => None,
    }
}

/// What is known of a sum or a difference: all, or nothing.
fn sum(a: Value, b: Value, size: usize, of: impl Fn(u64, u64) -> u64) -> Option<Value> {
    let sum = of(a.whole(size)?, b.whole(size)?);
    Some(Value::constant(sum))
}

fn same_register(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Register
        && instruction.op0_register() == instruction.op1_register()
}

fn bit_number(value: Value) -> Option<u32> {
    // Of a register the number counts modulo its size; the kernel has none above.
    value.whole(1).filter(|&bit| bit < 64).map(|bit| bit as u32)
}

fn is_high(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::CH | Register::DH | Register::BH
    )
}

/// Bytes of the first operand.
fn operand_size(instruction: &Instruction) -> usize {
    let size = match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size(),
        _ => instruction.memory_size().size(),
    };
    if matches!(size, 1 | 2 | 4) { size } else { 8 }
}
