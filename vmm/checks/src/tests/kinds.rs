//! Where nothing may be deferred: what each cause must send, in which state of the target, and that
//! housekeeping CPUs are no exception.

use std::collections::{BTreeMap, BTreeSet};

use ipirig_apic::CpuSet;
use ipirig_entry::{Began, Ended, Record};
use ipirig_evidence::blame::{Attribution, Deferrable, Taken};
use ipirig_evidence::ledger::changes::{Sighted, Sighting};
use ipirig_evidence::ledger::{Delivery, Detail, Write};
use ipirig_evidence::vectors::Kind;
use ipirig_evidence::{Evidence, Handled, Sequence, WindowRecord};
use ipirig_instruction::{Code, Step, StepRegisters};

use ipirig_fake::kernel;

use super::*;

/// IPIs of these causes to the vCPU `cpu`.
pub(super) fn blame(cpu: usize, causes: &[(&str, u64)]) -> Vec<Attribution> {
    let one = |&(cause, count): &(&str, u64)| Attribution {
        cause: cause.to_owned(),
        by: None,
        deferrable: Deferrable::Yes,
        kind: "call-function".to_owned(),
        source: 0,
        number: None,
        targets: BTreeMap::from([(cpu, count)]),
        taken: Taken::default(),
        chain: vec![],
        broken: None,
    };
    causes.iter().map(one).collect()
}

/// A guest that sends three IPIs an operation, 198 in all, with these causes.
pub(super) fn in_kernel(causes: &[(&str, u64)]) -> (Verdict, String) {
    let script = sends();
    let (plan, mut evidence) = evidence("target-in-kernel", None, script);
    evidence.blame = blame(2, causes);
    let check = named(ISOLATED_IPIS, &plan, &evidence);
    let tail = check.evidence.rsplit("at least 133").next();
    (check.status, tail.unwrap_or_default().to_owned())
}

#[test]
fn ipis_of_another_cause_do_not_make_up_for_one_that_is_lost() {
    let all = ", at least 99 for static key, at least 33 for vunmap";
    assert_eq!(
        in_kernel(&[("static key", 99), ("vunmap", 34), ("RCU", 65)]),
        (Held, all.to_owned())
    );
    assert_eq!(
        in_kernel(&[("static key", 98), ("vunmap", 34), ("RCU", 66)]),
        (
            Violated,
            ", but 98 of at least 99 for static key".to_owned()
        )
    );
    assert_eq!(
        in_kernel(&[("static key", 100), ("vunmap", 30), ("RCU", 68)]),
        (Violated, ", but 30 of at least 33 for vunmap".to_owned())
    );
}

#[test]
fn an_ipi_whose_cause_is_not_known_may_be_the_one_that_is_missed() {
    let words = ", but 98 of at least 99 for static key, and the cause of 66 is not known";
    assert_eq!(
        in_kernel(&[("static key", 98), ("vunmap", 34), ("unknown", 66)]),
        (Error, words.to_owned())
    );
    // Sixty-six of which no stack was taken.
    assert_eq!(
        in_kernel(&[("static key", 98), ("vunmap", 34)]),
        (Error, words.to_owned())
    );
    // Where no stacks are taken, the number has to do.
    assert_eq!(in_kernel(&[]), (Held, String::new()));
}

#[test]
fn each_state_of_the_target_is_held_if_every_ipi_comes_and_violated_if_none_does() {
    for scenario in [
        "target-in-kernel-large",
        "target-idle",
        "target-never-in-user",
        "target-replugged",
    ] {
        for (ipis_per_operation, expected) in [(3, Held), (1, Violated), (0, Violated)] {
            let script = Script {
                ipis_per_operation,
                ..Script::default()
            };
            let (plan, evidence) = evidence(scenario, None, script);
            let (checks, _) = judge(&plan, &evidence);
            let verdict = overall(&plan, &checks);
            assert_eq!(verdict, expected, "{scenario}: {checks:?}");
        }
    }
}

