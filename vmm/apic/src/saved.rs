//! The state of an APIC apart from its machine: to be saved, and to be restored.

use crate::addressing::Mode;
use crate::base::PAGES;
use crate::local::LocalApic;
use crate::posted::Events;
use crate::registers::ApicRegisters;
use crate::vectors::{FIRST_LEGAL_VECTOR, VectorSet};
use serde::{Deserialize, Serialize};

/// The state of one [`LocalApic`]: registers, timer, and what waits for the CPU. Times in it count
/// from the moment at which it was saved.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct SavedApic {
    cpu: usize,
    mode: Mode,
    page: u64,
    waiting_for_startup: bool,
    nmi_from_line: bool,
    registers: ApicRegisters,
    /// The IPIs' part of the IRR.
    ipi_irr: VectorSet,
    events: Events,
}

/// Why a state is not this APIC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// It is that of another CPU.
    #[error("the state of the APIC of CPU {saved} is not for CPU {cpu}")]
    Cpu {
        /// Whose state it is.
        saved: usize,
        /// Whose APIC it was given to.
        cpu: usize,
    },
    /// It is in x2APIC mode, which this APIC does not offer.
    #[error("the saved APIC is in x2APIC mode, which CPU {cpu} is not offered")]
    NoX2Apic {
        /// Whose APIC it was given to.
        cpu: usize,
    },
    /// Its page of registers is where there may be RAM.
    #[error("the saved APIC of CPU {cpu} has its registers at {page:#x}, which may be RAM")]
    Page {
        /// Whose APIC it was given to.
        cpu: usize,
        /// Where its registers are.
        page: u64,
    },
    /// Its timer is in the TSC-deadline mode, which this APIC does not offer.
    #[error("the saved APIC's timer is in TSC-deadline mode, which CPU {cpu} is not offered")]
    NoTscDeadline {
        /// Whose APIC it was given to.
        cpu: usize,
    },
    /// It has a vector pending or in service that no APIC takes (SDM 11.5.2).
    #[error("the saved APIC of CPU {cpu} has vector {vector}, which is an exception's")]
    Vector {
        /// Whose APIC it was given to.
        cpu: usize,
        /// The vector, below 16.
        vector: u8,
    },
}

impl SavedApic {
    /// A vector that an APIC can neither have pending nor in service.
    fn illegal_vector(&self) -> Option<u8> {
        let ApicRegisters {
            isr,
            timer_irr,
            lvt_irr,
            ..
        } = &self.registers;
        let sets = [*isr, *timer_irr, *lvt_irr, self.ipi_irr];
        let mut vectors = sets.into_iter().flat_map(VectorSet::iter);
        vectors.find(|vector| *vector < FIRST_LEGAL_VECTOR)
    }
}

impl LocalApic {
    /// The state at `now` nanoseconds. What others post meanwhile may be in it or not: stop them
    /// first.
    #[must_use]
    pub fn save(&self, now: u64) -> SavedApic {
        let mut registers = self.regs.clone();
        registers.timer.move_back(now);
        SavedApic {
            cpu: self.cpu,
            mode: self.mode,
            page: self.page,
            waiting_for_startup: self.waiting_for_startup,
            nmi_from_line: self.nmi_from_line,
            registers,
            ipi_irr: self.posted.irr.load(),
            events: self.posted.events(),
        }
    }

    /// Restores `saved` at `now` nanoseconds: a timer that had a millisecond left has it now.
    /// The deadline that a guest wrote to IA32_TSC_DEADLINE reads as it did, whatever the TSC is.
    ///
    /// # Errors
    /// See [`RestoreError`]; the APIC is as it was then.
    pub fn restore(&mut self, saved: &SavedApic, now: u64) -> Result<(), RestoreError> {
        let cpu = self.cpu;
        if saved.cpu != cpu {
            let saved = saved.cpu;
            return Err(RestoreError::Cpu { saved, cpu });
        }
        if saved.mode == Mode::X2Apic && !self.x2apic_supported {
            return Err(RestoreError::NoX2Apic { cpu });
        }
        if !PAGES.contains(&saved.page) {
            let page = saved.page;
            return Err(RestoreError::Page { cpu, page });
        }
        if saved.registers.lvts.timer_is_tsc_deadline() && !self.tsc_deadline_supported {
            return Err(RestoreError::NoTscDeadline { cpu });
        }
        if let Some(vector) = saved.illegal_vector() {
            return Err(RestoreError::Vector { cpu, vector });
        }
        self.mode = saved.mode;
        self.page = saved.page;
        self.waiting_for_startup = saved.waiting_for_startup;
        self.nmi_from_line = saved.nmi_from_line;
        self.regs = saved.registers.clone();
        self.regs.timer.move_on(now);
        self.posted.clear();
        for vector in saved.ipi_irr.iter() {
            self.posted.irr.insert(vector);
        }
        self.posted.update(|events| *events = saved.events);
        self.publish();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Bus, Line};
    use std::sync::Arc;

    /// CPU 1 of two, running, in x2APIC mode where that is offered.
    fn apic(bus: &Arc<Bus>, x2apic: bool) -> LocalApic {
        let mut apic = LocalApic::new(Arc::clone(bus), 1, x2apic).unwrap();
        apic.offer_tsc_deadline();
        apic
    }

