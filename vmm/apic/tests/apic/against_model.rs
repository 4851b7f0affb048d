//! The crate against the naive model: random guests, compared after every step.

use crate::machine::{ENABLE, EXTD, Machine, msr, reg};
use crate::naive::{Counts, Face, Message, Model, Waiting};
use ipirig_apic::{APIC_BASE_ADDRESS, AcceptedKind, Action, Mode, Origin};
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
enum Step {
    Ipi(Message),
    SelfIpi(u8),
    Accept,
    EndOfInterrupt,
    Tpr(u8),
    Cr8(u8),
    Ldr(u8),
    Dfr(u8),
    Enable(bool),
    ErrorVector(Option<u8>),
    IllegalWrite,
    TakeErrors,
    Timer {
        vector: Option<u8>,
        periodic: bool,
        shift: u8,
        count: u32,
    },
    Advance(u64),
    Face(Face),
    /// All APICs are saved, and others restore that. To the model nothing happens.
    Elsewhere,
}

/// Few vectors, so that they meet: in one class, in neighbours, at the ends, and illegal ones.
fn vector() -> impl Strategy<Value = u8> {
    prop_oneof![
        12 => prop::sample::select(vec![0x10, 0x50, 0x51, 0x5f, 0x60, 0xec, 0xfb, 0xff]),
        1 => any::<u8>(),
        1 => 0u8..16,
    ]
}

