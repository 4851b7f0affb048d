//! Which memory entry and noinstr text access, as far as their instructions say.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, Register};
use ipirig_entry::KernelLayout;
use ipirig_entry::layout::MODULES;
use schemars::JsonSchema;
use serde::Serialize;

use crate::execute::{Memory, memory};
use crate::kernel::{Code, Kernel};
use crate::sites::Part;

/// What memory the instructions of one part access. What an instruction does not name is not counted:
/// the stack of a PUSH or a CALL, tables that the CPU reads.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct MemoryUse {
    /// Which part.
    pub part: Part,
    /// Operands at a fixed address in the kernel image or elsewhere outside of vmalloc memory.
    pub fixed: usize,
    /// Per-CPU variables.
    pub per_cpu: usize,
    /// Operands relative to the stack or frame pointer.
    pub stack: usize,
    /// Operands through other registers: where they lead cannot be told from the instruction.
    pub unknown: usize,
    /// Link addresses of instructions that access a fixed address in vmalloc memory.
    pub vmalloc: Vec<u64>,
    /// Link addresses of instructions that access a fixed address where modules are.
    pub modules: Vec<u64>,
}

/// What one sweep through the code of a part finds.
#[derive(Debug)]
pub(crate) struct Swept {
    pub(crate) used: MemoryUse,
    /// Link addresses of instructions that write CR3.
    pub(crate) cr3_writes: Vec<u64>,
}

/// Sweeps through `code` from symbol to symbol.
pub(crate) fn sweep(kernel: &Kernel, part: Part, code: &Code) -> Swept {
    let mut swept = Swept {
        used: MemoryUse {
            part,
            fixed: 0,
            per_cpu: 0,
            stack: 0,
            unknown: 0,
            vmalloc: Vec::new(),
            modules: Vec::new(),
        },
        cr3_writes: Vec::new(),
    };
    let mut starts: Vec<u64> = kernel
        .symbols()
        .within(code.range.clone())
        .map(|(address, _)| address)
        .collect();
    starts.push(code.range.start);
    starts.sort_unstable();
    starts.dedup();
    let ends = starts.iter().skip(1).copied().chain([code.range.end]);
    for (&start, end) in starts.iter().zip(ends) {
        let Some(bytes) = code.from(start) else {
            continue;
        };
        let len = usize::try_from(end - start).unwrap_or(usize::MAX);
        let bytes = bytes.get(..len).unwrap_or(bytes);
        let mut decoder = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE);
        for instruction in &mut decoder {
            swept.add(&instruction);
        }
    }
    for (&start, bytes) in kernel.replacements.iter().filter(|_| part == Part::Entry) {
        for instruction in &mut Decoder::with_ip(64, bytes, start, DecoderOptions::NONE) {
            swept.add(&instruction);
        }
    }
    swept
}

impl Swept {
    fn add(&mut self, instruction: &Instruction) {
        if instruction.is_invalid() {
            return;
        }
        if instruction.mnemonic() == Mnemonic::Mov && instruction.op0_register() == Register::CR3 {
            self.cr3_writes.push(instruction.ip());
        }
        let used = &mut self.used;
        match memory(instruction) {
            None => {}
            Some(Memory::At { per_cpu: true, .. }) => used.per_cpu += 1,
            Some(Memory::At { address, .. }) if KernelLayout::VMALLOC.contains(&address) => {
                used.vmalloc.push(instruction.ip());
            }
            Some(Memory::At { address, .. }) if MODULES.contains(&address) => {
                used.modules.push(instruction.ip());
            }
            Some(Memory::At { .. }) => used.fixed += 1,
            Some(Memory::Stack { .. }) => used.stack += 1,
            Some(Memory::Registers { base, index }) => {
                if base == Register::RBP && index == Register::None {
                    used.stack += 1;
                } else {
                    used.unknown += 1;
                }
            }
        }
    }
}
