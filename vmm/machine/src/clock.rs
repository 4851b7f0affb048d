//! The one clock of the machine: APIC timers and event times share it.

use std::sync::OnceLock;
use std::time::Instant;

use crate::sys;

/// One moment by two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The time-stamp counter as the guest reads it on one of its vCPUs.
    pub tsc: u64,
    /// Nanoseconds of [`now`]; not exactly then, but within the time that it takes to read both.
    pub time_ns: u64,
}

/// The time of [`now`] that is `at` nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn of_monotonic(at: u64) -> u64 {
    static BEGAN: OnceLock<u64> = OnceLock::new();
    let began = BEGAN.get_or_init(|| {
        let now = now();
        sys::monotonic().saturating_sub(now)
    });
    at.saturating_sub(*began)
}

/// Nanoseconds of `CLOCK_MONOTONIC` since the process first asked. Never decreases.
#[must_use]
pub fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    // 2^64 ns are 584 years.
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
