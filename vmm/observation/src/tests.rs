use std::collections::BTreeMap;

use ipirig_fake::{Moment, Observing, Script, observation_plan};
use ipirig_rig::conductor::GuestFile;
use ipirig_rig::run::KernelFiles;

use super::*;

fn observe(request: &ObservationPlan, script: Script) -> Report {
    observe_and_keep(request, script).0
}

/// With the files that the guest has afterwards.
fn observe_and_keep(
    request: &ObservationPlan,
    script: Script,
) -> (Report, BTreeMap<String, Vec<u8>>) {
    let Observing {
        plan,
        outcome,
        ledger,
        files,
    } = ipirig_fake::observe(request, script);
    let kernel = KernelInfo::new(&KernelFiles::new("k", "i"), "");
    let report = Report::new(&plan, outcome, kernel, &ledger);
    (report, files)
}

/// Three IPIs to the isolated vCPU, and a tick.
fn busy() -> Script {
    Script {
        command_operations: 1,
        ipis_per_operation: 3,
        timers: 1,
        ..Script::default()
    }
}

#[test]
fn a_complete_observation_says_what_came_from_where_and_judges_nothing() {
    let report = observe(&observation_plan(), busy());
    assert_eq!(report.run.verdict, Verdict::Held);
    let observation = report.observation.unwrap();
    let [visited] = &observation.isolated[..] else {
        panic!("{:?}", observation.isolated)
    };
    assert_eq!((visited.id, visited.taken.user), (2, 4));
    assert_eq!(visited.ipis, BTreeMap::from([("call-function".into(), 3)]));
    assert_eq!(visited.other, BTreeMap::from([("local-timer".into(), 1)]));
    assert!(visited.turns > 0);
    let [origin] = &observation.origins[..] else {
        panic!("{:?}", observation.origins)
    };
    assert_eq!(
        (origin.source, &origin.targets, origin.taken.user),
        (0, &BTreeMap::from([(2, 3)]), 3)
    );
    assert_eq!(observation.unrest, None);
    assert_eq!(
        (observation.command.ending, &observation.command.output[..]),
        ("exited", "hello\n")
    );
}

#[test]
fn the_guest_gets_the_command_and_each_file_whole() {
    let file = |path: &str, len: usize| GuestFile {
        path: path.to_owned(),
        mode: 0o755,
        content: (0..len).map(|at| (at % 251) as u8).collect(),
    };
    let half = ipirig_abi::TEXT_LEN / 2;
    let request = ObservationPlan {
        files: vec![
            file("empty", 0),
            file("whole", half),
            file("bin/long", 2 * half + 1),
        ],
        ..observation_plan()
    };
    let (report, files) = observe_and_keep(&request, busy());
    assert_eq!(report.run.verdict, Verdict::Held);
    let mut expected: BTreeMap<_, _> = request
        .files
        .into_iter()
        .map(|file| (file.path, file.content))
        .collect();
    expected.insert("ipirig/observe".to_owned(), b"load\0fork\0".to_vec());
    assert_eq!(files, expected);
}

#[test]
fn a_guest_that_drops_a_part_of_a_file_is_noticed() {
    let script = Script {
        bytes_dropped: 1,
        ..busy()
    };
    let report = observe(&observation_plan(), script);
    assert_eq!(report.run.verdict, Verdict::Error);
    assert_eq!(
        report.run.checks[0].evidence,
        "the guest broke the mailbox protocol during: handing files over: ipirig/observe has 9 \
         bytes, not 10"
    );
}

#[test]
fn a_limit_makes_a_check_of_it() {
    let verdict = |most, script| {
        let request = ObservationPlan {
            max_ipis: Some(most),
            ..observation_plan()
        };
        let report = observe(&request, script);
        (report.run.verdict, report.run.checks[0].evidence.clone())
    };
    assert_eq!(
        verdict(2, busy()),
        (
            Verdict::Violated,
            "vCPU 2: 3 IPIs, at most 2 allowed".into()
        )
    );
    assert_eq!(verdict(3, busy()), (Verdict::Held, "vCPU 2: 3 IPIs".into()));
    assert_eq!(
        verdict(0, Script::default()),
        (Verdict::Held, "vCPU 2: 0 IPIs".into())
    );
}

