use ipirig_apic::CpuSet;
use ipirig_evidence::Tracing;
use ipirig_fake::{Script, traced};

use super::super::cross_check::cross_check;
use super::*;

fn checked(script: Script) -> (Verdict, String) {
    let (plan, evidence) = traced(script);
    let check = cross_check(&plan, &evidence).unwrap();
    assert_eq!(check.name, CROSS_CHECK);
    let (checks, _) = judge(&plan, &evidence);
    assert!(checks.contains(&check));
    (check.status, check.evidence)
}

/// A kernel that does not defer: three IPIs an operation to the isolated vCPU.
fn off() -> Script {
    sends()
}

fn doctored(doctor: fn(&mut Vec<String>)) -> Script {
    Script {
        doctored: Some(doctor),
        ..off()
    }
}

/// The place of the `n`th line that is such an event.
fn nth(lines: &[String], n: usize, event: &str) -> usize {
    let mut places = lines.iter().enumerate();
    let found = places
        .by_ref()
        .filter(|(_, line)| line.contains(event))
        .nth(n);
    found.unwrap().0
}

#[test]
fn records_that_agree_are_held_with_deferral_on_and_off() {
    let on = "vCPU 1: 101 IPIs in both records, vCPU 2: 0 IPIs in both records; 0 differences, all \
              explained";
    assert_eq!(checked(Script::default()), (Held, on.to_owned()));
    let with_off = "vCPU 1: 101 IPIs in both records, vCPU 2: 303 IPIs in both records; 0 \
                    differences, all explained";
    assert_eq!(checked(off()), (Held, with_off.to_owned()));
}

#[test]
fn an_ipi_that_the_guest_does_not_have_is_an_error_that_says_when() {
    let (status, words) = checked(doctored(|lines| {
        let at = nth(lines, 201, "ipi_send_cpumask");
        lines.remove(at);
    }));
    assert_eq!(status, Error);
    let words = words.strip_prefix("2 unexplained, first ").unwrap();
    let (before, after) = words.split_once(" us into the window: ").unwrap();
    let (what, _) = before.rsplit_once(' ').unwrap();
    assert_eq!(
        what,
        "CPU 0 to CPU 2: only the rig has call-function (unexplained)"
    );
    assert!(
        after.starts_with("an ICR write that no event announced; CPU 0 to CPU 2: no IPI for work"),
        "{after}"
    );
}

#[test]
fn an_ipi_that_only_the_guest_has_is_an_error() {
    let (status, words) = checked(doctored(|lines| {
        let at = nth(lines, 201, "ipi_send_cpumask");
        let (head, event) = lines[at].split_once(": ").unwrap();
        let (head, tsc) = head.rsplit_once(' ').unwrap();
        let tsc: u64 = tsc.parse().unwrap();
        let line = format!("{head} {}: {event}", tsc - 1000);
        lines.insert(at, line);
    }));
    assert_eq!(status, Error);
    assert!(
        words.contains("only the guest has call-function (unexplained)")
            && words.contains("an event that no ICR write followed"),
        "{words}"
    );
}

#[test]
fn a_reschedule_that_the_guest_calls_a_function_call_is_an_error() {
    let (status, words) = checked(doctored(|lines| {
        let at = nth(lines, 7, "ipi_send_cpumask");
        lines[at] = lines[at].replace("generic_smp_call_function_single_interrupt+0x0/0x10", "0x0");
    }));
    assert_eq!(status, Error);
    assert!(
        words.contains("only the rig has call-function")
            && words.contains("only the guest has reschedule"),
        "{words}"
    );
}

#[test]
fn events_that_the_guest_says_it_lost_explain_as_many_and_no_more() {
    let drop_two = |lines: &mut Vec<String>| {
        for _ in 0..2 {
            let at = nth(lines, 300, "ipi_send_cpumask");
            lines.remove(at);
        }
    };
    let lost = |count| {
        checked(Script {
            trace_lost: count,
            ..doctored(drop_two)
        })
    };
    let (status, words) = lost(2);
    assert_eq!(status, Held, "{words}");
    assert!(words.ends_with("4 differences, all explained"), "{words}");
    assert_eq!(lost(1).0, Error);
    assert_eq!(lost(0).0, Error);
}

#[test]
fn a_kernel_that_cannot_trace_skips_the_check_and_no_other() {
    let (plan, evidence) = traced(Script {
        no_tracing: Some("no CONFIG_TRACING"),
        ..Script::default()
    });
    let (checks, _) = judge(&plan, &evidence);
    let skipped: Vec<&Check> = checks.iter().filter(|c| c.status != Held).collect();
    let expected = Check::new(CROSS_CHECK, Skipped, "no CONFIG_TRACING");
    assert_eq!(skipped, [&expected]);
    assert_eq!(overall(&plan, &checks), Held);
}

#[test]
fn without_any_ipi_there_is_nothing_to_compare() {
    let (status, words) = checked(Script {
        no_witness: true,
        ..Script::default()
    });
    assert_eq!(status, Skipped);
    assert!(
        words.starts_with("neither the rig nor the guest"),
        "{words}"
    );
}

#[test]
fn a_trace_that_is_none_or_not_whole_is_an_error() {
    let (status, words) = checked(doctored(|lines| {
        lines[5] = "what [000] 7: is: this".to_owned();
    }));
    assert_eq!(status, Error);
    assert!(
        words.starts_with("line 8 of the trace makes no sense"),
        "{words}"
    );
    let (plan, mut evidence) = traced(off());
    let Tracing::Recorded(recorded) = &mut evidence.tracing else {
        panic!("{:?}", evidence.tracing);
    };
    let stats = recorded.stats.get_mut(&1).unwrap();
    *stats = stats.replace("entries: ", "entries: 9");
    let check = cross_check(&plan, &evidence).unwrap();
    assert_eq!(check.status, Error);
    assert!(
        check.evidence.starts_with("the guest's buffers have"),
        "{}",
        check.evidence
    );
}

#[test]
fn a_ledger_whose_records_are_not_its_counters_is_an_error() {
    let (plan, mut evidence) = traced(off());
    let Tracing::Recorded(recorded) = &mut evidence.tracing else {
        panic!("{:?}", evidence.tracing);
    };
    recorded.details.pop();
    recorded.details.retain(
        |detail| !matches!(detail, ipirig_evidence::ledger::Detail::Write(w) if w.targets == CpuSet::from_bits(4)),
    );
    let check = cross_check(&plan, &evidence).unwrap();
    assert_eq!(
        (check.status, check.evidence.as_str()),
        (
            Error,
            "the ledger counts 303 IPIs to vCPU 2, and has records of 0"
        )
    );
}
