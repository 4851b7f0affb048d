//! RFLAGS as a vCPU that is stepped stores them.
//!
//! KVM steps a vCPU by setting RFLAGS.TF in its registers (`kvm_set_rflags` of arch/x86/kvm/x86.c) and hides the flag
//! from KVM_GET_REGS alone. The CPU still stores it: PUSHF on the stack, and an exception in the frame of its
//! handler. Linux builds the frame of a system call that came by SYSENTER with PUSHF (`entry_SYSENTER_compat` of
//! arch/x86/entry/entry_64_compat.S), so user space would go on with TF set and die of SIGTRAP. What is stored
//! is therefore mended after the step, unless the guest has set the flag itself.

use ipirig_instruction::Step;
use vm_memory::{Bytes, GuestAddress};

use super::recorder::{RSP, error_code};
use super::{Break, Vcpu};
use crate::assist::Cpu;

/// The byte of RFLAGS that has TF, and TF in it (SDM vol. 3, 2.3).
const BYTE: u64 = 1;
const TRAP_FLAG: u8 = 1 << 0;
/// Where an exception's frame has RFLAGS (SDM vol. 3, figure 6-9), below it an error code perhaps.
const IN_FRAME: u64 = 16;

/// A PUSHF that is to be stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PushedFlags {
    /// The instruction after it.
    next: u64,
    /// Where it stores RFLAGS.
    at: u64,
}

impl PushedFlags {
    /// What the instruction at `rip`, which begins with `code`, stores with this `rsp`; `None` if it is no PUSHF.
    pub(super) fn of(code: &[u8], rip: u64, rsp: u64) -> Option<Self> {
        // PUSHFQ, with any REX, or PUSHF of 16 bits (SDM vol. 2, "PUSHF/PUSHFD/PUSHFQ").
        let (len, size) = match code {
            [0x9c, ..] => (1, 8),
            [0x40..=0x4f, 0x9c, ..] => (2, 8),
            [0x66, 0x9c, ..] => (2, 2),
            _ => return None,
        };
        Some(Self {
            next: rip.wrapping_add(len),
            at: rsp.wrapping_sub(size),
        })
    }

    /// The same of an instruction that is written down.
    pub(super) fn of_step(step: &Step) -> Option<Self> {
        let registers = &step.registers;
        Self::of(step.code.bytes(), registers.rip, registers.general[RSP])
    }
}

impl Vcpu {
    /// After a step, before the instruction at `rip`: takes TF, which is KVM's, from RFLAGS as the instruction
    /// before stored them.
    pub(super) fn mend_pushed_flags(&mut self, rip: u64) -> Result<(), Break> {
        let pushed = self.stops.pushed_flags.take();
        if !self.stops.stepping() || self.stops.own_trap {
            return Ok(());
        }
        let nested = self.stops.nested.iter().find(|(at, _)| *at == rip);
        let at = if let Some(&(_, vector)) = nested {
            self.regs()?.rsp.wrapping_add(error_code(vector) + IN_FRAME)
        } else if let Some(pushed) = pushed.filter(|pushed| pushed.next == rip) {
            pushed.at
        } else {
            return Ok(());
        };
        clear(&self.access(), at.wrapping_add(BYTE));
        Ok(())
    }
}

/// Clears TF in the byte at a guest-virtual `address`. One that cannot be read has not been stored either.
fn clear(cpu: &Cpu<'_>, address: u64) {
    let mut byte = [0];
    if !cpu.read_virtual(address, &mut byte) || byte[0] & TRAP_FLAG == 0 {
        return;
    }
    let translation = cpu.fd.translate_gva(address);
    if let Some(translation) = translation.ok().filter(|it| it.valid != 0) {
        let physical = GuestAddress(translation.physical_address);
        // Memory that could be read just now can be written.
        let _ = cpu.memory.write_slice(&[byte[0] & !TRAP_FLAG], physical);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stores_the_flags_is_known_with_its_size_and_nothing_else_is() {
        let pushed = |next, at| Some(PushedFlags { next, at });
        for (code, expected) in [
            (&[0x9c][..], pushed(0x101, 0x1ff8)),
            (&[0x9c, 0x90], pushed(0x101, 0x1ff8)),
            (&[0x48, 0x9c], pushed(0x102, 0x1ff8)),
            (&[0x66, 0x9c], pushed(0x102, 0x1ffe)),
            (&[0x9d], None),
            (&[0x48, 0x89, 0x9c], None),
            (&[], None),
        ] {
            let found = PushedFlags::of(code, 0x100, 0x2000);
            assert_eq!(found, expected, "{code:x?}");
        }
    }
}