#[test]
fn an_observation_that_lost_something_or_saw_nobody_run_is_an_error() {
    for script in [
        Script {
            undeliverable: 1,
            ..busy()
        },
        Script {
            hidden: 5,
            ..busy()
        },
        Script {
            heart_stops: true,
            ..busy()
        },
    ] {
        let report = observe(&observation_plan(), script.clone());
        assert_eq!(report.run.verdict, Verdict::Error, "{script:?}");
    }
    // A thousand events fit.
    let report = observe(
        &observation_plan(),
        Script {
            command_operations: 300,
            ..busy()
        },
    );
    assert_eq!(report.run.verdict, Verdict::Error);
    let lost = report
        .run
        .checks
        .iter()
        .find(|check| check.name == "nothing-lost");
    let words = &lost.unwrap().evidence;
    assert!(
        words.ends_with("did not fit into the ledger; a shorter --for will do"),
        "{words}"
    );
}

#[test]
fn a_kernel_that_ticks_all_the_time_is_observed_with_a_warning() {
    let report = observe(
        &observation_plan(),
        Script {
            never_quiet: true,
            ..busy()
        },
    );
    assert_eq!(report.run.verdict, Verdict::Held);
    let unrest = report.observation.unwrap().unrest.unwrap();
    assert!(unrest.starts_with("vCPU 2 got "), "{unrest}");
    assert!(unrest.ends_with(" local-timer interrupts"), "{unrest}");
}

#[test]
fn a_command_that_fails_is_told_and_one_that_cannot_start_is_an_error_with_its_words() {
    let ended = |results, any_exit_code| {
        let script = Script {
            command_results: Some(results),
            ..busy()
        };
        let request = ObservationPlan {
            any_exit_code,
            ..observation_plan()
        };
        let report = observe(&request, script);
        let checks = report.run.checks;
        let observed = checks.into_iter().find(|check| check.name == "observed");
        let evidence = observed.map(|check| check.evidence).unwrap_or_default();
        let words = evidence.split([';', ':']).next().unwrap_or_default();
        (report.run.verdict, words.to_owned())
    };
    let failures = [
        ([1, 7, 0, 0], "the command exited with 7"),
        ([2, 11, 0, 0], "the command was killed by signal 11"),
    ];
    for (results, words) in failures {
        assert_eq!(ended(results, false), (Verdict::Error, words.to_owned()));
        assert_eq!(ended(results, true), (Verdict::Held, words.to_owned()));
    }
    assert_eq!(
        ended([3, 9, 0, 0], false),
        (
            Verdict::Held,
            "the command ran until its time was up".to_owned()
        )
    );

    let report = observe(
        &observation_plan(),
        Script {
            fails_to_start: true,
            ..busy()
        },
    );
    assert_eq!(report.run.verdict, Verdict::Error);
    assert_eq!(
        report.run.checks[0].evidence,
        "the guest could not carry out Execute (errno 2): find nonesuch in the guest"
    );
    assert!(report.observation.is_none());
}

#[test]
fn ctrl_c_ends_the_command_and_what_was_observed_is_told() {
    let script = Script {
        interrupted_in: Some(Moment::Command(ipirig_abi::Command::Execute)),
        command_results: Some([4, 9, 6, 0]),
        ..busy()
    };
    let report = observe(&observation_plan(), script);
    assert_eq!(report.run.verdict, Verdict::Held);
    let observation = report.observation.unwrap();
    assert_eq!(
        (observation.command.ending, observation.origins.len()),
        ("stopped", 1)
    );
}

#[test]
fn loads_that_the_kernel_does_not_offer_are_skipped() {
    let script = || Script {
        command_results: Some([1, 77, 6, 0]),
        ..Script::default()
    };
    assert_eq!(
        observe(&observation_plan(), script()).run.verdict,
        Verdict::Skipped
    );
    // Any other program's exit code is its own.
    let request = ObservationPlan {
        command: vec!["prog".to_owned()],
        ..observation_plan()
    };
    assert_eq!(observe(&request, script()).run.verdict, Verdict::Error);
}

