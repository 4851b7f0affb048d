//! What keeps a vCPU from taking an event.

use ipirig_entry::passage::{Blocked, Event};
use kvm_bindings::{KVM_X86_SHADOW_INT_MOV_SS, kvm_vcpu_events};

/// In [`kvm_vcpu_events`], that the instruction before was a load of SS.
const MOV_SS: u8 = KVM_X86_SHADOW_INT_MOV_SS as u8;

/// RFLAGS.IF (SDM vol. 3, 2.3).
const INTERRUPTS: u64 = 1 << 9;

/// What keeps a vCPU with these `events` and `rflags` from taking `event`, if anything.
pub(super) fn blocked(event: Event, events: &kvm_vcpu_events, rflags: u64) -> Option<Blocked> {
    match event {
        Event::Stand | Event::MachineCheck => None,
        // An STI keeps off interrupts and NMIs only (SDM vol. 3, 6.8.3).
        Event::Debug if events.interrupt.shadow & MOV_SS == 0 => None,
        Event::Nmi | Event::NestedNmi if events.nmi.masked != 0 => Some(Blocked::NmiMasked),
        Event::Interrupt(_) if rflags & INTERRUPTS == 0 => Some(Blocked::InterruptsOff),
        _ if events.interrupt.shadow != 0 => Some(Blocked::Shadow),
        Event::Nmi | Event::NestedNmi | Event::Interrupt(_) | Event::Debug => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_blocked_by_what_the_cpu_says_and_by_nothing_else() {
        let none = kvm_vcpu_events::default();
        let with = |set: fn(&mut kvm_vcpu_events)| {
            let mut events = none;
            set(&mut events);
            events
        };
        let shadow = with(|events| events.interrupt.shadow = MOV_SS);
        let sti = with(|events| events.interrupt.shadow = 2);
        let masked = with(|events| events.nmi.masked = 1);
        let interrupt = Event::Interrupt(0xec);
        for (event, events, rflags, expected) in [
            (Event::Nmi, none, 2, None),
            (Event::Nmi, masked, 0x202, Some(Blocked::NmiMasked)),
            (Event::Nmi, shadow, 2, Some(Blocked::Shadow)),
            (interrupt, none, 0x202, None),
            (interrupt, masked, 0x202, None),
            (interrupt, none, 2, Some(Blocked::InterruptsOff)),
            (interrupt, shadow, 0x202, Some(Blocked::Shadow)),
            (Event::Debug, masked, 2, None),
            (Event::Debug, sti, 0x202, None),
            (Event::Debug, shadow, 0x202, Some(Blocked::Shadow)),
            (Event::MachineCheck, shadow, 2, None),
            (Event::Stand, shadow, 2, None),
        ] {
            assert_eq!(blocked(event, &events, rflags), expected, "{event:?}");
        }
    }
}
