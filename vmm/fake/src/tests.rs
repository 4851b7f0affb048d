mod identify;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipirig_abi::{Command, Order};
use ipirig_entry::{Began, Paging};
use ipirig_evidence::ledger::{DETAILS, Ledger};
use ipirig_evidence::{EntryReport, Evidence, NoRecord, Phase, StormReport};
use ipirig_scenario::EntryKind;

use ipirig_rig::conductor::{self, Ended, Start};

use crate::kernel::{self, Path};
use crate::{Debugging, Fake, Moment, Script, plan};

fn conduct(script: Script) -> Result<Evidence, Ended> {
    let plan = plan("static-key-flip", None);
    let ledger = Ledger::new(plan.roles.len(), DETAILS);
    conductor::conduct(
        &mut Fake::new(&plan, &ledger, script),
        &plan,
        Start::Boot,
        Box::new(kernel::layout),
        &ledger,
        &|_| {},
    )
}

fn ending(script: Script) -> String {
    conduct(script).unwrap_err().to_string()
}

#[test]
fn a_healthy_guest_is_taken_through_every_phase_in_order() {
    let plan = plan("static-key-flip", None);
    let ledger = Ledger::new(plan.roles.len(), DETAILS);
    let phases = RefCell::new(Vec::new());
    let mut guest = Fake::new(&plan, &ledger, Script::default());
    let evidence = conductor::conduct(
        &mut guest,
        &plan,
        Start::Boot,
        Box::new(kernel::layout),
        &ledger,
        &|phase| {
            phases.borrow_mut().push(phase);
        },
    )
    .unwrap();
    assert_eq!(
        phases.into_inner(),
        [
            Phase::Boot,
            Phase::Identify,
            Phase::Prepare,
            Phase::Before,
            Phase::Baseline,
            Phase::Quiet,
            Phase::Storm,
            Phase::Release,
            Phase::After
        ]
    );
    let entry = |branch| EntryReport {
        order: Order::Probe,
        branch,
        alias: 0x1111,
        errno: 0,
    };
    assert_eq!(evidence.version, "Linux 6.12.1-fake #1 SMP x86_64");
    let [window] = &evidence.windows[..] else {
        panic!("{} windows", evidence.windows.len());
    };
    assert_eq!(
        window.storm,
        [StormReport {
            done: 101,
            value: 1
        }]
    );
    assert_eq!(window.baseline, BTreeMap::from([(2, entry(0))]));
    assert_eq!(window.released, BTreeMap::from([(2, entry(1))]));
    let (open, close) = window.marks[&2];
    assert_eq!((open.cpl, close.cpl), (3, 3));
    assert!(close.heartbeat > open.heartbeat);
    let record = kernel::record(2, Began::Syscall, Path::Right, 0, Paging::default()).unwrap();
    assert_eq!(window.records, BTreeMap::from([(2, Ok(record))]));
    assert_eq!((window.changed.pokes, window.changed.flushes), (303, 0));
    assert_eq!(window.ipis, BTreeMap::from([(2, 0)]));
    assert_eq!(evidence.ledger.cpus[1].window.ipis_targeted(), 101);
    assert_eq!(evidence.ledger.cpus[2].window.ipis_targeted(), 0);
}

#[test]
fn a_window_stays_open_until_a_task_that_had_to_wait_for_the_host_has_run() {
    let evidence = conduct(Script {
        heart_rests: 9,
        ..Script::default()
    })
    .unwrap();
    let (open, close) = evidence.windows[0].marks[&2];
    assert!(close.heartbeat > open.heartbeat);
}

#[test]
fn without_a_module_a_storm_that_needs_it_does_not_begin() {
    let text = ending(Script {
        no_module: true,
        ..Script::default()
    });
    assert!(
        text.starts_with("static-key-flip needs the module ipirig.ko"),
        "{text}"
    );
}

#[test]
fn silence_ends_at_the_deadline_of_its_phase() {
    for (script, phase) in [
        (
            Script {
                silent: true,
                ..Script::default()
            },
            "boot",
        ),
        (
            Script {
                deaf: true,
                ..Script::default()
            },
            "asking the kernel what it is",
        ),
    ] {
        let ended = conduct(script).unwrap_err();
        let expected = format!(
            "no progress for 0 s during: {phase} (a slow host may need a longer --timeout)"
        );
        assert_eq!(ended.to_string(), expected);
        let report = ended.report().unwrap();
        assert_eq!(
            report,
            format!("report: no progress: {phase} did not end in 0 s")
        );
    }
}

#[test]
fn a_guest_that_stops_is_reported_with_the_phase() {
    for (moment, phase) in [
        (Moment::Boot, "boot"),
        (
            Moment::Command(Command::ReadVersion),
            "reading counters before the window",
        ),
        (Moment::Order, "baseline entry"),
        (Moment::Command(Command::Storm), "storm"),
    ] {
        let ended = conduct(Script {
            stops_in: Some(moment),
            ..Script::default()
        })
        .unwrap_err();
        assert_eq!(
            ended.to_string(),
            format!("the guest stopped during: {phase}")
        );
        assert_eq!(ended.report(), Some("report: triple fault on vCPU 1"));
    }
}

