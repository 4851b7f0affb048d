//! FWAIT in CPL 0, which the kernel's FPU set-up executes.

use vmm_sys_util::errno;

use super::cpu::{Assist, Cpu, Handled, skip};
use super::quirk::{Finding, Quirk, Remedy};
use crate::probe::{Outcome, ProbeError, Prober};

const FWAIT: u8 = 0x9b;

pub(super) const QUIRK: Quirk = Quirk {
    name: "fwait",
    what: "FWAIT in CPL 0 executes",
    probe,
};

fn probe(prober: &Prober<'_>) -> Result<Finding, ProbeError> {
    let outcome = prober.ring0(&[FWAIT])?;
    let remedy = Remedy {
        text: "the machine skips it",
        assist: Some(|| Box::new(Fwait)),
        ..Remedy::default()
    };
    Ok(Finding::expect(
        &outcome,
        &Outcome::Halted,
        "executes",
        remedy,
    ))
}

#[derive(Debug)]
struct Fwait;

impl Assist for Fwait {
    fn name(&self) -> &'static str {
        QUIRK.name
    }

    // It only waits for a pending x87 exception, and kernel code runs with those masked.
    fn emulation_failure(
        &mut self,
        cpu: &Cpu<'_>,
        instruction: &[u8],
    ) -> Result<Handled, errno::Error> {
        if instruction.first() != Some(&FWAIT) {
            return Ok(Handled::No);
        }
        skip(cpu, 1)?;
        Ok(Handled::Yes)
    }
}
