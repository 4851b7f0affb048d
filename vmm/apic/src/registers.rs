//! The register map that both faces share: xAPIC offset `0x10 * n` is x2APIC MSR `0x800 + n`
//! (SDM tables 11-1 and 11-6).

use crate::addressing::LogicalModel;
use crate::timer::Timer;
use crate::vectors::VectorSet;
use serde::{Deserialize, Serialize};

/// The guest-physical address of the xAPIC's page of registers after power-up (SDM 11.4.1).
pub const APIC_BASE_ADDRESS: u64 = 0xfee0_0000;

/// Version 0x14, an integrated APIC, with six LVT entries (the field holds one less).
pub(crate) const VERSION: u32 = 5 << 16 | 0x14;

/// An entry of the local vector table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lvt {
    Timer,
    Thermal,
    Performance,
    Lint0,
    Lint1,
    Error,
}

/// A register, under the name of the SDM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    Id,
    Version,
    Tpr,
    Ppr,
    Eoi,
    Ldr,
    Dfr,
    Svr,
    Isr(u8),
    Tmr(u8),
    Irr(u8),
    Esr,
    Icr,
    /// The upper half of the ICR, which only the xAPIC keeps apart.
    IcrHigh,
    Lvt(Lvt),
    InitialCount,
    CurrentCount,
    Divide,
    SelfIpi,
}

/// What software may do with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    Read,
    Write,
    Both,
}

impl Register {
    fn decode(index: u32) -> Option<Self> {
        // The three 256-bit registers take eight places each; truncation keeps the place.
        let part = (index & 7) as u8;
        Some(match index {
            0x02 => Register::Id,
            0x03 => Register::Version,
            0x08 => Register::Tpr,
            0x0a => Register::Ppr,
            0x0b => Register::Eoi,
            0x0d => Register::Ldr,
            0x0e => Register::Dfr,
            0x0f => Register::Svr,
            0x10..=0x17 => Register::Isr(part),
            0x18..=0x1f => Register::Tmr(part),
            0x20..=0x27 => Register::Irr(part),
            0x28 => Register::Esr,
            0x30 => Register::Icr,
            0x31 => Register::IcrHigh,
            0x32 => Register::Lvt(Lvt::Timer),
            0x33 => Register::Lvt(Lvt::Thermal),
            0x34 => Register::Lvt(Lvt::Performance),
            0x35 => Register::Lvt(Lvt::Lint0),
            0x36 => Register::Lvt(Lvt::Lint1),
            0x37 => Register::Lvt(Lvt::Error),
            0x38 => Register::InitialCount,
            0x39 => Register::CurrentCount,
            0x3e => Register::Divide,
            0x3f => Register::SelfIpi,
            _ => return None,
        })
    }

    /// The register at an offset of the xAPIC's page. Only the first four bytes of each 16 hold one.
    pub(crate) fn at_offset(offset: u16) -> Option<Self> {
        if offset & 0xf != 0 {
            return None;
        }
        Self::decode(u32::from(offset >> 4)).filter(|register| *register != Register::SelfIpi)
    }

    /// The register behind an x2APIC MSR.
    pub(crate) fn at_msr(msr: u32) -> Option<Self> {
        Self::decode(msr.checked_sub(0x800)?)
            .filter(|register| !matches!(register, Register::Dfr | Register::IcrHigh))
    }

    pub(crate) fn permission(self) -> Permission {
        match self {
            Register::Id
            | Register::Version
            | Register::Ppr
            | Register::Isr(_)
            | Register::Tmr(_)
            | Register::Irr(_)
            | Register::CurrentCount => Permission::Read,
            Register::Eoi | Register::SelfIpi => Permission::Write,
            // The x2APIC's LDR is read-only; its face says so itself.
            Register::Tpr
            | Register::Ldr
            | Register::Dfr
            | Register::Svr
            | Register::Esr
            | Register::Icr
            | Register::IcrHigh
            | Register::Lvt(_)
            | Register::InitialCount
            | Register::Divide => Permission::Both,
        }
    }

    /// The bits of the low 32 that keep what is written. The rest is reserved or status.
    pub(crate) fn writable(self) -> u32 {
        match self {
            Register::Tpr | Register::SelfIpi => 0xff,
            Register::Ldr | Register::IcrHigh => 0xff00_0000,
            Register::Dfr => 0xf000_0000,
            // Vector, software enable, focus processor checking. Bit 12, the suppression of EOI
            // broadcasts, is absent as the version register says.
            Register::Svr => 0x3ff,
            // Vector, delivery mode, destination mode, level, trigger mode, shorthand.
            Register::Icr => 0x000c_cfff,
            // Vector, mask, one-shot or periodic. Bit 18 comes with TSC-deadline mode, if offered.
            Register::Lvt(Lvt::Timer) => 0x0003_00ff,
            // Vector, delivery mode, mask.
            Register::Lvt(Lvt::Thermal | Lvt::Performance) => 0x0001_07ff,
            // The same, pin polarity and trigger mode.
            Register::Lvt(Lvt::Lint0 | Lvt::Lint1) => 0x0001_a7ff,
            // Vector and mask: the error interrupt is always fixed.
            Register::Lvt(Lvt::Error) => 0x0001_00ff,
            Register::InitialCount => u32::MAX,
            Register::Divide => 0b1011,
            Register::Eoi | Register::Esr => 0,
            Register::Id
            | Register::Version
            | Register::Ppr
            | Register::Isr(_)
            | Register::Tmr(_)
            | Register::Irr(_)
            | Register::CurrentCount => 0,
        }
    }

