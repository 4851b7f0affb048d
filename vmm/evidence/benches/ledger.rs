//! The way of an IPI without KVM: the ICR write is decoded and routed, posted to its targets, and written
//! into the ledger. Millions a second; that none of it allocates is a test (`tests/allocations.rs`).
//! `cargo bench -p ipirig-evidence --bench ledger`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a bench has nobody to tell"
)]

#[path = "../tests/sending/mod.rs"]
mod sending;

use std::time::Instant;

use ipirig_evidence::ledger::{DETAILS, Ledger};
use sending::{ALL_BUT_SELF, TO_ONE, allocations, apics, send};

/// Sends of one sample. The ledger has room for all of them.
const SENDS: usize = 200_000;
const SAMPLES: usize = 15;

/// Millions of sends a second.
fn sample(cpus: usize, icr: u64, listens: bool) -> f64 {
    let (bus, mut apics) = apics(cpus);
    let ledger = Ledger::new(cpus, DETAILS);
    ledger.open_window();
    let start = Instant::now();
    send(&bus, &mut apics, icr, SENDS, listens.then_some(&ledger));
    let elapsed = start.elapsed();
    assert_eq!(ledger.counts().dropped, 0, "the ledger was too small");
    SENDS as f64 / elapsed.as_secs_f64() / 1e6
}

fn main() {
    println!("millions of ICR writes a second, median (least to most) of {SAMPLES}");
    for (name, cpus, icr, listens) in [
        ("3 CPUs, to one", 3, TO_ONE, false),
        ("3 CPUs, to one, with the ledger", 3, TO_ONE, true),
        ("3 CPUs, to all but self", 3, ALL_BUT_SELF, false),
        (
            "3 CPUs, to all but self, with the ledger",
            3,
            ALL_BUT_SELF,
            true,
        ),
        ("64 CPUs, to one, with the ledger", 64, TO_ONE, true),
        (
            "64 CPUs, to all but self, with the ledger",
            64,
            ALL_BUT_SELF,
            true,
        ),
    ] {
        let mut rates: Vec<f64> = (0..SAMPLES).map(|_| sample(cpus, icr, listens)).collect();
        rates.sort_by(f64::total_cmp);
        let at = |index: usize| rates.get(index).copied().unwrap_or(f64::NAN);
        println!(
            "{name:<43}{:>6.2} ({:.2} to {:.2})",
            at(SAMPLES / 2),
            at(0),
            at(SAMPLES - 1)
        );
    }
    for cpus in [3, 64] {
        let (_, _, bytes) = allocations(|| Ledger::new(cpus, DETAILS));
        let mib = bytes as f64 / f64::from(1 << 20);
        println!("a ledger of {cpus} vCPUs: {mib:.1} MiB, {DETAILS} events");
    }
}
