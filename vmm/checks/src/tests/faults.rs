//! One fault at a time.

use super::*;

#[test]
fn each_fault_is_noticed_by_its_check_and_only_there() {
    type Fault = (fn(&mut Script), &'static [(&'static str, Verdict)]);
    const NO_TRACE: &[(&str, Verdict)] = &[
        (COMPLETED, Error),
        (DANGER_ZONE, Error),
        (FLAG_ORDER, Error),
    ];
    let cases: &[Fault] = &[
        (|it| it.no_witness = true, &[(STORM_RAN, Error)]),
        (|it| it.heart_stops = true, &[(USER_SPACE, Error)]),
        (|it| it.timers = 1, &[(USER_SPACE, Error)]),
        (|it| it.in_kernel = true, &[(USER_SPACE, Error)]),
        (|it| it.stale = true, &[(COMPLETED, Violated)]),
        (|it| it.probe_errno = 5, &[(COMPLETED, Error)]),
        (|it| it.lazy = 2, &[(STORM_RAN, Error), (COMPLETED, Error)]),
        (|it| it.undeliverable = 1, &[(NOTHING_LOST, Error)]),
        (|it| it.hidden = 1, &[(NO_WAY_ROUND, Error)]),
        (|it| it.counters = Counting::Absent, &[(COUNTERS, Skipped)]),
        (|it| it.counters = Counting::Nonsense, &[(COUNTERS, Error)]),
        (
            |it| it.counters = Counting::NothingDeferred,
            &[(COUNTERS, Error)],
        ),
        (
            |it| it.counters = Counting::NeverCaughtUp,
            &[(COUNTERS, Violated)],
        ),
        (
            |it| it.counters = Counting::BeforeTasks,
            &[(COUNTERS, Violated)],
        ),
        (
            |it| it.counters = Counting::Everywhere,
            &[(COUNTERS, Violated)],
        ),
        (
            |it| it.ipis_per_operation = 3,
            &[
                (ISOLATED_IPIS, Violated),
                (USER_SPACE, Violated),
                (COMPLETED, Skipped),
                (DANGER_ZONE, Skipped),
                (COUNTERS, Violated),
            ],
        ),
        (
            |it| (it.ipis_in_kernel, it.timers) = (2, 1),
            &[
                (ISOLATED_IPIS, Error),
                (USER_SPACE, Error),
                (COMPLETED, Skipped),
                (DANGER_ZONE, Skipped),
            ],
        ),
        (
            |it| it.ipis_in_kernel = 2,
            &[
                (ISOLATED_IPIS, Violated),
                (USER_SPACE, Violated),
                (COMPLETED, Skipped),
                (DANGER_ZONE, Skipped),
            ],
        ),
        (
            |it| it.path = Path::NoCatchUp,
            &[
                (COMPLETED, Violated),
                (DANGER_ZONE, Violated),
                (FLAG_ORDER, Violated),
            ],
        ),
        (
            |it| it.path = Path::FlagLate,
            &[(DANGER_ZONE, Violated), (FLAG_ORDER, Violated)],
        ),
        (
            |it| it.path = Path::FlagClearedEarly,
            &[(FLAG_ORDER, Violated)],
        ),
        (|it| it.path = Path::StaticKey, &[(DANGER_ZONE, Violated)]),
        (
            |it| it.path = Path::BrokenOff,
            &[(COMPLETED, Error), (FLAG_ORDER, Error)],
        ),
        (|it| it.path = Path::NotSeen, NO_TRACE),
        (|it| it.path = Path::Hole, NO_TRACE),
        (|it| it.path = Path::Other, NO_TRACE),
        (|it| it.path = Path::NoBreakpoint, NO_TRACE),
        (
            |it| it.debug = Debugging::NO_BREAKPOINTS,
            &[
                (COMPLETED, Skipped),
                (DANGER_ZONE, Skipped),
                (FLAG_ORDER, Skipped),
            ],
        ),
        (|it| it.changes_unseen = true, NO_TRACE),
    ];
    for (fault, expected) in cases {
        let mut script = Script::default();
        fault(&mut script);
        assert_eq!(&statuses(script.clone()), expected, "{script:?}");
    }
}

#[test]
fn a_trace_that_is_not_whole_says_why() {
    for (path, why) in [
        (Path::Hole, "instructions are missing after 4, from"),
        (
            Path::Other,
            "the CPU came into the kernel by interrupt 0xf6",
        ),
        (
            Path::NoBreakpoint,
            "no debug register was left for the handler",
        ),
    ] {
        let script = Script {
            path,
            ..Script::default()
        };
        let said = check(FLAG_ORDER, "static-key-flip", script).evidence;
        assert!(said.contains(why), "{said}");
    }
}
