//! Each rule, with what it explains and what it does not. Times are nanoseconds on both clocks.

use std::collections::BTreeMap;

use ipirig_apic::CpuSet;
use ipirig_evidence::Edge;
use ipirig_evidence::ledger::{Detail, Write};
use ipirig_evidence::stacks::{Caller, Callers};
use ipirig_evidence::vectors::Kind;
use ipirig_machine::clock::Moment;

use super::super::calls::{self, Calls};
use super::super::callsites::{Callsite, Callsites};
use super::super::clock::{Clock, spans};
use super::super::difference::{Rule, Side, joined};
use super::super::sends::{self, Paired};
use super::super::trace::{Event, What, Why};
use super::Difference;

/// A window from 10 ms to 110 ms.
fn edges() -> Vec<(Edge, Edge)> {
    let moments = |at: u64| {
        let moment = Moment {
            tsc: at,
            time_ns: at,
        };
        vec![moment; 3]
    };
    let edge = |at: u64| Edge {
        before: moments(at - 1000),
        after: moments(at + 1000),
    };
    vec![(edge(10_000_000), edge(110_000_000))]
}

fn event(cpu: usize, tsc: u64, what: What) -> Event {
    Event { cpu, tsc, what }
}

fn sends(tsc: u64, targets: u64) -> Event {
    let why = Why::CallFunction;
    let callsite = Callsite::parse("on_each_cpu_cond_mask+0x20/0x40");
    event(
        0,
        tsc,
        What::Send {
            targets: CpuSet::from_bits(targets),
            why,
            callsite,
        },
    )
}

fn queues(cpu: usize, tsc: u64, target: usize, csd: &str) -> Event {
    let function = format!("f{csd}");
    let csd = csd.to_owned();
    event(
        cpu,
        tsc,
        What::Queue {
            target,
            function,
            csd,
        },
    )
}

fn begins(cpu: usize, tsc: u64, csd: &str) -> Event {
    let function = format!("f{csd}");
    let csd = csd.to_owned();
    event(cpu, tsc, What::Begin { function, csd })
}

fn write(time_ns: u64, kind: Kind) -> Detail {
    Detail::Write(Write {
        time_ns,
        source: 0,
        kind,
        targets: CpuSet::from_bits(0b100),
        coalesced: CpuSet::EMPTY,
        undeliverable: false,
        rip: 0,
        chain: None,
    })
}

const CALL: Kind = Kind::Vector(0xfb);

fn pair(events: &[Event], details: &[Detail], lost: u64) -> Paired {
    pair_with(events, details, lost, &Callers::new())
}

fn pair_with(events: &[Event], details: &[Detail], lost: u64, callers: &Callers) -> Paired {
    let edges = edges();
    let (clock, spans) = (Clock::new(&edges).unwrap(), spans(&edges));
    let lost = BTreeMap::from([(0, lost)]);
    sends::pair(
        events,
        details,
        (&clock, &spans),
        CpuSet::from_bits(0b110),
        &lost,
        callers,
    )
}

#[test]
fn a_callsite_is_on_the_stack_or_unexplained_or_beyond_where_the_stack_was_cut() {
    let at = |chain, time_ns| match write(time_ns, CALL) {
        Detail::Write(write) => Detail::Write(Write {
            chain: Some(chain),
            ..write
        }),
        other => other,
    };
    let caller = |function: &str, whole| Caller {
        calls: vec![("send".to_owned(), 1), (function.to_owned(), 0x20)],
        whole,
    };
    let callers = Callers::from([
        ((0, 1), caller("on_each_cpu_cond_mask", true)),
        ((0, 2), caller("something_else", true)),
        ((0, 3), caller("something_else", false)),
    ]);
    // The last has a chain that nobody kept: it is not compared.
    let times = [20_000_000, 30_000_000, 40_000_000, 50_000_000];
    let events = times.map(|tsc| sends(tsc, 0b100));
    let writes: Vec<Detail> = (1..)
        .zip(times)
        .map(|(chain, at_ns)| at(chain, at_ns + 5000))
        .collect();
    let paired = pair_with(&events, &writes, 0, &callers);
    let expected = Callsites {
        compared: 3,
        on_stack: 1,
    };
    assert_eq!(paired.callsites, expected);
    let words = "the kernel says on_each_cpu_cond_mask+0x20, the stack send+0x1 <- \
                 something_else+0x20";
    let told: Vec<_> = paired
        .differences
        .iter()
        .map(|d| (d.side, d.rule, d.evidence.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (Side::Callsite, None, words),
            (Side::Callsite, Some(Rule::StackCut), words)
        ]
    );
    assert_eq!(paired.pairs, BTreeMap::from([((2, Why::CallFunction), 4)]));
}

