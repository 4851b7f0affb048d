//! What is raised from outside rather than by a register.

use crate::machine::{ENABLE, Machine, reg};
use ipirig_apic::{APIC_BASE_ADDRESS, Accepted, AcceptedKind, Line, Origin, Work};

fn accepted(kind: AcceptedKind, origin: Origin) -> (usize, Accepted) {
    let merged = false;
    (
        0,
        Accepted {
            kind,
            origin,
            merged,
        },
    )
}

#[test]
fn a_raised_timer_fires_though_masked_and_counts_as_the_timer() {
    let mut machine = Machine::xapic(1);
    machine.write(0, reg::LVT_TIMER, 1 << 16 | 0xec);
    assert!(machine.cpus[0].raise(Line::Timer));
    assert_eq!(machine.take_interrupt(0), Some(0xec));
    assert_eq!(machine.take_interrupt(0), None);
    assert_eq!(
        *machine.ledger.accepted.borrow(),
        [accepted(AcceptedKind::Fixed(0xec), Origin::Timer)]
    );
}

#[test]
fn a_timer_without_a_legal_vector_is_not_raised() {
    let mut machine = Machine::xapic(1);
    machine.write(0, reg::LVT_TIMER, 0x0f);
    assert!(!machine.cpus[0].raise(Line::Timer));
    assert_eq!(machine.cpus[0].poll(0), Work::default());
}

#[test]
fn a_raised_nmi_counts_as_no_ipi_and_the_next_sent_one_does() {
    let mut machine = Machine::xapic(2);
    let nmi = Work {
        nmi: true,
        ..Work::default()
    };
    assert!(machine.cpus[0].raise(Line::Nmi));
    assert_eq!(machine.cpus[0].poll(0), nmi);
    machine.cpus[0].accept_nmi(&machine.ledger);
    machine.ipi(1, 0x4400, 0);
    machine.cpus[0].accept_nmi(&machine.ledger);
    assert_eq!(
        *machine.ledger.accepted.borrow(),
        [
            accepted(AcceptedKind::Nmi, Origin::Lvt),
            accepted(AcceptedKind::Nmi, Origin::Ipi)
        ]
    );
}

#[test]
fn nothing_is_raised_on_an_apic_that_is_off_or_a_cpu_that_waits_to_start() {
    let mut machine = Machine::power_up(2);
    assert!(!machine.cpus[1].raise(Line::Nmi), "waits to start");
    machine.cpus[0]
        .set_apic_base(APIC_BASE_ADDRESS & !ENABLE)
        .unwrap();
    assert!(!machine.cpus[0].raise(Line::Nmi), "off");
}
