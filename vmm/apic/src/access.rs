//! The two faces of the registers: xAPIC through memory, x2APIC through MSRs.

use crate::addressing::{Mode, x2apic_logical_id};
use crate::base::GeneralProtection;
use crate::icr::Icr;
use crate::local::LocalApic;
use crate::registers::{LVT_TSC_DEADLINE, Lvt, Permission, Register, VERSION, esr};

/// What a register write asks of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Nothing.
    None,
    /// Pass this to [`Bus::send`](crate::Bus::send) and kick the CPUs that it names.
    Send(Icr),
    /// The guest has ended this interrupt; another may be deliverable now.
    EndOfInterrupt(u8),
}

impl LocalApic {
    /// A 4-byte read at `offset` of the register page, at `now` nanoseconds. Reserved registers read
    /// as zero and log an error in the ESR. Outside xAPIC mode there is no such page: all ones.
    pub fn mmio_read(&mut self, offset: u16, now: u64) -> u32 {
        if self.mode() != Mode::XApic {
            return u32::MAX;
        }
        self.expire_timer(now);
        let Some(register) = Register::at_offset(offset) else {
            self.log_error(esr::ILLEGAL_REGISTER);
            return 0;
        };
        match register {
            Register::Id => (self.cpu() as u32) << 24,
            Register::Ldr => self.regs.ldr,
            register => self.read(register, now),
        }
    }

    /// A 4-byte write at `offset` of the register page, at `now` nanoseconds. Reserved bits are
    /// dropped. A write to a reserved register, or to a read-only one (where the SDM says nothing),
    /// changes nothing and logs an illegal register address in the ESR. Outside xAPIC mode it is
    /// lost.
    pub fn mmio_write(&mut self, offset: u16, value: u32, now: u64) -> Action {
        if self.mode() != Mode::XApic {
            return Action::None;
        }
        self.expire_timer(now);
        let writable = |register: &Register| register.permission() != Permission::Read;
        let Some(register) = Register::at_offset(offset).filter(writable) else {
            self.log_error(esr::ILLEGAL_REGISTER);
            return Action::None;
        };
        let value = value & self.writable(register);
        match register {
            Register::Ldr => self.regs.ldr = value,
            Register::Dfr => self.regs.dfr = value | 0x0fff_ffff,
            Register::IcrHigh => self.regs.icr_high = value,
            Register::Icr => {
                self.regs.icr_low = value;
                return self.send(
                    Icr::from_xapic(value, self.regs.icr_high),
                    esr::SEND_ILLEGAL_VECTOR,
                );
            }
            register => return self.write(register, value, now),
        }
        self.publish();
        Action::None
    }

    /// RDMSR of an x2APIC register (0x800 to 0x8ff), at `now` nanoseconds.
    ///
    /// # Errors
    /// [`GeneralProtection`] outside x2APIC mode, and for registers that do not exist or can only be
    /// written.
    pub fn msr_read(&mut self, msr: u32, now: u64) -> Result<u64, GeneralProtection> {
        let register = self.x2apic_register(msr)?;
        if register.permission() == Permission::Write {
            return Err(GeneralProtection::WriteOnly { msr });
        }
        self.expire_timer(now);
        Ok(match register {
            Register::Id => self.cpu() as u64,
            Register::Ldr => u64::from(x2apic_logical_id(self.cpu())),
            Register::Icr => u64::from(self.regs.icr_high) << 32 | u64::from(self.regs.icr_low),
            register => u64::from(self.read(register, now)),
        })
    }

    /// WRMSR of an x2APIC register (0x800 to 0x8ff), at `now` nanoseconds.
    ///
    /// # Errors
    /// [`GeneralProtection`], with nothing changed, outside x2APIC mode, for registers that do not
    /// exist or can only be read, and for reserved bits (SDM 11.12.1.3). EOI and ESR take zero only.
    pub fn msr_write(
        &mut self,
        msr: u32,
        value: u64,
        now: u64,
    ) -> Result<Action, GeneralProtection> {
        let register = self.x2apic_register(msr)?;
        if register.permission() == Permission::Read || register == Register::Ldr {
            return Err(GeneralProtection::ReadOnly { msr });
        }
        let upper = if register == Register::Icr {
            u64::from(u32::MAX) << 32
        } else {
            0
        };
        let bits = value & !(upper | u64::from(self.writable(register) | register.status()));
        if bits != 0 {
            return Err(GeneralProtection::ReservedBits { msr, bits });
        }
        self.expire_timer(now);
        // Truncation: only the ICR has an upper half.
        let low = value as u32 & self.writable(register);
        Ok(match register {
            Register::Icr => {
                self.regs.icr_low = low;
                self.regs.icr_high = (value >> 32) as u32;
                self.send(
                    Icr::from_x2apic(value & upper | u64::from(low)),
                    esr::SEND_ILLEGAL_VECTOR,
                )
            }
            // Truncation: the register is eight bits wide. SDM 11.5.3 counts its illegal vectors as
            // received.
            Register::SelfIpi => self.send(Icr::self_ipi(low as u8), esr::RECEIVE_ILLEGAL_VECTOR),
            register => self.write(register, low, now),
        })
    }