fn account(events: &[Event]) -> Calls {
    let edges = edges();
    let (clock, spans) = (Clock::new(&edges).unwrap(), spans(&edges));
    let none = BTreeMap::new();
    let both = (CpuSet::from_bits(0b110), CpuSet::from_bits(0b100));
    calls::account(events, (&clock, &spans), both, &none)
}

/// Rule, side and time of each.
fn rules(differences: &[Difference]) -> Vec<(Option<Rule>, Side, f64)> {
    let each = differences.iter();
    each.map(|d| (d.rule, d.side, d.after_us)).collect()
}

#[test]
fn an_interrupt_between_an_event_and_its_write_may_send_one_itself() {
    let events = [sends(20_000_000, 0b100), sends(20_010_000, 0b100)];
    let details = [write(20_020_000, CALL), write(20_030_000, CALL)];
    let paired = pair(&events, &details, 0);
    assert_eq!(paired.differences, []);
    assert_eq!(paired.pairs, BTreeMap::from([((2, Why::CallFunction), 2)]));
}

#[test]
fn only_the_first_write_of_a_window_may_have_been_traced_before_it() {
    let early = sends(9_990_000, 0b100);
    let first = pair(std::slice::from_ref(&early), &[write(10_005_000, CALL)], 0);
    assert_eq!(
        rules(&first.differences),
        [(Some(Rule::OpeningEdge), Side::Rig, 6.0)]
    );
    // Another one was sent in between.
    let events = [early.clone(), sends(10_010_000, 0b100)];
    let details = [write(10_015_000, CALL), write(10_050_000, CALL)];
    assert_eq!(
        rules(&pair(&events, &details, 0).differences),
        [(None, Side::Rig, 51.0)]
    );
    // Too long ago: it was sent before the window.
    let details = [write(40_000_000, CALL)];
    assert_eq!(
        rules(&pair(&[early], &details, 0).differences),
        [(None, Side::Rig, 30_001.0)]
    );
}

#[test]
fn only_what_was_traced_last_may_have_been_sent_after_the_window() {
    let late = sends(109_990_000, 0b100);
    let events = [sends(50_000_000, 0b100), late.clone()];
    let details = [write(50_005_000, CALL)];
    let explained = pair(&events, &details, 0);
    assert_eq!(
        rules(&explained.differences),
        [(Some(Rule::ClosingEdge), Side::Guest, 99_991.0)]
    );
    // This CPU sent something else after it, so it would have sent this, too.
    let details = [
        write(50_005_000, CALL),
        write(109_995_000, Kind::Vector(0xfd)),
    ];
    let mut found = rules(&pair(&events, &details, 0).differences);
    found.sort_by(|a, b| a.2.total_cmp(&b.2));
    assert_eq!(
        found,
        [(None, Side::Guest, 99_991.0), (None, Side::Rig, 99_996.0)]
    );
    // What was traced outside is none of this window's business.
    let outside = [sends(5_000_000, 0b100), sends(200_000_000, 0b100)];
    assert_eq!(pair(&outside, &[], 0).differences, []);
}

