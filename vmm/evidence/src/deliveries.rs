//! What each interrupt that a vCPU took was sent for.

use std::collections::{HashMap, VecDeque};

use crate::details::{Delivery, Detail, Write};
use crate::vectors::Kind;

/// An interrupt that a vCPU took, with the ICR writes that it was sent by: none for a timer, several where the APIC
/// merged them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The interrupt.
    pub delivery: Delivery,
    /// Who sent it.
    pub writes: Vec<Write>,
}

/// Sends of one kind to one vCPU that it has not taken yet. Those that the APIC merged are one group:
/// one delivery is for all of them.
type Pending = VecDeque<Vec<Write>>;

/// The interrupts that were taken, by time. `opened`: when each window opened, in nanoseconds of the rig's clock.
#[must_use]
pub fn delivered<'a>(details: impl Iterator<Item = &'a Detail>, opened: &[u64]) -> Vec<Delivered> {
    // By time, and not as recorded: a target may take an IPI before its sender has put it down.
    let mut events: Vec<&Detail> = details.collect();
    events.sort_by_key(|event| match event {
        Detail::Write(write) => (write.time_ns, 0),
        Detail::Delivery(delivery) => (delivery.time_ns, 1),
    });
    let mut windows = opened.iter().copied().peekable();
    let mut pending: HashMap<(usize, Kind), Pending> = HashMap::new();
    let mut all = Vec::new();
    for event in events {
        let time = match event {
            Detail::Write(write) => write.time_ns,
            Detail::Delivery(delivery) => delivery.time_ns,
        };
        // What was taken between two windows was not recorded.
        while windows.next_if(|opened| *opened <= time).is_some() {
            pending.clear();
        }
        match event {
            Detail::Write(write) => {
                for cpu in write.targets.iter() {
                    let groups = pending.entry((cpu, write.kind)).or_default();
                    match groups.back_mut() {
                        Some(group) if write.coalesced.contains(cpu) => group.push(*write),
                        _ => groups.push_back(vec![*write]),
                    }
                }
            }
            Detail::Delivery(delivery) => {
                let groups = pending.get_mut(&(delivery.cpu, delivery.kind));
                let group = groups
                    .filter(|_| delivery.ipi)
                    .and_then(VecDeque::pop_front);
                all.push(Delivered {
                    delivery: *delivery,
                    writes: group.unwrap_or_default(),
                });
            }
        }
    }
    all
}
