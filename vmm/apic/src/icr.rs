//! The interrupt command register, decoded (SDM 11.6.1 and, for x2APIC, 11.12.9).

use std::fmt;

/// How an interrupt asks to be handled, from ICR bits 8 to 10.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryMode {
    /// The vector goes to every CPU addressed.
    Fixed,
    /// The vector goes to the one CPU addressed that runs at the lowest priority.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt; the vector field means nothing.
    Nmi,
    /// Resets the CPUs addressed.
    Init,
    /// INIT with trigger mode level and level de-assert. It set arbitration identifiers before the
    /// Pentium 4 and has had no effect since.
    InitDeassert,
    /// Starts CPUs that wait for it; the vector field is the page number to start at.
    Startup,
    /// A reserved encoding: 3 or 7.
    Reserved(u8),
}

/// The destination shorthand, ICR bits 18 and 19.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shorthand {
    /// The destination field counts.
    None,
    /// The sender.
    Itself,
    /// Every CPU.
    AllIncludingSelf,
    /// Every CPU but the sender.
    AllExcludingSelf,
}

/// What the destination field asks for when there is no shorthand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// The CPU with this APIC id.
    Physical(u32),
    /// The CPUs whose logical id matches this message destination address.
    Logical(u32),
    /// All ones: every CPU, in either destination mode.
    Broadcast,
}

/// One write to the interrupt command register, from either face.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Icr {
    command: u32,
    destination: u32,
    /// All ones for the face that the write came from: 8 or 32 bits.
    broadcast: u32,
}

impl Icr {
    const LEVEL_ASSERT: u32 = 1 << 14;
    const TRIGGER_LEVEL: u32 = 1 << 15;
    const LOGICAL: u32 = 1 << 11;

    /// The two registers of the xAPIC: `low` at offset 0x300, `high` at 0x310, of which only the
    /// top byte is a destination.
    #[must_use]
    pub const fn from_xapic(low: u32, high: u32) -> Self {
        Icr {
            command: low,
            destination: high >> 24,
            broadcast: 0xff,
        }
    }

    /// The one register of the x2APIC, MSR 0x830.
    #[must_use]
    pub const fn from_x2apic(value: u64) -> Self {
        // Truncation keeps the low half, which is the command.
        Icr {
            command: value as u32,
            destination: (value >> 32) as u32,
            broadcast: u32::MAX,
        }
    }

    /// What a write to the x2APIC's self-IPI register stands for (SDM 11.12.11).
    #[must_use]
    pub const fn self_ipi(vector: u8) -> Self {
        Self::from_x2apic(vector as u64 | 0b01 << 18)
    }

    /// The vector field. It has a meaning for fixed, lowest-priority and start-up IPIs only.
    #[must_use]
    pub const fn vector(self) -> u8 {
        // Truncation: the vector is the low byte.
        self.command as u8
    }

    /// The delivery mode.
    #[must_use]
    pub const fn mode(self) -> DeliveryMode {
        let deassert = self.command & (Self::TRIGGER_LEVEL | Self::LEVEL_ASSERT);
        match (self.command >> 8) & 0b111 {
            0 => DeliveryMode::Fixed,
            1 => DeliveryMode::LowestPriority,
            2 => DeliveryMode::Smi,
            4 => DeliveryMode::Nmi,
            5 if deassert == Self::TRIGGER_LEVEL => DeliveryMode::InitDeassert,
            5 => DeliveryMode::Init,
            6 => DeliveryMode::Startup,
            reserved => DeliveryMode::Reserved(reserved as u8),
        }
    }

    /// The shorthand.
    #[must_use]
    pub const fn shorthand(self) -> Shorthand {
        match (self.command >> 18) & 0b11 {
            0 => Shorthand::None,
            1 => Shorthand::Itself,
            2 => Shorthand::AllIncludingSelf,
            _ => Shorthand::AllExcludingSelf,
        }
    }

    /// The destination field. With a shorthand it means nothing.
    #[must_use]
    pub const fn destination(self) -> Destination {
        if self.destination == self.broadcast {
            Destination::Broadcast
        } else if self.command & Self::LOGICAL == 0 {
            Destination::Physical(self.destination)
        } else {
            Destination::Logical(self.destination)
        }
    }

    /// Whether the vector is one that this delivery mode must not carry (SDM 11.5.2).
    #[must_use]
    pub const fn has_illegal_vector(self) -> bool {
        matches!(
            self.mode(),
            DeliveryMode::Fixed | DeliveryMode::LowestPriority
        ) && self.vector() < crate::vectors::FIRST_LEGAL_VECTOR
    }
}

impl fmt::Debug for Icr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Icr")
            .field("vector", &self.vector())
            .field("mode", &self.mode())
            .field("shorthand", &self.shorthand())
            .field("destination", &self.destination())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_modes_decode_from_bits_8_to_10() {
        let modes: Vec<_> = (0..8)
            .map(|mode| Icr::from_xapic(mode << 8, 0).mode())
            .collect();
        assert_eq!(
            modes,
            [
                DeliveryMode::Fixed,
                DeliveryMode::LowestPriority,
                DeliveryMode::Smi,
                DeliveryMode::Reserved(3),
                DeliveryMode::Nmi,
                DeliveryMode::Init,
                DeliveryMode::Startup,
                DeliveryMode::Reserved(7),
            ]
        );
    }

    #[test]
    fn init_is_a_deassert_only_when_level_triggered_and_not_asserted() {
        let mode = |bits: u32| Icr::from_x2apic(0x500 | u64::from(bits)).mode();
        assert_eq!(mode(0), DeliveryMode::Init);
        assert_eq!(mode(1 << 14), DeliveryMode::Init);
        assert_eq!(mode(1 << 15 | 1 << 14), DeliveryMode::Init);
        assert_eq!(mode(1 << 15), DeliveryMode::InitDeassert);
    }

    #[test]
    fn destinations_are_8_bits_wide_in_xapic_and_32_in_x2apic() {
        assert_eq!(
            Icr::from_xapic(0, 0x0300_0000).destination(),
            Destination::Physical(3)
        );
        assert_eq!(
            Icr::from_xapic(0, 0x03ff_ffff).destination(),
            Destination::Physical(3)
        );
        assert_eq!(
            Icr::from_xapic(0x800, 0x0300_0000).destination(),
            Destination::Logical(3)
        );
        assert_eq!(
            Icr::from_xapic(0, 0xff00_0000).destination(),
            Destination::Broadcast
        );
        assert_eq!(
            Icr::from_x2apic(0xff << 32).destination(),
            Destination::Physical(0xff)
        );
        assert_eq!(
            Icr::from_x2apic(0xffff_ffff_0000_0800).destination(),
            Destination::Broadcast
        );
        assert_eq!(
            Icr::from_x2apic(0x0001_0003_0000_0800).destination(),
            Destination::Logical(0x1_0003)
        );
    }

    #[test]
    fn the_self_ipi_register_is_a_fixed_ipi_with_the_self_shorthand() {
        let icr = Icr::self_ipi(0xf6);
        assert_eq!(
            (icr.vector(), icr.mode(), icr.shorthand()),
            (0xf6, DeliveryMode::Fixed, Shorthand::Itself)
        );
    }
}
