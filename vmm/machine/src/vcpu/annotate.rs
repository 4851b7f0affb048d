//! The APIC's events on their way to the observer.

use std::cell::Cell;

use ipirig_apic::{Accepted, ApicObserver, Origin, Sent};

use crate::clock;
use crate::observer::{AcceptedEvent, IpiEvent, Observer, Sender, VirtualMemory};

/// Passes the APIC's events on, with what only the vCPU knows.
#[derive(Debug)]
pub(super) struct Annotate<'a> {
    observer: &'a dyn Observer,
    /// When an IPI is sent, from where and by whom.
    sending: Option<(u64, u64, &'a dyn Sender)>,
    /// When an interrupt is taken, what memory is there.
    memory: Option<&'a dyn VirtualMemory>,
    cpl: Option<u8>,
    idle: bool,
    /// Set when the timer's interrupt is accepted.
    pub(super) tick: Cell<bool>,
}

impl<'a> Annotate<'a> {
    /// For what a vCPU takes: the privilege level that it interrupts, and whether the vCPU is idle.
    pub(super) fn taking(observer: &'a dyn Observer, cpl: Option<u8>, idle: bool) -> Self {
        Self {
            observer,
            sending: None,
            memory: None,
            cpl,
            idle,
            tick: Cell::new(false),
        }
    }

    /// The same, with the memory of the vCPU.
    pub(super) fn with_memory(self, memory: &'a dyn VirtualMemory) -> Self {
        Self {
            memory: Some(memory),
            ..self
        }
    }

    /// For what a vCPU sends now, at the instruction `rip`.
    pub(super) fn sending(observer: &'a dyn Observer, rip: u64, sender: &'a dyn Sender) -> Self {
        Self {
            sending: Some((clock::now(), rip, sender)),
            ..Self::taking(observer, None, false)
        }
    }
}

impl ApicObserver for Annotate<'_> {
    fn ipi_sent(&self, sent: &Sent) {
        let Some((time_ns, rip, sender)) = self.sending else {
            return;
        };
        let event = IpiEvent {
            time_ns,
            sent: *sent,
            rip,
        };
        self.observer.ipi_from(&event, sender);
    }

    fn interrupt_accepted(&self, cpu: usize, accepted: Accepted) {
        self.tick
            .set(self.tick.get() || accepted.origin == Origin::Timer);
        let event = AcceptedEvent {
            time_ns: clock::now(),
            cpu,
            accepted,
            cpl: self.cpl,
            idle: self.idle,
        };
        match self.memory {
            Some(memory) => self.observer.accepted_in(&event, memory),
            None => self.observer.accepted(&event),
        }
    }
}
