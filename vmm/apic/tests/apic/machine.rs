//! A machine without a hypervisor: APICs on a bus, and a ledger of what they report.

use ipirig_apic::{
    APIC_BASE_ADDRESS, Accepted, AcceptedKind, Action, ApicObserver, Bus, LocalApic, Origin, Sent,
};
use std::cell::RefCell;
use std::sync::Arc;

/// Offsets of xAPIC registers; the x2APIC's MSR is `msr(offset)`.
pub(crate) mod reg {
    pub(crate) const ID: u16 = 0x20;
    pub(crate) const VERSION: u16 = 0x30;
    pub(crate) const TPR: u16 = 0x80;
    pub(crate) const PPR: u16 = 0xa0;
    pub(crate) const EOI: u16 = 0xb0;
    pub(crate) const LDR: u16 = 0xd0;
    pub(crate) const DFR: u16 = 0xe0;
    pub(crate) const SVR: u16 = 0xf0;
    pub(crate) const ISR: u16 = 0x100;
    pub(crate) const TMR: u16 = 0x180;
    pub(crate) const IRR: u16 = 0x200;
    pub(crate) const ESR: u16 = 0x280;
    pub(crate) const ICR: u16 = 0x300;
    pub(crate) const ICR_HIGH: u16 = 0x310;
    pub(crate) const LVT_TIMER: u16 = 0x320;
    pub(crate) const LVT_LINT0: u16 = 0x350;
    pub(crate) const LVT_ERROR: u16 = 0x370;
    pub(crate) const INITIAL_COUNT: u16 = 0x380;
    pub(crate) const CURRENT_COUNT: u16 = 0x390;
    pub(crate) const DIVIDE: u16 = 0x3e0;
    pub(crate) const SELF_IPI: u16 = 0x3f0;
}

pub(crate) const ENABLE: u64 = 1 << 11;
pub(crate) const EXTD: u64 = 1 << 10;

pub(crate) fn msr(offset: u16) -> u32 {
    0x800 + u32::from(offset >> 4)
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) sent: RefCell<Vec<Sent>>,
    pub(crate) accepted: RefCell<Vec<(usize, Accepted)>>,
}

impl ApicObserver for Ledger {
    fn ipi_sent(&self, sent: &Sent) {
        self.sent.borrow_mut().push(*sent);
    }

    fn interrupt_accepted(&self, cpu: usize, accepted: Accepted) {
        self.accepted.borrow_mut().push((cpu, accepted));
    }
}

pub(crate) struct Machine {
    pub(crate) bus: Arc<Bus>,
    pub(crate) cpus: Vec<LocalApic>,
    pub(crate) ledger: Ledger,
    pub(crate) now: u64,
}

impl Machine {
    /// As after power-up.
    pub(crate) fn power_up(cpus: usize) -> Self {
        let bus = Bus::new(cpus).unwrap();
        let cpus = (0..cpus).map(|cpu| LocalApic::new(Arc::clone(&bus), cpu, true).unwrap());
        Machine {
            cpus: cpus.collect(),
            bus,
            ledger: Ledger::default(),
            now: 0,
        }
    }

    /// All CPUs running, in xAPIC mode, enabled by software, with flat logical ids.
    pub(crate) fn xapic(cpus: usize) -> Self {
        let mut machine = Self::power_up(cpus);
        for cpu in 0..cpus {
            machine.write(cpu, reg::SVR, 0x1ff);
            machine.write(
                cpu,
                reg::LDR,
                1u32.checked_shl(24 + cpu as u32).unwrap_or(0),
            );
        }
        if cpus > 1 {
            // To all but self, as firmware does it: INIT, then start-up.
            machine.ipi(0, 0x000c_4500, 0);
            (1..cpus).for_each(|cpu| machine.cpus[cpu].accept_init(&()));
            machine.ipi(0, 0x000c_4610, 0);
            for cpu in 1..cpus {
                assert_eq!(machine.cpus[cpu].accept_startup(&()), Some(0x10));
                machine.write(cpu, reg::SVR, 0x1ff);
                machine.write(
                    cpu,
                    reg::LDR,
                    1u32.checked_shl(24 + cpu as u32).unwrap_or(0),
                );
            }
        }
        machine.ledger = Ledger::default();
        machine
    }

    /// All CPUs running, in x2APIC mode, enabled by software.
    pub(crate) fn x2apic(cpus: usize) -> Self {
        let mut machine = Self::xapic(cpus);
        for apic in &mut machine.cpus {
            apic.set_apic_base(APIC_BASE_ADDRESS | ENABLE | EXTD)
                .unwrap();
        }
        machine
    }

    /// Goes on with other APICs, from the state of these.
    pub(crate) fn go_elsewhere(&mut self) {
        let saved: Vec<_> = self.cpus.iter().map(|apic| apic.save(self.now)).collect();
        let other = Self::power_up(self.cpus.len());
        (self.bus, self.cpus) = (other.bus, other.cpus);
        for (apic, saved) in self.cpus.iter_mut().zip(&saved) {
            apic.restore(saved, self.now).unwrap();
        }
    }

    pub(crate) fn read(&mut self, cpu: usize, offset: u16) -> u32 {
        self.cpus[cpu].mmio_read(offset, self.now)
    }

    /// An MMIO write that must not be an IPI.
    pub(crate) fn write(&mut self, cpu: usize, offset: u16, value: u32) {
        let action = self.cpus[cpu].mmio_write(offset, value, self.now);
        assert!(!matches!(action, Action::Send(_)), "{action:?}");
    }

    /// An IPI through the xAPIC: command and 8-bit destination.
    pub(crate) fn ipi(&mut self, from: usize, command: u32, destination: u8) -> Sent {
        self.write(from, reg::ICR_HIGH, u32::from(destination) << 24);
        let action = self.cpus[from].mmio_write(reg::ICR, command, self.now);
        self.carry_out(from, action)
    }

    /// An IPI through the x2APIC: command and 32-bit destination.
    pub(crate) fn x2ipi(&mut self, from: usize, command: u32, destination: u32) -> Sent {
        let icr = u64::from(destination) << 32 | u64::from(command);
        let action = self.cpus[from]
            .msr_write(msr(reg::ICR), icr, self.now)
            .unwrap();
        self.carry_out(from, action)
    }

    pub(crate) fn carry_out(&mut self, from: usize, action: Action) -> Sent {
        let Action::Send(icr) = action else {
            panic!("not an IPI: {action:?}")
        };
        self.bus.send(from, icr, &self.ledger)
    }

    /// Delivers the interrupt that `poll` offers, if any.
    pub(crate) fn take_interrupt(&mut self, cpu: usize) -> Option<u8> {
        let vector = self.cpus[cpu].poll(self.now).interrupt?;
        self.cpus[cpu].accept_interrupt(vector, &self.ledger);
        Some(vector)
    }
}

pub(crate) fn by_ipi(kind: AcceptedKind) -> Accepted {
    Accepted {
        kind,
        origin: Origin::Ipi,
        merged: false,
    }
}
