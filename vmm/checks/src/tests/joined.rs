//! Calls that joined an IPI that was pending.

use std::collections::BTreeMap;

use ipirig_apic::CpuSet;
use ipirig_evidence::Sequence;
use ipirig_evidence::blame::{Attribution, Deferrable, Taken};
use ipirig_evidence::ledger::changes::{Sighted, Sighting};
use ipirig_evidence::ledger::{Delivery, Detail, Write};
use ipirig_evidence::vectors::Kind;

use super::*;

const CALL: Kind = Kind::Vector(0xfb);

fn sent(time_ns: u64, chain: u32) -> Detail {
    Detail::Write(Write {
        time_ns,
        source: 0,
        kind: CALL,
        targets: [2].into_iter().collect(),
        coalesced: CpuSet::EMPTY,
        undeliverable: false,
        rip: 0,
        chain: Some(chain),
    })
}

fn taken(time_ns: u64) -> Detail {
    Detail::Delivery(Delivery {
        time_ns,
        cpu: 2,
        kind: CALL,
        ipi: true,
        user: false,
        idle: false,
        due: None,
    })
}

fn blame(cause: &str, number: u32, count: u64) -> Attribution {
    Attribution {
        cause: cause.to_owned(),
        by: None,
        deferrable: Deferrable::Yes,
        kind: "call-function-single".to_owned(),
        source: 0,
        number: Some(number),
        targets: BTreeMap::from([(2, count)]),
        taken: Taken::default(),
        chain: vec![],
        broken: None,
    }
}

/// 99 pokes, 100 ns apart from 100 on, with an IPI 10 ns after each but the 50th, at 5000; and one IPI for
/// `cause`, sent and taken at these times.
fn one_short(cause: &str, (at, then): (u64, u64)) -> (Verdict, String) {
    let script = sends();
    let (plan, mut evidence) = evidence("target-in-kernel", None, script);
    let mut sequence = Sequence::default();
    for time_ns in (1..=99).map(|nth: u64| nth * 100) {
        sequence.sightings.push(Sighting {
            time_ns,
            cpu: 0,
            what: Sighted::Poke,
            start: 0,
            end: 5,
        });
        if time_ns != 5000 {
            sequence.details.push(sent(time_ns + 10, 7));
            sequence.details.push(taken(time_ns + 20));
        }
    }
    sequence.details.extend([sent(at, 9), taken(then)]);
    // None of these is that IPI: another vCPU's, of another kind, and none at all.
    for (cpu, kind, ipi) in [(1, CALL, true), (2, Kind::Nmi, true), (2, CALL, false)] {
        let Detail::Delivery(one) = taken(at) else {
            continue;
        };
        let other = Delivery {
            cpu,
            kind,
            ipi,
            ..one
        };
        sequence.details.push(Detail::Delivery(other));
    }
    evidence.sequence = Some(sequence);
    evidence.blame = vec![
        blame("static key", 7, 98),
        blame("vunmap", 8, 99),
        blame(cause, 9, 1),
    ];
    let check = named(ISOLATED_IPIS, &plan, &evidence);
    (check.status, check.evidence)
}

#[test]
fn one_that_could_join_another_pending_ipi_is_not_lost() {
    for times in [(5005, 5050), (4999, 5001), (5099, 5200), (5050, 5050)] {
        let (status, words) = one_short("wake-up", times);
        assert_eq!(status, Held, "{times:?}: {words}");
        let joined =
            "98 of at least 99 for static key, as 1 may have joined another IPI that was pending";
        assert!(words.contains(joined), "{words}");
    }
}

#[test]
fn one_that_could_join_none_is_lost() {
    // Taken before the change, sent after the next one, and of a cause whose sender waits.
    for (cause, times) in [
        ("wake-up", (4990, 5000)),
        ("wake-up", (4990, 4990)),
        ("wake-up", (5100, 5150)),
        ("vunmap", (5005, 5050)),
    ] {
        let (status, words) = one_short(cause, times);
        assert_eq!(status, Violated, "{cause} {times:?}: {words}");
        assert!(
            words.contains("98 of at least 99 for static key"),
            "{words}"
        );
    }
}
