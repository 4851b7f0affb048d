//! The traps in which other models of the APIC, or readers of counts, have been caught.

use crate::machine::{EXTD, Machine, by_ipi, reg};
use ipirig_apic::{
    APIC_BASE_ADDRESS, Accepted, AcceptedKind, CpuSet, DeliveryMode, GeneralProtection, Origin,
    Work,
};

fn set<const N: usize>(cpus: [usize; N]) -> CpuSet {
    cpus.into_iter().collect()
}

#[test]
fn an_ipi_to_an_absent_apic_is_counted_as_undeliverable() {
    let mut machine = Machine::xapic(2);
    for destination in 2..=0xfe {
        let sent = machine.ipi(0, 0x40fb, destination);
        assert_eq!(
            (sent.ipi.targets, sent.ipi.undeliverable),
            (CpuSet::EMPTY, true)
        );
    }
    let mut x2 = Machine::x2apic(2);
    for destination in [2, 63, 64, 0xff, 0x1_0000, u32::MAX - 1] {
        assert!(x2.x2ipi(0, 0x40fb, destination).ipi.undeliverable);
        assert!(x2.x2ipi(0, 0x4500, destination).ipi.undeliverable);
    }
    let counted = machine
        .ledger
        .sent
        .borrow()
        .iter()
        .filter(|sent| sent.ipi.undeliverable)
        .count();
    assert_eq!((counted, x2.ledger.sent.borrow().len()), (253, 12));
}

#[test]
fn all_but_self_is_one_write_and_reaches_everybody_else() {
    let mut machine = Machine::xapic(4);
    let sent = machine.ipi(2, 0x000c_40fc, 0);
    assert_eq!(
        (sent.ipi.targets, sent.wake),
        (set([0, 1, 3]), set([0, 1, 3]))
    );
    assert_eq!(machine.ledger.sent.borrow().len(), 1);
    let taken: Vec<_> = (0..4).map(|cpu| machine.take_interrupt(cpu)).collect();
    assert_eq!(taken, [Some(0xfc), Some(0xfc), None, Some(0xfc)]);
}

#[test]
fn all_but_self_passes_by_parked_cpus_for_fixed_and_not_for_nmi() {
    // Parked CPUs have not enabled their APICs: they take NMIs and no fixed interrupts.
    let mut machine = Machine::power_up(3);
    machine.write(0, reg::SVR, 0x1ff);
    assert_eq!(machine.ipi(0, 0x000c_40fc, 0).ipi.targets, CpuSet::EMPTY);
    assert_eq!(machine.ipi(0, 0x000c_4400, 0).ipi.targets, set([1, 2]));
}

#[test]
fn two_sends_of_a_vector_before_delivery_are_one_delivery() {
    let mut machine = Machine::xapic(2);
    let first = machine.ipi(0, 0x40fb, 1);
    // Polled, but not delivered: still pending.
    assert_eq!(
        machine.cpus[1].poll(0),
        Work {
            interrupt: Some(0xfb),
            ..Work::default()
        }
    );
    let second = machine.ipi(0, 0x40fb, 1);
    assert_eq!((first.coalesced, first.wake), (CpuSet::EMPTY, set([1])));
    assert_eq!((second.coalesced, second.wake), (set([1]), CpuSet::EMPTY));
    assert_eq!(second.ipi.targets, set([1]));
    assert_eq!(
        [machine.take_interrupt(1), machine.take_interrupt(1)],
        [Some(0xfb), None]
    );
    assert_eq!(machine.ledger.sent.borrow().len(), 2);
    assert_eq!(machine.ledger.accepted.borrow().len(), 1);
}

#[test]
fn a_vector_sent_while_in_service_is_delivered_again() {
    let mut machine = Machine::xapic(2);
    machine.ipi(0, 0x40fb, 1);
    machine.take_interrupt(1);
    assert_eq!(machine.ipi(0, 0x40fb, 1).coalesced, CpuSet::EMPTY);
    assert_eq!(machine.take_interrupt(1), None);
    machine.write(1, reg::EOI, 0);
    assert_eq!(machine.take_interrupt(1), Some(0xfb));
}

