//! One step: which memory the instruction accesses, and what it does to what a CPU caches.

use std::fmt;

use iced_x86::{
    CodeSize, Instruction, InstructionInfoFactory, InstructionInfoOptions, MemorySize, Mnemonic,
    OpAccess, OpKind, Register, UsedMemory,
};

use crate::control::{PCID, PCIDE};
use crate::disassemble::{first, text};
use crate::step::{Step, StepRegisters};

/// The direction flag in RFLAGS (SDM vol. 1, 3.4.3.2).
const DIRECTION: u64 = 1 << 10;
/// The opcode of INVPCID, after its prefixes (SDM vol. 2).
const INVPCID: [u8; 3] = [0x0f, 0x38, 0x82];
/// The part of an XSAVE area that is always accessed: the legacy region and the header (SDM vol. 1,
/// 13.4).
const XSAVE_MIN: u64 = 576;

/// An instruction with the values that it worked on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    instruction: Instruction,
    /// Bytes of code.
    pub length: usize,
    /// Memory that it reads or writes, implicit stack accesses included. What the CPU reads from
    /// descriptor tables and page tables is not here.
    pub accesses: Vec<Access>,
    /// What it does to what a CPU caches.
    pub effect: Effect,
    /// What a MOV or an XCHG stores to memory; the low bytes count. None for all else.
    pub stored: Option<u64>,
}

/// A memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Linear address.
    pub address: u64,
    /// Bytes, at least 1. Of a REP string instruction all that is left to do.
    pub size: u64,
    /// Whether it writes. An access that does both is one.
    pub write: bool,
    /// Whether the address comes from RSP.
    pub via_stack: bool,
    /// Whether the address is relative to GS: a per-CPU variable.
    pub per_cpu: bool,
}

impl Access {
    /// One past the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.address.saturating_add(self.size)
    }
}

/// What an instruction does to the instructions and translations that its CPU holds.
///
/// Serialising is what both vendors say (SDM vol. 3, 9.3; APM vol. 2, 7.6.4). INVPCID is not in
/// their lists, so it is not taken for serialising.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// MOV to CR3.
    WriteCr3 {
        /// With bit 63, which asks to keep translations.
        value: u64,
    },
    /// MOV to CR4.
    WriteCr4 {
        /// Before.
        old: u64,
        /// After.
        new: u64,
    },
    /// INVLPG.
    Invlpg {
        /// Any address of the page.
        address: u64,
    },
    /// INVPCID.
    Invpcid {
        /// The type, from its register.
        kind: u64,
        /// PCID and address, if the record has them and the CPU takes them.
        descriptor: Option<(u16, u64)>,
    },
    /// Any other serialising instruction.
    Serialising,
}

impl Effect {
    /// Whether nothing fetched before is executed after it.
    #[must_use]
    pub fn serialises(self) -> bool {
        match self {
            Self::WriteCr3 { .. }
            | Self::WriteCr4 { .. }
            | Self::Invlpg { .. }
            | Self::Serialising => true,
            Self::None | Self::Invpcid { .. } => false,
        }
    }
}

impl Executed {
    /// The instruction in the assembler's AT&T syntax.
    #[must_use]
    pub fn text(&self) -> String {
        text(&self.instruction)
    }

    /// Where a direct jump or call goes, whether it is taken or not.
    #[must_use]
    pub fn target(&self) -> Option<u64> {
        (self.instruction.op_count() == 1 && self.instruction.op0_kind() == OpKind::NearBranch64)
            .then(|| self.instruction.near_branch64())
    }
}

/// Decodes steps. Keeps nothing from one to the next but memory.
pub struct Decoder {
    factory: InstructionInfoFactory,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

// The factory has none.
impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    /// A decoder.
    #[must_use]
    pub fn new() -> Self {
        Self {
            factory: InstructionInfoFactory::new(),
        }
    }

