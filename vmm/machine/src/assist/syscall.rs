//! SYSCALL from CPL 3 that sets RIP but stays in CPL 3.
//!
//! Such a SYSCALL leaves RCX, R11 and RIP as the SDM says and then faults: the kernel's entry page
//! is for supervisors, so the guest takes a #PF at LSTAR. The assist breaks on the guest's #PF
//! handler, recognises that fault by its frame, and completes the instruction, so that the
//! kernel's own `entry_SYSCALL_64` runs. It costs two exits a page fault and one a system call.
//!
//! SYSCALL of compatibility mode, to CSTAR, is not completed: on the KVM that has this quirk the guest enters
//! its kernel on the user's stack and dies of a double fault. Nor is #AC of CPL 3 what it should be there: the task
//! that raises it is killed, why is not known. The agent is told to try neither; nor returns by espfix64, for which the
//! kernel looks at descriptors with LAR, as that KVM emulates none.

use ipirig_abi::NOT_PRODUCED;
use kvm_bindings::kvm_segment;
use vmm_sys_util::errno;

use super::cpu::{Assist, Cpu, Handled, handler};
use super::quirk::{Finding, Quirk, Remedy};
use crate::msr::{FMASK, LSTAR, STAR};
use crate::probe::{Outcome, ProbeError, Prober};

pub(super) const QUIRK: Quirk = Quirk {
    name: "syscall",
    what: "SYSCALL from CPL 3 enters CPL 0",
    probe,
};

/// Vector of #PF.
const PAGE_FAULT: u8 = 14;
/// RFLAGS.RF, which SYSCALL clears whatever FMASK says (SDM vol. 2, SYSCALL).
const RF: u64 = 1 << 16;

fn probe(prober: &Prober<'_>) -> Result<Finding, ProbeError> {
    // `syscall`, to a HLT, which only CPL 0 may execute.
    let outcome = prober.syscall_from_ring3()?;
    let remedy = Remedy {
        text: "the machine completes it at the guest's #PF handler, but for that of 32-bit code, which is not tried, nor #AC, nor espfix64",
        cmdline: format!("{NOT_PRODUCED}compat-syscall,alignment-check,espfix,double-fault"),
        assist: Some(|| Box::new(Syscall::default())),
        ..Remedy::default()
    };
    Ok(Finding::expect(&outcome, &Outcome::Halted, "does", remedy))
}

/// What the CPU pushed for a #PF in 64-bit mode, from the error code up (SDM vol. 3, figure 6-9).
#[derive(Debug)]
struct Frame {
    rip: u64,
    cs: u64,
    rsp: u64,
}

#[derive(Debug, Default)]
struct Syscall {
    star: u64,
    lstar: u64,
    fmask: u64,
    /// Where the breakpoint is, once the guest has a #PF handler and an LSTAR.
    handler: Option<u64>,
}

impl Syscall {
    fn frame(cpu: &Cpu<'_>, rsp: u64) -> Option<Frame> {
        let mut bytes = [0; 48];
        if !cpu.read_virtual(rsp, &mut bytes) {
            return None;
        }
        let word = |index: usize| {
            bytes
                .get(index * 8..index * 8 + 8)?
                .try_into()
                .ok()
                .map(u64::from_le_bytes)
        };
        Some(Frame {
            rip: word(1)?,
            cs: word(2)?,
            rsp: word(4)?,
        })
    }

    /// SYSCALL as SDM vol. 2 has it, from the state that the half-done one left.
    fn complete(&self, cpu: &Cpu<'_>, frame: &Frame) -> Result<(), errno::Error> {
        let mut sregs = cpu.fd.get_sregs()?;
        let mut regs = cpu.fd.get_regs()?;
        let selector = ((self.star >> 32) & 0xfffc) as u16;
        sregs.cs = kvm_segment {
            limit: u32::MAX,
            selector,
            type_: 11,
            present: 1,
            s: 1,
            l: 1,
            g: 1,
            ..kvm_segment::default()
        };
        sregs.ss = kvm_segment {
            limit: u32::MAX,
            selector: selector.wrapping_add(8),
            type_: 3,
            present: 1,
            s: 1,
            db: 1,
            g: 1,
            ..kvm_segment::default()
        };
        regs.rip = self.lstar;
        regs.rsp = frame.rsp;
        regs.rflags = (regs.r11 & !self.fmask & !RF) | 2;
        cpu.fd.set_sregs(&sregs)?;
        cpu.fd.set_regs(&regs)
    }
}

impl Assist for Syscall {
    fn name(&self) -> &'static str {
        QUIRK.name
    }

    fn msrs(&self) -> Option<(u32, u32)> {
        Some((STAR, 4))
    }

    fn msr_write(&mut self, cpu: &Cpu<'_>, index: u32, value: u64) -> Result<(), errno::Error> {
        match index {
            STAR => self.star = value,
            LSTAR => self.lstar = value,
            FMASK => self.fmask = value,
            _ => {}
        }
        self.look(cpu)
    }

    fn breakpoint(&self) -> Option<u64> {
        self.handler
    }

    fn reached(&mut self, cpu: &Cpu<'_>) -> Result<Handled, errno::Error> {
        let regs = cpu.fd.get_regs()?;
        match Self::frame(cpu, regs.rsp) {
            Some(frame) if frame.rip == self.lstar && frame.cs & 3 == 3 => {
                self.complete(cpu, &frame)?;
                Ok(Handled::Yes)
            }
            // A true page fault.
            _ => Ok(Handled::No),
        }
    }

    // Nothing announces a new IDT, so the handler is looked up again and again.
    fn look(&mut self, cpu: &Cpu<'_>) -> Result<(), errno::Error> {
        if self.lstar == 0 {
            return Ok(());
        }
        if let Some(handler) = handler(cpu, PAGE_FAULT)? {
            self.handler = Some(handler);
        }
        Ok(())
    }
}
