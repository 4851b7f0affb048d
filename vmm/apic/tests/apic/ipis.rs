//! IPIs from the register write to the delivery.

use crate::machine::{Machine, by_ipi, msr, reg};
use ipirig_apic::{
    AcceptedKind, Action, CpuSet, DeliveryMode, Icr, Ipi, Sent, Shorthand, VectorSet, Work,
};

fn set<const N: usize>(cpus: [usize; N]) -> CpuSet {
    cpus.into_iter().collect()
}

#[test]
fn icr_write_sends_ipi() {
    let mut machine = Machine::xapic(3);
    machine.write(0, reg::ICR_HIGH, 0x0200_0000); // To APIC id 2.
    // Vector 0xfb, assert; zero: fixed, physical, edge, no shorthand.
    let action = machine.cpus[0].mmio_write(reg::ICR, 0xfb | 1 << 14, 0);
    assert_eq!(action, Action::Send(Icr::from_xapic(0x40fb, 0x0200_0000)));
    assert_eq!(
        machine.carry_out(0, action),
        Sent {
            ipi: Ipi {
                vector: 0xfb,
                mode: DeliveryMode::Fixed,
                shorthand: Shorthand::None,
                source: 0,
                targets: set([2]),
                undeliverable: false,
            },
            coalesced: CpuSet::EMPTY,
            wake: set([2]),
        }
    );
    assert_eq!(
        machine.cpus[2].poll(0),
        Work {
            interrupt: Some(0xfb),
            ..Work::default()
        }
    );
    assert_eq!(machine.cpus[1].poll(0), Work::default());
}

#[test]
fn nobody_is_started_before_the_init_that_is_pending() {
    let mut machine = Machine::power_up(2);
    machine.ipi(0, 0x4500, 1);
    machine.ipi(0, 0x4610, 1);
    assert_eq!(machine.cpus[1].accept_startup(&()), None);
    machine.cpus[1].accept_init(&());
    assert_eq!(machine.cpus[1].accept_startup(&()), Some(0x10));
}

#[test]
fn both_faces_send_the_same_ipi() {
    let by_mmio = Machine::xapic(3).ipi(1, 0x000c_40fc, 0);
    let by_msr = Machine::x2apic(3).x2ipi(1, 0x000c_40fc, 0);
    assert_eq!(by_mmio, by_msr);
    assert_eq!(by_msr.wake, set([0, 2]));
}

#[test]
fn icr_reads_back_without_delivery_status() {
    let mut machine = Machine::xapic(2);
    machine.ipi(0, 0xfff0_5afb, 0xff);
    assert_eq!(machine.read(0, reg::ICR), 0x0000_4afb);
    assert_eq!(machine.read(0, reg::ICR_HIGH), 0xff00_0000);
    let mut machine = Machine::x2apic(2);
    machine.x2ipi(0, 0x50fb, 0x0001_0002);
    assert_eq!(
        machine.cpus[0].msr_read(msr(reg::ICR), 0),
        Ok(0x0001_0002_0000_40fb)
    );
}

#[test]
fn delivery_moves_the_vector_from_irr_to_isr_and_eoi_ends_it() {
    let mut machine = Machine::xapic(2);
    machine.ipi(0, 0x40fb, 1);
    let fb: VectorSet = [0xfb].into_iter().collect();
    assert_eq!(
        (machine.cpus[1].irr(), machine.cpus[1].isr()),
        (fb, VectorSet::EMPTY)
    );
    assert_eq!(machine.take_interrupt(1), Some(0xfb));
    assert_eq!(
        (machine.cpus[1].irr(), machine.cpus[1].isr()),
        (VectorSet::EMPTY, fb)
    );
    assert_eq!(machine.cpus[1].ppr(), 0xf0);
    let eoi = machine.cpus[1].mmio_write(reg::EOI, 0, 0);
    assert_eq!(eoi, Action::EndOfInterrupt(0xfb));
    assert_eq!(machine.cpus[1].isr(), VectorSet::EMPTY);
    assert_eq!(machine.cpus[1].mmio_write(reg::EOI, 0, 0), Action::None);
    assert_eq!(
        *machine.ledger.accepted.borrow(),
        [(1, by_ipi(AcceptedKind::Fixed(0xfb)))]
    );
}

#[test]
fn poll_does_not_consume() {
    let mut machine = Machine::xapic(2);
    machine.ipi(0, 0x40fb, 1);
    machine.ipi(0, 0x4400, 1);
    let work = Work {
        nmi: true,
        interrupt: Some(0xfb),
        ..Work::default()
    };
    assert_eq!(
        [machine.cpus[1].poll(0), machine.cpus[1].poll(0)],
        [work, work]
    );
    assert_eq!(machine.ledger.accepted.borrow().len(), 0);
}

#[test]
fn accepting_what_is_not_pending_changes_nothing() {
    let mut machine = Machine::xapic(2);
    let ledger = &machine.ledger;
    machine.cpus[1].accept_interrupt(0xfb, ledger);
    machine.cpus[1].accept_nmi(ledger);
    machine.cpus[1].accept_init(ledger);
    assert_eq!(machine.cpus[1].accept_startup(ledger), None);
    assert_eq!(machine.ledger.accepted.borrow().len(), 0);
    assert_eq!(machine.cpus[1].isr(), VectorSet::EMPTY);
    assert!(!machine.cpus[1].waiting_for_startup());
}