#[test]
fn a_vcpu_that_does_not_idle_when_it_should_proves_nothing_of_idle_ones() {
    let script = sends();
    let (plan, mut evidence) = evidence("target-idle", None, script);
    let check = named(KERNEL, &plan, &evidence);
    let words = "vCPU 2: CPL 0 at both ends and at each of 198 IPIs, in HLT at 198";
    assert_eq!((check.status, &*check.evidence), (Held, words));
    evidence.ledger.cpus[2].window.ipis_at_idle = 98;
    let check = named(KERNEL, &plan, &evidence);
    let words = "vCPU 2: it waited in HLT at 98 of 198 IPIs only";
    assert_eq!((check.status, &*check.evidence), (Error, words));
}

#[test]
fn a_housekeeping_vcpu_in_user_space_must_get_every_ipi() {
    let judged = |per_operation: u64, causes: &[(&str, u64)], at_user: u64| {
        let script = Script {
            further_witness_ipis: per_operation - 1,
            ..Script::default()
        };
        let (plan, mut evidence) = evidence("housekeeping-in-user", None, script);
        evidence.ledger.cpus[1].window.ipis_at_user = at_user;
        evidence.blame = blame(1, causes);
        let check = named(HOUSEKEEPING_IPIS, &plan, &evidence);
        let (checks, _) = judge(&plan, &evidence);
        (check.status, check.evidence, overall(&plan, &checks))
    };
    let all = [("static key", 99), ("vunmap", 34), ("RCU", 65)];
    let words = "vCPU 1: 198 IPIs: at least 99 for static key, at least 33 for vunmap; 190 \
                 interrupted user space";
    assert_eq!(judged(3, &all, 190), (Held, words.to_owned(), Held));
    let words = "vCPU 1: 66 IPIs, at least 133 must be delivered to a CPU that is not isolated; 66 \
                 interrupted user space";
    assert_eq!(judged(1, &all, 66), (Violated, words.to_owned(), Violated));
    let few = [("static key", 99), ("vunmap", 32), ("RCU", 67)];
    let words = "vCPU 1: 198 IPIs: 32 of at least 33 for vunmap; 190 interrupted user space";
    assert_eq!(judged(3, &few, 190), (Violated, words.to_owned(), Violated));
    let words = "vCPU 1: only 98 of 198 IPIs interrupted user space";
    assert_eq!(judged(3, &all, 98), (Error, words.to_owned(), Error));
}

/// A record of an IPI for which the vCPU executed `code`, two bytes an instruction, and returned.
fn handled(part: usize, code: &[[u8; 2]]) -> Handled {
    let all = code.iter().chain([&[0x48, 0xcf]]);
    let step = |(code, at): (&[u8; 2], u64)| Step {
        registers: StepRegisters {
            rip: 0xffff_ffff_8100_0000 + 2 * at,
            ..StepRegisters::default()
        },
        code: Code::new(code),
        descriptor: None,
    };
    Handled {
        part,
        cpu: 2,
        record: Record {
            cpu: 2,
            began: Began::Vector(0xfc),
            handlers: BTreeSet::new(),
            steps: all.zip(0..).map(step).collect(),
            ended: Ended::Interrupted,
        },
    }
}

const NOP: [u8; 2] = [0x66, 0x90];
/// mov cr3, rax
const CR3: [u8; 3] = [0x0f, 0x22, 0xd8];
/// It serialises.
const CPUID: [u8; 2] = [0x0f, 0xa2];

/// The check of a run whose handlers did this.
fn handlers(text: &[[u8; 2]], texts: usize, tlbs: usize) -> (Verdict, String, Verdict) {
    let script = sends();
    let (plan, mut evidence) = evidence("handler-work", None, script);
    let mut all = vec![handled(0, text); texts];
    all.extend(vec![cr3(); tlbs]);
    all.extend(sender(CPUID, CR3));
    evidence.windows[0].handled = all;
    let check = named(HANDLER_WORK, &plan, &evidence);
    let (checks, _) = judge(&plan, &evidence);
    (check.status, check.evidence, overall(&plan, &checks))
}

