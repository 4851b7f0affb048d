//! Did senders wait? The next change must not be made before each CPU that was sent an IPI for the one
//! before has taken it: until then it may execute, or use, what was there before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ipirig_abi::Role;
use ipirig_evidence::ledger::{Detail, Write};
use ipirig_evidence::{Evidence, Sequence};
use ipirig_scenario::plan::Plan;

use super::joined::is_call;
use crate::check::{Check, SENDER_WAITS, Verdict};

/// Only made where IPIs are counted by cause, and for those causes: others may well be sent without
/// waiting.
pub(super) fn sender_waits(plan: &Plan, evidence: &Evidence) -> Option<Check> {
    let causes = &plan.scenario.expect.by_cause;
    if causes.is_empty() {
        return None;
    }
    let skipped = |words: &str| Some(Check::new(SENDER_WAITS, Verdict::Skipped, words));
    let Some(sequence) = &evidence.sequence else {
        return skipped("what came when was not kept");
    };
    if evidence.ledger.counts_only {
        return skipped("when KVM's own APICs deliver is not known");
    }
    if sequence.sightings.is_empty() {
        return skipped("no change was seen");
    }
    // By sender and number of the chain.
    let chains: BTreeSet<(usize, u32)> = evidence
        .blame
        .iter()
        .filter(|blame| causes.contains_key(&blame.cause))
        .filter_map(|blame| Some((blame.source, blame.number?)))
        .collect();
    if chains.is_empty() {
        return skipped("why IPIs were sent is not known");
    }
    let mut order = Order::new(sequence);
    let (mut looked, mut early) = (0_u64, Vec::new());
    for detail in &sequence.details {
        let Detail::Write(write) = detail else {
            continue;
        };
        let ours = write
            .chain
            .is_some_and(|chain| chains.contains(&(write.source, chain)));
        if !ours || !is_call(write.kind) {
            continue;
        }
        for (cpu, role) in plan.roles.iter().enumerate() {
            // One that found the same interrupt pending shares it.
            let sent = write.targets.difference(write.coalesced);
            if *role == Role::Control || !sent.contains(cpu) {
                continue;
            }
            match order.taken_in_time(write, cpu) {
                Some(true) => looked += 1,
                Some(false) => early.push(cpu),
                None => {}
            }
        }
    }
    let late = early.len() as u64;
    let all = looked + late;
    // Who is at its queue of functions for another IPI, or about to idle, finds the new function there and
    // calls it before it takes the interrupt: a few that come late prove nothing.
    if late.saturating_mul(2) <= all {
        let words = match late {
            0 => format!("each of {all} IPIs was taken before the sender made its next change"),
            _ => format!(
                "{looked} of {all} IPIs were taken before the sender made its next change; for {late} the \
                 function may have been called before the interrupt was taken"
            ),
        };
        return Some(Check::new(SENDER_WAITS, Verdict::Held, words));
    }
    let words = format!(
        "{late} of {all} IPIs had not been taken when the sender made its next change, the first by vCPU {}",
        early.first().copied().unwrap_or_default()
    );
    Some(Check::new(SENDER_WAITS, Verdict::Violated, words))
}

/// When changes were made and call-function IPIs taken, by vCPU, in order.
struct Order {
    changes: BTreeMap<usize, Vec<u64>>,
    taken: BTreeMap<usize, VecDeque<u64>>,
}

impl Order {
    fn new(sequence: &Sequence) -> Self {
        let mut order = Self {
            changes: BTreeMap::new(),
            taken: BTreeMap::new(),
        };
        for sighting in &sequence.sightings {
            order
                .changes
                .entry(sighting.cpu)
                .or_default()
                .push(sighting.time_ns);
        }
        for detail in &sequence.details {
            if let Detail::Delivery(delivery) = detail
                && delivery.ipi
                && is_call(delivery.kind)
            {
                order
                    .taken
                    .entry(delivery.cpu)
                    .or_default()
                    .push_back(delivery.time_ns);
            }
        }
        order
            .changes
            .values_mut()
            .for_each(|times| times.sort_unstable());
        for times in order.taken.values_mut() {
            times.make_contiguous().sort_unstable();
        }
        order
    }

    /// Whether `cpu` took the IPI of `write` before the sender's next change. Each interrupt that it took is
    /// taken for one IPI alone, in their order: the first after the sender's last change. `None`: there is
    /// no next change.
    fn taken_in_time(&mut self, write: &Write, cpu: usize) -> Option<bool> {
        let changes = self.changes.get(&write.source)?;
        let at = changes.partition_point(|&time| time <= write.time_ns);
        let next = *changes.get(at)?;
        let last = at.checked_sub(1).and_then(|at| changes.get(at)).copied();
        let taken = self.taken.get_mut(&cpu)?;
        while taken
            .front()
            .is_some_and(|&time| time < last.unwrap_or_default())
        {
            taken.pop_front();
        }
        Some(taken.pop_front().is_some_and(|time| time <= next))
    }
}
