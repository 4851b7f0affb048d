//! A run to make reports of, for tests: two flips of a key, whose IPIs reach an isolated vCPU.

use std::collections::BTreeMap;

use ipirig_apic::CpuSet;
use ipirig_checks::check::{Check, Verdict};
use ipirig_evidence::Phase;
use ipirig_evidence::blame::{Attribution, Deferrable, Frame, Taken};
use ipirig_evidence::ledger::changes::{Sighted, Sighting};
use ipirig_evidence::ledger::{Delivery, Write};
use ipirig_evidence::timeline::{Entered, Span, Timeline};
use ipirig_evidence::vectors::Kind;
use ipirig_observation::{
    AdviceReport, Bucket, CommandReport, DueReport, Durations, Interruptions, NO_INTERRUPT,
    Observation, Report, TimerReport, Visited,
};
use ipirig_scenario::Scenario;
use ipirig_scenario::plan::{Options, Plan};
use ipirig_verdict::result::{KernelInfo, MachineInfo, RunResult, Timing, Vcpu, Window};

const CALL: Kind = Kind::Vector(0xfc);

pub(crate) fn span<T>(from_ns: u64, to_ns: u64, what: T) -> Span<T> {
    Span {
        from_ns,
        to_ns,
        what,
    }
}

fn window(targeted: &[(&str, u64)], sources: &[(usize, u64)], other: &[(&str, u64)]) -> Window {
    let named = |counts: &[(&str, u64)]| -> BTreeMap<String, u64> {
        let owned = counts.iter().map(|(name, n)| ((*name).to_owned(), *n));
        owned.collect()
    };
    Window {
        ipis_targeted: targeted.iter().map(|(_, n)| n).sum(),
        ipi_deliveries: targeted.iter().map(|(_, n)| n).sum(),
        ipi_writes: 0,
        coalesced: 0,
        by_vector: named(targeted),
        by_source: sources.iter().copied().collect(),
        other_interrupts: named(other),
    }
}

fn write(time_ns: u64, targets: u64) -> Write {
    Write {
        time_ns,
        source: 0,
        kind: CALL,
        targets: CpuSet::from_bits(targets),
        coalesced: CpuSet::EMPTY,
        undeliverable: false,
        rip: 0xffff_ffff_8100_1234,
        chain: Some(7),
    }
}

fn delivery(time_ns: u64, cpu: usize, kind: Kind, ipi: bool) -> Delivery {
    Delivery {
        time_ns,
        cpu,
        kind,
        ipi,
        user: cpu == 2,
        idle: false,
        due: None,
    }
}

/// The run's events. It began at 1 ms of the machine's clock; its window is from 5 to 9 ms.
pub(crate) fn timeline() -> Timeline {
    let ms = |ms: u64| ms * 1_000_000;
    Timeline {
        phases: vec![
            span(ms(1), ms(4), Phase::Boot),
            span(ms(4), ms(9), Phase::Storm),
            span(ms(9), ms(12), Phase::Release),
        ],
        windows: vec![span(ms(5), ms(9), "syscall")],
        storms: vec![span(ms(6), ms(8), 0)],
        entries: vec![span(
            ms(10),
            ms(11),
            Entered {
                cpu: 2,
                kind: "syscall",
            },
        )],
        writes: vec![write(6_500_000, 0b110), write(7_500_000, 0b110)],
        deliveries: vec![
            delivery(6_500_400, 1, CALL, true),
            delivery(6_500_700, 2, CALL, true),
            delivery(6_600_000, 1, Kind::Vector(0xec), false),
            delivery(7_500_900, 2, CALL, true),
        ],
        changes: vec![Sighting {
            time_ns: 6_499_800,
            cpu: 0,
            what: Sighted::Poke,
            start: 0x1000,
            end: 0x1005,
        }],
        left_out: 0,
    }
}

pub(crate) fn blame() -> Attribution {
    let frame = |address, function: &str| Frame {
        address,
        function: Some(function.to_owned()),
        offset: 0x12,
        inlined: Vec::new(),
    };
    Attribution {
        cause: "static key".into(),
        by: None,
        deferrable: Deferrable::Yes,
        kind: CALL.to_string(),
        source: 0,
        number: Some(7),
        targets: BTreeMap::from([(1, 2), (2, 2)]),
        taken: Taken {
            user: 2,
            kernel: 0,
            idle: 1,
        },
        chain: vec![
            frame(0x1000, "smp_call_function_many_cond"),
            Frame {
                inlined: vec!["text_poke_sync".into()],
                ..frame(0x2000, "text_poke_bp_batch")
            },
            Frame {
                function: None,
                ..frame(0xffff_ffff_c000_0010, "")
            },
        ],
        broken: Some("no unwind data for the module".into()),
    }
}

/// A plan of the built-in scenario `static-key-flip`.
pub(crate) fn plan() -> Plan {
    let scenario = Scenario::find("static-key-flip").expect("a built-in scenario");
    let options = Options {
        no_deferral: true,
        ..Options::default()
    };
    Plan::new(scenario, options).expect("options that fit")
}

