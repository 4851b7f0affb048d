//! The ledger as the machine's observer: from the APIC's words to the ledger's.

use ipirig_apic::{AcceptedKind, DeliveryMode, Origin};
use ipirig_machine::{AcceptedEvent, IpiEvent, Observer, Sender, VirtualMemory, WatchEvent};

use super::{Delivery, Ledger, Write};
use crate::vectors::Kind;
use std::sync::atomic::Ordering::Relaxed;

impl Observer for Ledger {
    fn ipi(&self, event: &IpiEvent) {
        self.ipi_with(event, None);
    }

    fn ipi_from(&self, event: &IpiEvent, sender: &dyn Sender) {
        let cpu = event.sent.ipi.source;
        let chain = if self.inside() {
            self.stacks().number(cpu, sender)
        } else {
            None
        };
        self.ipi_with(event, chain);
    }

    fn accepted(&self, event: &AcceptedEvent) {
        self.accepted_with(event, None);
    }

    fn accepted_in(&self, event: &AcceptedEvent, memory: &dyn VirtualMemory) {
        let due = if event.accepted.origin == Origin::Timer && self.inside() {
            self.stacks().due(event.cpu, memory)
        } else {
            None
        };
        self.accepted_with(event, due);
    }

    fn interrupted_user(&self, cpu: usize) {
        self.ipi_at_user(cpu);
    }

    fn lost(&self, count: u64) {
        self.unheard.fetch_add(count, Relaxed);
    }

    fn watched(&self, event: &WatchEvent) {
        self.reached(event);
    }
}

impl Ledger {
    fn accepted_with(&self, event: &AcceptedEvent, due: Option<u32>) {
        self.delivery(&Delivery {
            time_ns: event.time_ns,
            cpu: event.cpu,
            kind: match event.accepted.kind {
                AcceptedKind::Fixed(vector) => Kind::Vector(vector),
                AcceptedKind::Nmi => Kind::Nmi,
                AcceptedKind::Init => Kind::Init,
                AcceptedKind::Startup(_) => Kind::Startup,
            },
            ipi: event.accepted.origin == Origin::Ipi,
            user: event.cpl == Some(3),
            idle: event.idle,
            due,
        });
    }

    fn ipi_with(&self, event: &IpiEvent, chain: Option<u32>) {
        let ipi = &event.sent.ipi;
        let kind = match ipi.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => Kind::Vector(ipi.vector),
            DeliveryMode::Nmi => Kind::Nmi,
            DeliveryMode::Smi => Kind::Smi,
            DeliveryMode::Init | DeliveryMode::InitDeassert => Kind::Init,
            DeliveryMode::Startup => Kind::Startup,
            DeliveryMode::Reserved(_) => Kind::Other,
        };
        self.write(&Write {
            time_ns: event.time_ns,
            source: ipi.source,
            kind,
            targets: ipi.targets,
            coalesced: event.sent.coalesced,
            undeliverable: ipi.undeliverable,
            rip: event.rip,
            chain,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ipirig_apic::{Accepted, CpuSet, Ipi, Sent, Shorthand};

    use super::super::Tally;
    use super::*;

    #[test]
    fn an_all_but_self_ipi_is_one_write_and_a_send_to_each_other() {
        let ledger = Ledger::new(3, 8);
        ledger.open_window();
        ledger.ipi(&IpiEvent {
            time_ns: 5,
            sent: Sent {
                ipi: Ipi {
                    vector: 0xfc,
                    mode: DeliveryMode::Fixed,
                    shorthand: Shorthand::AllExcludingSelf,
                    source: 0,
                    targets: [1, 2].into_iter().collect(),
                    undeliverable: false,
                },
                coalesced: [2].into_iter().collect(),
                wake: CpuSet::EMPTY,
            },
            rip: 7,
        });
        let accepted = Accepted {
            kind: AcceptedKind::Fixed(0xfc),
            origin: Origin::Ipi,
            merged: false,
        };
        ledger.accepted(&AcceptedEvent {
            time_ns: 6,
            cpu: 2,
            accepted,
            cpl: Some(3),
            idle: false,
        });
        let timer = Accepted {
            kind: AcceptedKind::Fixed(0xec),
            origin: Origin::Timer,
            merged: false,
        };
        ledger.accepted(&AcceptedEvent {
            time_ns: 7,
            cpu: 2,
            accepted: timer,
            cpl: Some(0),
            idle: false,
        });

        let call = BTreeMap::from([(Kind::Vector(0xfc), 1)]);
        let windows: Vec<Tally> = ledger
            .counts()
            .cpus
            .into_iter()
            .map(|cpu| cpu.window)
            .collect();
        assert_eq!(
            windows,
            [
                Tally {
                    writes: 1,
                    ..Tally::default()
                },
                Tally {
                    targeted: call.clone(),
                    targeted_by: BTreeMap::from([(0, 1)]),
                    ..Tally::default()
                },
                Tally {
                    targeted: call.clone(),
                    targeted_by: BTreeMap::from([(0, 1)]),
                    coalesced: 1,
                    delivered: call,
                    ipis_at_user: 1,
                    other: BTreeMap::from([(Kind::Vector(0xec), 1)]),
                    ..Tally::default()
                },
            ]
        );
    }

    #[test]
    fn delivery_modes_without_a_vector_are_counted_by_mode() {
        let ledger = Ledger::new(2, 8);
        for (mode, kind) in [
            (DeliveryMode::Nmi, Kind::Nmi),
            (DeliveryMode::Init, Kind::Init),
            (DeliveryMode::Startup, Kind::Startup),
            (DeliveryMode::Smi, Kind::Smi),
            (DeliveryMode::Reserved(3), Kind::Other),
        ] {
            let ipi = Ipi {
                vector: 0x99,
                mode,
                shorthand: Shorthand::None,
                source: 0,
                targets: [1].into_iter().collect(),
                undeliverable: false,
            };
            let sent = Sent {
                ipi,
                coalesced: CpuSet::EMPTY,
                wake: CpuSet::EMPTY,
            };
            ledger.ipi(&IpiEvent {
                time_ns: 0,
                sent,
                rip: 0,
            });
            let outside = &ledger.counts().cpus[1].outside;
            assert_eq!(outside.targeted.get(&kind), Some(&1), "{kind}");
        }
    }
}
