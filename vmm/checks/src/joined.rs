//! Calls that needed no IPI of their own. A function for another CPU is put into that CPU's queue, and an
//! IPI is only sent if the queue was empty (kernel/smp.c, `__smp_call_single_queue`): one that finds another
//! call there, whose IPI was sent and not yet taken, joins it.

use std::collections::{BTreeMap, BTreeSet};

use ipirig_evidence::Evidence;
use ipirig_evidence::ledger::changes::Sighted;
use ipirig_evidence::ledger::{Detail, Write};
use ipirig_evidence::vectors::{CALL_FUNCTION, Kind};

/// Whether IPIs of this kind have a CPU look at its queue.
pub(super) fn is_call(kind: Kind) -> bool {
    CALL_FUNCTION
        .into_iter()
        .any(|vector| kind == Kind::Vector(vector))
}

/// How many changes of `cause` were followed by no IPI to `cpu` that could have joined one of a cause of which
/// nothing is expected: sent before the sender's next change, and taken after this one. Each IPI is joined once.
/// None, where times were not kept.
pub(super) fn joined(
    evidence: &Evidence,
    expected: &BTreeMap<String, u64>,
    cause: &str,
    cpu: usize,
) -> u64 {
    let Some(sequence) = &evidence.sequence else {
        return 0;
    };
    if evidence.ledger.counts_only {
        return 0;
    }
    let chains = |wanted: &dyn Fn(&str) -> bool| -> BTreeSet<(usize, u32)> {
        let blames = evidence.blame.iter();
        let wanted = blames.filter(|blame| wanted(&blame.cause));
        wanted
            .filter_map(|blame| Some((blame.source, blame.number?)))
            .collect()
    };
    let of_cause = chains(&|name| name == cause);
    let of_expected = chains(&|name| expected.contains_key(name));
    let is_in = |chains: &BTreeSet<(usize, u32)>, write: &Write| {
        let number = write.chain;
        number.is_some_and(|number| chains.contains(&(write.source, number)))
    };
    let writes: Vec<&Write> = sequence
        .details
        .iter()
        .filter_map(|detail| match detail {
            Detail::Write(write) => Some(write),
            Detail::Delivery(_) => None,
        })
        .filter(|write| is_call(write.kind) && write.targets.contains(cpu))
        .collect();
    // When each IPI that may be joined was sent and taken.
    let mut pending: Vec<(u64, u64)> = writes
        .iter()
        .filter(|write| !write.coalesced.contains(cpu) && !is_in(&of_expected, write))
        .map(|write| (write.time_ns, taken(&sequence.details, write, cpu)))
        .collect();
    let mut count = 0;
    let own: Vec<&Write> = writes
        .into_iter()
        .filter(|write| is_in(&of_cause, write))
        .collect();
    let sources: BTreeSet<usize> = own.iter().map(|write| write.source).collect();
    for source in sources {
        let times: Vec<u64> = own
            .iter()
            .filter(|write| write.source == source)
            .map(|write| write.time_ns)
            .collect();
        let mut changes: Vec<(u64, Sighted)> = sequence
            .sightings
            .iter()
            .filter(|sighting| sighting.cpu == source)
            .map(|sighting| (sighting.time_ns, sighting.what))
            .collect();
        changes.sort_by_key(|change| change.0);
        let Some(what) = announced(&changes, &times) else {
            continue;
        };
        let ends = changes.iter().skip(1).map(|change| change.0);
        for (&(start, _), end) in changes
            .iter()
            .zip(ends.chain([u64::MAX]))
            .filter(|((_, kind), _)| *kind == what)
        {
            if times.iter().any(|time| (start..end).contains(time)) {
                continue;
            }
            let fits = |&(sent, taken): &(u64, u64)| sent < end && taken > start;
            if let Some(place) = pending.iter().position(fits) {
                pending.remove(place);
                count += 1;
            }
        }
    }
    count
}

/// When `cpu` took the IPI of `write`; never is late.
fn taken(details: &[Detail], write: &Write, cpu: usize) -> u64 {
    let deliveries = details.iter().filter_map(|detail| match detail {
        Detail::Delivery(delivery) => Some(delivery),
        Detail::Write(_) => None,
    });
    let mine = deliveries
        .filter(|delivery| delivery.cpu == cpu && delivery.kind == write.kind && delivery.ipi);
    let after = mine.map(|delivery| delivery.time_ns);
    after
        .filter(|&time| time >= write.time_ns)
        .min()
        .unwrap_or(u64::MAX)
}

/// What kind of change most of these IPIs came after.
fn announced(changes: &[(u64, Sighted)], times: &[u64]) -> Option<Sighted> {
    let before = times.iter().filter_map(|&time| {
        let at = changes.partition_point(|change| change.0 <= time);
        changes.get(at.checked_sub(1)?).map(|change| change.1)
    });
    let all: Vec<Sighted> = before.collect();
    [Sighted::Poke, Sighted::Flush]
        .into_iter()
        .find(|kind| all.iter().filter(|what| *what == kind).count() * 2 > all.len())
}
