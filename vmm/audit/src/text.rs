//! Entry text as the kernel patches it while it boots: with the alternatives of a set of CPU
//! features in place.

use std::collections::BTreeSet;

use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, InstructionInfoOptions, OpAccess,
    OpKind, Register,
};
use ipirig_image::Alternative;

use crate::kernel::Kernel;

/// CPU features that the kernel found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features(pub(crate) BTreeSet<u16>);

/// One instruction of patched text.
#[derive(Clone, Debug)]
pub(crate) struct Patched {
    /// Its operands are those of the place that it comes from: right for relative ones.
    pub(crate) instruction: Instruction,
    /// The address of the next.
    pub(crate) next: u64,
    /// Where it goes, if it is a direct jump or call.
    pub(crate) target: Option<u64>,
    /// Which general registers it writes, by number.
    pub(crate) written: u16,
    /// Whether it writes its first operand.
    pub(crate) writes: bool,
}

/// The entry text of a kernel on a CPU with certain features.
pub(crate) struct Text<'a> {
    kernel: &'a Kernel,
    /// Those in effect, in the order in which they are applied.
    applied: Vec<&'a Alternative>,
    /// By offset in entry text.
    decoded: Vec<Option<Option<Box<Patched>>>>,
    factory: InstructionInfoFactory,
}

impl<'a> Text<'a> {
    pub(crate) fn new(kernel: &'a Kernel, features: &Features) -> Self {
        let applied = kernel
            .alternatives
            .iter()
            .filter(|alternative| features.0.contains(&alternative.feature) != alternative.inverted)
            .collect();
        Self {
            kernel,
            applied,
            decoded: vec![None; kernel.entry.bytes.len()],
            factory: InstructionInfoFactory::new(),
        }
    }

    /// The instruction at `address`, or none if that is not in entry text or is no instruction.
    pub(crate) fn at(&mut self, address: u64) -> Option<&Patched> {
        let offset = address.checked_sub(self.kernel.entry.range.start)?;
        let offset = usize::try_from(offset).ok()?;
        if self.decoded.get(offset)?.is_none() {
            let patched = self.decode(address).map(Box::new);
            *self.decoded.get_mut(offset)? = Some(patched);
        }
        self.decoded.get(offset)?.as_ref()?.as_deref()
    }

    fn decode(&mut self, address: u64) -> Option<Patched> {
        let alternative = self.applied.iter().rev().copied().find(|alternative| {
            let offset = address.checked_sub(alternative.address);
            offset.is_some_and(|offset| offset < alternative.len.into())
        });
        let Some(alternative) = alternative else {
            let instruction = first(self.kernel.entry.from(address)?, address)?;
            let next = instruction.next_ip();
            return Some(self.patched(instruction, next, |target| target));
        };
        let end = alternative.address.saturating_add(alternative.len.into());
        let offset = address - alternative.address;
        let bytes = self.kernel.replacements.get(&alternative.replacement);
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| bytes?.get(offset..))
            .filter(|rest| !rest.is_empty() && offset < alternative.replacement_len.into());
        let Some(rest) = rest else {
            // The kernel fills up with NOPs.
            return Some(Patched {
                instruction: Instruction::default(),
                next: end,
                target: None,
                written: 0,
                writes: false,
            });
        };
        let linked = alternative.replacement.wrapping_add(offset);
        let instruction = first(rest, linked)?;
        let len = instruction.len() as u64;
        let next = if offset + len >= alternative.replacement_len.into() {
            end
        } else {
            address.saturating_add(len)
        };
        let replacement = alternative.replacement;
        let replacement_len = u64::from(alternative.replacement_len);
        Some(self.patched(instruction, next, |target| {
            // Within the replacement.
            match target.checked_sub(replacement) {
                Some(offset) if offset < replacement_len => {
                    alternative.address.saturating_add(offset)
                }
                _ => target,
            }
        }))
    }

    fn patched(
        &mut self,
        instruction: Instruction,
        next: u64,
        moved: impl FnOnce(u64) -> u64,
    ) -> Patched {
        let direct = instruction.op_count() == 1 && instruction.op0_kind() == OpKind::NearBranch64;
        let options = InstructionInfoOptions::NO_MEMORY_USAGE;
        let info = self.factory.info_options(&instruction, options);
        let writes = !matches!(
            info.op0_access(),
            OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
        );
        let written = info
            .used_registers()
            .iter()
            .filter(|used| !matches!(used.access(), OpAccess::Read | OpAccess::CondRead))
            .filter_map(|used| number(used.register()))
            .fold(0_u16, |mask, number| mask | 1 << (number & 15));
        Patched {
            instruction,
            next,
            target: direct.then(|| moved(instruction.near_branch64())),
            written,
            writes,
        }
    }
}

/// The number of the general register that `register` is a part of (SDM vol. 2, table 3-1).
pub(crate) fn number(register: Register) -> Option<usize> {
    register.is_gpr().then(|| register.full_register().number())
}

fn first(bytes: &[u8], address: u64) -> Option<Instruction> {
    let instruction = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}