    fn write(apic: &mut LocalApic, msr: u32, value: u64, now: u64) {
        assert_eq!(apic.msr_write(msr, value, now), Ok(Action::None));
    }

    fn started(bus: &Arc<Bus>) -> LocalApic {
        let mut apic = apic(bus, true);
        bus.posted(1)
            .unwrap()
            .update(|events| events.startup = Some(8));
        assert_eq!(apic.accept_startup(&()), Some(8));
        apic.set_apic_base(0xfed4_0c00).unwrap();
        write(&mut apic, 0x80f, 0x1ff, 0);
        apic
    }

    #[test]
    fn what_was_saved_goes_on_elsewhere_with_the_time_that_it_had_left() {
        let bus = Bus::new(2).unwrap();
        let mut apic = started(&bus);
        write(&mut apic, 0x832, 0xec, 0); // one-shot
        write(&mut apic, 0x838, 5000, 1000); // 10 us
        write(&mut apic, 0x808, 0x20, 1000);
        bus.posted(1).unwrap().irr.insert(0xfb);
        apic.accept_interrupt(0xfb, &());
        bus.posted(1).unwrap().irr.insert(0xfc);
        assert!(apic.raise(Line::Nmi));
        let saved = apic.save(4000);
        assert_eq!(apic.timer_deadline(), Some(11_000));

        let elsewhere = Bus::new(2).unwrap();
        let mut other = self::apic(&elsewhere, true);
        other.restore(&saved, 1_000_000).unwrap();
        assert_eq!(other.timer_deadline(), Some(1_007_000));
        assert_eq!(other.save(1_000_000), saved);
        assert_eq!(other.apic_base(), 0xfed4_0c00);
        assert_eq!(
            (other.irr(), other.isr(), other.ppr()),
            (apic.irr(), apic.isr(), apic.ppr())
        );
        assert_eq!(other.poll(1_000_000), apic.poll(4000));
        assert_eq!(
            elsewhere.posted(1).unwrap().addressing(),
            bus.posted(1).unwrap().addressing()
        );
        // Nothing is left of what the APIC was before.
        assert!(other.raise(Line::Timer));
        other.restore(&saved, 0).unwrap();
        assert_eq!(other.save(0), saved);
    }

    #[test]
    fn a_deadline_that_passed_unseen_is_still_to_be_seen() {
        let bus = Bus::new(2).unwrap();
        let mut apic = started(&bus);
        write(&mut apic, 0x832, 0x400ec, 0);
        apic.set_tsc_deadline(77, 500, 100);
        let saved = apic.save(600);
        let elsewhere = Bus::new(2).unwrap();
        let mut other = self::apic(&elsewhere, true);
        other.restore(&saved, 9000).unwrap();
        assert_eq!(other.poll(9000).interrupt, Some(0xec));
    }

    #[test]
    fn a_state_goes_only_where_it_fits() {
        let bus = Bus::new(2).unwrap();
        let mut apic = started(&bus);
        write(&mut apic, 0x832, 0x400ec, 0);
        let saved = apic.save(0);

        let bus = Bus::new(2).unwrap();
        let mut zero = LocalApic::new(Arc::clone(&bus), 0, true).unwrap();
        let before = zero.save(0);
        assert_eq!(
            zero.restore(&saved, 0),
            Err(RestoreError::Cpu { saved: 1, cpu: 0 })
        );
        assert_eq!(zero.save(0), before);
        let mut plain = self::apic(&bus, false);
        assert_eq!(
            plain.restore(&saved, 0),
            Err(RestoreError::NoX2Apic { cpu: 1 })
        );
        let elsewhere = SavedApic {
            page: 0x10_0000,
            ..saved.clone()
        };
        let (cpu, page) = (1, 0x10_0000);
        assert_eq!(
            apic.restore(&elsewhere, 0),
            Err(RestoreError::Page { cpu, page })
        );
        let bus = Bus::new(2).unwrap();
        let mut counting = LocalApic::new(bus, 1, true).unwrap();
        assert_eq!(
            counting.restore(&saved, 0),
            Err(RestoreError::NoTscDeadline { cpu: 1 })
        );
    }

    #[test]
    fn no_vector_of_an_exception_is_restored_wherever_it_is() {
        type Place = fn(&mut SavedApic) -> &mut VectorSet;
        let places: [Place; 4] = [
            |saved| &mut saved.ipi_irr,
            |saved| &mut saved.registers.isr,
            |saved| &mut saved.registers.timer_irr,
            |saved| &mut saved.registers.lvt_irr,
        ];
        for place in places {
            let bus = Bus::new(2).unwrap();
            let mut apic = started(&bus);
            let mut saved = apic.save(0);
            place(&mut saved).insert(16);
            assert_eq!(apic.restore(&saved, 0), Ok(()));
            place(&mut saved).insert(15);
            let refused = Err(RestoreError::Vector { cpu: 1, vector: 15 });
            assert_eq!(apic.restore(&saved, 0), refused);
        }
    }

    #[test]
    fn the_state_survives_being_written_down() {
        let bus = Bus::new(2).unwrap();
        let mut apic = started(&bus);
        write(&mut apic, 0x832, 0xec, 0);
        let saved = apic.save(0);
        let text = serde_json::to_string(&saved).unwrap();
        assert_eq!(serde_json::from_str::<SavedApic>(&text).unwrap(), saved);
    }
}
