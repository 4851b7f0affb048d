//! What the way of an IPI asks of the allocator: nothing; and how much the ledger is.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a fixture that fails should stop its test"
)]

mod sending;

use ipirig_evidence::ledger::{DETAILS, Ledger};
use sending::{ALL_BUT_SELF, TO_ONE, allocations, apics, send};

// One test: others on other threads would be counted as well.
#[test]
fn an_ipi_allocates_nothing_and_a_ledger_is_bounded() {
    let (_, counted, bytes) = allocations(|| Box::new([0_u8; 100]));
    assert_eq!((counted, bytes), (1, 100), "the counter counts");

    for cpus in [3, 64] {
        let (ledger, _, bytes) = allocations(|| Ledger::new(cpus, DETAILS));
        assert!(bytes <= 32 << 20, "{cpus} vCPUs: {bytes} bytes");
        let (bus, mut apics) = apics(cpus);
        ledger.open_window();
        let more_than_fit = DETAILS + 1000;
        let ((), counted, _) = allocations(|| {
            send(&bus, &mut apics, TO_ONE, 1000, Some(&ledger));
            send(&bus, &mut apics, ALL_BUT_SELF, more_than_fit, Some(&ledger));
        });
        assert_eq!(counted, 0, "{cpus} vCPUs");
        assert_eq!(ledger.counts().dropped, 2000);
    }
}