    /// The instruction of `step`, or none if its bytes are no instruction of 64-bit mode, or cut off.
    pub fn decode(&mut self, step: &Step) -> Option<Executed> {
        let registers = &step.registers;
        let instruction = first(step.code.bytes(), registers.rip)?;
        let info = self
            .factory
            .info_options(&instruction, InstructionInfoOptions::NO_REGISTER_USAGE);
        let accesses = info
            .used_memory()
            .iter()
            .filter_map(|memory| access(&instruction, memory, registers))
            .collect();
        Some(Executed {
            length: instruction.len(),
            accesses,
            effect: effect(&instruction, step),
            stored: stored(&instruction, registers),
            instruction,
        })
    }
}

fn access(
    instruction: &Instruction,
    memory: &UsedMemory,
    registers: &StepRegisters,
) -> Option<Access> {
    let (read, write) = match memory.access() {
        OpAccess::Read | OpAccess::CondRead => (true, false),
        OpAccess::Write | OpAccess::CondWrite => (false, true),
        OpAccess::ReadWrite | OpAccess::ReadCondWrite => (true, true),
        OpAccess::None | OpAccess::NoMemAccess => (false, false),
    };
    if !read && !write {
        return None;
    }
    let mut address = memory.virtual_address(0, |register, _, _| value(registers, register))?;
    address = address.wrapping_add_signed(bit_offset(instruction, registers));
    let mut size = match memory.memory_size() {
        MemorySize::Xsave | MemorySize::Xsave64 => XSAVE_MIN,
        // A repeated string instruction's; the instruction knows the size of an element.
        MemorySize::Unknown if instruction.is_string_instruction() => {
            instruction.memory_size().size() as u64
        }
        size => size.size() as u64,
    }
    .max(1);
    let repeated = instruction.is_string_instruction()
        && (instruction.has_rep_prefix() || instruction.has_repne_prefix());
    if repeated {
        let count = match memory.address_size() {
            CodeSize::Code32 => value(registers, Register::ECX)?,
            _ => value(registers, Register::RCX)?,
        };
        if count == 0 {
            return None;
        }
        let rest = size.saturating_mul(count - 1);
        if registers.rflags & DIRECTION != 0 {
            address = address.saturating_sub(rest);
        }
        size = size.saturating_add(rest);
    }
    Some(Access {
        address,
        size,
        write,
        via_stack: memory.base().full_register() == Register::RSP,
        per_cpu: memory.segment() == Register::GS,
    })
}

/// How far from its memory operand a bit test is, whose bit number comes from a register and can be
/// any (SDM vol. 2, BT).
fn bit_offset(instruction: &Instruction, registers: &StepRegisters) -> i64 {
    let tests = matches!(
        instruction.mnemonic(),
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
    );
    if !tests || instruction.op0_kind() != OpKind::Memory {
        return 0;
    }
    let register = instruction.op_register(1);
    let Some(bit) = value(registers, register) else {
        return 0;
    };
    match register.size() {
        2 => i64::from(bit as i16 >> 4) * 2,
        4 => i64::from(bit as i32 >> 5) * 4,
        _ => (bit.cast_signed() >> 6) * 8,
    }
}

/// Where the instruction of `step` takes its descriptor from, if it is INVPCID: a linear address.
#[must_use]
pub fn invpcid_descriptor(step: &Step) -> Option<u64> {
    // Cheap, as each step is asked.
    step.code.bytes().windows(3).find(|code| code == &INVPCID)?;
    let instruction = first(step.code.bytes(), step.registers.rip)?;
    if instruction.mnemonic() != Mnemonic::Invpcid {
        return None;
    }
    instruction.virtual_address(1, 0, |register, _, _| value(&step.registers, register))
}

/// PCID and address of a descriptor. None if a reserved bit is set, or the PCID may not be used: then
/// the instruction ends in #GP (SDM vol. 2, INVPCID).
fn pcid_and_address([pcid, address]: [u64; 2], kind: u64, cr4: u64) -> Option<(u16, u64)> {
    let usable = pcid <= PCID && (cr4 & PCIDE != 0 || pcid == 0 || kind > 1);
    usable.then_some((pcid as u16, address))
}

