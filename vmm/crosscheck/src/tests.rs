mod rules;

use std::collections::BTreeMap;

use ipirig_fake::{Script, traced};

use super::*;

/// A kernel that does not defer: three IPIs an operation to the isolated vCPU.
fn off() -> Script {
    Script {
        ipis_per_operation: 3,
        ..Script::default()
    }
}

#[test]
fn the_comparison_has_both_counts_and_all_times() {
    let (plan, evidence) = traced(off());
    let compared = compare(&plan, &evidence).unwrap().unwrap();
    let counts = |count| BTreeMap::from([("call-function".to_owned(), count)]);
    let cpu = |cpu, role, count| Compared {
        cpu,
        role,
        rig: counts(count),
        guest: counts(count),
        pairs: count,
        queued: count,
        queued_with_ipi: count,
        begun: count,
        lost: 0,
    };
    assert_eq!(
        compared.cpus,
        [cpu(1, "housekeeping", 101), cpu(2, "isolated", 303)]
    );
    let times = |from, count| Histogram {
        buckets: BTreeMap::from([(from, count)]),
    };
    // 2^12 to 2^13 ticks of half a nanosecond.
    assert_eq!(compared.times.counted_by_guest, times(2, 404));
    assert_eq!(compared.times.sent_to_taken, times(1, 404));
    assert_eq!(compared.times.sent_to_handler, times(2, 303));
    assert_eq!(compared.times.queued_to_begun.count(), 404);
    assert_eq!(compared.filters, ["ipi:ipi_send_cpu cpu & 0x6"]);
}