/// A record of an IPI of the second part that writes CR3, and so flushes all.
fn cr3() -> Handled {
    let mut one = handled(1, &[]);
    let mov = Step {
        registers: StepRegisters {
            rip: 0xffff_ffff_8100_0000 - 3,
            ..StepRegisters::default()
        },
        code: Code::new(&CR3),
        descriptor: None,
    };
    one.record.steps.insert(0, mov);
    one
}

/// Three pokes and a flush of the sender, in each of which it executes this and returns.
fn sender(poke: [u8; 2], flush: [u8; 3]) -> Vec<Handled> {
    let call = |part: usize, function: u64, code: &[u8]| {
        let step = |rip, code: &[u8]| Step {
            registers: StepRegisters {
                rip,
                ..StepRegisters::default()
            },
            code: Code::new(code),
            descriptor: None,
        };
        let mut one = handled(part, &[]);
        (one.cpu, one.record.cpu, one.record.began) = (0, 0, Began::Call);
        let back = function + code.len() as u64;
        one.record.steps = vec![step(function, code), step(back, &[0xc3])];
        one
    };
    let mut all = vec![call(0, kernel::TEXT_POKE, &poke); 3];
    all.push(call(1, kernel::FLUSH, &flush));
    // A page.
    for step in &mut all[3].record.steps {
        step.registers.general[6] = 0x1000;
    }
    all
}

#[test]
fn a_sender_that_does_not_do_its_own_share_is_violated_though_others_do_theirs() {
    let judged = |own: Vec<Handled>| {
        let script = sends();
        let (plan, mut evidence) = evidence("handler-work", None, script);
        let mut all = vec![handled(0, &[CPUID]); 3];
        all.extend(vec![cr3(); 2]);
        all.extend(own);
        evidence.windows[0].handled = all;
        let check = named(SENDER_WORK, &plan, &evidence);
        let (checks, _) = judge(&plan, &evidence);
        (check.status, check.evidence, overall(&plan, &checks))
    };
    let (status, words, verdict) = judged(sender(CPUID, CR3));
    let expected = "vCPU 0: in each of 3 pokes it serialised its own stream; vCPU 0: in each of 1 \
                    flushes it cleared its own translations";
    assert_eq!((status, &*words, verdict), (Held, expected, Held));

    let (status, words, verdict) = judged(sender(CPUID, [0x0f, 0x1f, 0x00]));
    let expected = "vCPU 0: flush 1 of 1 returned after 2 instructions without having cleared its own \
                    translations";
    assert_eq!((status, &*words, verdict), (Violated, expected, Violated));
    let (status, words, _) = judged(sender(NOP, CR3));
    let expected = "vCPU 0: poke 1 of 3 returned after 2 instructions without having serialised its \
                    own stream";
    assert_eq!((status, &*words), (Violated, expected));

    // What was not followed, or not to the end, proves nothing.
    let (status, words, verdict) = judged(vec![]);
    let expected = "vCPU 0: 0 pokes were followed, of at least 3; vCPU 0: 0 flushes were followed, of \
                    at least 1";
    assert_eq!((status, &*words, verdict), (Error, expected, Error));
    let mut cut = sender(NOP, CR3);
    cut[0].record.ended = Ended::Limit;
    cut[1].record.steps.remove(0);
    cut.swap(1, 2);
    assert_eq!(judged(cut).0, Violated);
    let mut cut = sender(CPUID, [0x0f, 0x1f, 0x00]);
    cut[3].record.ended = Ended::Limit;
    // On its way in an interrupt came.
    let elsewhere = handled(0, &[]).record.steps[0];
    cut[3].record.steps.insert(1, elsewhere);
    let (status, words, _) = judged(cut);
    let expected = "vCPU 0: 1 of 1 flushes were not followed to the end (2 of 3 instructions in flush_tlb_kernel_range)";
    assert_eq!((status, &*words), (Error, expected));
}

