//! From checks to the verdict.

use super::*;

/// A plan for the verdict on isolation alone, or on completion too, and its essential checks.
fn essential(isolation_only: bool) -> (Plan, Vec<AnyOf>) {
    let mut plan = plan("static-key-flip", None);
    plan.isolation_only = isolation_only;
    let essential = ISOLATION.iter().chain(completion(&plan)).copied().collect();
    (plan, essential)
}

/// The documented table, for every combination of an essential and another check.
#[test]
fn precedence_is_as_documented_for_every_combination() {
    let all = [Held, Violated, Error, Skipped];
    for (status, other) in all.into_iter().flat_map(|s| all.map(|o| (s, o))) {
        let (plan, names) = essential(false);
        for index in 0..names.len() {
            let mut checks: Vec<Check> = names
                .iter()
                .map(|names| Check::new(names[0], Held, ""))
                .collect();
            checks[index].status = status;
            checks.push(Check::new(COUNTERS, other, ""));
            let expected = match (status, other) {
                (Violated, _) | (_, Violated) => Violated,
                (Error, _) | (_, Error) => Error,
                (Skipped, _) => Skipped,
                (Held, Held | Skipped) => Held,
            };
            assert_eq!(overall(&plan, &checks), expected, "{status} {other}");
            checks.reverse();
            assert_eq!(
                overall(&plan, &checks),
                expected,
                "order matters: {status} {other}"
            );
        }
    }
}

#[test]
fn a_missing_essential_check_is_an_error() {
    for isolation_only in [false, true] {
        let (plan, names) = essential(isolation_only);
        assert_eq!(overall(&plan, &[]), Error);
        for missing in &names {
            let checks: Vec<Check> = names
                .iter()
                .filter(|names| *names != missing)
                .map(|names| Check::new(names[0], Held, ""))
                .collect();
            assert_eq!(overall(&plan, &checks), Error, "{missing:?}");
            let held = !ISOLATION.contains(missing);
            assert_eq!(isolation_held(&checks), held, "{missing:?}");
        }
    }
}

/// What a kernel that drops the deferred work would look like where no entry can be followed.
#[test]
fn isolation_alone_is_held_only_if_it_is_asked_for() {
    let verdicts = |scenario: &str, ipis_per_operation| {
        let script = Script {
            ipis_per_operation,
            counters: Counting::Absent,
            ..Script::default()
        };
        let (mut plan, mut evidence) = evidence(scenario, None, script);
        evidence.layout = Err("no vmlinux".to_owned());
        let checks = judge(&plan, &evidence).0;
        assert!(isolation_held(&checks), "{scenario}: {checks:?}");
        [false, true].map(|isolation_only| {
            plan.isolation_only = isolation_only;
            overall(&plan, &checks)
        })
    };
    for scenario in [
        "static-key-flip",
        "vunmap-storm",
        "entry-matrix",
        "housekeeping-load",
    ] {
        assert_eq!(verdicts(scenario, 0), [Skipped, Held], "{scenario}");
    }
    // Some IPIs are allowed, and may have done all of the work or not.
    assert_eq!(verdicts("bpf-jit", 0), [Skipped, Held]);
    assert_eq!(verdicts("bpf-jit", 1), [Skipped, Held]);
    // Nothing is deferred.
    assert_eq!(verdicts("noinstr-key-flip", 3), [Held, Held]);
}

#[test]
fn what_is_seen_of_completion_counts_for_isolation_alone_too() {
    let late = Script {
        path: Path::NoCatchUp,
        ..Script::default()
    };
    let (mut plan, evidence) = evidence("static-key-flip", None, late);
    plan.isolation_only = true;
    assert_eq!(overall(&plan, &judge(&plan, &evidence).0), Violated);
}

/// IPIs that are allowed do the work, and leave nothing for the entry, whose flag then need not be judged
/// either.
#[test]
fn ipis_that_are_allowed_may_do_the_work_where_the_entry_was_followed() {
    let script = Script {
        ipis_per_operation: 1,
        counters: Counting::Absent,
        ..Script::default()
    };
    let (mut plan, evidence) = evidence("vunmap-storm", None, script);
    plan.scenario.expect.isolated = IsolatedIpis::AtMost(101);
    let mut checks = judge(&plan, &evidence).0;
    for check in &mut checks {
        if check.name == FLAG_ORDER {
            check.status = Skipped;
        }
    }
    let skipped = checks.iter().filter(|check| check.status == Skipped);
    let names: Vec<&str> = skipped.map(|check| check.name).collect();
    assert_eq!(names, [COMPLETED, DANGER_ZONE, FLAG_ORDER, COUNTERS]);
    assert_eq!(overall(&plan, &checks), Held, "{checks:?}");
}

#[test]
fn a_run_without_evidence_is_never_held() {
    let plan = plan("static-key-flip", None);
    for (status, expected) in [(Held, Error), (Error, Error), (Skipped, Skipped)] {
        assert_eq!(overall(&plan, &[Check::new(RUN, status, "")]), expected);
    }
}

/// One operation of many would send the witness its IPI, and leave what the first entry must show.
#[test]
fn a_guest_that_says_it_did_more_than_was_seen_is_no_proof() {
    for (scenario, pretended, words) in [
        (
            "static-key-flip",
            100,
            "101 operations by the guest's count, but 3 pokes were seen before the entry by SYSCALL, of \
             at least 303",
        ),
        (
            "vunmap-storm",
            1,
            "100 operations by the guest's count, but 99 flushes were seen before the entry by SYSCALL, \
             of at least 100",
        ),
    ] {
        let script = Script {
            pretended,
            ..Script::default()
        };
        let (plan, evidence) = evidence(scenario, None, script);
        let checks = judge(&plan, &evidence).0;
        let storm_ran = checks.iter().find(|check| check.name == STORM_RAN).unwrap();
        assert_eq!(*storm_ran, Check::new(STORM_RAN, Error, words));
        assert_eq!(overall(&plan, &checks), Error);
    }
}
