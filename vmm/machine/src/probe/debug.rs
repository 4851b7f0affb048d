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
        guest.stops_within(CODE + 1..CODE + 2)
    }

    fn breakpoint_at_exception(&self) -> Result<bool, ProbeError> {
        let mut guest = self.prepare_ring3(&UD2)?;
        let handler = layout::handler(INVALID_OPCODE);
        guest.break_at(handler)?;
        guest.stops_within(handler..handler + 1)
    }

    fn breakpoint_at_syscall(&self) -> Result<bool, ProbeError> {
        let mut guest = self.prepare_syscall()?;
        guest.break_at(LSTAR_CODE)?;
        guest.stops_within(LSTAR_CODE..LSTAR_CODE + 1)
    }

    fn single_step(&self) -> Result<bool, ProbeError> {
        let mut guest = self.prepare_ring0(&[NOP; 3])?;
        guest.step()?;
        guest.stops_within(CODE + 1..CODE + 2)
    }

    /// In a handler, after the port access that says that it runs: no breakpoint is needed to get there.
    fn single_step_in_handler(&self) -> Result<bool, ProbeError> {
        let mut guest = self.prepare_ring3(&UD2)?;
        if guest.run()? != Outcome::Vector(INVALID_OPCODE) {
            return Ok(false);
        }
        guest.step()?;
        // The step that completes the OUT may be one, or the NOP after it.
        let after = layout::handler(INVALID_OPCODE) + layout::HANDLER_AFTER_OUT;
        guest.stops_within(after..after + 2)
    }
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

    /// Runs, and tells whether it stopped in CPL 0 with RIP among `addresses`.
    fn stops_within(&mut self, addresses: std::ops::Range<u64>) -> Result<bool, ProbeError> {
        if self.run()? != Outcome::Debug {
            return Ok(false);
        }
        let regs = self.vcpu.get_regs().map_err(kvm("KVM_GET_REGS"))?;
        let sregs = self.vcpu.get_sregs().map_err(kvm("KVM_GET_SREGS"))?;
        Ok(addresses.contains(&regs.rip) && sregs.cs.selector & 3 == 0)
    }
}