#[test]
fn higher_classes_interrupt_and_equal_classes_wait() {
    let mut machine = Machine::xapic(2);
    machine.ipi(0, 0x4051, 1);
    assert_eq!(machine.take_interrupt(1), Some(0x51));
    machine.ipi(0, 0x405f, 1);
    assert_eq!(machine.take_interrupt(1), None);
    machine.ipi(0, 0x4060, 1);
    assert_eq!(machine.take_interrupt(1), Some(0x60));
    assert_eq!(
        machine.cpus[1].mmio_write(reg::EOI, 0, 0),
        Action::EndOfInterrupt(0x60)
    );
    assert_eq!(
        machine.cpus[1].mmio_write(reg::EOI, 0, 0),
        Action::EndOfInterrupt(0x51)
    );
    assert_eq!(machine.take_interrupt(1), Some(0x5f));
}

#[test]
fn the_tpr_holds_back_its_class_and_below() {
    let mut machine = Machine::xapic(2);
    machine.write(1, reg::TPR, 0x50);
    machine.ipi(0, 0x405f, 1);
    assert_eq!(machine.take_interrupt(1), None);
    assert_eq!(machine.read(1, reg::PPR), 0x50);
    machine.write(1, reg::TPR, 0x4f);
    assert_eq!(machine.take_interrupt(1), Some(0x5f));
    assert_eq!(machine.read(1, reg::PPR), 0x50);
}

#[test]
fn lowest_priority_follows_tpr_and_service() {
    let mut machine = Machine::xapic(3);
    machine.write(1, reg::TPR, 0x20);
    assert_eq!(machine.ipi(0, 0x49fb, 0b110).ipi.targets, set([2]));
    assert_eq!(machine.take_interrupt(2), Some(0xfb));
    assert_eq!(machine.ipi(0, 0x49fb, 0b110).ipi.targets, set([1]));
}

#[test]
fn a_self_ipi_needs_no_kick() {
    let mut machine = Machine::x2apic(2);
    let action = machine.cpus[1]
        .msr_write(msr(reg::SELF_IPI), 0xf6, 0)
        .unwrap();
    let sent = machine.carry_out(1, action);
    assert_eq!(sent.ipi.shorthand, Shorthand::Itself);
    assert_eq!((sent.ipi.targets, sent.wake), (set([1]), CpuSet::EMPTY));
    assert_eq!(machine.take_interrupt(1), Some(0xf6));
}

#[test]
fn an_apic_disabled_by_software_can_still_send() {
    let mut machine = Machine::xapic(2);
    machine.write(0, reg::SVR, 0xff);
    assert_eq!(machine.ipi(0, 0x40fb, 1).wake, set([1]));
}

#[test]
fn interrupts_pending_when_software_disables_the_apic_are_still_delivered() {
    let mut machine = Machine::xapic(2);
    machine.ipi(0, 0x40fb, 1);
    machine.write(1, reg::SVR, 0xff);
    assert!(machine.ipi(0, 0x40fc, 1).ipi.undeliverable);
    assert_eq!(machine.take_interrupt(1), Some(0xfb));
    assert_eq!(machine.take_interrupt(1), None);
}

#[test]
fn init_resets_the_apic_and_keeps_its_mode() {
    let mut machine = Machine::x2apic(2);
    machine.x2ipi(0, 0x40fb, 1);
    machine.x2ipi(0, 0x4400, 1);
    machine.x2ipi(0, 0x4500, 1);
    assert_eq!(
        machine.cpus[1].poll(0),
        Work {
            init: true,
            ..Work::default()
        }
    );
    machine.cpus[1].accept_init(&machine.ledger);
    assert_eq!(machine.cpus[1].poll(0), Work::default());
    assert!(machine.cpus[1].waiting_for_startup());
    assert_eq!(machine.cpus[1].msr_read(msr(reg::SVR), 0), Ok(0xff));
    assert_eq!(machine.cpus[1].msr_read(msr(reg::ID), 0), Ok(1));
    assert_eq!(
        *machine.ledger.accepted.borrow(),
        [(1, by_ipi(AcceptedKind::Init))]
    );
}

#[test]
fn init_of_the_bootstrap_processor_does_not_wait() {
    let mut machine = Machine::xapic(2);
    machine.ipi(1, 0x4500, 0);
    machine.cpus[0].accept_init(&machine.ledger);
    assert!(!machine.cpus[0].waiting_for_startup());
}

#[test]
fn a_startup_sent_right_after_init_survives_the_reset() {
    let mut machine = Machine::xapic(2);
    machine.ipi(0, 0xc500, 1);
    machine.ipi(0, 0x8500, 1);
    machine.ipi(0, 0x4699, 1);
    assert_eq!(
        machine.cpus[1].poll(0),
        Work {
            init: true,
            ..Work::default()
        }
    );
    machine.cpus[1].accept_init(&machine.ledger);
    assert_eq!(
        machine.cpus[1].poll(0),
        Work {
            startup: Some(0x99),
            ..Work::default()
        }
    );
    assert_eq!(machine.cpus[1].accept_startup(&machine.ledger), Some(0x99));
    assert_eq!(
        *machine.ledger.accepted.borrow(),
        [
            (1, by_ipi(AcceptedKind::Init)),
            (1, by_ipi(AcceptedKind::Startup(0x99)))
        ]
    );
}

#[test]
fn an_nmi_is_held_until_the_cpu_is_started() {
    let mut machine = Machine::power_up(2);
    assert_eq!(machine.ipi(0, 0x4400, 1).wake, set([1]));
    assert_eq!(machine.cpus[1].poll(0), Work::default());
    machine.ipi(0, 0x4610, 1);
    assert_eq!(machine.cpus[1].accept_startup(&()), Some(0x10));
    assert_eq!(
        machine.cpus[1].poll(0),
        Work {
            nmi: true,
            ..Work::default()
        }
    );
}
