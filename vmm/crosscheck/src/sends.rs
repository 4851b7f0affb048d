//! Pairs each ICR write of the ledger with the trace event that announced it.
//!
//! The kernel records an IPI just before it writes the ICR. So, of the IPIs of one kind from one CPU to
//! another, each write belongs to the newest event before it that has no write yet; an interrupt between
//! the two, which sends one itself, changes nothing about that.

use std::collections::BTreeMap;

use ipirig_apic::CpuSet;
use ipirig_evidence::ledger::{Detail, Write};
use ipirig_evidence::stacks::{Caller, Callers};
use ipirig_evidence::vectors::{CALL_FUNCTION, IRQ_WORK, Kind, RESCHEDULE};

use super::callsites::{Callsite, Callsites, Found};
use super::clock::{Clock, Span};
use super::difference::{Difference, Rule, Side};
use super::trace::{Event, What, Why};

/// How much later than its event a write may come if one of the two is outside the window. With the
/// slowest emulation it is a tenth of a millisecond; a busy host may stop a vCPU for longer.
const EDGE_NS: u64 = 20_000_000;
/// How inexact the two clocks are, put together.
const JITTER_NS: u64 = 2_000;

/// IPIs of one kind, from one CPU to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stream {
    pub(crate) source: usize,
    pub(crate) target: usize,
    pub(crate) why: Why,
}

/// What came of pairing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Paired {
    /// Pairs, by target and kind.
    pub(crate) pairs: BTreeMap<(usize, Why), u64>,
    /// What the pairs say of where they were sent from.
    pub(crate) callsites: Callsites,
    /// What has no partner, or one that says something else.
    pub(crate) differences: Vec<Difference>,
}

/// What the kernel has a tracepoint for, by what arrives.
pub(crate) fn why(kind: Kind) -> Option<Why> {
    let Kind::Vector(vector) = kind else {
        return None;
    };
    let is = |vectors: &[u8]| vectors.contains(&vector);
    if is(&CALL_FUNCTION) {
        Some(Why::CallFunction)
    } else if is(&RESCHEDULE) {
        Some(Why::Reschedule)
    } else {
        is(&IRQ_WORK).then_some(Why::IrqWork)
    }
}

/// Pairs what was sent to `targets` in `spans`. `lost`: events that each CPU lost;
/// `callers`: the stacks of who wrote.
pub(crate) fn pair(
    events: &[Event],
    details: &[Detail],
    (clock, spans): (&Clock, &[Span]),
    targets: CpuSet,
    lost: &BTreeMap<usize, u64>,
    callers: &Callers,
) -> Paired {
    let mut streams: BTreeMap<Stream, Sides<'_>> = BTreeMap::new();
    let mut paired = Paired::default();
    for event in events {
        let What::Send {
            targets: to,
            why,
            callsite,
        } = &event.what
        else {
            continue;
        };
        let Some(at) = clock.ns(event.cpu, event.tsc) else {
            continue;
        };
        for target in (*to & targets).iter() {
            let stream = Stream {
                source: event.cpu,
                target,
                why: *why,
            };
            let events = &mut streams.entry(stream).or_default().events;
            events.push((at, callsite.as_ref()));
        }
    }
    for detail in details {
        let Detail::Write(write) = detail else {
            continue;
        };
        let caller = write
            .chain
            .and_then(|chain| callers.get(&(write.source, chain)));
        for target in (write.targets & targets).iter() {
            match why(write.kind) {
                Some(why) => {
                    let stream = Stream {
                        source: write.source,
                        target,
                        why,
                    };
                    streams
                        .entry(stream)
                        .or_default()
                        .writes
                        .push((write.time_ns, caller));
                }
                None => paired.differences.push(untraced(write, target, spans)),
            }
        }
    }
    let mut lost = lost.clone();
    let ends: Vec<Ends> = spans.iter().map(|span| Ends::new(details, *span)).collect();
    for (stream, mut sides) in streams {
        sides.events.sort_by_key(|(at, _)| *at);
        sides.writes.sort_by_key(|(at, _)| *at);
        for ends in &ends {
            let budget = lost.entry(stream.source).or_default();
            let count = sides.pair(stream, ends, budget, &mut paired);
            if count > 0 {
                *paired.pairs.entry((stream.target, stream.why)).or_default() += count;
            }
        }
    }
    paired
}

/// A window, and when each CPU wrote its ICR for the first and for the last time in it. Only what it
/// traced before the one or after the other can have its partner beyond an edge.
struct Ends {
    span: Span,
    writes: BTreeMap<usize, (u64, u64)>,
}

impl Ends {
    fn new(details: &[Detail], span: Span) -> Self {
        let mut writes = BTreeMap::new();
        for detail in details {
            if let Detail::Write(write) = detail
                && span.holds(write.time_ns)
            {
                let at = write.time_ns;
                let (first, last) = writes.entry(write.source).or_insert((at, at));
                (*first, *last) = ((*first).min(at), (*last).max(at));
            }
        }
        Self { span, writes }
    }
}

