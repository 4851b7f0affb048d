//! How fast this machine's time-stamp counter runs, which is how fast TCG's does: it reads ours.
//!
//! A kernel on an emulated CPU has nothing to measure that by but a PIT that is emulated as well, and
//! fails to where the machine is busy. So it is told.
#![expect(unsafe_code, reason = "RDTSC is an intrinsic that is unsafe to call")]

use std::thread;
use std::time::{Duration, Instant};

/// How long is measured.
const SPAN: Duration = Duration::from_millis(20);
/// How often; the least disturbed measurement counts.
const TRIES: u32 = 3;

/// In kHz; `None` where it cannot have been measured.
pub(crate) fn khz() -> Option<u64> {
    let measured = (0..TRIES).filter_map(|_| measure());
    let (_, khz) = measured.min_by_key(|(doubt, _)| *doubt)?;
    Some(khz)
}

/// How long the clock and the counter were read apart at most, and the frequency.
fn measure() -> Option<(Duration, u64)> {
    let (early_doubt, early_time, early) = both();
    thread::sleep(SPAN);
    let (late_doubt, late_time, late) = both();
    let nanoseconds = u64::try_from((late_time - early_time).as_nanos()).ok()?;
    let khz = late
        .checked_sub(early)?
        .checked_mul(1_000_000)?
        .checked_div(nanoseconds)?;
    // Anything else is no counter of a CPU that could run this.
    (100_000..100_000_000)
        .contains(&khz)
        .then_some((early_doubt + late_doubt, khz))
}

/// The counter, the time just before, and how long it took to read both.
fn both() -> (Duration, Instant, u64) {
    let before = Instant::now();
    // SAFETY: RDTSC reads a counter; Linux forbids it only to processes that have asked for that
    // (prctl(2), PR_SET_TSC).
    let counter = unsafe { std::arch::x86_64::_rdtsc() };
    (before.elapsed(), before, counter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_of_one_counter_agree() {
        let (one, two) = (khz().expect("measured"), khz().expect("measured"));
        assert!(one.abs_diff(two) < one / 20, "{one} kHz, {two} kHz");
    }
}
