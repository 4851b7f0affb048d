//! Many senders at once: nothing is lost and nothing is delivered twice.

use ipirig_apic::{Accepted, AcceptedKind, Action, ApicObserver, Bus, Icr, LocalApic, Sent};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[derive(Default)]
struct Counts {
    sent: AtomicUsize,
    coalesced: AtomicUsize,
    woken: AtomicUsize,
    fixed: AtomicUsize,
    nmis: AtomicUsize,
}

impl ApicObserver for Counts {
    fn ipi_sent(&self, sent: &Sent) {
        self.sent
            .fetch_add(sent.ipi.targets.len(), Ordering::Relaxed);
        self.coalesced
            .fetch_add(sent.coalesced.len(), Ordering::Relaxed);
        self.woken.fetch_add(sent.wake.len(), Ordering::Relaxed);
    }

    fn interrupt_accepted(&self, _cpu: usize, accepted: Accepted) {
        let count = if accepted.kind == AcceptedKind::Nmi {
            &self.nmis
        } else {
            &self.fixed
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes everything that is pending and ends it.
fn drain(apic: &mut LocalApic, counts: &Counts) {
    loop {
        let work = apic.poll(0);
        if work.nmi {
            apic.accept_nmi(counts);
        } else if let Some(vector) = work.interrupt {
            apic.accept_interrupt(vector, counts);
            assert_eq!(apic.mmio_write(0xb0, 0, 0), Action::EndOfInterrupt(vector));
        } else {
            return;
        }
    }
}

#[test]
fn every_send_is_delivered_or_coalesced() {
    const SENDERS: usize = 3;
    const EACH: u32 = 20_000;
    let bus = Bus::new(SENDERS + 1).unwrap();
    let counts = Counts::default();
    let done = AtomicBool::new(false);
    let mut apic = LocalApic::new(Arc::clone(&bus), 0, false).unwrap();
    assert_eq!(apic.mmio_write(0xf0, 0x1ff, 0), Action::None);
    std::thread::scope(|scope| {
        let target = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                drain(&mut apic, &counts);
            }
            drain(&mut apic, &counts);
        });
        let senders: Vec<_> = (1..=SENDERS)
            .map(|source| {
                let (bus, counts) = (&bus, &counts);
                scope.spawn(move || {
                    for turn in 0..EACH {
                        // Few vectors, so that senders meet; each seventh is an NMI.
                        let command = if turn % 7 == 0 {
                            0x4400
                        } else {
                            0x40f0 + turn % 4
                        };
                        let sent = bus.send(source, Icr::from_xapic(command, 0), counts);
                        assert_eq!(sent.ipi.targets.len(), 1);
                    }
                })
            })
            .collect();
        senders
            .into_iter()
            .for_each(|sender| sender.join().unwrap());
        done.store(true, Ordering::Release);
        target.join().unwrap();
    });
    let Counts {
        sent,
        coalesced,
        woken,
        fixed,
        nmis,
    } = counts;
    assert_eq!(sent.into_inner(), SENDERS * EACH as usize);
    let delivered = fixed.into_inner() + nmis.into_inner();
    assert_eq!(delivered + coalesced.into_inner(), SENDERS * EACH as usize);
    assert_eq!(woken.into_inner(), delivered);
}
