//! Gaps and interrupts of a vCPU whose counter goes two ticks a nanosecond.

use std::collections::BTreeMap as Map;

use ipirig_apic::CpuSet;
use ipirig_evidence::blame::{Deferrable, Taken, TimerFunction};
use ipirig_evidence::gaps::GapSums;
use ipirig_evidence::ledger::{Delivery, Write};
use ipirig_evidence::vectors::Kind;
use ipirig_machine::clock::Moment;

use super::*;

const CALL: Kind = Kind::Vector(0xfc);
const TIMER: Kind = Kind::Vector(0xec);

/// Of these gaps, in nanoseconds from the beginning to the end, in ten milliseconds.
fn record(gaps: &[(u64, u64)]) -> GapRecord {
    let moment = |time_ns| Moment {
        tsc: 2 * time_ns + 77,
        time_ns,
    };
    let gap = |&(begin, end): &(u64, u64)| Gap {
        begin: 2 * begin + 77,
        ticks: 2 * (end - begin),
    };
    let gaps: Vec<Gap> = gaps.iter().map(gap).collect();
    GapRecord {
        moments: vec![moment(0), moment(10_000_000)],
        threshold: 2000,
        sums: GapSums {
            count: gaps.len() as u64,
            ticks: gaps.iter().map(|gap| gap.ticks).sum(),
            longest: gaps.iter().map(|gap| gap.ticks).max().unwrap_or(0),
        },
        gaps,
        lost: 0,
    }
}

/// Something that vCPU 2 took, sent by these chains of vCPU 0.
fn taken(time_ns: u64, kind: Kind, chains: &[Option<u32>]) -> Delivered {
    let write = |&chain: &Option<u32>| Write {
        time_ns: time_ns - 1,
        source: 0,
        kind,
        targets: CpuSet::from_bits(0b100),
        coalesced: CpuSet::EMPTY,
        undeliverable: false,
        rip: 0,
        chain,
    };
    Delivered {
        delivery: Delivery {
            time_ns,
            cpu: 2,
            kind,
            ipi: !chains.is_empty(),
            user: true,
            idle: false,
            due: None,
        },
        writes: chains.iter().map(write).collect(),
    }
}

fn blame() -> Vec<Attribution> {
    let one = |number, cause: &str| Attribution {
        cause: cause.to_owned(),
        by: None,
        deferrable: Deferrable::Yes,
        kind: CALL.to_string(),
        source: 0,
        number: Some(number),
        targets: Map::new(),
        taken: Taken::default(),
        chain: vec![],
        broken: None,
    };
    vec![one(0, "static key"), one(1, "vunmap")]
}

/// Number 3 of vCPU 2 are two timers, number 4 is none that was still there; vCPU 1 has others.
fn timers() -> Vec<TimerAttribution> {
    let timer = |cause: &str, by: Option<&str>| TimerFunction {
        cause: cause.to_owned(),
        by: by.map(str::to_owned),
        function: String::new(),
        work: None,
    };
    let one = |cpu, number, timers: &[TimerFunction]| TimerAttribution {
        cpu,
        number,
        taken: Taken::default(),
        timers: timers.to_vec(),
    };
    vec![
        one(1, 3, &[timer("tick", None)]),
        one(2, 3, &[timer("vmstat", None), timer("timer", Some("f"))]),
        one(2, 4, &[]),
    ]
}

/// By cause: how many gaps, their nanoseconds in all, the longest, and interrupts without one.
type Row = (String, u64, u64, u64, u64);

fn found(gaps: &[(u64, u64)], taken: &[Delivered]) -> Vec<Row> {
    let durations = durations(
        2,
        &record(gaps),
        taken,
        Known {
            blame: &blame(),
            timers: &timers(),
        },
    )
    .expect("a counter that counts");
    assert_eq!(
        (
            durations.measured_ns,
            durations.threshold_ns,
            durations.lost
        ),
        (10_000_000, 1000, 0)
    );
    let row = |one: Interruptions| {
        let cause = one.cause.unwrap_or_else(|| "the host's".to_owned());
        (
            cause,
            one.times,
            one.total_ns,
            one.longest_ns,
            one.unmeasured,
        )
    };
    durations.causes.into_iter().map(row).collect()
}

fn row(cause: &str, times: u64, total: u64, longest: u64, unmeasured: u64) -> Row {
    (cause.to_owned(), times, total, longest, unmeasured)
}

#[test]
fn each_gap_is_put_down_to_what_was_delivered_in_it_and_what_has_nothing_is_the_host_s() {
    let gaps = [
        (1_000_000, 1_010_000),
        (2_000_000, 2_030_000),
        (3_000_000, 3_005_000),
        (4_000_000, 4_002_000),
    ];
    let taken = [
        taken(1_004_000, CALL, &[Some(0)]),
        taken(2_000_100, CALL, &[Some(0)]),
        taken(3_002_000, TIMER, &[]),
    ];
    assert_eq!(
        found(&gaps, &taken),
        [
            row("static key", 2, 40_000, 30_000, 0),
            row("local-timer", 1, 5_000, 5_000, 0),
            row("the host's", 1, 2_000, 2_000, 0),
        ]
    );
}