/// The two records of one stream: times in nanoseconds, ascending, and what each has of where it was
/// sent from.
#[derive(Debug, Default)]
struct Sides<'a> {
    events: Vec<(u64, Option<&'a Callsite>)>,
    writes: Vec<(u64, Option<&'a Caller>)>,
}

impl Sides<'_> {
    fn pair(&self, stream: Stream, ends: &Ends, lost: &mut u64, paired: &mut Paired) -> u64 {
        let Paired {
            callsites,
            differences,
            ..
        } = paired;
        let span = ends.span;
        let (first, last) = ends.writes.get(&stream.source).copied().unwrap_or_default();
        let since = span.opened.0;
        let from = since.saturating_sub(EDGE_NS);
        let mut events = self
            .events
            .iter()
            .copied()
            .filter(|(at, _)| (from..=span.closed.1).contains(at))
            .peekable();
        let writes = self.writes.iter().copied();
        let difference = |at: u64, side, rule, evidence: String| Difference {
            cpu: stream.target,
            source: stream.source,
            kind: stream.why.name().to_owned(),
            side,
            after_us: micros(at.saturating_sub(since)),
            count: 1,
            rule,
            evidence,
        };
        let (mut open, mut pairs) = (Vec::new(), 0);
        for (write, caller) in writes.filter(|&(at, _)| span.holds(at)) {
            while let Some(event) = events.next_if(|&(at, _)| at <= write.saturating_add(JITTER_NS))
            {
                open.push(event);
            }
            // Of what was traced before the window only the last can have been sent in it, and soon.
            let partner = open.pop().filter(|&(event, _)| {
                let soon = write == first && write.saturating_sub(event) <= EDGE_NS;
                event >= span.opened.1 || soon
            });
            match partner {
                Some((event, callsite)) => {
                    pairs += 1;
                    if let (Some(callsite), Some(caller)) = (callsite, caller) {
                        callsites.compared += 1;
                        let (rule, words) = match callsite.look_for(caller) {
                            Found::OnStack => {
                                callsites.on_stack += 1;
                                (None, None)
                            }
                            Found::Cut(words) => (Some(Rule::StackCut), Some(words)),
                            Found::Elsewhere(words) => (None, Some(words)),
                        };
                        if let Some(words) = words {
                            differences.push(difference(write, Side::Callsite, rule, words));
                        }
                    }
                    if event < span.opened.0 {
                        let words = format!(
                            "traced {:.1} us before the window opened, sent {:.1} us after that",
                            micros(since - event),
                            micros(write - since),
                        );
                        differences.push(difference(
                            write,
                            Side::Rig,
                            Some(Rule::OpeningEdge),
                            words,
                        ));
                    }
                }
                None if *lost > 0 => {
                    *lost -= 1;
                    let words = format!("CPU {} lost events", stream.source);
                    differences.push(difference(write, Side::Rig, Some(Rule::Lost), words));
                }
                None => {
                    let words = "an ICR write that no event announced".to_owned();
                    differences.push(difference(write, Side::Rig, None, words));
                }
            }
        }
        open.extend(events);
        // Before the edge an event's write is no business of this window; nor is it after the other.
        for event in open
            .into_iter()
            .map(|(event, _)| event)
            .filter(|at| (span.opened.1..span.closed.0).contains(at))
        {
            let left = span.closed.0 - event;
            let words = format!(
                "traced {:.1} us before the window closed, sent after that",
                micros(left)
            );
            differences.push(if left <= EDGE_NS && event > last {
                difference(event, Side::Guest, Some(Rule::ClosingEdge), words)
            } else {
                let words = "an event that no ICR write followed".to_owned();
                difference(event, Side::Guest, None, words)
            });
        }
        pairs
    }
}

/// An IPI that no tracepoint covers.
fn untraced(write: &Write, target: usize, spans: &[Span]) -> Difference {
    let since = spans
        .iter()
        .map(|span| span.opened.0)
        .rfind(|&opened| opened <= write.time_ns);
    Difference {
        cpu: target,
        source: write.source,
        kind: write.kind.to_string(),
        side: Side::Rig,
        after_us: micros(write.time_ns - since.unwrap_or(write.time_ns)),
        count: 1,
        rule: Some(Rule::NoTracepoint),
        evidence: format!("{} is sent without a tracepoint", write.kind),
    }
}

/// Microseconds, to a tenth.
pub(crate) fn micros(ns: u64) -> f64 {
    (ns as f64 / 100.0).round() / 10.0
}

/// IPIs to `target` by the ledger, by kind; those that are not traced by their own names.
pub(crate) fn written(details: &[Detail], target: usize) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for detail in details {
        if let Detail::Write(write) = detail
            && write.targets.contains(target)
        {
            let name = why(write.kind).map_or(write.kind.to_string(), |why| why.name().to_owned());
            *counts.entry(name).or_default() += 1;
        }
    }
    counts
}

/// IPIs to `target` by the trace, in the windows, by kind.
pub(crate) fn traced(
    events: &[Event],
    (clock, spans): (&Clock, &[Span]),
    target: usize,
) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for event in events {
        let What::Send { targets, why, .. } = event.what else {
            continue;
        };
        let at = clock.ns(event.cpu, event.tsc);
        let inside = |at: u64| {
            let mut spans = spans.iter();
            spans.any(|span| (span.opened.1..span.closed.0).contains(&at))
        };
        if at.is_some_and(inside) && targets.contains(target) {
            *counts.entry(why.name().to_owned()).or_default() += 1;
        }
    }
    counts
}