#[test]
fn what_has_no_tracepoint_is_named() {
    let details = [
        write(20_000_000, Kind::Nmi),
        write(20_000_000, Kind::Vector(0xf8)),
    ];
    let paired = pair(&[], &details, 0);
    let rule = Some(Rule::NoTracepoint);
    assert_eq!(
        rules(&paired.differences),
        [(rule, Side::Rig, 10_001.0), (rule, Side::Rig, 10_001.0)]
    );
    let kinds: Vec<&str> = paired.differences.iter().map(|d| d.kind.as_str()).collect();
    assert_eq!(kinds, ["nmi", "reboot"]);
}

#[test]
fn a_function_behind_one_that_has_not_begun_needs_no_ipi() {
    let events = [
        queues(0, 20_000_000, 2, "a"),
        sends(20_001_000, 0b100),
        queues(1, 20_002_000, 2, "b"),
        begins(2, 20_003_000, "a"),
        begins(2, 20_004_000, "b"),
    ];
    let calls = account(&events);
    assert_eq!(
        rules(&calls.differences),
        [(Some(Rule::QueueNotEmpty), Side::Queue, 10_003.0)]
    );
    assert_eq!(
        calls.differences[0].evidence,
        "fa from CPU 0 was queued 2.0 us before and had not begun"
    );
    assert_eq!(calls.times, [3000, 2000]);
    let queued = calls::Queued {
        all: 2,
        with_ipi: 1,
        begun: 2,
    };
    assert_eq!(calls.queued, BTreeMap::from([(2, queued)]));
}

#[test]
fn a_function_that_begins_without_an_ipi_was_polled_for_but_not_by_an_isolated_cpu() {
    let events = |target| {
        [
            queues(0, 20_000_000, target, "a"),
            begins(target, 20_004_000, "a"),
        ]
    };
    assert_eq!(
        rules(&account(&events(1)).differences),
        [(Some(Rule::Polled), Side::Queue, 10_001.0)]
    );
    assert_eq!(
        rules(&account(&events(2)).differences),
        [(None, Side::Queue, 10_001.0)]
    );
    // What never begins is not explained either, whoever it is for.
    assert_eq!(
        rules(&account(&events(1)[..1]).differences),
        [(None, Side::Queue, 10_001.0)]
    );
}

#[test]
fn an_ipi_for_which_nothing_was_queued_is_not_explained() {
    let calls = account(&[sends(20_000_000, 0b100)]);
    assert_eq!(rules(&calls.differences), [(None, Side::Guest, 10_001.0)]);
}

#[test]
fn alike_differences_are_one_line_and_unexplained_ones_are_told_up_to_a_limit() {
    let details: Vec<Detail> = (0..1000)
        .map(|n| write(20_000_000 + n * 10_000, Kind::Nmi))
        .collect();
    let one = joined(pair(&[], &details, 0).differences);
    assert_eq!(one.iter().map(|d| d.count).collect::<Vec<_>>(), [1000]);
    let details: Vec<Detail> = (0..1000)
        .map(|n| write(20_000_000 + n * 10_000, CALL))
        .collect();
    let told = joined(pair(&[], &details, 0).differences);
    let counts: Vec<u64> = told.iter().map(|d| d.count).collect();
    assert_eq!(counts.len(), 21);
    assert_eq!(counts[20], 980);
}

proptest::proptest! {
    /// However the two are mixed, what is paired and what is left over add up on both sides.
    #[test]
    fn nothing_is_paired_twice_or_forgotten(
        events in proptest::collection::vec(10_001_000_u64..109_999_000, 0..60),
        writes in proptest::collection::vec(10_001_000_u64..109_999_000, 0..60),
    ) {
        let traced: Vec<Event> = events.iter().map(|&at| sends(at, 0b100)).collect();
        let written: Vec<Detail> = writes.iter().map(|&at| write(at, CALL)).collect();
        let paired = pair(&traced, &written, 0);
        let pairs: u64 = paired.pairs.values().sum();
        let left = |side| paired.differences.iter().filter(|d| d.side == side).count() as u64;
        proptest::prop_assert_eq!(pairs + left(Side::Guest), events.len() as u64);
        proptest::prop_assert_eq!(pairs + left(Side::Rig), writes.len() as u64);
    }
}
