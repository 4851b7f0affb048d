use std::collections::BTreeMap;

use serde_json::Value;

use super::*;
use crate::specimen;

fn traced(runs: &[RunResult]) -> Vec<Value> {
    let mut out = Vec::new();
    chrome_trace(runs, &mut out).unwrap();
    let trace: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(trace["displayTimeUnit"], "ns");
    trace["traceEvents"].as_array().unwrap().clone()
}

/// `phase ts dur name` of the events on one thread.
fn told(events: &[Value], phases: &str, tid: u64) -> Vec<String> {
    events
        .iter()
        .filter(|event| event["tid"] == tid && phases.contains(event["ph"].as_str().unwrap()))
        .map(|event| {
            format!(
                "{} {} {} {}",
                event["ph"].as_str().unwrap(),
                event["ts"],
                event["dur"],
                event["name"].as_str().unwrap()
            )
        })
        .collect()
}

#[test]
fn a_run_is_a_process_with_its_phases_and_a_thread_for_each_vcpu() {
    let events = traced(&[specimen::violated()]);
    let names: BTreeMap<u64, &str> = events
        .iter()
        .filter(|event| event["name"] == "thread_name")
        .map(|event| {
            let name = event["args"]["name"].as_str().unwrap();
            (event["tid"].as_u64().unwrap(), name)
        })
        .collect();
    let expected = [
        (1000, "phases"),
        (1001, "vCPU 0 control"),
        (1002, "vCPU 1 housekeeping"),
        (1003, "vCPU 2 isolated"),
    ];
    assert_eq!(names, BTreeMap::from(expected));
    assert_eq!(
        told(&events, "X", 1000),
        [
            "X 0.0 3000.0 boot",
            "X 3000.0 5000.0 storm",
            "X 8000.0 3000.0 first entry",
            "X 4000.0 4000.0 window",
        ]
    );
}

#[test]
fn ipis_are_slices_with_arrows_that_begin_and_end_in_them() {
    let events = traced(&[specimen::violated()]);
    assert_eq!(
        told(&events, "X", 1001),
        [
            "X 5000.0 2000.0 storm",
            // Drawn no longer than until the next.
            "X 5499.8 0.2 poke text",
            "X 5500.0 1.0 send call-function",
            "X 6500.0 1.0 send call-function",
        ]
    );
    assert_eq!(
        told(&events, "X", 1003),
        [
            "X 4000.0 4000.0 window",
            "X 9000.0 1000.0 first entry: syscall",
            "X 5500.7 1.0 take call-function",
            "X 6500.9 1.0 take call-function",
        ]
    );
    // The second IPI to vCPU 1 did not arrive before the window closed.
    let arrows: Vec<(u64, &str, u64, f64)> = events
        .iter()
        .filter(|event| event["cat"] == "ipi" && event["ph"] != "X")
        .map(|event| {
            (
                event["id"].as_u64().unwrap(),
                event["ph"].as_str().unwrap(),
                event["tid"].as_u64().unwrap(),
                event["ts"].as_f64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        arrows,
        [
            (1, "s", 1001, 5500.0),
            (1, "f", 1002, 5500.4),
            (2, "s", 1001, 5500.0),
            (2, "f", 1003, 5500.7),
            (3, "s", 1001, 6500.0),
            (3, "f", 1003, 6500.9),
        ]
    );
    let finish = events.iter().find(|event| event["ph"] == "f").unwrap();
    assert_eq!(finish["bp"], "e");
}

#[test]
fn a_send_says_why_by_its_own_stack() {
    let mut run = specimen::violated();
    let send = |events: &[Value]| {
        let send = events.iter().find(|e| e["name"] == "send call-function");
        send.unwrap()["args"].clone()
    };
    let args = send(&traced(std::slice::from_ref(&run)));
    assert_eq!(args["cause"], "static key");
    assert_eq!(args["targets"], serde_json::json!([1, 2]));
    assert_eq!(args["chain"][0], "smp_call_function_many_cond+0x12");
    assert_eq!(args["chain"][2], "0xffffffffc0000010");
    let other = ipirig_evidence::blame::Attribution {
        cause: "vunmap".into(),
        number: Some(8),
        ..specimen::blame()
    };
    run.blame.insert(0, other);
    assert_eq!(
        send(&traced(std::slice::from_ref(&run)))["cause"],
        "static key"
    );
    for write in &mut run.timeline.writes {
        write.chain = None;
    }
    assert_eq!(send(&traced(&[run]))["cause"], Value::Null);
}

#[test]
fn several_runs_share_a_clock_and_no_numbers() {
    let mut later = specimen::violated();
    for phase in &mut later.timeline.phases {
        phase.from_ns += 50_000_000;
        phase.to_ns += 50_000_000;
    }
    let events = traced(&[specimen::violated(), later]);
    assert_eq!(told(&events, "X", 1000)[0], "X 0.0 3000.0 boot");
    assert_eq!(told(&events, "X", 2000)[0], "X 50000.0 3000.0 boot");
    let mut ids: Vec<u64> = events
        .iter()
        .filter(|event| event["ph"] == "s")
        .map(|event| event["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), 6);
    ids.dedup();
    assert_eq!(ids.len(), 6);
}

#[test]
fn slices_on_a_thread_nest_or_are_apart() {
    let mut run = specimen::violated();
    // A moment just before its stretch ends, and two at once.
    let mut late = run.timeline.writes[0];
    late.time_ns = 7_999_900;
    run.timeline.writes.extend([late, late]);
    let events = traced(&[run]);
    for tid in 1000..1004 {
        let slices: Vec<(f64, f64)> = events
            .iter()
            .filter(|event| event["tid"] == tid && event["ph"] == "X")
            .map(|event| {
                let from = event["ts"].as_f64().unwrap();
                (from, from + event["dur"].as_f64().unwrap())
            })
            .collect();
        for (index, a) in slices.iter().enumerate() {
            for b in &slices[index + 1..] {
                let (first, second) = if a.0 <= b.0 { (a, b) } else { (b, a) };
                let apart = first.1 <= second.0 + 1e-6;
                let nested = second.1 <= first.1 + 1e-6 || first.0 == second.0;
                assert!(apart || nested, "{tid}: {first:?} {second:?}");
            }
        }
    }
}

#[test]
fn a_run_that_never_began_is_a_process_without_events() {
    let run = RunResult::new(&specimen::plan(), Vec::new());
    let events = traced(&[run]);
    assert!(events.iter().all(|event| event["ph"] == "M"), "{events:?}");
}
