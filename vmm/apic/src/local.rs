//! The local APIC of one CPU: its state, and what it has to deliver.

use crate::addressing::{Addressing, Mode};
use crate::bus::{Bus, SetupError};
use crate::observer::{Accepted, AcceptedKind, ApicObserver, Origin};
use crate::posted::{Events, PostedInterrupts};
use crate::registers::{APIC_BASE_ADDRESS, ApicRegisters, Lvt, esr};
use crate::vectors::{FIRST_LEGAL_VECTOR, VectorSet};
use std::sync::Arc;

/// What waits for the CPU. It stays until an `accept_*` call takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Reset the CPU, then call [`LocalApic::accept_init`]. Comes alone, as INIT voids the rest.
    pub init: bool,
    /// Start the CPU at this page number: call [`LocalApic::accept_startup`]. Only while it waits.
    pub startup: Option<u8>,
    /// Inject an NMI, then call [`LocalApic::accept_nmi`].
    pub nmi: bool,
    /// Inject this vector when the guest takes interrupts, then call
    /// [`LocalApic::accept_interrupt`]. It is the highest pending one that the PPR lets through.
    pub interrupt: Option<u8>,
}

/// The local APIC of one CPU, owned by that CPU's thread.
#[derive(Debug)]
pub struct LocalApic {
    pub(crate) cpu: usize,
    pub(crate) posted: Arc<PostedInterrupts>,
    pub(crate) x2apic_supported: bool,
    pub(crate) tsc_deadline_supported: bool,
    pub(crate) mode: Mode,
    /// Where the xAPIC's page of registers is.
    pub(crate) page: u64,
    pub(crate) waiting_for_startup: bool,
    /// The pending NMI came by [`LocalApic::raise`].
    pub(crate) nmi_from_line: bool,
    pub(crate) regs: ApicRegisters,
}

/// What can be raised from outside, as if a line went high.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Line {
    /// The timer's entry of the local vector table.
    Timer,
    /// An NMI, as LINT1 brings it where the local vector table says NMI (SDM 11.5.1).
    Nmi,
}