#[test]
fn init_deassert_is_ignored() {
    let mut machine = Machine::xapic(2);
    let sent = machine.ipi(0, 0x8500, 1);
    assert_eq!(
        (sent.ipi.mode, sent.ipi.targets, sent.ipi.undeliverable),
        (DeliveryMode::InitDeassert, CpuSet::EMPTY, false)
    );
    assert_eq!(machine.cpus[1].poll(0), Work::default());
}

#[test]
fn startup_counts_only_while_waiting_and_only_once() {
    let mut machine = Machine::power_up(2);
    assert!(machine.cpus[1].waiting_for_startup());
    machine.ipi(0, 0x4610, 1);
    let second = machine.ipi(0, 0x4620, 1);
    assert_eq!(second.coalesced, set([1]));
    assert_eq!(
        machine.cpus[1].poll(0),
        Work {
            startup: Some(0x10),
            ..Work::default()
        }
    );
    assert_eq!(machine.cpus[1].accept_startup(&machine.ledger), Some(0x10));
    machine.ipi(0, 0x4630, 1);
    assert_eq!(machine.cpus[1].poll(0), Work::default());
    assert_eq!(machine.cpus[1].accept_startup(&machine.ledger), None);
    // Dropped for good: a later INIT does not find it again.
    machine.ipi(0, 0x4500, 1);
    machine.cpus[1].accept_init(&machine.ledger);
    assert_eq!(machine.cpus[1].poll(0), Work::default());
    assert_eq!(
        *machine.ledger.accepted.borrow(),
        [
            (1, by_ipi(AcceptedKind::Startup(0x10))),
            (1, by_ipi(AcceptedKind::Init))
        ]
    );
}

#[test]
fn cr8_changed_without_an_exit_counts_at_the_next_poll() {
    let mut machine = Machine::xapic(2);
    machine.ipi(0, 0x405f, 1);
    machine.cpus[1].set_cr8(5);
    assert_eq!(machine.cpus[1].poll(0), Work::default());
    assert_eq!(
        (machine.read(1, reg::TPR), machine.read(1, reg::PPR)),
        (0x50, 0x50)
    );
    machine.cpus[1].set_cr8(4);
    assert_eq!(
        machine.cpus[1].poll(0),
        Work {
            interrupt: Some(0x5f),
            ..Work::default()
        }
    );
}

#[test]
fn an_unchanged_cr8_keeps_the_lower_half_of_the_tpr() {
    let mut machine = Machine::xapic(1);
    machine.write(0, reg::TPR, 0x57);
    machine.cpus[0].set_cr8(5);
    assert_eq!(
        (machine.cpus[0].cr8(), machine.read(0, reg::TPR)),
        (5, 0x57)
    );
    machine.cpus[0].set_cr8(0xf6);
    assert_eq!(
        (machine.cpus[0].cr8(), machine.read(0, reg::TPR)),
        (6, 0x60)
    );
}

#[test]
fn a_globally_disabled_apic_takes_nothing_and_loses_what_it_had() {
    let mut machine = Machine::xapic(2);
    machine.ipi(0, 0x40fb, 1);
    machine.ipi(0, 0x4400, 1);
    machine.cpus[1].set_apic_base(APIC_BASE_ADDRESS).unwrap();
    for mode in 0..8 {
        assert_eq!(
            machine.ipi(0, 0x4020 | mode << 8, 1).ipi.targets,
            CpuSet::EMPTY
        );
    }
    assert_eq!(machine.cpus[1].poll(0), Work::default());
    assert_eq!(machine.read(1, reg::SVR), u32::MAX);
    machine.cpus[1]
        .set_apic_base(APIC_BASE_ADDRESS | crate::machine::ENABLE)
        .unwrap();
    assert_eq!(machine.cpus[1].poll(0), Work::default());
    assert_eq!(machine.read(1, reg::SVR), 0xff);
}