#[test]
fn a_guest_that_lies_about_the_command_or_its_output_is_not_believed() {
    let lie = |results| Script {
        command_results: Some(results),
        mute: true,
        ..busy()
    };
    let report = observe(&observation_plan(), lie([9, 0, 0, 0]));
    assert_eq!(report.run.verdict, Verdict::Error);
    assert_eq!(
        report.run.checks[0].evidence,
        "the guest broke the mailbox protocol during: observing: the command ended as 9"
    );
    // It claims more than it gives.
    let report = observe(&observation_plan(), lie([1, 0, u64::MAX, 0]));
    assert_eq!(report.observation.unwrap().command.output, "");
}

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_the_host_s_lack_and_named() {
    let script = Script {
        stops_in: Some(Moment::Boot),
        unknown_instruction: &[0x0f, 0xae, 0x27, 0x90],
        ..Script::default()
    };
    let report = observe(&observation_plan(), script);
    assert_eq!(report.run.verdict, Verdict::Skipped);
    assert_eq!(
        report.run.checks[0].evidence,
        "this host's KVM emulates the guest's kernel and cannot emulate `xsave (%rdi)` (0f ae 27), \
         which vCPU 1 came to during: boot; a host with VMX or SVM executes it"
    );
    assert!(report.run.report.is_some());
}

#[test]
fn an_observation_that_did_not_begin_says_what_it_would_have_run_and_why_it_did_not() {
    let why = std::io::Error::other("no KVM here");
    let report = not_begun(&observation_plan(), Verdict::Skipped, &why);
    let expected = ScenarioInfo {
        name: "observe".to_owned(),
        group: "observe".to_owned(),
        storm: "load fork".to_owned(),
        operations: 0,
        deferral: true,
        must_deliver: false,
    };
    assert_eq!(report.run.scenario, expected);
    let checks = [Check::new(RUN, Verdict::Skipped, "no KVM here")];
    assert_eq!(
        (report.run.verdict, report.run.checks),
        (Verdict::Skipped, checks.to_vec())
    );
    assert_eq!(report.observation, None);
}

#[test]
fn how_long_each_interrupt_kept_the_task_from_its_loop_is_told_by_what_it_was() {
    let report = observe(&observation_plan(), busy());
    let observation = report.observation.unwrap();
    let durations = observation.isolated[0].durations.clone().unwrap();
    let mut rows: Vec<_> = durations
        .causes
        .iter()
        .map(|one| {
            let near = one.longest_ns.abs_diff(ipirig_fake::GAP_NS);
            (one.cause.as_deref(), one.times, one.unmeasured, near <= 1)
        })
        .collect();
    rows.sort();
    // The fake kernel's calls are not followed.
    assert_eq!(
        rows,
        [
            (Some("call-function"), 3, 0, true),
            (Some("local-timer"), 1, 0, true)
        ]
    );
    assert_eq!(durations.lost, 0);
}

#[test]
fn gaps_that_were_lost_are_told_and_take_nothing_away_from_the_rest() {
    let script = Script {
        gaps_lost: true,
        ..busy()
    };
    let report = observe(&observation_plan(), script);
    let checks = report.run.checks;
    let check = checks.iter().find(|check| check.name == "durations");
    assert_eq!(check.unwrap().status, Verdict::Skipped);
    assert_eq!(report.run.verdict, Verdict::Held);
    let durations = report.observation.unwrap().isolated[0].durations.clone();
    assert!(durations.unwrap().lost > 0);
}

#[test]
fn advice_is_given_for_the_causes_that_reached_an_isolated_vcpu_and_for_no_other() {
    let sent = |cause: &str, cpu: usize| Attribution {
        cause: cause.to_owned(),
        by: None,
        deferrable: ipirig_evidence::blame::Deferrable::No,
        kind: "call-function".to_owned(),
        source: 0,
        number: Some(0),
        targets: BTreeMap::from([(cpu, 1)]),
        taken: Taken::default(),
        chain: vec![],
        broken: None,
    };
    let blame = [
        sent("fair server", 2),
        sent("fair server", 3),
        sent("load balancing", 1),
        sent("unknown", 2),
    ];
    let due = |cause: &str| DueReport {
        cause: cause.to_owned(),
        by: None,
        function: "f".to_owned(),
        work: None,
    };
    let timers = [TimerReport {
        cpu: 2,
        times: 1,
        taken: Taken::default(),
        due: vec![due("clocksource watchdog")],
    }];
    let given = advice(&blame, &timers, &[2, 3]);
    let causes: Vec<&str> = given.iter().map(|one| &*one.cause).collect();
    assert_eq!(causes, ["fair server", "clocksource watchdog"]);
    assert_eq!(
        given[0].source,
        "kernel/sched/debug.c, sched_fair_server_write(), since 6.12"
    );
}