fn destination() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0u32..20,
        2 => any::<u8>().prop_map(u32::from),
        2 => (0u32..3, any::<u16>()).prop_map(|(cluster, bits)| cluster << 16 | u32::from(bits)),
        1 => Just(0xff),
        1 => Just(u32::MAX),
        1 => any::<u32>(),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    // Start-up IPIs often enough to come in pairs, to CPUs that wait.
    let mode = prop_oneof![10 => Just(0u8), 4 => Just(1), 5 => Just(6), 4 => 2u8..8];
    let shorthand = prop_oneof![4 => Just(0u8), 3 => 1u8..4];
    (
        vector(),
        mode,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        shorthand,
        destination(),
    )
        .prop_map(
            |(vector, mode, logical, assert, level, shorthand, destination)| Message {
                vector,
                mode,
                logical,
                assert,
                level,
                shorthand,
                destination,
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    let maybe_vector = || prop::option::weighted(0.8, vector());
    let face = prop::sample::select(vec![Face::Off, Face::XApic, Face::XApic, Face::X2Apic]);
    prop_oneof![
        16 => message().prop_map(Step::Ipi),
        2 => vector().prop_map(Step::SelfIpi),
        16 => Just(Step::Accept),
        8 => Just(Step::EndOfInterrupt),
        2 => any::<u8>().prop_map(Step::Tpr),
        1 => (0u8..16).prop_map(Step::Cr8),
        2 => any::<u8>().prop_map(Step::Ldr),
        1 => prop::sample::select(vec![0u8, 15, 7]).prop_map(Step::Dfr),
        4 => prop::bool::weighted(0.8).prop_map(Step::Enable),
        1 => maybe_vector().prop_map(Step::ErrorVector),
        1 => Just(Step::IllegalWrite),
        1 => Just(Step::TakeErrors),
        3 => (maybe_vector(), any::<bool>(), 0u8..8, 0u32..400_000)
            .prop_map(|(vector, periodic, shift, count)| Step::Timer {
                vector,
                periodic,
                shift,
                count,
            }),
        4 => (0u64..2_000_000).prop_map(Step::Advance),
        3 => face.prop_map(Step::Face),
        2 => Just(Step::Elsewhere),
    ]
}

/// All that can be seen of one CPU.
#[derive(Debug, PartialEq, Eq)]
struct View {
    face: Face,
    parked: bool,
    irr: BTreeSet<u8>,
    isr: BTreeSet<u8>,
    ppr: u8,
    waiting: Waiting,
    timer_wakes_at: Option<u64>,
    counts: Counts,
}

fn view_of_model(model: &mut Model) -> (Vec<View>, usize) {
    let views = model.cpus.iter().map(|cpu| View {
        face: cpu.face,
        parked: cpu.parked,
        irr: cpu.irr(),
        isr: cpu.isr.clone(),
        ppr: cpu.ppr(),
        waiting: cpu.waiting(),
        timer_wakes_at: cpu.timer_wakes_at(),
        counts: cpu.counts,
    });
    (views.collect(), model.undeliverable)
}

fn view_of_machine(machine: &mut Machine) -> (Vec<View>, usize) {
    let sent = machine.ledger.sent.borrow();
    let mut counts = vec![Counts::default(); machine.cpus.len()];
    for sent in sent.iter() {
        sent.ipi
            .targets
            .iter()
            .for_each(|cpu| counts[cpu].targeted += 1);
        sent.coalesced
            .iter()
            .for_each(|cpu| counts[cpu].coalesced += 1);
    }
    for (cpu, accepted) in machine.ledger.accepted.borrow().iter() {
        let counts = &mut counts[*cpu];
        *match (accepted.kind, accepted.origin) {
            (AcceptedKind::Fixed(_), Origin::Ipi) => &mut counts.by_ipi,
            (AcceptedKind::Fixed(_), Origin::Timer) => &mut counts.by_timer,
            (AcceptedKind::Fixed(_), Origin::Lvt) => &mut counts.by_error,
            (AcceptedKind::Nmi, _) => &mut counts.nmis,
            (AcceptedKind::Init, _) => &mut counts.inits,
            (AcceptedKind::Startup(_), _) => &mut counts.startups,
        } += 1;
        counts.merged += usize::from(accepted.merged);
    }
    let now = machine.now;
    let views = machine.cpus.iter_mut().zip(counts).map(|(apic, counts)| {
        let work = apic.poll(now);
        View {
            face: match apic.mode() {
                Mode::Disabled => Face::Off,
                Mode::XApic => Face::XApic,
                Mode::X2Apic => Face::X2Apic,
            },
            parked: apic.waiting_for_startup(),
            irr: apic.irr().iter().collect(),
            isr: apic.isr().iter().collect(),
            ppr: apic.ppr(),
            waiting: Waiting {
                init: work.init,
                startup: work.startup,
                nmi: work.nmi,
                interrupt: work.interrupt,
            },
            timer_wakes_at: apic.timer_deadline(),
            counts,
        }
    });
    (
        views.collect(),
        sent.iter().filter(|sent| sent.ipi.undeliverable).count(),
    )
}

/// A register write through the face that is on. None if that face refuses it.
fn write(machine: &mut Machine, cpu: usize, offset: u16, value: u64) -> Option<Action> {
    let (apic, now) = (&mut machine.cpus[cpu], machine.now);
    match apic.mode() {
        Mode::Disabled => Some(apic.mmio_write(offset, value as u32, now)),
        Mode::XApic => {
            if offset == reg::ICR {
                let high = apic.mmio_write(reg::ICR_HIGH, ((value >> 32) as u32) << 24, now);
                assert_eq!(high, Action::None);
            }
            Some(apic.mmio_write(offset, value as u32, now))
        }
        Mode::X2Apic => apic.msr_write(msr(offset), value, now).ok(),
    }
}

fn read(machine: &mut Machine, cpu: usize, offset: u16) -> u32 {
    let (apic, now) = (&mut machine.cpus[cpu], machine.now);
    match apic.mode() {
        Mode::X2Apic => apic.msr_read(msr(offset), now).unwrap() as u32,
        _ => apic.mmio_read(offset, now),
    }
}

fn send(machine: &mut Machine, cpu: usize, action: Option<Action>) {
    // The ledger has it; nobody needs a kick here.
    let _ = machine.carry_out(cpu, action.unwrap());
}

fn encode(message: &Message) -> u64 {
    u64::from(message.destination) << 32
        | u64::from(message.vector)
        | u64::from(message.mode) << 8
        | u64::from(message.logical) << 11
        | u64::from(message.assert) << 14
        | u64::from(message.level) << 15
        | u64::from(message.shorthand) << 18
}

fn lvt(vector: Option<u8>) -> u64 {
    vector.map_or(1 << 16, u64::from)
}

fn take_work(machine: &mut Machine, cpu: usize) {
    let work = machine.cpus[cpu].poll(machine.now);
    let (apic, ledger) = (&mut machine.cpus[cpu], &machine.ledger);
    if work.init {
        apic.accept_init(ledger);
    }
    if work.startup.is_some() {
        assert_eq!(apic.accept_startup(ledger), work.startup);
    }
    if work.nmi {
        apic.accept_nmi(ledger);
    }
    if let Some(vector) = work.interrupt {
        apic.accept_interrupt(vector, ledger);
    }
}

/// Does one step on both sides.
fn apply(machine: &mut Machine, model: &mut Model, cpu: usize, step: &Step) {
    let face = model.cpus[cpu].face;
    let on = face != Face::Off;
    match *step {
        Step::Ipi(message) => {
            let action = write(machine, cpu, reg::ICR, encode(&message));
            if on {
                send(machine, cpu, action);
                model.send(cpu, &message);
            } else {
                assert_eq!(action, Some(Action::None));
            }
        }
        Step::SelfIpi(vector) => {
            let action = write(machine, cpu, reg::SELF_IPI, u64::from(vector));
            match face {
                Face::Off => assert_eq!(action, Some(Action::None)),
                // The xAPIC has no such register.
                Face::XApic => model.illegal_register(cpu),
                Face::X2Apic => {
                    send(machine, cpu, action);
                    model.self_ipi(cpu, vector);
                }
            }
        }
        Step::Accept => {
            take_work(machine, cpu);
            model.accept(cpu);
        }
        Step::EndOfInterrupt => {
            let action = write(machine, cpu, reg::EOI, 0);
            let expected = model
                .end_of_interrupt(cpu)
                .map_or(Action::None, Action::EndOfInterrupt);
            assert_eq!(action, Some(expected));
        }
        Step::Tpr(tpr) => {
            write(machine, cpu, reg::TPR, u64::from(tpr));
            if on {
                model.set_tpr(cpu, tpr);
            }
        }
        Step::Cr8(cr8) => {
            machine.cpus[cpu].set_cr8(cr8);
            model.set_cr8(cpu, cr8);
        }
        Step::Ldr(ldr) => {
            let action = write(machine, cpu, reg::LDR, u64::from(ldr) << 24);
            assert_eq!(action.is_none(), face == Face::X2Apic);
            if face == Face::XApic {
                model.set_ldr(cpu, ldr);
            }
        }
        Step::Dfr(dfr) => {
            let action = write(machine, cpu, reg::DFR, u64::from(dfr) << 28);
            assert_eq!(action.is_none(), face == Face::X2Apic);
            if face == Face::XApic {
                model.set_dfr(cpu, dfr);
            }
        }
        Step::Enable(enabled) => {
            write(machine, cpu, reg::SVR, 0xff | u64::from(enabled) << 8);
            if on {
                model.set_enabled(cpu, enabled);
            }
        }
        Step::ErrorVector(vector) => {
            write(machine, cpu, reg::LVT_ERROR, lvt(vector));
            if on {
                model.set_error_vector(cpu, vector);
            }
        }
        Step::IllegalWrite => {
            let action = write(machine, cpu, reg::VERSION, 0);
            assert_eq!(action.is_none(), face == Face::X2Apic);
            if face == Face::XApic {
                model.illegal_register(cpu);
            }
        }
        Step::TakeErrors => {
            write(machine, cpu, reg::ESR, 0);
            let errors = read(machine, cpu, reg::ESR);
            assert_eq!(errors, if on { model.take_errors(cpu) } else { u32::MAX });
        }
        Step::Timer {
            vector,
            periodic,
            shift,
            count,
        } => {
            write(
                machine,
                cpu,
                reg::LVT_TIMER,
                lvt(vector) | u64::from(periodic) << 17,
            );
            // Codes 0, 1, 2, 3, 8, 9, 10 divide by 2 to 128; 11 by 1.
            let code = [0b1011, 0, 1, 2, 3, 8, 9, 10][usize::from(shift)];
            write(machine, cpu, reg::DIVIDE, code);
            write(machine, cpu, reg::INITIAL_COUNT, u64::from(count));
            if on {
                model.set_timer(cpu, vector, periodic, 1 << shift, count);
            }
        }
        Step::Advance(ns) => {
            machine.now += ns;
            model.advance(ns);
        }
        Step::Face(to) => {
            let bits = match to {
                Face::Off => 0,
                Face::XApic => ENABLE,
                Face::X2Apic => ENABLE | EXTD,
            };
            let allowed = machine.cpus[cpu]
                .set_apic_base(APIC_BASE_ADDRESS | bits)
                .is_ok();
            assert_eq!(allowed, model.set_face(cpu, to));
        }
        Step::Elsewhere => machine.go_elsewhere(),
    }
}

proptest! {
    #[test]
    fn apics_behave_as_the_naive_model(
        cpus in prop::sample::select(vec![1usize, 3, 18]),
        x2apic in prop::bool::weighted(0.3),
        steps in prop::collection::vec((any::<prop::sample::Index>(), step()), 1..120),
    ) {
        let mut machine = Machine::xapic(cpus);
        let mut model = Model::running(cpus);
        if x2apic {
            for cpu in 0..cpus {
                apply(&mut machine, &mut model, cpu, &Step::Face(Face::X2Apic));
            }
        }
        for (cpu, step) in steps {
            apply(&mut machine, &mut model, cpu.index(cpus), &step);
            let seen = view_of_machine(&mut machine);
            model.look();
            prop_assert_eq!(seen, view_of_model(&mut model), "after {:?}", step);
        }
    }
}
