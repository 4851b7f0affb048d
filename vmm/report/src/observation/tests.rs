//! An observation of a guest that follows a script.

use ipirig_evidence::blame::{Attribution, Deferrable, Frame};
use ipirig_fake::{Observing, Script, observation_plan};
use ipirig_observation::{DueReport, TimerReport};
use ipirig_rig::run::KernelFiles;
use ipirig_verdict::result::{KernelInfo, MachineInfo};

use super::*;

/// Three IPIs to the isolated vCPU, and a tick.
fn observed() -> Report {
    let script = Script {
        command_operations: 1,
        ipis_per_operation: 3,
        timers: 1,
        ..Script::default()
    };
    let Observing {
        plan,
        outcome,
        ledger,
        ..
    } = ipirig_fake::observe(&observation_plan(), script);
    let files = KernelFiles::new("k", "i");
    let kernel = KernelInfo::new(&files, "");
    let mut report = Report::new(&plan, outcome, kernel, &ledger);
    report.run.machine = Some(MachineInfo {
        apic: "x2apic".into(),
        cores: vec![0, 1, 1],
        memory_mib: 256,
        warnings: vec![],
    });
    report.run.timing.boot_s = Some(0.3);
    report
}

#[test]
fn a_report_reads_at_a_glance() {
    let mut report = observed();
    for visited in &mut report.observation.as_mut().unwrap().isolated {
        (visited.longest_alone_s, visited.turns) = (0.25, 100);
        // The looks at clocks take their own time.
        visited.durations = None;
    }
    let turns = report.run.checks[0].evidence.clone();
    let text = render(&report, Paint::PLAIN).replace(&turns, "TURNS");
    let (text, _) = text.split_once(" [boot").unwrap();
    assert_eq!(
        text,
        "\
observe: load fork
Linux 6.12.1-fake (k), x2apic

vCPU  IPIs             other interrupts  taken in  longest time alone
   2  3 call-function  1 local-timer     user 4    0.250 s

sends  kind           from            at                 taken in
    3  call-function  vCPU 0 control  _stext+0x0/0x1000  user 3

the command printed
  | hello

held      observed      TURNS
held      nothing-lost  all 9 events of the window recorded
held      no-way-round  CAL: the kernel counts 4, the rig 4
held      durations     vCPU 2: 4 gaps in its loop; the task itself counts 4, and its sum is 0.0 % off

complete: nothing was lost; nothing was judged"
    );
}

#[test]
fn what_is_known_of_causes_takes_the_place_of_addresses() {
    let frame = |function: &str| Frame {
        address: 0x10,
        function: Some(function.to_owned()),
        offset: 4,
        inlined: vec![],
    };
    let blame = |cause: &str, targets: &[(usize, u64)]| Attribution {
        cause: cause.to_owned(),
        by: None,
        deferrable: Deferrable::Yes,
        kind: "call-function".to_owned(),
        source: 0,
        number: None,
        targets: targets.iter().copied().collect(),
        taken: Taken {
            user: 3,
            kernel: 1,
            idle: 0,
        },
        chain: vec![
            frame("smp_call_function_many_cond"),
            frame("text_poke_sync"),
        ],
        broken: None,
    };
    let mut report = observed();
    report.run.blame = vec![
        blame("housekeeping only", &[(1, 50)]),
        blame("static key", &[(1, 3), (2, 3)]),
    ];
    let text = render(&report, Paint::PLAIN);
    let table = "\
observe: 3 IPIs to isolated vCPUs, by cause

      3  static key, deferrable
      3    call-function from vCPU 0: text_poke_sync
";
    assert!(text.contains(table), "{text}");
    assert!(!text.contains("housekeeping only"));
}

#[test]
fn timer_interrupts_are_told_by_what_was_due_most_first() {
    let mut report = observed();
    let due = |cause: &str, by: Option<&str>| DueReport {
        cause: cause.to_owned(),
        by: by.map(str::to_owned),
        function: "f".to_owned(),
        work: None,
    };
    let timers = |times, due: &[DueReport]| TimerReport {
        cpu: 2,
        times,
        taken: Taken::default(),
        due: due.to_vec(),
    };
    let both = [due("vmstat", None), due("timer", Some("mce_fn"))];
    let observation = report.observation.as_mut().unwrap();
    // The second and the fourth differ in what is not shown.
    observation.timers = vec![
        timers(3, &[due("tick", None)]),
        timers(2, &both),
        timers(1, &[]),
        timers(2, &both),
    ];
    let text = render(&report, Paint::PLAIN);
    let table = "
timer interrupts of isolated vCPUs, by what was due
      4  vCPU 2: timer by mce_fn + vmstat
      3  vCPU 2: tick
      1  vCPU 2: timer that was gone
";
    assert!(text.contains(table), "{text}");
    report.observation.as_mut().unwrap().timers.clear();
    assert!(!render(&report, Paint::PLAIN).contains("by what was due"));
}

#[test]
fn what_can_be_done_stands_below_the_causes_with_its_source() {
    let mut report = observed();
    let observation = report.observation.as_mut().unwrap();
    observation.advice = vec![AdviceReport {
        cause: "fair server".to_owned(),
        what: "write 0 somewhere".to_owned(),
        source: "kernel/x.c".to_owned(),
    }];
    let text = render(&report, Paint::PLAIN);
    let told = "\nwhat can be done about it, with this kernel\n  fair server: write 0 somewhere (kernel/x.c)\n";
    assert!(text.contains(told), "{text}");
    report.observation.as_mut().unwrap().advice.clear();
    assert!(!render(&report, Paint::PLAIN).contains("what can be done"));
}
