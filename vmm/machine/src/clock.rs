//! The one clock of the machine: APIC timers and event times share it.

use std::sync::OnceLock;
use std::time::Instant;

/// Nanoseconds of `CLOCK_MONOTONIC` since the process first asked. Never decreases.
#[must_use]
pub fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    // 2^64 ns are 584 years.
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