#[test]
fn a_guest_that_has_stopped_when_something_is_asked_of_it_is_reported_with_its_end() {
    let ended = conduct(Script {
        stops_between: true,
        ..Script::default()
    })
    .unwrap_err();
    assert!(matches!(ended, Ended::Stopped { .. }), "{ended}");
    assert_eq!(ended.report(), Some("report: triple fault on vCPU 1"));
}

#[test]
fn a_signal_ends_any_phase() {
    for (moment, phase) in [
        (Moment::Boot, "boot"),
        (Moment::Order, "baseline entry"),
        (Moment::Command(Command::Storm), "storm"),
    ] {
        let text = ending(Script {
            interrupted_in: Some(moment),
            ..Script::default()
        });
        assert_eq!(text, format!("interrupted during: {phase}"));
    }
}

#[test]
fn an_agent_that_fails_is_quoted_on_one_line_without_control_characters() {
    let fails = Some((Moment::Boot, "mount\n/proc:\x1b[2J ENODEV"));
    assert_eq!(
        ending(Script {
            fails,
            ..Script::default()
        }),
        "the guest's agent failed during: boot: mount /proc:[2J ENODEV"
    );
}

#[test]
fn a_command_that_fails_is_named_with_its_errno() {
    assert_eq!(
        ending(Script {
            storm_errno: 12,
            ..Script::default()
        }),
        "the guest could not carry out Storm (errno 12): ioctl:[31m no memory"
    );
}

#[test]
fn a_guest_never_quiet_is_an_end_that_names_the_disturber() {
    let text = ending(Script {
        never_quiet: true,
        ..Script::default()
    });
    assert!(
        text.starts_with("no quiet moment of 5 ms within 0 s: vCPU 2 got "),
        "{text}"
    );
    assert!(text.ends_with(" local-timer interrupts"), "{text}");
}

#[test]
fn a_command_status_that_is_no_code_is_a_broken_protocol() {
    assert_eq!(
        ending(Script {
            status: Some(77),
            ..Script::default()
        }),
        "the guest broke the mailbox protocol during: asking the kernel what it is: ReadKernelText ended as 77"
    );
    assert!(
        ending(Script {
            status: Some(3),
            ..Script::default()
        })
        .contains("does not know")
    );
    assert!(
        ending(Script {
            status: Some(2),
            ..Script::default()
        })
        .contains("needs ipirig.ko")
    );
}

#[test]
fn each_way_into_the_kernel_has_a_window_and_is_recorded() {
    let plan = plan("entry-matrix", None);
    let ledger = Ledger::new(plan.roles.len(), DETAILS);
    let script = Script {
        unproducible: vec![EntryKind::Debug, EntryKind::Timer],
        ..Script::default()
    };
    let mut guest = Fake::new(&plan, &ledger, script);
    let layout = Box::new(kernel::layout);
    let evidence =
        conductor::conduct(&mut guest, &plan, Start::Boot, layout, &ledger, &|_| {}).unwrap();
    let seen: Vec<_> = evidence
        .windows
        .iter()
        .map(|window| {
            let record = window.records[&2].as_ref().map(|record| record.cpu);
            (
                window.entry,
                window.baseline.len(),
                record.map_err(Clone::clone),
            )
        })
        .collect();
    let expected = EntryKind::ALL.map(|kind| {
        let record = match kind {
            EntryKind::Debug | EntryKind::Timer => Err(NoRecord::NotProduced),
            _ => Ok(2),
        };
        (kind, usize::from(kind == EntryKind::Syscall), record)
    });
    assert_eq!(seen, expected);
}

#[test]
fn a_kernel_that_lacks_what_a_storm_needs_is_skipped_in_its_words() {
    for (command, phase) in [
        (Command::Prepare, Phase::Prepare),
        (Command::Storm, Phase::Storm),
    ] {
        let plan = plan("noinstr-key-flip", None);
        let ledger = Ledger::new(plan.roles.len(), DETAILS);
        let script = Script {
            lacks: Some((command, "no CONFIG_KPROBES")),
            ..Script::default()
        };
        let mut guest = Fake::new(&plan, &ledger, script);
        let layout = Box::new(kernel::layout);
        let phases = RefCell::new(Vec::new());
        let announce = |phase| phases.borrow_mut().push(phase);
        let ended = conductor::conduct(&mut guest, &plan, Start::Boot, layout, &ledger, &announce)
            .unwrap_err();
        assert!(
            matches!(&ended, Ended::Lacking { what } if what == "no CONFIG_KPROBES"),
            "{ended:?}"
        );
        assert_eq!(phases.borrow().last(), Some(&phase));
    }
}

/// How long a run by `script` takes.
fn duration(script: Script) -> Duration {
    let started = Instant::now();
    conduct(script).unwrap();
    started.elapsed()
}

