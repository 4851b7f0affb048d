//! `IA32_APIC_BASE`: the mode of the APIC and the switches between modes (SDM 11.12.5).

use crate::addressing::Mode;
use crate::local::LocalApic;

/// The number of the `IA32_APIC_BASE` MSR.
pub const IA32_APIC_BASE: u32 = 0x1b;

/// Where the page can be moved to: where a PC's chipset and processor have their devices (the I/O APIC from
/// 0xfec0_0000, TXT and TPM from 0xfed2_0000), so that a machine has no RAM there.
pub(crate) const PAGES: std::ops::Range<u64> = 0xfe00_0000..0xff00_0000;

pub(crate) const BSP: u64 = 1 << 8;
const EXTD: u64 = 1 << 10;
/// In `IA32_APIC_BASE`: the APIC is enabled (SDM 11.4.4).
pub const APIC_BASE_ENABLE: u64 = 1 << 11;
/// Bits 0 to 7 and 9. The bits above the physical address width count as part of the address.
const RESERVED: u64 = 0x2ff;

/// Why an access raises #GP(0) in the guest. The reason is for reports; the guest gets the
/// exception only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeneralProtection {
    /// An x2APIC register was used in another mode.
    #[error("MSR {msr:#x} exists in x2APIC mode only, and the APIC is in mode {mode:?}")]
    NotX2Apic {
        /// The MSR.
        msr: u32,
        /// The mode at the time.
        mode: Mode,
    },
    /// The x2APIC has no such register (SDM table 11-6).
    #[error("MSR {msr:#x} is no x2APIC register")]
    NoSuchRegister {
        /// The MSR.
        msr: u32,
    },
    /// A write to a register that can only be read.
    #[error("MSR {msr:#x} is read-only")]
    ReadOnly {
        /// The MSR.
        msr: u32,
    },
    /// A read of a register that can only be written.
    #[error("MSR {msr:#x} is write-only")]
    WriteOnly {
        /// The MSR.
        msr: u32,
    },
    /// A write that sets reserved bits.
    #[error("write to MSR {msr:#x} sets reserved bits {bits:#x}")]
    ReservedBits {
        /// The MSR.
        msr: u32,
        /// The reserved bits that were set.
        bits: u64,
    },
    /// A write to `IA32_APIC_BASE` that moves the registers to where there may be RAM.
    #[error(
        "the APIC's registers cannot be moved to {address:#x}, only within {:#x} to {:#x}",
        PAGES.start,
        PAGES.end
    )]
    Moved {
        /// Where the guest wanted them.
        address: u64,
    },
    /// A write to `IA32_APIC_BASE` that sets EXTD but not EN, a combination without meaning.
    #[error("IA32_APIC_BASE with EXTD but without EN is invalid")]
    InvalidMode,
    /// A switch of mode that the SDM does not allow.
    #[error("the APIC cannot go from mode {from:?} to {to:?}")]
    IllegalSwitch {
        /// The mode before.
        from: Mode,
        /// The mode asked for.
        to: Mode,
    },
}

/// Checks a value for `IA32_APIC_BASE` against the mode `from` and returns the new mode, and where the page of
/// registers is.
pub(crate) fn switch(
    from: Mode,
    value: u64,
    x2apic_supported: bool,
) -> Result<(Mode, u64), GeneralProtection> {
    let reserved = if x2apic_supported {
        RESERVED
    } else {
        RESERVED | EXTD
    };
    if value & reserved != 0 {
        let bits = value & reserved;
        return Err(GeneralProtection::ReservedBits {
            msr: IA32_APIC_BASE,
            bits,
        });
    }
    let address = value & !(BSP | EXTD | APIC_BASE_ENABLE);
    if !PAGES.contains(&address) {
        return Err(GeneralProtection::Moved { address });
    }
    let to = match (value & APIC_BASE_ENABLE != 0, value & EXTD != 0) {
        (false, false) => Mode::Disabled,
        (true, false) => Mode::XApic,
        (true, true) => Mode::X2Apic,
        (false, true) => return Err(GeneralProtection::InvalidMode),
    };
    match (from, to) {
        (Mode::Disabled, Mode::X2Apic) | (Mode::X2Apic, Mode::XApic) => {
            Err(GeneralProtection::IllegalSwitch { from, to })
        }
        _ => Ok((to, address)),
    }
}

impl LocalApic {
    /// The value of `IA32_APIC_BASE`.
    #[must_use]
    pub fn apic_base(&self) -> u64 {
        let mode = match self.mode() {
            Mode::Disabled => 0,
            Mode::XApic => APIC_BASE_ENABLE,
            Mode::X2Apic => APIC_BASE_ENABLE | EXTD,
        };
        self.page | mode | if self.is_bsp() { BSP } else { 0 }
    }

    /// A write to `IA32_APIC_BASE`.
    ///
    /// Disabling the APIC loses its state, pending interrupts included (SDM 11.4.3). The BSP flag
    /// is given by the CPU's number; what a guest writes there is ignored. Moving the registers out of the top of
    /// the first 4 GiB is refused: a guest could lay them over RAM, where its accesses would no longer exit and its
    /// IPIs no longer be counted.
    ///
    /// # Errors
    /// [`GeneralProtection`], with nothing changed, for reserved bits, such an address, and
    /// switches that the SDM does not allow: x2APIC from disabled, xAPIC from x2APIC.
    pub fn set_apic_base(&mut self, value: u64) -> Result<(), GeneralProtection> {
        let (to, page) = switch(self.mode(), value, self.x2apic_supported())?;
        self.page = page;
        self.set_mode(to);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_switches_of_the_sdm_are_allowed() {
        let values = [0xfee0_0000, 0xfee0_0800, 0xfee0_0c00];
        let results: Vec<Vec<bool>> = [Mode::Disabled, Mode::XApic, Mode::X2Apic]
            .iter()
            .map(|from| {
                values
                    .iter()
                    .map(|to| switch(*from, *to, true).is_ok())
                    .collect()
            })
            .collect();
        assert_eq!(
            results,
            [[true, true, false], [true, true, true], [true, false, true]]
        );
    }

    #[test]
    fn a_bad_base_is_refused_with_its_reason() {
        let switch = |value| switch(Mode::XApic, value, false);
        let reserved = |bits| GeneralProtection::ReservedBits {
            msr: IA32_APIC_BASE,
            bits,
        };
        assert_eq!(switch(0xfee0_0801), Err(reserved(1)));
        assert_eq!(switch(0xfee0_0a00), Err(reserved(0x200)));
        assert_eq!(switch(0xfee0_0c00), Err(reserved(0x400)));
        let moved = |address| GeneralProtection::Moved { address };
        assert_eq!(switch(0xfe00_0800), Ok((Mode::XApic, 0xfe00_0000)));
        assert_eq!(switch(0xfeff_f800), Ok((Mode::XApic, 0xfeff_f000)));
        assert_eq!(switch(0xfdff_f800), Err(moved(0xfdff_f000)));
        assert_eq!(switch(0xff00_0800), Err(moved(0xff00_0000)));
        assert_eq!(
            moved(0x1000).to_string(),
            "the APIC's registers cannot be moved to 0x1000, only within 0xfe000000 to 0xff000000"
        );
        assert_eq!(
            switch(0x8000_0000_fee0_0800),
            Err(GeneralProtection::Moved {
                address: 0x8000_0000_fee0_0000
            })
        );
        assert_eq!(
            super::switch(Mode::XApic, 0xfee0_0400, true),
            Err(GeneralProtection::InvalidMode)
        );
    }
}
