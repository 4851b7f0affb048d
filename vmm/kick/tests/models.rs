//! That no kick is lost, and no interrupt: each test is one situation, of which loom goes through all interleavings (with
//! at most so many preemptions) and all values that the memory model lets a load have. Bus, APIC, kicker and
//! `immediate_exit` are the rig's own; only KVM and the host's threads are modelled ([`host`]). What waits for something
//! that was sent, and is not woken, is a deadlock, which loom reports.
//!
//! `RUSTFLAGS="--cfg loom" cargo nextest run -p ipirig-kick --target-dir target/loom`; otherwise there is nothing here.
#![cfg(loom)]
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that fails should stop its test"
)]
#![expect(unsafe_code, reason = "a vCPU's immediate_exit is a pointer")]

#[path = "models/host.rs"]
mod host;
#[path = "models/vcpu.rs"]
mod vcpu;

use std::sync::Arc;

use ipirig_apic::Icr;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use vcpu::{Idle, Machine};

/// A fixed interrupt of this vector to CPU 0 (SDM vol. 3, 11.6.1).
fn fixed(vector: u8) -> Icr {
    Icr::from_xapic(0x4000 | u32::from(vector), 0)
}

fn nmi() -> Icr {
    Icr::from_xapic(0x4400, 0)
}

/// An INIT or a start-up IPI to CPU 1.
fn to_cpu_1(command: u32) -> Icr {
    Icr::from_xapic(command, 1 << 24)
}

/// What loom is told: how often a thread may be preempted. More of them are more of the same, as each of the races here
/// needs one or two.
fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Two other vCPUs send something each, and the vCPU goes on until it has taken both.
fn both_arrive(idle: Idle, icrs: [Icr; 2]) {
    explore(3, move || {
        let machine = Machine::new(0);
        let target = machine.start(idle, |_, taken| taken == 2);
        let [first, second] = icrs;
        let sender = Arc::clone(&machine);
        let sender = thread::spawn(move || sender.send(1, first));
        assert!(machine.send(2, second));
        assert!(sender.join().unwrap());
        assert_eq!(target.join().unwrap().1, 2);
    });
}

#[test]
fn a_running_vcpu_takes_what_is_sent() {
    both_arrive(Idle::Runs, [fixed(0xf0), fixed(0xf1)]);
}

#[test]
fn a_halted_vcpu_takes_what_is_sent() {
    both_arrive(Idle::Halts, [fixed(0xf0), nmi()]);
}

#[test]
fn a_vcpu_that_halts_and_then_runs_takes_what_is_sent() {
    both_arrive(Idle::HaltsThenRuns, [nmi(), fixed(0xf1)]);
}

/// Two other vCPUs send the same, each after it has made a note. The vCPU goes on until it has seen both notes as it took
/// something. What is new was taken, or is still there; what is not was taken with what was there before.
fn merged(idle: Idle, icr: Icr) {
    explore(3, move || {
        let machine = Machine::new(0);
        let notes = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let target = {
            let notes = Arc::clone(&notes);
            let noted = move || notes.iter().all(|note| note.load(Ordering::Relaxed));
            machine.start(idle, move |_, _| noted())
        };
        let sender = {
            let (machine, notes) = (Arc::clone(&machine), Arc::clone(&notes));
            thread::spawn(move || {
                notes[0].store(true, Ordering::Relaxed);
                machine.send(1, icr)
            })
        };
        notes[1].store(true, Ordering::Relaxed);
        let new = usize::from(machine.send(2, icr)) + usize::from(sender.join().unwrap());
        let (mut apic, taken) = target.join().unwrap();
        let work = apic.poll(0);
        let left = usize::from(work.nmi) + usize::from(work.interrupt.is_some());
        assert_eq!(new, taken + left);
    });
}

#[test]
fn an_interrupt_that_was_pending_is_taken_with_all_that_its_senders_did_before() {
    merged(Idle::Runs, fixed(0xf0));
}

#[test]
fn an_nmi_that_was_pending_is_taken_with_all_that_its_senders_did_before() {
    merged(Idle::Halts, nmi());
}

#[test]
fn a_vcpu_that_is_reset_again_is_started_where_the_last_startup_ipi_says() {
    explore(2, || {
        let machine = Machine::new(1);
        let target = machine.start(Idle::Halts, |work, _| work.startup == Some(2));
        // INIT, two start-up IPIs as the SDM advises (vol. 3, 9.4.4.1), and all of that again.
        for command in [0x4500, 0x4601, 0x4601, 0x4500, 0x4602, 0x4602] {
            machine.send(0, to_cpu_1(command));
        }
        let (apic, _) = target.join().unwrap();
        assert!(!apic.waiting_for_startup());
    });
}

#[test]
fn a_vcpu_sees_that_it_is_to_stop() {
    for idle in [Idle::Runs, Idle::Halts] {
        explore(3, move || {
            let machine = Machine::new(0);
            let target = machine.start_until_stopped(idle);
            machine.stop();
            target.join().unwrap();
        });
    }
}