#[test]
fn a_timer_that_would_go_off_in_the_window_is_waited_for_but_not_for_ever() {
    let waited = |armed_timers| {
        duration(Script {
            armed_timers,
            ..Script::default()
        })
    };
    // Four looks, each after a quiet time of 5 ms; and one that stays armed, for 100 ms.
    assert!(waited(4) >= Duration::from_millis(4 * 5 / 2));
    assert!(waited(9000) >= Duration::from_millis(100));
}

#[test]
fn what_the_kernel_refused_to_switch_off_is_given_time_to_come_before_the_window() {
    let refused = duration(Script {
        setup: "nohz_full\t2\nisolated\t2\nrefused\t/sys/runtime\t0\ta server kicks\tEBUSY\n",
        ..Script::default()
    });
    assert!(refused >= Duration::from_millis(50 + 5));
}

#[test]
fn a_dead_task_ends_the_run_at_once_under_its_name() {
    let script = Script {
        task_dies: true,
        ..Script::default()
    };
    assert_eq!(
        ending(script),
        "the task on isolated vCPU 2 failed during: baseline entry: the isolated task of CPU 2 was \
         killed by SIGSEGV"
    );
}

#[test]
fn a_host_without_breakpoints_gives_windows_without_records_and_a_reason() {
    let evidence = conduct(Script {
        debug: Debugging::NO_BREAKPOINTS,
        ..Script::default()
    })
    .unwrap();
    let why = evidence.layout.as_ref().unwrap_err();
    assert_eq!(
        why,
        "this host's KVM gives guests no working breakpoints in CPL 0 or on entry to it"
    );
    let records = &evidence.windows[0].records;
    assert_eq!(*records, BTreeMap::from([(2, Err(NoRecord::CannotStep))]));
}

#[test]
fn an_entry_that_nobody_saw_is_not_taken_for_one() {
    let evidence = conduct(Script {
        path: Path::NotSeen,
        ..Script::default()
    })
    .unwrap();
    let records = &evidence.windows[0].records;
    assert_eq!(*records, BTreeMap::from([(2, Err(NoRecord::NotSeen))]));
}

#[test]
fn a_record_that_grows_is_waited_for_however_long_it_takes() {
    let mut plan = plan("static-key-flip", None);
    plan.scenario.entries = vec![EntryKind::Nmi];
    // Less than the record takes.
    plan.timeouts.phase = std::time::Duration::from_secs(1);
    let script = Script {
        slow_record: 15,
        ..Script::default()
    };
    let ledger = Ledger::new(plan.roles.len(), DETAILS);
    let evidence = conductor::conduct(
        &mut Fake::new(&plan, &ledger, script),
        &plan,
        Start::Boot,
        Box::new(kernel::layout),
        &ledger,
        &|_| {},
    )
    .unwrap();
    let record = evidence.windows[0].records[&2].as_ref();
    assert_eq!(
        record.map(|record| record.began),
        Ok(EntryKind::Nmi.began())
    );
}

/// The phases of a run that starts like this, up to the first command.
fn first_phases(start: Start<'_>) -> Vec<Phase> {
    let plan = plan("static-key-flip", None);
    let ledger = Ledger::new(plan.roles.len(), DETAILS);
    let mut guest = Fake::new(&plan, &ledger, Script::default());
    let seen = std::cell::RefCell::new(Vec::new());
    let announce = |phase| seen.borrow_mut().push(phase);
    let layout = Box::new(kernel::layout);
    conductor::conduct(&mut guest, &plan, start, layout, &ledger, &announce).unwrap();
    let phases = seen.into_inner();
    phases
        .into_iter()
        .take_while(|phase| *phase != Phase::Identify)
        .collect()
}

#[test]
fn a_guest_is_written_down_once_it_is_ready_and_before_anything_is_asked_of_it() {
    let mut written = tempfile::tempfile().unwrap();
    let save = |guest: &dyn conductor::Guest| guest.save("key", &mut written).unwrap();
    assert_eq!(
        first_phases(Start::BootAndSave(Box::new(save))),
        [Phase::Boot, Phase::Save]
    );
    assert_eq!(written.metadata().unwrap().len(), 3);
    assert_eq!(first_phases(Start::Boot), [Phase::Boot]);
    assert_eq!(first_phases(Start::Restored), [Phase::Restore]);
}

#[test]
fn storms_of_tracing_are_told_where_the_traced_function_is() {
    for (scenario, target) in [
        ("ftrace-toggle", 3),
        ("kprobe-toggle", 4 + 5),
        ("tracepoint-toggle", 0),
    ] {
        let plan = plan(scenario, None);
        let ledger = Ledger::new(plan.roles.len(), DETAILS);
        let mut guest = Fake::new(&plan, &ledger, Script::default());
        let layout = Box::new(kernel::layout);
        conductor::conduct(&mut guest, &plan, Start::Boot, layout, &ledger, &|_| {}).unwrap();
        assert_eq!(guest.targets, [target], "{scenario}");
    }
}