#[test]
fn an_ipi_that_did_nothing_before_it_returned_is_violated_though_it_came() {
    let (status, words, verdict) = handlers(&[NOP, CPUID], 3, 2);
    assert_eq!((status, verdict), (Held, Held), "{words}");
    let expected = "vCPU 2: 3 of 3 IPIs serialised before they returned, of 3 that must; vCPU 2: 2 of \
                    2 IPIs flushed what was unmapped before they returned, of 1 that must";
    assert_eq!(words, expected);

    let (status, words, verdict) = handlers(&[NOP], 3, 2);
    assert_eq!((status, verdict), (Violated, Violated));
    let expected = "vCPU 2: only 0 of 3 IPIs serialised before they returned, of 3 that must; IPI 1 \
                    did not in 2 instructions";
    assert_eq!(words, expected);
}

#[test]
fn an_ipi_that_was_not_followed_to_its_end_may_have_done_it_later() {
    let script = sends();
    let (plan, mut evidence) = evidence("handler-work", None, script);
    let mut cut = handled(0, &[NOP]);
    cut.record.steps.pop();
    cut.record.ended = Ended::Limit;
    let judged = |evidence: &mut Evidence, cuts: usize, lazy: usize| {
        let mut all = vec![cut.clone(); cuts];
        all.extend(vec![handled(0, &[NOP]); lazy]);
        all.extend(vec![cr3(); 2]);
        evidence.windows[0].handled = all;
        let check = named(HANDLER_WORK, &plan, evidence);
        (check.status, check.evidence)
    };
    let words = "vCPU 2: 0 of 3 IPIs serialised, of 3 that must, and 3 were not followed to the end (1 of 1 instructions in _stext)";
    assert_eq!(judged(&mut evidence, 3, 0), (Error, words.to_owned()));
    assert_eq!(judged(&mut evidence, 2, 1).0, Violated);
}

#[test]
fn what_was_not_followed_or_not_whole_proves_nothing() {
    let (status, words, verdict) = handlers(&[CPUID], 2, 2);
    assert_eq!((status, verdict), (Error, Error));
    let expected = "vCPU 2: 2 IPIs were followed, of at least 3 that must come";
    assert_eq!(words, expected);

    let script = sends();
    let (plan, mut evidence) = evidence("handler-work", None, script);
    let mut hole = handled(0, &[CPUID, NOP]);
    hole.record.steps.remove(1);
    evidence.windows[0].handled = vec![hole];
    let check = named(HANDLER_WORK, &plan, &evidence);
    assert_eq!(check.status, Error);
    assert!(
        check
            .evidence
            .starts_with("vCPU 2: the trace of IPI 1 says nothing: instructions are missing"),
        "{}",
        check.evidence
    );

    evidence.layout = Err("no symbols".to_owned());
    let check = named(HANDLER_WORK, &plan, &evidence);
    assert_eq!((check.status, &*check.evidence), (Skipped, "no symbols"));
    let (checks, _) = judge(&plan, &evidence);
    assert_eq!(overall(&plan, &checks), Skipped);
}

/// Five windows in which the vCPU entered the kernel before one change after the other, and then got so
/// many IPIs.
fn entered(ipis: [u64; 5]) -> (Plan, Evidence) {
    let script = sends();
    let (_, mut evidence) = evidence("target-in-kernel", None, script);
    let plan = plan("enters-in-mid-batch", None);
    let mut window = evidence.windows[0].clone();
    (window.changed.pokes, window.changed.flushes) = (3, 2);
    let (open, _) = window.marks.get_mut(&2).unwrap();
    open.cpl = 3;
    for report in &mut window.storm {
        report.done = 1;
    }
    evidence.windows = (1..)
        .zip(ipis)
        .map(|(nth, count)| WindowRecord {
            entered_before: Some(nth),
            ipis: BTreeMap::from([(2, count)]),
            ..window.clone()
        })
        .collect();
    (plan, evidence)
}

#[test]
fn each_change_after_an_entry_in_mid_operation_must_be_told() {
    let (plan, evidence) = entered([5, 4, 3, 2, 1]);
    assert_eq!(named(ENTERED, &plan, &evidence).status, Held);
    let check = named(ISOLATED_IPIS, &plan, &evidence);
    assert_eq!(check.status, Held, "{}", check.evidence);
    let (checks, _) = judge(&plan, &evidence);
    assert_eq!(overall(&plan, &checks), Held, "{checks:?}");

    // What comes too often in one window does not make up for what is lost in another.
    let (plan, evidence) = entered([9, 2, 3, 2, 1]);
    let check = named(ISOLATED_IPIS, &plan, &evidence);
    assert_eq!(check.status, Violated);
    let lost = "but 2 of 4 after it entered the kernel before change 2";
    assert!(check.evidence.ends_with(lost), "{}", check.evidence);
}

