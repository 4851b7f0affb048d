//! INT3 in CPL 0, which text patching meets whenever a CPU runs into a half-patched site.

use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

use super::cpu::{Assist, Cpu, Handled, skip};
use super::quirk::{Finding, Quirk, Remedy};
use crate::probe::{Outcome, ProbeError, Prober};

/// The one-byte form; what the kernel's text_poke writes.
const INT3: u8 = 0xcc;
/// Vector of #BP (SDM vol. 3, 6.15).
const BREAKPOINT: u8 = 3;

pub(super) const QUIRK: Quirk = Quirk {
    name: "int3",
    what: "INT3 in CPL 0 reaches the guest's #BP handler",
    probe,
};

fn probe(prober: &Prober<'_>) -> Result<Finding, ProbeError> {
    let outcome = prober.ring0(&[INT3])?;
    let remedy = Remedy {
        text: "the machine injects #BP itself",
        assist: Some(|| Box::new(Int3)),
        ..Remedy::default()
    };
    Ok(Finding::expect(
        &outcome,
        &Outcome::Vector(BREAKPOINT),
        "reaches the handler",
        remedy,
    ))
}

#[derive(Debug)]
struct Int3;

impl Assist for Int3 {
    fn name(&self) -> &'static str {
        QUIRK.name
    }

    // By the bytes KVM fetched, not by memory: the site may have been patched since.
    fn emulation_failure(
        &mut self,
        cpu: &Cpu<'_>,
        instruction: &[u8],
    ) -> Result<Handled, errno::Error> {
        if instruction.first() != Some(&INT3) {
            return Ok(Handled::No);
        }
        // #BP is a trap: the handler sees the address after the instruction.
        skip(cpu, 1)?;
        inject_breakpoint(cpu.fd)?;
        Ok(Handled::Yes)
    }
}

fn inject_breakpoint(vcpu: &VcpuFd) -> Result<(), errno::Error> {
    let mut events = vcpu.get_vcpu_events()?;
    events.exception.injected = 1;
    events.exception.nr = BREAKPOINT;
    events.exception.has_error_code = 0;
    vcpu.set_vcpu_events(&events)
}