    /// The bits of `register` that a write reaches on this CPU.
    fn writable(&self, register: Register) -> u32 {
        let mode = if register == Register::Lvt(Lvt::Timer) && self.tsc_deadline_supported {
            LVT_TSC_DEADLINE
        } else {
            0
        };
        register.writable() | mode
    }

    fn x2apic_register(&self, msr: u32) -> Result<Register, GeneralProtection> {
        let mode = self.mode();
        if mode != Mode::X2Apic {
            return Err(GeneralProtection::NotX2Apic { msr, mode });
        }
        Register::at_msr(msr).ok_or(GeneralProtection::NoSuchRegister { msr })
    }

    /// Reads a register that looks the same from both faces.
    fn read(&self, register: Register, now: u64) -> u32 {
        match register {
            Register::Version => VERSION,
            Register::Tpr => u32::from(self.regs.tpr),
            Register::Ppr => u32::from(self.regs.ppr()),
            Register::Dfr => self.regs.dfr,
            Register::Svr => self.regs.svr,
            Register::Isr(part) => self.regs.isr.register(part),
            Register::Irr(part) => self.irr().register(part),
            Register::Esr => self.regs.esr,
            Register::Icr => self.regs.icr_low,
            Register::IcrHigh => self.regs.icr_high,
            Register::Lvt(entry) => self.regs.lvts.get(entry),
            Register::InitialCount => self.regs.timer.initial(),
            Register::CurrentCount => self.regs.timer.current(now),
            Register::Divide => self.regs.timer.divide(),
            // Nothing level-triggered exists, so the TMR stays clear. The xAPIC's EOI is write-only,
            // and a read of it is undefined. The faces read the id and the LDR themselves.
            Register::Tmr(_) | Register::Eoi | Register::SelfIpi => 0,
            Register::Id | Register::Ldr => 0,
        }
    }

    /// Writes a register that looks the same from both faces; reserved bits are gone from `value`.
    fn write(&mut self, register: Register, value: u32, now: u64) -> Action {
        match register {
            // Truncation: the register is eight bits wide.
            Register::Tpr => self.regs.tpr = value as u8,
            Register::Eoi => {
                let Some(vector) = self.regs.isr.highest() else {
                    return Action::None;
                };
                self.regs.isr.remove(vector);
                self.publish();
                return Action::EndOfInterrupt(vector);
            }
            Register::Svr => {
                self.regs.svr = value;
                if !self.regs.software_enabled() {
                    self.regs.lvts.mask_all();
                }
            }
            Register::Esr => self.regs.esr = std::mem::take(&mut self.regs.new_errors),
            Register::Lvt(entry) => {
                let enabled = self.regs.software_enabled();
                let was_tsc = self.regs.lvts.timer_is_tsc_deadline();
                self.regs.lvts.set(entry, value, enabled);
                if was_tsc != self.regs.lvts.timer_is_tsc_deadline() {
                    self.regs.timer.disarm();
                }
            }
            // In TSC-deadline mode the count is not used (SDM 11.5.4.1).
            Register::InitialCount if self.regs.lvts.timer_is_tsc_deadline() => {}
            Register::InitialCount => {
                let periodic = self.regs.lvts.timer_is_periodic();
                self.regs.timer.start(value, periodic, now);
            }
            Register::Divide => self.regs.timer.set_divide(value, now),
            // The faces have dealt with these.
            Register::Id
            | Register::Version
            | Register::Ppr
            | Register::Ldr
            | Register::Dfr
            | Register::Isr(_)
            | Register::Tmr(_)
            | Register::Irr(_)
            | Register::Icr
            | Register::IcrHigh
            | Register::CurrentCount
            | Register::SelfIpi => {}
        }
        self.publish();
        Action::None
    }

    /// Hands an IPI to the caller, and logs an illegal vector as `error`. The IPI is handed over all
    /// the same: it goes nowhere, but the write is seen and counted.
    fn send(&mut self, icr: Icr, error: u32) -> Action {
        if icr.has_illegal_vector() {
            self.log_error(error);
        }
        Action::Send(icr)
    }
}