/// A violated run.
pub(crate) fn violated() -> RunResult {
    let check = |name, status, evidence: &str| Check {
        name,
        status,
        evidence: evidence.to_owned(),
    };
    let mut run = RunResult::new(
        &plan(),
        vec![
            check(
                "isolated-ipis",
                Verdict::Violated,
                "vCPU 2: 2 IPIs (call-function 2) from vCPU 0, 1.00 per operation",
            ),
            check(
                "nothing-lost",
                Verdict::Held,
                "all 6 events of the window recorded",
            ),
            check(
                "kernel-counters",
                Verdict::Skipped,
                "the kernel has no counters",
            ),
        ],
    );
    let vcpu = |id, role, window, deferred| Vcpu {
        id,
        role,
        window,
        deferred,
        caught_up: deferred,
    };
    let writes = Window {
        ipi_writes: 2,
        ..Window::default()
    };
    let name = "call-function";
    run.vcpus = vec![
        vcpu(0, "control", writes, None),
        vcpu(
            1,
            "housekeeping",
            window(&[(name, 2)], &[(0, 2)], &[("local-timer", 1)]),
            Some(0),
        ),
        vcpu(2, "isolated", window(&[(name, 2)], &[(0, 2)], &[]), Some(7)),
    ];
    run.blame = vec![blame()];
    run.timeline = timeline();
    run.timing = Timing {
        boot_s: Some(0.003),
        restored_s: None,
        window_s: Some(0.004),
        total_s: 0.011,
    };
    run.kernel = Some(KernelInfo {
        release: Some("6.12.1-specimen".into()),
        package: Some("6.12.1-1".into()),
        series: Some("1a2b".into()),
        path: "/boot/vmlinux".into(),
        initramfs: "/boot/initramfs".into(),
        cmdline: "nohz_full=2 ipi_deferral=off".into(),
        module: Some(true),
        paging: None,
        setup: None,
    });
    run.machine = Some(MachineInfo {
        apic: "x2apic".into(),
        cores: vec![0, 0, 1],
        memory_mib: 128,
        warnings: vec!["vCPUs 0 and 1 share a core".into()],
    });
    run
}

/// An observation: the IPIs of [`violated`], two timer interrupts, and the host's noise.
pub(crate) fn observed() -> Report {
    let mut run = violated();
    run.timeline.windows[0].what = "";
    run.timeline.entries.clear();
    run.scenario.name = "observe".into();
    run.scenario.storm = "load fork".into();
    run.verdict = Verdict::Held;
    run.checks = vec![Check {
        name: "nothing-lost",
        status: Verdict::Held,
        evidence: "all 6 events of the window recorded".into(),
    }];
    let mut to_others = blame();
    to_others.cause = "vunmap".into();
    to_others.targets = BTreeMap::from([(1, 5)]);
    let mut queued = blame();
    queued.cause = "queued work".into();
    queued.by = Some("smp_call_on_cpu".into());
    queued.deferrable = Deferrable::No;
    queued.targets = BTreeMap::from([(1, 1), (2, 1)]);
    run.blame.extend([to_others, queued]);
    let interruptions = |cause: Option<&str>, times, total_ns, histogram| Interruptions {
        cause: cause.map(str::to_owned),
        note: cause.is_none().then_some(NO_INTERRUPT),
        times,
        total_ns,
        median_ns: 1500,
        longest_ns: 9000,
        histogram,
        unmeasured: 0,
    };
    let bucket = |up_to_ns, times| Bucket { up_to_ns, times };
    let due = DueReport {
        cause: "timer".into(),
        by: Some("mce_timer_fn".into()),
        function: "mce_timer_fn".into(),
        work: None,
    };
    let taken = Taken {
        user: 2,
        ..Taken::default()
    };
    let advice = |cause: &str| AdviceReport {
        cause: cause.into(),
        what: format!("stop the {cause}"),
        source: "kernel/x.c".into(),
    };
    Report {
        observation: Some(Observation {
            command: CommandReport {
                words: vec!["load".into(), "fork".into()],
                ending: "exited",
                code: 0,
                printed: 8,
                output: "hello\n".into(),
            },
            unrest: Some("a tick came".into()),
            isolated: vec![Visited {
                id: 2,
                ipis: BTreeMap::from([("call-function".into(), 3)]),
                other: BTreeMap::from([("local-timer".into(), 2)]),
                taken: Taken {
                    user: 4,
                    kernel: 1,
                    idle: 0,
                },
                longest_alone_s: 0.25,
                turns: 100,
                durations: Some(Durations {
                    measured_ns: 4_000_000,
                    threshold_ns: 1000,
                    causes: vec![
                        interruptions(
                            Some("static key"),
                            4,
                            13_000,
                            vec![bucket(999, 1), bucket(1999, 2), bucket(15_999, 1)],
                        ),
                        interruptions(None, 1, 2000, vec![bucket(3999, 1)]),
                    ],
                    lost: 0,
                }),
            }],
            origins: vec![],
            timers: vec![TimerReport {
                cpu: 2,
                times: 2,
                taken,
                due: vec![due],
            }],
            advice: vec![advice("static key"), advice("timer")],
        }),
        run,
    }
}