#[test]
fn a_vcpu_that_did_not_enter_or_not_stay_proves_nothing() {
    let look = |change: fn(&mut WindowRecord)| {
        let (plan, mut evidence) = entered([5, 4, 3, 2, 1]);
        change(&mut evidence.windows[1]);
        let check = named(ENTERED, &plan, &evidence);
        (check.status, check.evidence)
    };
    assert_eq!(
        look(|window| window.entered_before = None),
        (Error, "vCPU 2: no change 2 was seen, only 5".to_owned())
    );
    assert_eq!(
        look(|window| window.marks.get_mut(&2).unwrap().1.cpl = 3),
        (
            Error,
            "vCPU 2: CPL 3 at the beginning, 3 at the end".to_owned()
        )
    );
    assert_eq!(
        look(|window| window.released.get_mut(&2).unwrap().errno = 110),
        (Error, "vCPU 2: it did not stay (errno 110)".to_owned())
    );
}

#[test]
fn a_storm_with_fewer_changes_than_that_is_an_error() {
    let script = Script {
        changes_unseen: true,
        ..Script::default()
    };
    let (plan, evidence) = evidence("enters-in-mid-batch", None, script);
    let check = named(ENTERED, &plan, &evidence);
    assert_eq!(check.status, Error);
    assert!(
        check
            .evidence
            .starts_with("vCPU 2: no change 1 was seen, only 0; "),
        "{}",
        check.evidence
    );
}

/// A poke every 100 ns from 100 on, an IPI 10 ns after each, taken by vCPU 2 so many ns after that.
pub(super) fn waits(delays: &[u64]) -> (Verdict, String) {
    let script = sends();
    let (plan, mut evidence) = evidence("target-in-kernel", None, script);
    let mut sequence = Sequence::default();
    for (at, delay) in (1..).map(|nth: u64| nth * 100).zip(delays) {
        sequence.sightings.push(Sighting {
            time_ns: at,
            cpu: 0,
            what: Sighted::Poke,
            start: 0,
            end: 5,
        });
        sequence.details.push(Detail::Write(Write {
            time_ns: at + 10,
            source: 0,
            kind: Kind::Vector(0xfc),
            targets: [2].into_iter().collect(),
            coalesced: CpuSet::EMPTY,
            undeliverable: false,
            rip: 0,
            chain: Some(7),
        }));
        sequence.details.push(Detail::Delivery(Delivery {
            time_ns: at + 10 + delay,
            cpu: 2,
            kind: Kind::Vector(0xfc),
            ipi: true,
            user: false,
            idle: false,
            due: None,
        }));
    }
    evidence.sequence = Some(sequence);
    evidence.blame = blame(2, &[("static key", 99), ("vunmap", 34)]);
    evidence.blame[0].number = Some(7);
    let check = named(SENDER_WAITS, &plan, &evidence);
    (check.status, check.evidence)
}

#[test]
fn a_change_that_is_made_before_the_ipis_for_the_last_one_were_taken_is_violated() {
    // There is no change after the last.
    let words = "each of 3 IPIs was taken before the sender made its next change";
    assert_eq!(waits(&[20, 20, 80, 20]), (Held, words.to_owned()));
    // It may have been looking at its queue.
    let words = "2 of 3 IPIs were taken before the sender made its next change; for 1 the function may \
                 have been called before the interrupt was taken";
    assert_eq!(waits(&[20, 120, 80, 20]), (Held, words.to_owned()));
    // Each comes while the sender is one change further: none makes up for another.
    let words = "3 of 3 IPIs had not been taken when the sender made its next change, the first by \
                 vCPU 2";
    assert_eq!(waits(&[120, 120, 120, 120]), (Violated, words.to_owned()));
    assert_eq!(waits(&[]), (Skipped, "no change was seen".to_owned()));
}
