//! What the APIC has for the vCPU, given to KVM: one thing at a time.

use ipirig_apic::Work;
use kvm_bindings::kvm_vcpu_events;

use super::sender::MappedMemory;
use super::{Annotate, Break, Vcpu};
use crate::assist::Cpu;
use crate::clock;
use crate::sys;

impl Vcpu {
    /// Injects an NMI or an interrupt of `work`, if the guest can take it now, and asks for an exit
    /// when it can take what is left. `idle`: it comes out of HLT for this.
    pub(super) fn deliver(&mut self, work: Work, now: u64, idle: bool) -> Result<(), Break> {
        if self.stops.stepping() || self.delivering() {
            self.fd.get_kvm_run().request_interrupt_window = 0;
        } else if work.nmi && self.unfinished {
            self.finish_first();
        } else if work.nmi {
            // One at a time, or the second would hit the handler of the first, whatever CPL says now.
            self.inject_nmi(idle)?;
            let more = u8::from(work.interrupt.is_some());
            self.fd.get_kvm_run().request_interrupt_window = more;
        } else {
            self.inject(work.interrupt, now, idle)?;
        }
        Ok(())
    }

    /// Has KVM complete what the last exit was for, and come back. It may end in an exception: that
    /// comes first, and takes the place of an interrupt that KVM has queued by then.
    fn finish_first(&mut self) {
        self.immediate_exit.set();
    }

    /// Whether KVM will deliver something else to the guest first.
    fn undelivered(&self) -> Result<bool, Break> {
        let events = self
            .fd
            .get_vcpu_events()
            .map_err(|e| self.host("KVM_GET_VCPU_EVENTS", e))?;
        Ok(undelivered(&events))
    }

    fn inject_nmi(&mut self, idle: bool) -> Result<(), Break> {
        // Handlers are entered at CPL 0.
        let cpl = if self.undelivered()? { 0 } else { self.cpl()? };
        self.expect_nmi()?;
        self.fd.nmi().map_err(|e| self.host("KVM_NMI", e))?;
        self.counters.nmis += 1;
        let observer = Annotate::taking(self.vcpu_set.observer.as_ref(), Some(cpl), idle);
        self.apic.accept_nmi(&observer);
        Ok(())
    }

    /// Injects `interrupt` if the guest can take one now, and asks for an exit at the moment it
    /// can if there is more to come. `idle`: it comes out of HLT for this.
    fn inject(&mut self, interrupt: Option<u8>, now: u64, idle: bool) -> Result<(), Break> {
        let run = self.fd.get_kvm_run();
        let Some(vector) = interrupt else {
            run.request_interrupt_window = 0;
            return Ok(());
        };
        if run.ready_for_interrupt_injection == 0 || run.if_flag == 0 {
            run.request_interrupt_window = 1;
            return Ok(());
        }
        if self.unfinished {
            self.finish_first();
            return Ok(());
        }
        // Not every KVM counts these when it says that it is ready: they would take the place of the
        // interrupt, or it would hit their handler.
        if self.undelivered()? {
            self.fd.get_kvm_run().request_interrupt_window = 1;
            return Ok(());
        }
        let cpl = self.cpl()?;
        self.expect_vector(vector)?;
        sys::interrupt(&self.fd, vector).map_err(|e| self.host("KVM_INTERRUPT", e))?;
        self.counters.injected += 1;
        // As `self.access()`, beside the APIC, which changes.
        let memory = MappedMemory::new(Cpu {
            fd: &self.fd,
            memory: &self.vcpu_set.memory,
        });
        let observer = Annotate::taking(self.vcpu_set.observer.as_ref(), Some(cpl), idle);
        let observer = observer.with_memory(&memory);
        self.apic.accept_interrupt(vector, &observer);
        if observer.tick.get() {
            self.last_tick = clock::now();
        }
        let more = self.apic.poll(now).interrupt.is_some();
        let run = self.fd.get_kvm_run();
        // KVM refreshes this only at the next exit; a second injection would replace this one.
        run.ready_for_interrupt_injection = 0;
        run.request_interrupt_window = u8::from(more);
        Ok(())
    }
}

/// Whether an exception, an interrupt or an NMI is on its way to the guest. An NMI that waits for the
/// end of another one is not.
fn undelivered(events: &kvm_vcpu_events) -> bool {
    let exception = events.exception.injected != 0 || events.exception.pending != 0;
    let nmi = events.nmi.injected != 0 || (events.nmi.pending != 0 && events.nmi.masked == 0);
    exception || nmi || events.interrupt.injected != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_comes_first_and_a_blocked_nmi_does_not_count() {
        let none = kvm_vcpu_events::default();
        let with = |set: fn(&mut kvm_vcpu_events)| {
            let mut events = none;
            set(&mut events);
            undelivered(&events)
        };
        assert!(!undelivered(&none));
        assert!(with(|events| events.exception.injected = 1));
        assert!(with(|events| events.exception.pending = 1));
        assert!(with(|events| events.interrupt.injected = 1));
        assert!(with(|events| events.nmi.injected = 1));
        assert!(with(|events| events.nmi.pending = 1));
        assert!(!with(|events| {
            events.nmi.pending = 1;
            events.nmi.masked = 1;
        }));
        assert!(!with(|events| events.nmi.masked = 1));
    }
}
