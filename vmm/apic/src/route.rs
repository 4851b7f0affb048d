//! From an ICR write to the set of CPUs that it addresses. No state, no side effects.

use crate::addressing::Addressing;
use crate::cpu_set::{CpuSet, MAX_CPUS};
use crate::icr::{DeliveryMode, Destination, Icr, Shorthand};

/// What one ICR write means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// The ICR's vector field. It has a meaning for fixed, lowest-priority and start-up IPIs only.
    pub vector: u8,
    /// The delivery mode.
    pub mode: DeliveryMode,
    /// The shorthand.
    pub shorthand: Shorthand,
    /// The CPU that wrote.
    pub source: usize,
    /// The CPUs that it goes to. For a lowest-priority IPI, the one that was chosen. Empty for an
    /// INIT de-assert, which nobody has heeded since the Pentium 4.
    pub targets: CpuSet,
    /// Something was to be sent, and no CPU takes it: absent or disabled destinations, an illegal
    /// vector, a reserved delivery mode.
    pub undeliverable: bool,
}

/// The result of one ICR write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// What was sent, and to whom.
    pub ipi: Ipi,
    /// The targets at which the same IPI was still pending: they will see one interrupt for both.
    pub coalesced: CpuSet,
    /// The CPUs to kick, so that they poll. The source is never among them, as it polls before it
    /// enters the guest again; nor are coalesced targets, as the first sender kicked them.
    pub wake: CpuSet,
}

/// Works out who gets the IPI that `icr` asks for. `cpus` are all CPUs, in order of their APIC ids;
/// those from [`MAX_CPUS`] on are not considered.
///
/// An IPI with an illegal vector goes nowhere: the sender's APIC has logged the error. Combinations
/// of shorthand and delivery mode that SDM table 11-3 calls invalid (an NMI to itself) are carried
/// out as written, so that they are seen. Between equals the lowest-priority IPI goes to the
/// lowest APIC id; the SDM leaves that open.
#[must_use]
pub fn route(source: usize, icr: Icr, cpus: &[Addressing]) -> Ipi {
    let mode = icr.mode();
    let void = icr.has_illegal_vector()
        || matches!(mode, DeliveryMode::InitDeassert | DeliveryMode::Reserved(_));
    let takers = || {
        let takers = cpus.iter().enumerate().take(MAX_CPUS);
        takers.filter(|(id, cpu)| cpu.takes(mode) && is_addressed(source, icr, *id, cpu))
    };
    let targets = match mode {
        _ if void => CpuSet::EMPTY,
        // `min_by_key` returns the first of equals.
        DeliveryMode::LowestPriority => takers()
            .min_by_key(|(_, cpu)| cpu.priority)
            .map(|(id, _)| id)
            .into_iter()
            .collect(),
        _ => takers().map(|(id, _)| id).collect(),
    };
    Ipi {
        vector: icr.vector(),
        mode,
        shorthand: icr.shorthand(),
        source,
        targets,
        undeliverable: targets.is_empty() && mode != DeliveryMode::InitDeassert,
    }
}

fn is_addressed(source: usize, icr: Icr, id: usize, cpu: &Addressing) -> bool {
    match icr.shorthand() {
        Shorthand::Itself => id == source,
        Shorthand::AllIncludingSelf => true,
        Shorthand::AllExcludingSelf => id != source,
        Shorthand::None => match icr.destination() {
            Destination::Broadcast => true,
            Destination::Physical(wanted) => usize::try_from(wanted) == Ok(id),
            Destination::Logical(wanted) => cpu.answers(id, wanted),
        },
    }
}