#[test]
fn several_causes_in_one_gap_share_it_whether_the_apic_merged_them_or_not() {
    let gaps = [(1_000_000, 1_010_000), (2_000_000, 2_010_000)];
    let merged = [taken(1_004_000, CALL, &[Some(1), Some(0)])];
    let one_by_one = [
        taken(2_001_000, CALL, &[Some(0)]),
        taken(2_002_000, TIMER, &[]),
    ];
    assert_eq!(
        found(&gaps, &[merged.to_vec(), one_by_one.to_vec()].concat()),
        [
            row("local-timer + static key", 1, 10_000, 10_000, 0),
            row("static key + vunmap", 1, 10_000, 10_000, 0),
        ]
    );
}

#[test]
fn an_interrupt_goes_to_the_nearest_gap_if_the_clocks_may_be_as_far_apart_and_else_to_none() {
    let gaps = [(1_000_000, 1_010_000), (1_050_000, 1_060_000)];
    let at = |time_ns| {
        let mut rows = found(&gaps, &[taken(time_ns, CALL, &[Some(0)])]);
        rows.sort();
        rows
    };
    for near in [905_000, 1_029_000, 1_031_000, 1_155_000] {
        let expected = [
            row("static key", 1, 10_000, 10_000, 0),
            row("the host's", 1, 10_000, 10_000, 0),
        ];
        assert_eq!(at(near), expected, "{near}");
    }
    for far in [800_000, 1_200_000] {
        let expected = [
            row("static key", 0, 0, 0, 1),
            row("the host's", 2, 20_000, 10_000, 0),
        ];
        assert_eq!(at(far), expected, "{far}");
    }
}

#[test]
fn what_other_vcpus_took_and_what_came_before_and_afterwards_is_left_out() {
    let other = |mut one: Delivered| {
        one.delivery.cpu = 1;
        one
    };
    let taken = [
        other(taken(1_004_000, CALL, &[Some(0)])),
        taken(10_000_001, CALL, &[Some(0)]),
    ];
    assert_eq!(
        found(&[(1_000_000, 1_010_000)], &taken),
        [row("the host's", 1, 10_000, 10_000, 0)]
    );
}

#[test]
fn a_timer_s_interrupt_is_called_by_the_timers_that_were_due() {
    let gaps = [(1_000_000, 1_010_000), (2_000_000, 2_005_000)];
    let due = |time_ns, number| {
        let mut one = taken(time_ns, TIMER, &[]);
        one.delivery.due = Some(number);
        one
    };
    let call = taken(1_003_000, CALL, &[Some(0)]);
    assert_eq!(
        found(&gaps, &[due(1_002_000, 3), call, due(2_001_000, 4)]),
        [
            row("static key + timer by f + vmstat", 1, 10_000, 10_000, 0),
            row("timer that was gone", 1, 5_000, 5_000, 0),
        ]
    );
    // Of a number that nobody has nothing is known.
    assert_eq!(
        found(&gaps[..1], &[due(1_002_000, 9)]),
        [row("local-timer", 1, 10_000, 10_000, 0)]
    );
}

#[test]
fn an_ipi_without_calls_is_called_by_its_kind() {
    let taken = [taken(1_004_000, CALL, &[None])];
    assert_eq!(
        found(&[(1_000_000, 1_010_000)], &taken),
        [row("call-function", 1, 10_000, 10_000, 0)]
    );
}

#[test]
fn a_histogram_has_each_length_in_its_bucket() {
    let gaps = [
        (0, 800),
        (10_000, 11_500),
        (20_000, 21_700),
        (40_000, 49_000),
    ];
    let nothing = Known {
        blame: &[],
        timers: &[],
    };
    let found = durations(2, &record(&gaps), &[], nothing).expect("a counter that counts");
    let bucket = |up_to_ns, times| Bucket { up_to_ns, times };
    let expected = Interruptions {
        cause: None,
        note: Some(NO_INTERRUPT),
        times: 4,
        total_ns: 13_000,
        median_ns: 1500,
        longest_ns: 9000,
        histogram: vec![bucket(999, 1), bucket(1999, 2), bucket(15_999, 1)],
        unmeasured: 0,
    };
    assert_eq!(found.causes, [expected]);
}

#[test]
fn what_was_fetched_must_be_what_the_task_had_within_five_hundredths() {
    let whole = record(&[(1_000_000, 1_010_000), (2_000_000, 2_090_000)]);
    let with = |change: fn(&mut GapRecord)| {
        let mut record = whole.clone();
        change(&mut record);
        agree(2, &record)
    };
    let says = |off: &str, told: u64| {
        format!(
            "vCPU 2: 2 gaps in its loop; the task itself counts {told}, and its sum is {off} % off"
        )
    };
    assert_eq!(with(|_| ()), (Verdict::Held, says("0.0", 2)));
    let near = with(|record| record.sums.ticks += 9_000);
    assert_eq!(near, (Verdict::Held, says("4.2", 2)));
    let far = with(|record| record.sums.ticks += 12_000);
    assert_eq!(far, (Verdict::Error, says("5.6", 2)));
    let fewer = with(|record| record.sums.count = 3);
    assert_eq!(fewer, (Verdict::Error, says("0.0", 3)));
    let lost = with(|record| (record.sums.count, record.lost) = (5, 3));
    let words = format!("{}; 3 came too fast to be fetched", says("0.0", 5));
    assert_eq!(lost, (Verdict::Skipped, words));
    let stands = with(|record| record.moments.truncate(1));
    let words = "the time-stamp counter of vCPU 2 does not count".to_owned();
    assert_eq!(stands, (Verdict::Skipped, words));
    assert_eq!(
        agree(2, &record(&[])).0,
        Verdict::Held,
        "nothing is as long as nothing"
    );
}
