//! One fault at a time.

use super::*;

#[test]
fn each_fault_is_noticed_by_its_check_and_only_there() {
    let cases = [
        (
            Script {
                no_witness: true,
                ..Script::default()
            },
            vec![(STORM_RAN, Error)],
        ),
        (
            Script {
                heart_stops: true,
                ..Script::default()
            },
            vec![(USER_SPACE, Error)],
        ),
        (
            Script {
                timers: 1,
                ..Script::default()
            },
            vec![(USER_SPACE, Error)],
        ),
        (
            Script {
                in_kernel: true,
                ..Script::default()
            },
            vec![(USER_SPACE, Error)],
        ),
        (
            Script {
                stale: true,
                ..Script::default()
            },
            vec![(COMPLETED, Violated)],
        ),
        (
            Script {
                probe_errno: 5,
                ..Script::default()
            },
            vec![(COMPLETED, Error)],
        ),
        (
            Script {
                lazy: 2,
                ..Script::default()
            },
            vec![(STORM_RAN, Error), (COMPLETED, Error)],
        ),
        (
            Script {
                undeliverable: 1,
                ..Script::default()
            },
            vec![(NOTHING_LOST, Error)],
        ),
        (
            Script {
                hidden: 1,
                ..Script::default()
            },
            vec![(NO_WAY_ROUND, Error)],
        ),
        (
            Script {
                counters: Counting::Absent,
                ..Script::default()
            },
            vec![(COUNTERS, Skipped)],
        ),
        (
            Script {
                counters: Counting::Nonsense,
                ..Script::default()
            },
            vec![(COUNTERS, Error)],
        ),
        (
            Script {
                counters: Counting::NothingDeferred,
                ..Script::default()
            },
            vec![(COUNTERS, Error)],
        ),
        (
            Script {
                counters: Counting::NeverCaughtUp,
                ..Script::default()
            },
            vec![(COUNTERS, Violated)],
        ),
        (
            Script {
                counters: Counting::BeforeTasks,
                ..Script::default()
            },
            vec![(COUNTERS, Violated)],
        ),
        (
            Script {
                counters: Counting::Everywhere,
                ..Script::default()
            },
            vec![(COUNTERS, Violated)],
        ),
        (
            Script {
                ipis_per_operation: 3,
                ..Script::default()
            },
            vec![
                (ISOLATED_IPIS, Violated),
                (USER_SPACE, Violated),
                (COMPLETED, Skipped),
                (DANGER_ZONE, Skipped),
                (COUNTERS, Violated),
            ],
        ),
        (
            Script {
                ipis_in_kernel: 2,
                timers: 1,
                ..Script::default()
            },
            vec![
                (ISOLATED_IPIS, Error),
                (USER_SPACE, Error),
                (COMPLETED, Skipped),
                (DANGER_ZONE, Skipped),
            ],
        ),
        (
            Script {
                ipis_in_kernel: 2,
                ..Script::default()
            },
            vec![
                (ISOLATED_IPIS, Violated),
                (USER_SPACE, Violated),
                (COMPLETED, Skipped),
                (DANGER_ZONE, Skipped),
            ],
        ),
        (
            Script {
                path: Path::NoCatchUp,
                ..Script::default()
            },
            vec![
                (COMPLETED, Violated),
                (DANGER_ZONE, Violated),
                (FLAG_ORDER, Violated),
            ],
        ),
        (
            Script {
                path: Path::FlagLate,
                ..Script::default()
            },
            vec![(DANGER_ZONE, Violated), (FLAG_ORDER, Violated)],
        ),
        (
            Script {
                path: Path::FlagClearedEarly,
                ..Script::default()
            },
            vec![(FLAG_ORDER, Violated)],
        ),
        (
            Script {
                path: Path::StaticKey,
                ..Script::default()
            },
            vec![(DANGER_ZONE, Violated)],
        ),
        (
            Script {
                path: Path::BrokenOff,
                ..Script::default()
            },
            vec![(COMPLETED, Error), (FLAG_ORDER, Error)],
        ),
        (
            Script {
                path: Path::NotSeen,
                ..Script::default()
            },
            vec![
                (COMPLETED, Error),
                (DANGER_ZONE, Error),
                (FLAG_ORDER, Error),
            ],
        ),
        (
            Script {
                path: Path::Hole,
                ..Script::default()
            },
            vec![
                (COMPLETED, Error),
                (DANGER_ZONE, Error),
                (FLAG_ORDER, Error),
            ],
        ),
        (
            Script {
                path: Path::Other,
                ..Script::default()
            },
            vec![
                (COMPLETED, Error),
                (DANGER_ZONE, Error),
                (FLAG_ORDER, Error),
            ],
        ),
        (
            Script {
                path: Path::NoBreakpoint,
                ..Script::default()
            },
            vec![
                (COMPLETED, Error),
                (DANGER_ZONE, Error),
                (FLAG_ORDER, Error),
            ],
        ),
        (
            Script {
                debug: Debugging::NO_BREAKPOINTS,
                ..Script::default()
            },
            vec![
                (COMPLETED, Skipped),
                (DANGER_ZONE, Skipped),
                (FLAG_ORDER, Skipped),
            ],
        ),
        (
            Script {
                changes_unseen: true,
                ..Script::default()
            },
            vec![
                (COMPLETED, Error),
                (DANGER_ZONE, Error),
                (FLAG_ORDER, Error),
            ],
        ),
    ];
    for (script, expected) in cases {
        assert_eq!(statuses(script.clone()), expected, "{script:?}");
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