    /// Read-only status bits that a write may carry without effect: delivery status, remote IRR.
    /// In the x2APIC's ICR, bit 12 is reserved, but Intel's processors ignore it (so says KVM's
    /// `__kvm_x2apic_icr_write`).
    pub(crate) fn status(self) -> u32 {
        match self {
            Register::Lvt(Lvt::Lint0 | Lvt::Lint1) => 1 << 12 | 1 << 14,
            Register::Lvt(_) | Register::Icr => 1 << 12,
            _ => 0,
        }
    }
}

/// The LVT's bit that keeps an entry from raising interrupts.
const LVT_MASKED: u32 = 1 << 16;
const LVT_PERIODIC: u32 = 1 << 17;
/// The timer's TSC-deadline mode; reserved where CPUID.1:ECX bit 24 is clear (SDM 11.5.4).
pub(crate) const LVT_TSC_DEADLINE: u32 = 1 << 18;

/// The local vector table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Lvts {
    timer: u32,
    thermal: u32,
    performance: u32,
    lint0: u32,
    lint1: u32,
    error: u32,
}

impl Lvts {
    pub(crate) fn get(&self, entry: Lvt) -> u32 {
        match entry {
            Lvt::Timer => self.timer,
            Lvt::Thermal => self.thermal,
            Lvt::Performance => self.performance,
            Lvt::Lint0 => self.lint0,
            Lvt::Lint1 => self.lint1,
            Lvt::Error => self.error,
        }
    }

    /// Writes an entry. While software keeps the APIC disabled, entries stay masked (SDM 11.4.7.2).
    pub(crate) fn set(&mut self, entry: Lvt, value: u32, software_enabled: bool) {
        let value = if software_enabled {
            value
        } else {
            value | LVT_MASKED
        };
        *match entry {
            Lvt::Timer => &mut self.timer,
            Lvt::Thermal => &mut self.thermal,
            Lvt::Performance => &mut self.performance,
            Lvt::Lint0 => &mut self.lint0,
            Lvt::Lint1 => &mut self.lint1,
            Lvt::Error => &mut self.error,
        } = value;
    }

    pub(crate) fn mask_all(&mut self) {
        let Lvts {
            timer,
            thermal,
            performance,
            lint0,
            lint1,
            error,
        } = self;
        for entry in [timer, thermal, performance, lint0, lint1, error] {
            *entry |= LVT_MASKED;
        }
    }

    /// The vector of an entry, masked or not.
    pub(crate) fn vector(&self, entry: Lvt) -> u8 {
        // Truncation: the vector is the low byte.
        self.get(entry) as u8
    }

    /// The vector of an entry that is not masked.
    pub(crate) fn unmasked_vector(&self, entry: Lvt) -> Option<u8> {
        (self.get(entry) & LVT_MASKED == 0).then(|| self.vector(entry))
    }

    pub(crate) fn timer_is_periodic(&self) -> bool {
        self.timer & (LVT_PERIODIC | LVT_TSC_DEADLINE) == LVT_PERIODIC
    }

    pub(crate) fn timer_is_tsc_deadline(&self) -> bool {
        self.timer & (LVT_PERIODIC | LVT_TSC_DEADLINE) == LVT_TSC_DEADLINE
    }
}

/// Errors that the ESR shows (SDM 11.5.3).
pub(crate) mod esr {
    pub(crate) const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub(crate) const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
    pub(crate) const ILLEGAL_REGISTER: u32 = 1 << 7;
}

/// Everything that INIT and disabling the APIC put back to its state at power-up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct ApicRegisters {
    pub(crate) tpr: u8,
    pub(crate) ldr: u32,
    pub(crate) dfr: u32,
    pub(crate) svr: u32,
    pub(crate) isr: VectorSet,
    /// The part of the IRR that the timer set; the IPIs' part is in the posted interrupts.
    pub(crate) timer_irr: VectorSet,
    /// The part of the IRR that other LVT entries set.
    pub(crate) lvt_irr: VectorSet,
    /// What the ESR shows: the errors up to the last write to it.
    pub(crate) esr: u32,
    /// The errors since.
    pub(crate) new_errors: u32,
    pub(crate) icr_low: u32,
    pub(crate) icr_high: u32,
    pub(crate) lvts: Lvts,
    pub(crate) timer: Timer,
}

impl ApicRegisters {
    /// The state after power-up or INIT (SDM 11.4.7.1).
    pub(crate) fn power_up() -> Self {
        ApicRegisters {
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: VectorSet::EMPTY,
            timer_irr: VectorSet::EMPTY,
            lvt_irr: VectorSet::EMPTY,
            esr: 0,
            new_errors: 0,
            icr_low: 0,
            icr_high: 0,
            lvts: Lvts {
                timer: LVT_MASKED,
                thermal: LVT_MASKED,
                performance: LVT_MASKED,
                lint0: LVT_MASKED,
                lint1: LVT_MASKED,
                error: LVT_MASKED,
            },
            timer: Timer::default(),
        }
    }

    pub(crate) fn software_enabled(&self) -> bool {
        self.svr & 1 << 8 != 0
    }

    pub(crate) fn logical_model(&self) -> LogicalModel {
        match self.dfr >> 28 {
            0xf => LogicalModel::Flat,
            0 => LogicalModel::Cluster,
            _ => LogicalModel::Reserved,
        }
    }

    /// The processor priority (SDM 11.8.3.1). With equal classes it is the whole TPR, one of the
    /// two values that the manual allows.
    pub(crate) fn ppr(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= in_service {
            self.tpr
        } else {
            in_service
        }
    }
}
