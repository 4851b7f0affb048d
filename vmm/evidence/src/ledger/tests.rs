use ipirig_apic::CpuSet;
use proptest::prelude::*;

use super::*;

const CPUS: usize = 4;

fn write(source: usize, targets: u64) -> Write {
    Write {
        time_ns: 0,
        source,
        kind: Kind::Vector(0xfb),
        targets: CpuSet::from_bits(targets),
        coalesced: CpuSet::EMPTY,
        undeliverable: targets == 0,
        rip: 0,
        chain: None,
    }
}

#[test]
fn what_does_not_fit_is_counted_and_counters_stay_exact() {
    let ledger = Ledger::new(2, 3);
    ledger.open_window();
    for _ in 0..5 {
        ledger.write(&write(0, 0b10));
    }
    let counts = ledger.counts();
    assert_eq!(counts.dropped, 2);
    assert_eq!(counts.cpus[1].window.ipis_targeted(), 5);
    assert_eq!(ledger.details().iter().count(), 3);
}

#[test]
fn details_are_kept_for_the_window_only() {
    let ledger = Ledger::new(2, 8);
    ledger.write(&write(0, 0b10));
    ledger.open_window();
    let inside = write(1, 0b01);
    ledger.write(&inside);
    ledger.close_window();
    ledger.write(&write(0, 0b10));
    assert!(ledger.details().iter().eq(&[Detail::Write(inside)]));
}

#[test]
fn vcpus_that_do_not_exist_are_strangers() {
    let ledger = Ledger::new(2, 8);
    ledger.write(&write(7, 0b01));
    ledger.write(&write(0, 0b100));
    ledger.delivery(&Delivery {
        time_ns: 0,
        cpu: 9,
        kind: Kind::Nmi,
        ipi: true,
        user: false,
        idle: false,
        due: None,
    });
    assert_eq!(ledger.counts().strangers, 3);
}

#[test]
fn events_from_many_threads_are_all_counted() {
    let ledger = Ledger::new(CPUS, 1 << 12);
    ledger.open_window();
    std::thread::scope(|scope| {
        for source in 0..CPUS {
            let ledger = &ledger;
            scope.spawn(move || {
                for _ in 0..1000 {
                    ledger.write(&write(source, 0b1111));
                }
            });
        }
    });
    let counts = ledger.counts();
    for cpu in &counts.cpus {
        assert_eq!(
            cpu.window.targeted_by,
            (0..CPUS).map(|source| (source, 1000)).collect()
        );
    }
    assert_eq!((counts.dropped, ledger.details().iter().count()), (0, 4000));
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    Close,
    Write(Write),
    Delivery(Delivery),
}

fn kind() -> impl Strategy<Value = Kind> {
    (0..Kind::COUNT).prop_map(|index| Kind::all().nth(index).unwrap())
}

fn step() -> impl Strategy<Value = Step> {
    let write = (0..CPUS, kind(), 0_u64..16, any::<u64>(), any::<bool>()).prop_map(
        |(source, kind, targets, coalesced, undeliverable)| {
            let coalesced = coalesced & targets;
            let time_ns = 1;
            Step::Write(Write {
                time_ns,
                source,
                kind,
                targets: CpuSet::from_bits(targets),
                coalesced: CpuSet::from_bits(coalesced),
                undeliverable,
                rip: 2,
                chain: None,
            })
        },
    );
    let delivery =
        (0..CPUS, kind(), any::<bool>(), any::<bool>()).prop_map(|(cpu, kind, ipi, user)| {
            Step::Delivery(Delivery {
                time_ns: 3,
                cpu,
                kind,
                ipi,
                user,
                idle: false,
                due: None,
            })
        });
    prop_oneof![1 => Just(Step::Open), 1 => Just(Step::Close), 6 => write, 6 => delivery]
}

/// Counts the slow way: one pass over all steps for each number.
fn recount(steps: &[Step], cpu: usize, want_inside: bool) -> Tally {
    let mut inside = false;
    let mut here = Vec::new();
    for step in steps {
        match step {
            Step::Open => inside = true,
            Step::Close => inside = false,
            event if inside == want_inside => here.push(event.clone()),
            _ => {}
        }
    }
    let writes: Vec<Write> = here
        .iter()
        .filter_map(|s| {
            if let Step::Write(w) = s {
                Some(*w)
            } else {
                None
            }
        })
        .collect();
    let took: Vec<Delivery> = here
        .iter()
        .filter_map(|s| {
            if let Step::Delivery(d) = s {
                Some(*d)
            } else {
                None
            }
        })
        .filter(|d| d.cpu == cpu)
        .collect();
    let at_us: Vec<Write> = writes
        .iter()
        .filter(|w| w.targets.contains(cpu))
        .copied()
        .collect();
    let count = |n: usize| n as u64;
    let kinds = |of: &dyn Fn(Kind) -> usize| -> BTreeMap<Kind, u64> {
        Kind::all()
            .map(|k| (k, count(of(k))))
            .filter(|(_, n)| *n > 0)
            .collect()
    };
    Tally {
        writes: count(writes.iter().filter(|w| w.source == cpu).count()),
        undeliverable: count(
            writes
                .iter()
                .filter(|w| w.source == cpu && w.undeliverable)
                .count(),
        ),
        targeted: kinds(&|k| at_us.iter().filter(|w| w.kind == k).count()),
        targeted_by: (0..CPUS)
            .map(|source| {
                (
                    source,
                    count(at_us.iter().filter(|w| w.source == source).count()),
                )
            })
            .filter(|(_, n)| *n > 0)
            .collect(),
        coalesced: count(at_us.iter().filter(|w| w.coalesced.contains(cpu)).count()),
        delivered: kinds(&|k| took.iter().filter(|d| d.ipi && d.kind == k).count()),
        ipis_at_user: count(took.iter().filter(|d| d.ipi && d.user).count()),
        ipis_at_idle: count(took.iter().filter(|d| d.ipi && d.idle).count()),
        other: kinds(&|k| took.iter().filter(|d| !d.ipi && d.kind == k).count()),
    }
}

proptest! {
    #[test]
    fn counters_agree_with_a_naive_recount(steps in prop::collection::vec(step(), 0..60)) {
        let ledger = Ledger::new(CPUS, 16);
        let mut in_window = 0;
        let mut inside = false;
        for step in &steps {
            match step {
                Step::Open => { inside = true; ledger.open_window(); }
                Step::Close => { inside = false; ledger.close_window(); }
                Step::Write(write) => { in_window += u64::from(inside); ledger.write(write); }
                Step::Delivery(delivery) => {
                    in_window += u64::from(inside);
                    ledger.delivery(delivery);
                }
            }
        }
        let expected = LedgerCounts {
            cpus: (0..CPUS)
                .map(|cpu| CpuRecord {
                    outside: recount(&steps, cpu, false),
                    window: recount(&steps, cpu, true),
                })
                .collect(),
            dropped: in_window.saturating_sub(16),
            strangers: 0,
            counts_only: false,
        };
        prop_assert_eq!(ledger.counts(), expected);
    }
}
