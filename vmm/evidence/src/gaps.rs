//! How long isolated tasks were kept from their loops, as they measured it themselves.

use ipirig_abi::Gap;
use ipirig_machine::clock::Moment;

/// The gaps of the task on one isolated vCPU, and what it says of them as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GapRecord {
    /// Moments on the vCPU, in their order: one before the first gap, one after the last, and some between, as two
    /// clocks seldom keep step for long.
    pub moments: Vec<Moment>,
    /// Turns of the loop that took as many ticks of the time-stamp counter, or more, are gaps.
    pub threshold: u64,
    /// Those that were fetched, in their order.
    pub gaps: Vec<Gap>,
    /// How many more there were.
    pub lost: u64,
    /// The task's own sums over all of them.
    pub sums: GapSums,
}

/// What a task says of all its gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GapSums {
    /// How many there were.
    pub count: u64,
    /// How long they were in all, in ticks.
    pub ticks: u64,
    /// The longest, in ticks.
    pub longest: u64,
}

impl GapRecord {
    /// When the counter read `tsc`, in nanoseconds of the rig's clock, on the straight line through the two moments
    /// around it. `None`: there are no two, or the counter did not count between them.
    #[must_use]
    pub fn ns(&self, tsc: u64) -> Option<u64> {
        let after = self.moments.partition_point(|moment| moment.tsc <= tsc);
        let line = after.clamp(1, self.moments.len().checked_sub(1)?.max(1));
        let [first, last] = self.moments.get(line - 1..=line)? else {
            return None;
        };
        let ticks = i128::from(tsc) - i128::from(first.tsc);
        let (span, ns) = between(*first, *last)?;
        let past = ticks.checked_mul(i128::from(ns))? / i128::from(span);
        let at = i128::from(first.time_ns).checked_add(past)?;
        Some(u64::try_from(at.max(0)).unwrap_or(u64::MAX))
    }

    /// How long so many ticks are on the whole, in nanoseconds. `None` as for [`GapRecord::ns`].
    #[must_use]
    pub fn duration_ns(&self, ticks: u64) -> Option<u64> {
        let (span, ns) = between(*self.moments.first()?, *self.moments.last()?)?;
        u64::try_from(u128::from(ticks) * u128::from(ns) / u128::from(span)).ok()
    }

    /// When the task began to measure, and when it ended, in nanoseconds of the rig's clock.
    #[must_use]
    pub fn span_ns(&self) -> Option<(u64, u64)> {
        Some((self.moments.first()?.time_ns, self.moments.last()?.time_ns))
    }
}

/// The ticks and the nanoseconds between two moments, if both clocks went on.
fn between(first: Moment, last: Moment) -> Option<(u64, u64)> {
    let ticks = last.tsc.checked_sub(first.tsc).filter(|ticks| *ticks > 0)?;
    let ns = last.time_ns.checked_sub(first.time_ns)?;
    (ns > 0).then_some((ticks, ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(moments: &[(u64, u64)]) -> GapRecord {
        let moment = |&(tsc, time_ns): &(u64, u64)| Moment { tsc, time_ns };
        GapRecord {
            moments: moments.iter().map(moment).collect(),
            ..GapRecord::default()
        }
    }

    #[test]
    fn readings_of_the_counter_lie_on_the_lines_between_moments() {
        let record = record(&[(1000, 50), (3000, 1050), (5000, 5050)]);
        let times = [1000, 2000, 3000, 4000, 5000, 6000, 960, 0].map(|tsc| record.ns(tsc));
        // No clock goes below 0.
        assert_eq!(times, [50, 550, 1050, 3050, 5050, 7050, 30, 0].map(Some));
        assert_eq!(record.duration_ns(500), Some(625));
        assert_eq!(record.span_ns(), Some((50, 5050)));
    }

    #[test]
    fn a_counter_that_stands_or_goes_back_tells_no_time() {
        for last in [(1000, 1050), (900, 1050), (3000, 40), (3000, 50)] {
            let record = record(&[(1000, 50), last]);
            assert_eq!((record.ns(2000), record.duration_ns(5)), (None, None));
        }
        for few in [&[][..], &[(1000, 50)]] {
            let record = record(few);
            assert_eq!((record.ns(2000), record.duration_ns(5)), (None, None));
        }
    }

    #[test]
    fn numbers_that_a_guest_may_write_do_not_overflow() {
        let record = record(&[(0, 0), (1, u64::MAX)]);
        assert_eq!(record.duration_ns(u64::MAX), None);
        assert_eq!(record.ns(u64::MAX), None);
    }
}
