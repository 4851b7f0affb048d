//! Whether guests stop where they are told to (KVM API 4.87): at breakpoints and at single-steps, in
//! CPL 0 and where they have just entered it from CPL 3.
//!
//! KVM takes `KVM_SET_GUEST_DEBUG` on every host; whether the debug registers are then armed is another
//! matter. QEMU 7.2's emulation of SVM, for one, loads DR7 from the VMCB and arms nothing.

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug,
};

use super::layout::{self, CODE, LSTAR_CODE};
use super::{Guest, Outcome, ProbeError, Prober, kvm};
use crate::host::{GuestDebug, Levels};

const NOP: u8 = 0x90;
/// UD2: an exception wherever it is executed.
const UD2: [u8; 2] = [0x0f, 0x0b];
/// Vector of #UD.
const INVALID_OPCODE: u8 = 6;

impl Prober<'_> {
    /// What of guest debugging works.
    pub(crate) fn guest_debug(&self) -> Result<GuestDebug, ProbeError> {
        let mut entry = self.breakpoint_at_exception()?;
        // Where SYSCALL does not enter CPL 0, an assist has it enter by an exception.
        if entry && self.syscall_from_ring3()? == Outcome::Halted {
            entry = self.breakpoint_at_syscall()?;
        }
        Ok(GuestDebug {
            breakpoints: Levels {
                kernel: self.breakpoint()?,
                entry,
            },
            single_steps: Levels {
                kernel: self.single_step()?,
                entry: self.single_step_in_handler()?,
            },
        })
    }

    fn breakpoint(&self) -> Result<bool, ProbeError> {
        let mut guest = self.prepare_ring0(&[NOP; 3])?;
        guest.break_at(CODE + 1)?;
        Ok(guest.stop()? == Some(CODE + 1))
    }

    fn breakpoint_at_exception(&self) -> Result<bool, ProbeError> {
        let mut guest = self.prepare_ring3(&UD2)?;
        let handler = layout::handler(INVALID_OPCODE);
        guest.break_at(handler)?;
        Ok(guest.stop()? == Some(handler))
    }

    fn breakpoint_at_syscall(&self) -> Result<bool, ProbeError> {
        let mut guest = self.prepare_syscall()?;
        guest.break_at(LSTAR_CODE)?;
        Ok(guest.stop()? == Some(LSTAR_CODE))
    }

    fn single_step(&self) -> Result<bool, ProbeError> {
        let mut guest = self.prepare_ring0(&[NOP; 4])?;
        guest.step()?;
        goes_by_one(CODE, CODE + 2, || guest.stop())
    }

    /// In a handler, after the port access that says that it runs: no breakpoint is needed to get there.
    fn single_step_in_handler(&self) -> Result<bool, ProbeError> {
        let mut guest = self.prepare_ring3(&UD2)?;
        if guest.run()? != Outcome::Vector(INVALID_OPCODE) {
            return Ok(false);
        }
        guest.step()?;
        let after = layout::handler(INVALID_OPCODE) + layout::HANDLER_AFTER_OUT;
        goes_by_one(after, after + 1, || guest.stop())
    }
}

/// Whether a guest that is about to execute the first of some NOPs, at `from`, goes on to `to` one at a
/// time. `stop` runs it to where it stops next in CPL 0, if it does. It may stop once before the first
/// of them, as VMX does in Bochs: who records does not mind.
fn goes_by_one<E>(
    from: u64,
    to: u64,
    mut stop: impl FnMut() -> Result<Option<u64>, E>,
) -> Result<bool, E> {
    let mut at = from;
    for number in 0..=to - from {
        match stop()? {
            Some(rip) if rip == at && number == 0 => {}
            Some(rip) if rip == at + 1 => at = rip,
            _ => return Ok(false),
        }
        if at == to {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Guest {
    /// Stops before the instruction at `address`.
    fn break_at(&mut self, address: u64) -> Result<(), ProbeError> {
        let mut debug = kvm_guest_debug {
            control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
            ..kvm_guest_debug::default()
        };
        debug.arch.debugreg[0] = address;
        // The bit that is always one, GE and G0; RW and LEN are 0 for an instruction (SDM vol. 3,
        // 18.2.4).
        debug.arch.debugreg[7] = 0x602;
        self.set(&debug)
    }

    /// Stops after each instruction.
    fn step(&mut self) -> Result<(), ProbeError> {
        self.set(&kvm_guest_debug {
            control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP,
            ..kvm_guest_debug::default()
        })
    }

    fn set(&mut self, debug: &kvm_guest_debug) -> Result<(), ProbeError> {
        self.vcpu
            .set_guest_debug(debug)
            .map_err(kvm("KVM_SET_GUEST_DEBUG"))
    }

    /// Runs to where it stops in CPL 0, if it does: RIP there.
    fn stop(&mut self) -> Result<Option<u64>, ProbeError> {
        if self.run()? != Outcome::Debug {
            return Ok(None);
        }
        let regs = self.vcpu.get_regs().map_err(kvm("KVM_GET_REGS"))?;
        let sregs = self.vcpu.get_sregs().map_err(kvm("KVM_GET_SREGS"))?;
        Ok((sregs.cs.selector & 3 == 0).then_some(regs.rip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_steps_are_of_one_instruction_each_after_a_stop_before_the_first() {
        let goes = |stops: &[Option<u64>]| {
            let mut stops = stops.iter().copied();
            goes_by_one(0x8000, 0x8002, || stops.next().ok_or(()))
        };
        assert_eq!(goes(&[Some(0x8001), Some(0x8002)]), Ok(true));
        assert_eq!(goes(&[Some(0x8000), Some(0x8001), Some(0x8002)]), Ok(true));
        assert_eq!(goes(&[Some(0x8002)]), Ok(false));
        assert_eq!(goes(&[Some(0x8000), Some(0x8000)]), Ok(false));
        assert_eq!(goes(&[Some(0x8001), Some(0x8001)]), Ok(false));
        assert_eq!(goes(&[None]), Ok(false));
    }
}