#[test]
fn an_apic_base_over_what_may_be_ram_is_refused_and_nothing_changes() {
    let mut machine = Machine::x2apic(1);
    let before = machine.cpus[0].apic_base();
    for address in [0, 0x10_0000, 0xfdff_f000, 0xff00_0000, 1 << 36, 1 << 52] {
        assert_eq!(
            machine.cpus[0].set_apic_base((before & !APIC_BASE_ADDRESS) | address),
            Err(GeneralProtection::Moved { address })
        );
    }
    assert_eq!(machine.cpus[0].set_apic_base(before & !EXTD).ok(), None);
    assert_eq!(machine.cpus[0].apic_base(), before);
}

#[test]
fn a_moved_apic_base_reads_back_and_stays_through_an_init() {
    let mut machine = Machine::xapic(2);
    machine.cpus[1].set_apic_base(0xfed4_0800).unwrap();
    machine.ipi(0, 0x4500, 1);
    machine.cpus[1].accept_init(&());
    assert_eq!(
        [0, 1].map(|cpu| machine.cpus[cpu].apic_base()),
        [0xfee0_0900, 0xfed4_0800]
    );
}

#[test]
fn a_timer_interrupt_is_told_apart_from_an_ipi() {
    let mut machine = Machine::xapic(2);
    machine.write(1, reg::LVT_TIMER, 0xec);
    machine.write(1, reg::DIVIDE, 0b1011);
    machine.write(1, reg::INITIAL_COUNT, 1000);
    machine.now = 1000;
    assert_eq!(machine.take_interrupt(1), Some(0xec));
    let kind = AcceptedKind::Fixed(0xec);
    let timer = Accepted {
        kind,
        origin: Origin::Timer,
        merged: false,
    };
    assert_eq!(*machine.ledger.accepted.borrow(), [(1, timer)]);
    assert_eq!(machine.ledger.sent.borrow().len(), 0);
}

#[test]
fn a_vector_pending_by_timer_and_ipi_counts_as_an_ipi_and_says_so() {
    let mut machine = Machine::xapic(2);
    machine.write(1, reg::LVT_TIMER, 0xec);
    machine.write(1, reg::INITIAL_COUNT, 1);
    machine.now = 1000;
    assert_eq!(machine.cpus[1].poll(1000).interrupt, Some(0xec));
    // Not coalesced with an IPI: the sender cannot see the target's timer, and this is the first.
    assert_eq!(machine.ipi(0, 0x40ec, 1).coalesced, CpuSet::EMPTY);
    assert_eq!(
        [machine.take_interrupt(1), machine.take_interrupt(1)],
        [Some(0xec), None]
    );
    let kind = AcceptedKind::Fixed(0xec);
    let both = Accepted {
        kind,
        origin: Origin::Ipi,
        merged: true,
    };
    assert_eq!(*machine.ledger.accepted.borrow(), [(1, both)]);
}

#[test]
fn nmi_and_smi_are_seen_by_their_delivery_mode() {
    let mut machine = Machine::xapic(2);
    // The vector field of both holds a vector that means something else.
    let nmi = machine.ipi(0, 0x44fb, 1);
    let again = machine.ipi(0, 0x44fb, 1);
    let smi = machine.ipi(0, 0x42fb, 1);
    let modes = [nmi, again, smi].map(|sent| (sent.ipi.mode, sent.ipi.targets, sent.wake));
    assert_eq!(
        modes,
        [
            (DeliveryMode::Nmi, set([1]), set([1])),
            (DeliveryMode::Nmi, set([1]), CpuSet::EMPTY),
            (DeliveryMode::Smi, set([1]), CpuSet::EMPTY),
        ]
    );
    assert_eq!(again.coalesced, set([1]));
    assert_eq!(
        machine.cpus[1].poll(0),
        Work {
            nmi: true,
            ..Work::default()
        }
    );
    machine.cpus[1].accept_nmi(&machine.ledger);
    assert_eq!(machine.cpus[1].poll(0), Work::default());
    assert_eq!(
        *machine.ledger.accepted.borrow(),
        [(1, by_ipi(AcceptedKind::Nmi))]
    );
}
