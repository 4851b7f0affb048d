//! How long IPIs took, by two clocks: the guest's, from queueing a function to its beginning, and the
//! rig's, from the ICR write to the interrupt and to its handler.

use std::collections::BTreeMap;

use ipirig_evidence::ledger::Detail;
use ipirig_evidence::ledger::handlers::Handled;
use ipirig_evidence::vectors::{CALL_FUNCTION, Kind};
use schemars::JsonSchema;
use serde::Serialize;

use super::histogram::Histogram;

/// Times of call-function IPIs in the windows, all traced CPUs together.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Times {
    /// By the guest: from `csd_queue_cpu` to `csd_function_entry`.
    pub queued_to_begun: Histogram,
    /// The same as the guest's kernel counted it by itself, with a synthetic event and `hist` triggers,
    /// from when tracing began; empty if it cannot. Its buckets are of ticks, and so a little off.
    pub counted_by_guest: Histogram,
    /// By the rig: from the exit at the ICR write to the interrupt being taken.
    pub sent_to_taken: Histogram,
    /// By the rig: from the exit at the ICR write to the handler's first instruction. Isolated CPUs
    /// only; empty if handlers could not be watched.
    pub sent_to_handler: Histogram,
}

/// The rig's half: from what it recorded in the windows.
pub(crate) fn measured(details: &[Detail], handled: &[Handled]) -> (Histogram, Histogram) {
    // By target and vector. A send that found another pending has no delivery of its own.
    let mut sent: BTreeMap<(usize, Kind), Vec<u64>> = BTreeMap::new();
    let mut taken: BTreeMap<(usize, Kind), Vec<u64>> = BTreeMap::new();
    for detail in details {
        match detail {
            Detail::Write(write) if counts(write.kind) => {
                for target in write.targets.difference(write.coalesced).iter() {
                    sent.entry((target, write.kind))
                        .or_default()
                        .push(write.time_ns);
                }
            }
            Detail::Delivery(delivery) if delivery.ipi && counts(delivery.kind) => taken
                .entry((delivery.cpu, delivery.kind))
                .or_default()
                .push(delivery.time_ns),
            _ => {}
        }
    }
    let mut began: BTreeMap<(usize, Kind), Vec<u64>> = BTreeMap::new();
    for one in handled {
        began
            .entry((one.cpu, one.kind))
            .or_default()
            .push(one.time_ns);
    }
    let all = |ends: &BTreeMap<(usize, Kind), Vec<u64>>| {
        let each = sent.iter().filter_map(|(key, from)| {
            let ends = ends.get(key)?;
            Some(between(from.clone(), ends.clone()))
        });
        Histogram::of(each.flatten())
    };
    (all(&taken), all(&began))
}

fn counts(kind: Kind) -> bool {
    matches!(kind, Kind::Vector(vector) if CALL_FUNCTION.contains(&vector))
}

/// From each beginning to its end: both come in turn, but the first ends may belong to what began
/// before anybody looked.
fn between(mut starts: Vec<u64>, mut ends: Vec<u64>) -> Vec<u64> {
    /// A target on another thread may take an interrupt before its sending is recorded.
    const EARLY_NS: u64 = 100_000;
    starts.sort_unstable();
    ends.sort_unstable();
    let mut starts = starts.into_iter().peekable();
    let paired = ends.into_iter().filter_map(|end| {
        let start = starts.next_if(|&start| start <= end.saturating_add(EARLY_NS))?;
        Some(end.saturating_sub(start))
    });
    paired.collect()
}
