//! Where a number is just enough, and where it is one too few.

use ipirig_abi::Changes;
use ipirig_evidence::vectors::Kind;

use super::kinds::{blame, in_kernel, waits};
use super::*;

#[test]
fn one_ipi_whose_stack_says_nothing_or_was_not_taken_may_be_the_one_that_is_missed() {
    let words = ", but 98 of at least 99 for static key, and the cause of 1 is not known";
    for unknown in [1, 0] {
        let of = [("vunmap", 34), ("RCU", 65), ("unknown", unknown)];
        let causes = [&[("static key", 98)], &of[..]].concat();
        assert_eq!(in_kernel(&causes), (Error, words.to_owned()), "{unknown}");
    }
}

#[test]
fn where_no_ipi_came_those_of_each_cause_are_lost() {
    let (plan, evidence) = evidence("target-in-kernel", None, Script::default());
    let words = "0 of at least 99 for static key, 0 of at least 33 for vunmap";
    let expected = Some((Violated, words.to_owned()));
    assert_eq!(causes::of_cpu(&plan, &evidence, 2), expected);
}

#[test]
fn a_housekeeping_cpu_that_gets_as_many_ipis_as_it_must_is_well() {
    let (mut plan, mut evidence) = evidence("housekeeping-in-user", None, sends());
    plan.scenario.expect.by_cause.clear();
    let least = plan.scenario.expect.housekeeping_ipis_min;
    let judged = |sent| {
        let tally = &mut evidence.ledger.cpus[1].window;
        tally.targeted = [(Kind::Vector(0xfc), sent)].into();
        tally.ipis_at_user = sent;
        named(HOUSEKEEPING_IPIS, &plan, &evidence).status
    };
    assert_eq!([least, least - 1].map(judged), [Held, Violated]);
}

#[test]
fn counters_that_cannot_be_read_say_why_and_one_that_is_gone_says_so() {
    let said = |before: bool, counters: Result<_, String>| {
        let (plan, mut evidence) = evidence("static-key-flip", None, Script::default());
        let at = if before {
            &mut evidence.before
        } else {
            &mut evidence.after
        };
        at.counters = counters;
        let check = named(COUNTERS, &plan, &evidence);
        (check.status, check.evidence)
    };
    for before in [true, false] {
        let unreadable = said(before, Err("line 3 is none".to_owned()));
        assert_eq!(unreadable, (Error, "line 3 is none".to_owned()));
        let words = "the kernel's counters came or went during the run";
        assert_eq!(said(before, Ok(None)), (Error, words.to_owned()));
    }
}

#[test]
fn half_of_the_ipis_are_enough_to_show_where_the_vcpu_was() {
    let script = || Script {
        further_witness_ipis: 2,
        ..sends()
    };
    for (scenario, name, cpu) in [
        ("noinstr-key-flip", USER_SPACE, 2),
        ("housekeeping-in-user", HOUSEKEEPING_IPIS, 1),
        ("target-idle", KERNEL, 2),
    ] {
        let (plan, mut evidence) = evidence(scenario, None, script());
        evidence.blame = blame(cpu, &[("static key", 99), ("vunmap", 99)]);
        let tally = &mut evidence.ledger.cpus[cpu].window;
        let half = tally.ipis_targeted().div_ceil(2);
        let judged = |seen| {
            let tally = &mut evidence.ledger.cpus[cpu].window;
            let count = match name {
                KERNEL => &mut tally.ipis_at_idle,
                _ => &mut tally.ipis_at_user,
            };
            *count = seen;
            named(name, &plan, &evidence).status
        };
        assert_eq!([half, half - 1].map(judged), [Held, Error], "{scenario}");
    }
}

#[test]
fn a_catch_up_at_the_first_ordinary_instruction_is_late() {
    let (plan, evidence) = evidence("static-key-flip", None, Script::default());
    let judged = |early| {
        let mut entries = entry::judge(&plan, &evidence);
        if let entry::Outcome::Audit(audited) = &mut entries[0].outcome {
            let limit = audited.audit.first_instrumentable.unwrap();
            audited.audit.text_cleared = Some(limit - early);
        }
        completion::completed_on_entry(&plan, &evidence, &entries).status
    };
    assert_eq!([1, 0].map(judged), [Held, Violated]);
}

#[test]
fn as_many_findings_as_are_shown_leave_none_to_count() {
    let late = Script {
        path: Path::NoCatchUp,
        ..Script::default()
    };
    let (plan, evidence) = evidence("static-key-flip", None, late);
    let shown = |count| {
        let mut entries = entry::judge(&plan, &evidence);
        let entry::Outcome::Audit(audited) = &mut entries[0].outcome else {
            panic!("{entries:?}");
        };
        let one = audited.audit.danger[0].clone();
        audited.audit.danger = vec![one.clone(); count];
        let check = order::danger_zone(&entries);
        let words = check.evidence.replace(&one.to_string(), "x");
        (check.status, words)
    };
    for (count, words) in [(1, "x"), (3, "x, x, x"), (5, "x, x, x, and 2 more")] {
        let expected = (Violated, format!("vCPU 2, SYSCALL: {words}"));
        assert_eq!(shown(count), expected);
    }
}

#[test]
fn what_nobody_saw_change_is_no_storm() {
    for (scenario, vcpus, expected) in [
        ("static-key-flip", Some(2), Skipped),
        ("vunmap-storm", Some(2), Skipped),
        ("housekeeping-in-user", None, Error),
    ] {
        let script = Script {
            changes_unseen: true,
            no_witness: true,
            ..Script::default()
        };
        let (plan, evidence) = evidence(scenario, vcpus, script);
        let check = soundness::storm_ran(&plan, &evidence);
        assert_eq!(check.status, expected, "{scenario}: {check:?}");
    }
}

#[test]
fn an_ipi_for_every_second_change_is_a_witness() {
    let (plan, mut evidence) = evidence("vunmap-storm", None, Script::default());
    let mut few = |sent| {
        let tally = &mut evidence.ledger.cpus[1].window;
        tally.targeted = [(Kind::Vector(0xfc), sent)].into();
        soundness::unwitnessed(&plan, &evidence, Changes::Tlb)
    };
    let words = "no housekeeping vCPU got IPIs for 100 changes";
    assert_eq!([50, 49].map(&mut few), [None, Some(words.to_owned())]);
}

#[test]
fn what_was_recorded_is_said_in_numbers() {
    let script = Script {
        timers: 2,
        ..sends()
    };
    let (_, evidence) = evidence("static-key-flip", None, script);
    let lost = soundness::nothing_lost(&evidence, "").evidence;
    let round = soundness::no_way_round(&evidence).evidence;
    let expected = [
        "all 810 events of the window recorded",
        "CAL: the kernel counts 404, the rig 404",
    ];
    assert_eq!([lost, round], expected);
}

#[test]
fn half_of_the_ipis_may_be_late_and_one_that_comes_with_the_next_change_is_not() {
    let words = "each of 3 IPIs was taken before the sender made its next change";
    assert_eq!(waits(&[90, 90, 90, 90]), (Held, words.to_owned()));
    let words = "2 of 4 IPIs were taken before the sender made its next change; for 2 the function may \
                 have been called before the interrupt was taken";
    assert_eq!(waits(&[120, 20, 120, 20, 20]), (Held, words.to_owned()));
}