fn effect(instruction: &Instruction, step: &Step) -> Effect {
    let registers = &step.registers;
    match instruction.mnemonic() {
        Mnemonic::Mov => match instruction.op0_register() {
            Register::CR3 => operand(instruction, registers, 1)
                .map_or(Effect::None, |value| Effect::WriteCr3 { value }),
            Register::CR4 => {
                operand(instruction, registers, 1).map_or(Effect::None, |new| Effect::WriteCr4 {
                    old: registers.cr4,
                    new,
                })
            }
            Register::CR8 => Effect::None,
            to if to.is_cr() || to.is_dr() => Effect::Serialising,
            _ => Effect::None,
        },
        Mnemonic::Invlpg => instruction
            .virtual_address(0, 0, |register, _, _| value(registers, register))
            .map_or(Effect::None, |address| Effect::Invlpg { address }),
        Mnemonic::Invpcid => {
            operand(instruction, registers, 0).map_or(Effect::None, |kind| Effect::Invpcid {
                kind,
                descriptor: step
                    .descriptor
                    .and_then(|descriptor| pcid_and_address(descriptor, kind, registers.cr4)),
            })
        }
        Mnemonic::Wrmsr if msr_serialises(registers) => Effect::Serialising,
        Mnemonic::Invd
        | Mnemonic::Invept
        | Mnemonic::Invvpid
        | Mnemonic::Lgdt
        | Mnemonic::Lidt
        | Mnemonic::Lldt
        | Mnemonic::Ltr
        | Mnemonic::Wbinvd
        | Mnemonic::Cpuid
        | Mnemonic::Iret
        | Mnemonic::Iretd
        | Mnemonic::Iretq
        | Mnemonic::Rsm
        | Mnemonic::Serialize => Effect::Serialising,
        _ => Effect::None,
    }
}

/// Whether WRMSR to the MSR in ECX serialises. It does not for IA32_SPEC_CTRL, IA32_PRED_CMD,
/// IA32_TSC_DEADLINE and the x2APIC (SDM vol. 3, 9.3), and newer AMD CPUs do not promise it for the
/// bases of FS and GS (APM vol. 2, 7.6.4).
fn msr_serialises(registers: &StepRegisters) -> bool {
    let msr = value(registers, Register::ECX).unwrap_or(0);
    !matches!(msr, 0x48 | 0x49 | 0x6e0 | 0x800..=0x8ff | 0xc000_0100..=0xc000_0102)
}

fn stored(instruction: &Instruction, registers: &StepRegisters) -> Option<u64> {
    let moves = matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::Xchg);
    if moves && instruction.op0_kind() == OpKind::Memory {
        operand(instruction, registers, 1)
    } else {
        None
    }
}

/// The value of a register or an immediate.
fn operand(instruction: &Instruction, registers: &StepRegisters, index: u32) -> Option<u64> {
    match instruction.op_kind(index) {
        OpKind::Register => value(registers, instruction.op_register(index)),
        _ => instruction.try_immediate(index).ok(),
    }
}

/// The value of a register, or the base of a segment.
fn value(registers: &StepRegisters, register: Register) -> Option<u64> {
    match register {
        // 64-bit mode takes these bases for 0 (SDM vol. 3, 3.4.4).
        Register::ES | Register::CS | Register::SS | Register::DS => return Some(0),
        Register::FS => return Some(registers.fs_base),
        Register::GS => return Some(registers.gs_base),
        _ => {}
    }
    if !register.is_gpr() {
        return None;
    }
    let full = registers
        .general
        .get(register.full_register().number())
        .copied()?;
    let high = matches!(
        register,
        Register::AH | Register::CH | Register::DH | Register::BH
    );
    Some(match register.size() {
        1 if high => full >> 8 & 0xff,
        1 => full & 0xff,
        2 => full & 0xffff,
        4 => full & 0xffff_ffff,
        _ => full,
    })
}

#[cfg(test)]
mod tests;
