//! Where nothing may be held back: what each cause must send, in which state of the target, and that
//! housekeeping CPUs are no exception.

use std::collections::BTreeMap;

use super::*;
use crate::blame::{Blame, Deferrable, Taken};

/// IPIs of these causes to the vCPU `cpu`.
fn blame(cpu: usize, causes: &[(&str, u64)]) -> Vec<Blame> {
    let one = |&(cause, count): &(&str, u64)| Blame {
        cause: cause.to_owned(),
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
fn in_kernel(causes: &[(&str, u64)]) -> (Verdict, String) {
    let script = Script {
        ipis_per_operation: 3,
        ..Script::default()
    };
    let (plan, mut evidence) = evidence("target-in-kernel", None, script);
    evidence.blame = blame(2, causes);
    let check = named(ISOLATED_IPIS, &plan, &evidence);
    let tail = check.evidence.rsplit("at least 133").next();
    (check.status, tail.unwrap_or_default().to_owned())
}

#[test]
fn ipis_of_another_cause_do_not_make_up_for_one_that_is_lost() {
    let all = ", at least 99 for static key, at least 34 for vunmap";
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
        (Violated, ", but 30 of at least 34 for vunmap".to_owned())
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
    let script = Script {
        ipis_per_operation: 3,
        ..Script::default()
    };
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
    let words = "vCPU 1: 198 IPIs: at least 99 for static key, at least 34 for vunmap; 190 \
                 interrupted user space";
    assert_eq!(judged(3, &all, 190), (Held, words.to_owned(), Held));
    let words = "vCPU 1: 66 IPIs, at least 133 must be delivered to a CPU that is not isolated; 66 \
                 interrupted user space";
    assert_eq!(judged(1, &all, 66), (Violated, words.to_owned(), Violated));
    let few = [("static key", 99), ("vunmap", 33), ("RCU", 66)];
    let words = "vCPU 1: 198 IPIs: 33 of at least 34 for vunmap; 190 interrupted user space";
    assert_eq!(judged(3, &few, 190), (Violated, words.to_owned(), Violated));
    let words = "vCPU 1: only 98 of 198 IPIs interrupted user space";
    assert_eq!(judged(3, &all, 98), (Error, words.to_owned(), Error));
}
