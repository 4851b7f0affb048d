//! From an ICR write to the set of CPUs that it addresses. No state, no side effects.

use crate::base::Mode;
use crate::cpu_set::{CpuSet, MAX_CPUS};
use crate::icr::{DeliveryMode, Destination, Icr, Shorthand};

/// The model of logical addressing that the xAPIC's DFR selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogicalModel {
    /// Eight CPUs, one bit each.
    Flat,
    /// Fifteen clusters of four CPUs.
    Cluster,
    /// A reserved value: nothing but broadcast matches.
    Reserved,
}

/// How one CPU can be addressed. Its APIC id is its position among the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressing {
    /// The APIC's mode.
    pub mode: Mode,
    /// SVR bit 8.
    pub software_enabled: bool,
    /// The xAPIC's logical id: the top byte of the LDR. The x2APIC derives its own from the APIC id.
    pub logical_id: u8,
    /// The xAPIC's model of logical addressing.
    pub model: LogicalModel,
    /// The processor priority (PPR), for lowest-priority arbitration.
    pub priority: u8,
}

impl Addressing {
    /// A CPU after power-up: in xAPIC mode, disabled by software.
    pub const POWER_UP: Addressing = Addressing {
        mode: Mode::XApic,
        software_enabled: false,
        logical_id: 0,
        model: LogicalModel::Flat,
        priority: 0,
    };

    /// Whether the CPU takes a message of this mode at all (SDM 11.4.7.2).
    fn takes(&self, mode: DeliveryMode) -> bool {
        match mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.mode != Mode::Disabled && self.software_enabled
            }
            _ => self.mode != Mode::Disabled,
        }
    }

    /// Whether the CPU with this id answers to a logical destination (SDM 11.6.2.2, 11.12.10.1).
    fn answers(&self, id: usize, destination: u32) -> bool {
        match (self.mode, self.model) {
            (Mode::Disabled, _) | (Mode::XApic, LogicalModel::Reserved) => false,
            (Mode::X2Apic, _) => {
                let own = x2apic_logical_id(id);
                destination >> 16 == own >> 16 && destination & own & 0xffff != 0
            }
            (Mode::XApic, LogicalModel::Flat) => {
                destination <= 0xff && destination & u32::from(self.logical_id) != 0
            }
            (Mode::XApic, LogicalModel::Cluster) => {
                let own = u32::from(self.logical_id);
                destination >> 4 == own >> 4 && destination & own & 0xf != 0
            }
        }
    }
}

/// The x2APIC's LDR: the cluster is the id without its low four bits, which select one of 16 bits
/// (SDM 11.12.10.2).
pub(crate) const fn x2apic_logical_id(id: usize) -> u32 {
    // Ids are below MAX_CPUS, so truncation loses nothing.
    (((id >> 4) as u32) << 16) | 1 << (id & 0xf)
}

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
