//! CMPXCHG16B in CPL 0. CPUID can hide it, and the kernel then does without.

use super::quirk::{Finding, Quirk, Remedy};
use crate::feature::{Feature, Register};
use crate::probe::{Outcome, ProbeError, Prober};

pub(super) const QUIRK: Quirk = Quirk {
    name: "cmpxchg16b",
    what: "CMPXCHG16B in CPL 0 executes",
    probe,
};

/// `mov edi, 0x7000; cmpxchg16b [rdi]`.
const CODE: &[u8] = &[0xbf, 0x00, 0x70, 0x00, 0x00, 0x48, 0x0f, 0xc7, 0x0f];

/// What CPUID says of it (SDM vol. 2, CPUID, leaf 1).
const CX16: Feature = Feature::new(1, Register::Ecx, 13);

fn probe(prober: &Prober<'_>) -> Result<Finding, ProbeError> {
    let outcome = prober.ring0(CODE)?;
    if outcome != Outcome::Halted && !prober.offers(CX16)? {
        return Ok(Finding {
            text: "this CPU has none".into(),
            remedy: None,
        });
    }
    let remedy = Remedy {
        text: "CPUID does not offer it",
        hide: vec![CX16],
        ..Remedy::default()
    };
    Ok(Finding::expect(
        &outcome,
        &Outcome::Halted,
        "executes",
        remedy,
    ))
}