impl LocalApic {
    /// The APIC of CPU `cpu`, as after power-up: in xAPIC mode and disabled by software. CPU 0 is
    /// the bootstrap processor; the others wait for a start-up IPI. Without `x2apic_supported`
    /// (CPUID.1:ECX bit 21) the guest cannot switch to x2APIC.
    ///
    /// # Errors
    /// [`SetupError::NoSuchCpu`] if the bus has no such CPU, [`SetupError::Taken`] if that CPU has
    /// an APIC already.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "each vCPU thread brings its own handle; borrowing would only move the clone"
    )]
    pub fn new(bus: Arc<Bus>, cpu: usize, x2apic_supported: bool) -> Result<Self, SetupError> {
        let apic = LocalApic {
            cpu,
            posted: bus.claim(cpu)?,
            x2apic_supported,
            tsc_deadline_supported: false,
            mode: Mode::XApic,
            page: APIC_BASE_ADDRESS,
            waiting_for_startup: cpu != 0,
            nmi_from_line: false,
            regs: ApicRegisters::power_up(),
        };
        apic.publish();
        Ok(apic)
    }

    /// The CPU's number, which is its APIC id.
    #[must_use]
    pub fn cpu(&self) -> usize {
        self.cpu
    }

    /// The APIC's mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the CPU waits for a start-up IPI and must not run.
    #[must_use]
    pub fn waiting_for_startup(&self) -> bool {
        self.waiting_for_startup
    }

    /// The interrupt request register: vectors that are pending.
    #[must_use]
    pub fn irr(&self) -> VectorSet {
        self.posted
            .irr
            .load()
            .union(self.regs.timer_irr)
            .union(self.regs.lvt_irr)
    }

    /// The in-service register: vectors delivered and not ended yet.
    #[must_use]
    pub fn isr(&self) -> VectorSet {
        self.regs.isr
    }

    /// The processor priority register.
    #[must_use]
    pub fn ppr(&self) -> u8 {
        self.regs.ppr()
    }

    /// CR8: the upper half of the TPR.
    #[must_use]
    pub fn cr8(&self) -> u8 {
        self.regs.tpr >> 4
    }

    /// Takes over CR8 (its low four bits) from the guest. To be called at each exit with
    /// `kvm_run.cr8`, since a guest changes CR8 without one. An unchanged CR8 leaves the TPR's lower
    /// half alone, a changed one clears it (SDM 11.8.6.1).
    pub fn set_cr8(&mut self, cr8: u8) {
        let cr8 = cr8 & 0xf;
        if cr8 != self.cr8() {
            self.regs.tpr = cr8 << 4;
            self.publish();
        }
    }

    /// Offers the timer's TSC-deadline mode (CPUID.1:ECX bit 24). Its MSR is no APIC register: the
    /// caller decodes it, knows the TSC, and brings writes to [`LocalApic::set_tsc_deadline`].
    pub fn offer_tsc_deadline(&mut self) {
        self.tsc_deadline_supported = true;
    }

    /// A write of `value` to IA32_TSC_DEADLINE; the TSC reaches `value` at `at` nanoseconds. Zero
    /// disarms. Outside the mode the write is lost (SDM 11.5.4.1).
    pub fn set_tsc_deadline(&mut self, value: u64, at: u64, now: u64) {
        // One that passed unseen is not lost.
        self.expire_timer(now);
        if self.regs.lvts.timer_is_tsc_deadline() {
            self.regs.timer.set_tsc_deadline(value, at);
        }
    }

    /// What IA32_TSC_DEADLINE reads at `now` nanoseconds: zero once the timer has expired.
    pub fn tsc_deadline(&mut self, now: u64) -> u64 {
        self.expire_timer(now);
        self.regs.timer.tsc_deadline()
    }

    /// When the timer will next raise its interrupt: nanoseconds on the clock of `now`. None if it
    /// is stopped or masked, as it needs no wake-up then.
    #[must_use]
    pub fn timer_deadline(&self) -> Option<u64> {
        self.regs
            .lvts
            .unmasked_vector(Lvt::Timer)
            .and(self.regs.timer.deadline())
    }

    /// Brings the timer up to `now` and says what waits for the CPU. Nothing is taken yet: what is
    /// reported stays until accepted. A start-up IPI for a CPU that does not wait for one is
    /// dropped (SDM 11.6.1).
    pub fn poll(&mut self, now: u64) -> Work {
        if self.mode == Mode::Disabled {
            // A sender that saw the APIC enabled a moment ago may have left something.
            self.posted.clear();
            return Work::default();
        }
        self.expire_timer(now);
        let events = self.posted.events();
        if events.init {
            return Work {
                init: true,
                ..Work::default()
            };
        }
        if self.waiting_for_startup {
            // Pending until the CPU runs: NMIs and interrupts.
            return Work {
                startup: events.startup,
                ..Work::default()
            };
        }
        if events.startup.is_some() {
            self.posted.update(|events| {
                // After an INIT that came in meanwhile, the start-up IPI is good.
                if !events.init {
                    events.startup = None;
                }
            });
        }
        let deliverable = |vector: &u8| vector & 0xf0 > self.ppr() & 0xf0;
        Work {
            nmi: events.nmi,
            interrupt: self.irr().highest().filter(deliverable),
            ..Work::default()
        }
    }

    /// The vector is in the guest: moves it from the IRR to the ISR. A vector that is not pending
    /// changes nothing.
    pub fn accept_interrupt(&mut self, vector: u8, observer: &dyn ApicObserver) {
        let pending = [
            (Origin::Ipi, self.posted.irr.remove(vector)),
            (Origin::Timer, self.regs.timer_irr.remove(vector)),
            (Origin::Lvt, self.regs.lvt_irr.remove(vector)),
        ];
        let mut origins = pending
            .iter()
            .filter(|(_, was)| *was)
            .map(|(origin, _)| *origin);
        let Some(origin) = origins.next() else {
            return;
        };
        let merged = origins.next().is_some();
        self.regs.isr.insert(vector);
        self.publish();
        let kind = AcceptedKind::Fixed(vector);
        observer.interrupt_accepted(
            self.cpu,
            Accepted {
                kind,
                origin,
                merged,
            },
        );
    }

    /// The NMI is in the guest. Another may become pending from now on.
    pub fn accept_nmi(&mut self, observer: &dyn ApicObserver) {
        if self.posted.update(|events| events.nmi = false).nmi {
            let origin = if std::mem::take(&mut self.nmi_from_line) {
                Origin::Lvt
            } else {
                Origin::Ipi
            };
            self.report(AcceptedKind::Nmi, origin, observer);
        }
    }

    /// Raises a line from outside: for a test of what the guest does then. A masked timer raises its
    /// interrupt all the same. `false`: nothing was raised, as the guest has not set a legal vector
    /// or the APIC is off.
    pub fn raise(&mut self, line: Line) -> bool {
        if self.mode == Mode::Disabled || self.waiting_for_startup {
            return false;
        }
        match line {
            Line::Nmi => {
                self.nmi_from_line = true;
                self.posted.update(|events| events.nmi = true);
                true
            }
            Line::Timer => {
                let vector = self.regs.lvts.vector(Lvt::Timer);
                let legal = vector >= FIRST_LEGAL_VECTOR && self.regs.software_enabled();
                if legal {
                    self.regs.timer_irr.insert(vector);
                }
                legal
            }
        }
    }

    /// The CPU has been reset: resets the APIC but for its id and mode, and drops pending interrupts
    /// (SDM 11.4.7.3). A start-up IPI that came after the INIT stays. The bootstrap processor then
    /// runs from its reset vector; any other waits for a start-up IPI.
    pub fn accept_init(&mut self, observer: &dyn ApicObserver) {
        if !self.posted.events().init {
            return;
        }
        // First keep senders off, then drop what they left.
        self.regs = ApicRegisters::power_up();
        self.publish();
        self.posted.irr.clear();
        self.posted.update(|events| {
            let startup = events.startup;
            *events = Events {
                startup,
                ..Events::default()
            };
        });
        self.waiting_for_startup = !self.is_bsp();
        self.nmi_from_line = false;
        self.report(AcceptedKind::Init, Origin::Ipi, observer);
    }

    /// The CPU starts: returns the page number to start at and ends the wait. None, with nothing
    /// changed, if it does not wait or nobody started it.
    pub fn accept_startup(&mut self, observer: &dyn ApicObserver) -> Option<u8> {
        let events = self.posted.events();
        if !self.waiting_for_startup || events.init {
            return None;
        }
        let page = events.startup?;
        // Keep the one that belongs to an INIT that came in meanwhile.
        self.posted.update(|events| {
            if !events.init {
                events.startup = None;
            }
        });
        self.waiting_for_startup = false;
        self.report(AcceptedKind::Startup(page), Origin::Ipi, observer);
        Some(page)
    }

    fn report(&self, kind: AcceptedKind, origin: Origin, observer: &dyn ApicObserver) {
        observer.interrupt_accepted(
            self.cpu,
            Accepted {
                kind,
                origin,
                merged: false,
            },
        );
    }

    pub(crate) fn is_bsp(&self) -> bool {
        self.cpu == 0
    }

    pub(crate) fn x2apic_supported(&self) -> bool {
        self.x2apic_supported
    }

    /// Enters a mode that the checks have allowed.
    pub(crate) fn set_mode(&mut self, to: Mode) {
        let from = std::mem::replace(&mut self.mode, to);
        match (from, to) {
            (_, Mode::Disabled) => {
                self.regs = ApicRegisters::power_up();
                self.publish();
                self.posted.clear();
            }
            // The x2APIC has its own LDR and no DFR, and its ICR starts without a destination.
            (Mode::XApic, Mode::X2Apic) => {
                self.regs.icr_high = 0;
                self.publish();
            }
            _ => self.publish(),
        }
    }

    /// Shows senders the state that they route by.
    pub(crate) fn publish(&self) {
        self.posted.set_addressing(Addressing {
            mode: self.mode,
            software_enabled: self.regs.software_enabled(),
            // Truncation takes nothing: the logical id is the top byte.
            logical_id: (self.regs.ldr >> 24) as u8,
            model: self.regs.logical_model(),
            priority: self.regs.ppr(),
        });
    }

    /// Raises the timer's interrupt if its time has come.
    pub(crate) fn expire_timer(&mut self, now: u64) {
        let periodic = self.regs.lvts.timer_is_periodic();
        if !self.regs.timer.expire(periodic, now) {
            return;
        }
        match self.regs.lvts.unmasked_vector(Lvt::Timer) {
            Some(vector) if vector >= FIRST_LEGAL_VECTOR => self.regs.timer_irr.insert(vector),
            Some(_) => self.log_error(esr::RECEIVE_ILLEGAL_VECTOR),
            None => {}
        }
    }

    /// Logs an error for the ESR. The first since the last write to the ESR raises the error
    /// interrupt; that write arms it again (SDM 11.5.3).
    pub(crate) fn log_error(&mut self, error: u32) {
        let armed = self.regs.new_errors == 0;
        self.regs.new_errors |= error;
        match self.regs.lvts.unmasked_vector(Lvt::Error) {
            Some(vector) if armed && vector >= FIRST_LEGAL_VECTOR => {
                self.regs.lvt_irr.insert(vector);
            }
            // Its own illegal vector is an error that nothing can report.
            Some(_) if armed => self.regs.new_errors |= esr::RECEIVE_ILLEGAL_VECTOR,
            _ => {}
        }
    }
}
