//! What the kernel counts for CPUs for which it may defer nothing.

use super::*;

fn said(scenario: &str, counters: Counting, ipis_per_operation: u64) -> (Verdict, String) {
    let script = Script {
        counters,
        ipis_per_operation,
        ..Script::default()
    };
    let (plan, evidence) = evidence(scenario, None, script);
    let check = named(COUNTERS, &plan, &evidence);
    (check.status, check.evidence)
}

#[test]
fn what_was_deferred_before_a_cpu_had_a_task_is_a_violation() {
    let words = "CPU 2: 303 deferred between boot and its first task";
    let expected = (Violated, words.to_owned());
    assert_eq!(said("static-key-flip", Counting::BeforeTasks, 0), expected);
    // Where what comes later must be delivered it is one just as well.
    let words = "CPU 2: 132 deferred between boot and its first task";
    let expected = (Violated, words.to_owned());
    assert_eq!(said("target-in-kernel", Counting::BeforeTasks, 3), expected);
}

#[test]
fn what_was_deferred_for_a_housekeeping_cpu_is_a_violation() {
    let words = "CPU 1: 303 deferred, which is not isolated";
    let expected = (Violated, words.to_owned());
    assert_eq!(said("static-key-flip", Counting::Everywhere, 0), expected);
}

#[test]
fn what_was_deferred_for_a_cpu_that_never_had_a_task_is_a_violation() {
    let words = "CPU 2: 132 deferred, which has had no task";
    for scenario in ["target-never-in-user", "target-replugged"] {
        assert_eq!(
            said(scenario, Counting::Right, 0),
            (Violated, words.to_owned()),
            "{scenario}"
        );
    }
}
