//! Explains, from the guest's trace alone, why there are more functions queued than IPIs sent: a CPU
//! that has something in its queue needs no second IPI.

use ipirig_apic::CpuSet;
use std::collections::{BTreeMap, VecDeque};

use super::clock::{Clock, Span};
use super::difference::{Difference, Rule, Side};
use super::sends::micros;
use super::trace::{Event, What, Why};

/// What came of the functions queued for one CPU in the windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) all: u64,
    /// Those whose queueing was followed by an IPI.
    pub(crate) with_ipi: u64,
    /// Those that have been seen to begin.
    pub(crate) begun: u64,
}

/// What came of all functions queued.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Calls {
    /// By the CPU that they are for.
    pub(crate) queued: BTreeMap<usize, Queued>,
    /// Functions without an IPI, and IPIs without a function.
    pub(crate) differences: Vec<Difference>,
    /// From queueing to beginning, in nanoseconds.
    pub(crate) times: Vec<u64>,
}

/// A function that was queued.
#[derive(Debug)]
struct Call<'a> {
    at: u64,
    source: usize,
    target: usize,
    function: &'a str,
    sent: bool,
    /// When it began to execute.
    begun: Option<u64>,
}

/// Looks at what was queued for `targets` in `spans`. `isolated`: those of them that do
/// not poll, as they are never idle. `lost`: events that each CPU lost.
pub(crate) fn account(
    events: &[Event],
    (clock, spans): (&Clock, &[Span]),
    (targets, isolated): (CpuSet, CpuSet),
    lost: &BTreeMap<usize, u64>,
) -> Calls {
    let mut timed: Vec<(u64, &Event)> = events
        .iter()
        .filter_map(|event| Some((clock.ns(event.cpu, event.tsc)?, event)))
        .collect();
    timed.sort_by_key(|(at, _)| *at);
    let mut result = Calls::default();
    let calls = gather(&timed, spans, targets, &mut result.differences);
    let lossy = lost.values().any(|&count| count > 0);
    // Of what was queued before, what began last: by target.
    let mut latest: BTreeMap<usize, &Call<'_>> = BTreeMap::new();
    for call in &calls {
        let before = latest
            .get(&call.target)
            .copied()
            .filter(|other| other.begun > Some(call.at));
        let later = latest
            .get(&call.target)
            .is_none_or(|other| call.begun > other.begun);
        if later {
            latest.insert(call.target, call);
        }
        let Some(span) = span_of(spans, call.at) else {
            continue;
        };
        let queued = result.queued.entry(call.target).or_default();
        queued.all += 1;
        queued.with_ipi += u64::from(call.sent);
        if let Some(begun) = call.begun {
            queued.begun += 1;
            result.times.push(begun.saturating_sub(call.at));
        }
        if call.sent {
            continue;
        }
        let idle = !isolated.contains(call.target);
        let (rule, evidence) = match (before, call.begun) {
            (Some(other), _) => (
                Some(Rule::QueueNotEmpty),
                format!(
                    "{} from CPU {} was queued {:.1} us before and had not begun",
                    other.function,
                    other.source,
                    micros(call.at - other.at)
                ),
            ),
            (None, Some(begun)) if idle => (
                Some(Rule::Polled),
                format!("it began {:.1} us later", micros(begun - call.at)),
            ),
            _ if lossy => (Some(Rule::Lost), "the guest lost events".to_owned()),
            _ => (None, "queued for a CPU that was sent no IPI".to_owned()),
        };
        result.differences.push(Difference {
            cpu: call.target,
            source: call.source,
            kind: call.function.to_owned(),
            side: Side::Queue,
            after_us: micros(call.at.saturating_sub(span.opened.0)),
            count: 1,
            rule,
            evidence,
        });
    }
    result
}

/// Everything queued for `targets`, with what became of it. IPIs in `spans` for which nothing was queued
/// are differences.
fn gather<'a>(
    timed: &[(u64, &'a Event)],
    spans: &[Span],
    targets: CpuSet,
    differences: &mut Vec<Difference>,
) -> Vec<Call<'a>> {
    let mut calls: Vec<Call<'a>> = Vec::new();
    // Queued and not sent yet, by the way; queued and not begun, by its mark.
    let mut unsent: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    let mut unbegun: BTreeMap<(usize, &str), VecDeque<usize>> = BTreeMap::new();
    for &(at, event) in timed {
        match &event.what {
            What::Queue {
                target,
                function,
                csd,
            } if targets.contains(*target) => {
                let index = calls.len();
                let way = (event.cpu, *target);
                unsent.entry(way).or_default().push(index);
                unbegun.entry((*target, csd)).or_default().push_back(index);
                calls.push(Call {
                    at,
                    source: event.cpu,
                    target: *target,
                    function,
                    sent: false,
                    begun: None,
                });
            }
            What::Send {
                targets: to, why, ..
            } if *why == Why::CallFunction => {
                for target in (*to & targets).iter() {
                    let newest = unsent.get_mut(&(event.cpu, target)).and_then(Vec::pop);
                    match newest.and_then(|index| calls.get_mut(index)) {
                        Some(call) => call.sent = true,
                        None => {
                            if let Some(span) = span_of(spans, at) {
                                differences.push(nothing_queued(event.cpu, target, at, span));
                            }
                        }
                    }
                }
            }
            What::Begin { csd, .. } => {
                let oldest = unbegun.get_mut(&(event.cpu, csd.as_str()));
                let oldest = oldest.and_then(VecDeque::pop_front);
                if let Some(call) = oldest.and_then(|index| calls.get_mut(index)) {
                    call.begun = Some(at.max(call.at));
                }
            }
            _ => {}
        }
    }
    calls
}

fn nothing_queued(source: usize, target: usize, at: u64, span: Span) -> Difference {
    let after = at.saturating_sub(span.opened.0);
    Difference {
        cpu: target,
        source,
        kind: Why::CallFunction.name().to_owned(),
        side: Side::Guest,
        after_us: micros(after),
        count: 1,
        rule: None,
        evidence: "an IPI for which nothing was queued".to_owned(),
    }
}

/// The window in which something was, edges left out.
fn span_of(spans: &[Span], at: u64) -> Option<Span> {
    spans
        .iter()
        .copied()
        .find(|span| (span.opened.1..span.closed.0).contains(&at))
}
