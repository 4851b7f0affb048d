//! Where the IPIs of a window came from, as far as the ledger alone tells: kind, sender, and the
//! instruction that wrote the ICR.

use std::collections::{BTreeMap, HashMap};

use ipirig_image::Symbols;
use serde::Serialize;

use crate::blame::Taken;
use crate::details::{Delivery, Detail};
use crate::vectors::Kind;

/// IPIs that were sent to isolated vCPUs by one vCPU, of one kind, at one instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The vector or delivery mode, by its name.
    pub kind: String,
    /// The vCPU that sent.
    pub source: usize,
    /// The instruction that wrote the ICR, or the one after it (xAPIC).
    pub address: u64,
    /// The function that it is in, where the kernel file has symbols.
    pub function: Option<String>,
    /// How many were sent to each isolated vCPU.
    pub targets: BTreeMap<usize, u64>,
    /// What the targets were doing when they took them. Sends that found the same interrupt pending
    /// share one taking, so this may be less.
    pub taken: Taken,
}

/// The origins of what was sent to `isolated`, most sends first.
#[must_use]
pub fn origins<'a>(
    details: impl Iterator<Item = &'a Detail>,
    isolated: &[usize],
    symbols: Option<&Symbols>,
) -> Vec<Origin> {
    let mut found: Vec<(Key, BTreeMap<usize, u64>, Taken)> = Vec::new();
    let mut places: HashMap<Key, usize> = HashMap::new();
    // Who sent what has not been taken yet.
    let mut pending: HashMap<(usize, Kind), usize> = HashMap::new();
    for detail in details {
        match detail {
            Detail::Write(write) => {
                let reached: Vec<usize> = isolated
                    .iter()
                    .copied()
                    .filter(|&cpu| write.targets.contains(cpu))
                    .collect();
                if reached.is_empty() {
                    continue;
                }
                let key = Key {
                    kind: write.kind,
                    source: write.source,
                    rip: write.rip,
                };
                let place = *places.entry(key).or_insert_with(|| {
                    found.push((key, BTreeMap::new(), Taken::default()));
                    found.len() - 1
                });
                let Some((_, counts, _)) = found.get_mut(place) else {
                    continue;
                };
                for cpu in reached {
                    *counts.entry(cpu).or_default() += 1;
                    // The first to send is the one who interrupts.
                    pending.entry((cpu, write.kind)).or_insert(place);
                }
            }
            Detail::Delivery(delivery) if delivery.ipi => {
                let place = pending.remove(&(delivery.cpu, delivery.kind));
                if let Some((_, _, taken)) = place.and_then(|place| found.get_mut(place)) {
                    count(taken, delivery);
                }
            }
            Detail::Delivery(_) => {}
        }
    }
    let mut origins: Vec<Origin> = found
        .into_iter()
        .map(|(key, targets, taken)| Origin {
            kind: key.kind.to_string(),
            source: key.source,
            address: key.rip,
            function: symbols
                .and_then(|symbols| symbols.resolve(key.rip))
                .map(|symbol| symbol.to_string()),
            targets,
            taken,
        })
        .collect();
    origins.sort_by_key(|origin| {
        let sends: u64 = origin.targets.values().sum();
        (std::cmp::Reverse(sends), origin.source, origin.address)
    });
    origins
}

/// Counts a delivery by what it interrupted.
pub fn count(taken: &mut Taken, delivery: &Delivery) {
    let counter = match (delivery.user, delivery.idle) {
        (true, _) => &mut taken.user,
        (false, true) => &mut taken.idle,
        (false, false) => &mut taken.kernel,
    };
    *counter += 1;
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    source: usize,
    rip: u64,
}

#[cfg(test)]
mod tests {
    use ipirig_apic::CpuSet;

    use super::*;
    use crate::details::Write;

    fn write(source: usize, vector: u8, targets: u64, rip: u64) -> Detail {
        Detail::Write(Write {
            time_ns: 0,
            source,
            kind: Kind::Vector(vector),
            targets: CpuSet::from_bits(targets),
            coalesced: CpuSet::EMPTY,
            undeliverable: false,
            rip,
            chain: None,
        })
    }

    fn taken(cpu: usize, vector: u8, ipi: bool, user: bool) -> Detail {
        Detail::Delivery(Delivery {
            time_ns: 0,
            cpu,
            kind: Kind::Vector(vector),
            ipi,
            user,
            idle: false,
            due: None,
        })
    }

    fn origin(
        kind: &str,
        source: usize,
        address: u64,
        sent: &[(usize, u64)],
        by: [u64; 2],
    ) -> Origin {
        Origin {
            kind: kind.to_owned(),
            source,
            address,
            function: None,
            targets: sent.iter().copied().collect(),
            taken: Taken {
                user: by[0],
                kernel: by[1],
                idle: 0,
            },
        }
    }

    #[test]
    fn sends_are_grouped_by_kind_sender_and_place_and_others_targets_left_out() {
        let details = [
            write(0, 0xfc, 0b1110, 0x10),
            taken(2, 0xfc, true, true),
            taken(3, 0xfc, true, false),
            taken(1, 0xfc, true, false),
            // A tick is nobody's IPI.
            taken(2, 0xec, false, true),
            write(0, 0xfc, 0b0100, 0x10),
            taken(2, 0xfc, true, true),
            write(1, 0xfc, 0b0100, 0x10),
            write(0, 0xfd, 0b0100, 0x20),
            taken(2, 0xfd, true, true),
            taken(2, 0xfc, true, true),
            // Only to housekeeping vCPUs.
            write(0, 0xfc, 0b0011, 0x30),
        ];
        assert_eq!(
            origins(details.iter(), &[2, 3], None),
            [
                origin("call-function", 0, 0x10, &[(2, 2), (3, 1)], [2, 1]),
                origin("reschedule", 0, 0x20, &[(2, 1)], [1, 0]),
                origin("call-function", 1, 0x10, &[(2, 1)], [1, 0]),
            ]
        );
    }

    #[test]
    fn merged_sends_count_as_sends_of_each_and_one_taking_of_the_first() {
        let details = [
            write(0, 0xfc, 0b100, 0x10),
            write(1, 0xfc, 0b100, 0x20),
            taken(2, 0xfc, true, true),
        ];
        assert_eq!(
            origins(details.iter(), &[2], None),
            [
                origin("call-function", 0, 0x10, &[(2, 1)], [1, 0]),
                origin("call-function", 1, 0x20, &[(2, 1)], [0, 0]),
            ]
        );
    }
}
