//! How a CPU can be addressed: the mode of its APIC, its logical id, and the model of logical addressing.

use serde::{Deserialize, Serialize};

use crate::icr::DeliveryMode;

/// How the APIC is reached, if at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub enum Mode {
    /// Globally disabled: takes no interrupt and has no registers.
    Disabled,
    /// Registers in memory, 8-bit identifiers.
    XApic,
    /// Registers as MSRs, 32-bit identifiers.
    X2Apic,
}

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
    pub(crate) fn takes(&self, mode: DeliveryMode) -> bool {
        match mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.mode != Mode::Disabled && self.software_enabled
            }
            _ => self.mode != Mode::Disabled,
        }
    }

    /// Whether the CPU with this id answers to a logical destination (SDM 11.6.2.2, 11.12.10.1).
    pub(crate) fn answers(&self, id: usize, destination: u32) -> bool {
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
