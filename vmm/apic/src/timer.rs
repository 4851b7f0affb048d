//! The APIC timer: a counter that runs at 1 GHz divided by the divide configuration, so that one
//! tick before the divider is one nanosecond. KVM's in-kernel APIC has the same clock
//! (`APIC_BUS_CYCLE_NS`).

use serde::{Deserialize, Serialize};

/// The shortest period, in nanoseconds, that the periodic mode runs at; a shorter one asked for is
/// stretched to it. It bounds how often a guest can make the VMM wake for its timer. KVM's default
/// (`min_timer_period_us`) is the same. One-shot has no bound: each shot costs the guest a write.
pub const MIN_TIMER_PERIOD_NS: u64 = 200_000;

/// The counter. Whether it is periodic or masked is said by the LVT.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Timer {
    initial: u32,
    divide: u32,
    /// When the count reaches zero, in nanoseconds; none while stopped.
    deadline: Option<u64>,
    /// The same as the guest wrote it, in TSC-deadline mode; zero otherwise.
    tsc_deadline: u64,
}

impl Timer {
    pub(crate) fn initial(&self) -> u32 {
        self.initial
    }

    pub(crate) fn divide(&self) -> u32 {
        self.divide
    }

    pub(crate) fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    pub(crate) fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    /// A write to IA32_TSC_DEADLINE of a value that the TSC has at `at`.
    pub(crate) fn set_tsc_deadline(&mut self, value: u64, at: u64) {
        self.tsc_deadline = value;
        self.deadline = (value != 0).then_some(at);
    }

    /// Counts the deadline from `now`, not from the start of the clock. One that passed is due at once.
    pub(crate) fn move_back(&mut self, now: u64) {
        self.deadline = self.deadline.map(|at| at.saturating_sub(now));
    }

    /// Takes [`Timer::move_back`] back, at another `now`.
    pub(crate) fn move_on(&mut self, now: u64) {
        self.deadline = self.deadline.map(|left| now.saturating_add(left));
    }

    /// A switch between the TSC-deadline mode and the counting ones (SDM 11.5.4.1).
    pub(crate) fn disarm(&mut self) {
        self.tsc_deadline = 0;
        self.deadline = None;
        self.initial = 0;
    }

    /// How many nanoseconds a count takes: 1 to 128 (SDM figure 11-10).
    fn divisor(&self) -> u64 {
        let code = self.divide & 0b11 | self.divide >> 1 & 0b100;
        // Codes 0 to 6 are 2 to 128; 7 is 1.
        1 << ((code + 1) & 0b111)
    }

    fn ns(&self, count: u32) -> u64 {
        u64::from(count) * self.divisor()
    }

    fn period(&self) -> u64 {
        self.ns(self.initial).max(MIN_TIMER_PERIOD_NS)
    }

    /// A write to the initial count: starts over, or stops with zero.
    pub(crate) fn start(&mut self, initial: u32, periodic: bool, now: u64) {
        self.initial = initial;
        let first = if periodic {
            self.period()
        } else {
            self.ns(initial)
        };
        self.deadline = (initial != 0).then(|| now.saturating_add(first));
    }

    /// A write to the divide configuration: the count continues from where it is at the new pace.
    pub(crate) fn set_divide(&mut self, divide: u32, now: u64) {
        let count = self.current(now);
        self.divide = divide;
        if self.deadline.is_some() && self.tsc_deadline == 0 {
            self.deadline = Some(now.saturating_add(self.ns(count)));
        }
    }

    /// Brings the timer up to `now` and says whether the count reached zero since. A periodic timer
    /// goes on in phase with its first expiry; however many periods were missed, they count once.
    pub(crate) fn expire(&mut self, periodic: bool, now: u64) -> bool {
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else {
            return false;
        };
        self.tsc_deadline = 0;
        self.deadline = periodic.then(|| {
            let period = self.period();
            let missed = (now - deadline) / period;
            deadline.saturating_add(period.saturating_mul(missed + 1))
        });
        true
    }

    /// The current count, for a timer that [`Timer::expire`] has brought up to `now`. Rounded up,
    /// so that it is zero only once the timer has expired.
    pub(crate) fn current(&self, now: u64) -> u32 {
        let left = self
            .deadline
            .map_or(0, |deadline| deadline.saturating_sub(now));
        let count = left.div_ceil(self.divisor());
        // A stretched period has more ticks than the register can show.
        u32::try_from(count).unwrap_or(u32::MAX).min(self.initial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divide_configuration_is_three_bits_that_skip_one() {
        let divisors = [0, 1, 2, 3, 8, 9, 10, 11].map(|divide| {
            Timer {
                divide,
                ..Timer::default()
            }
            .divisor()
        });
        assert_eq!(divisors, [2, 4, 8, 16, 32, 64, 128, 1]);
    }

    #[test]
    fn one_shot_expires_once_at_its_deadline() {
        let mut timer = Timer {
            divide: 0b1011,
            ..Timer::default()
        };
        timer.start(1000, false, 50);
        assert_eq!((timer.expire(false, 1049), timer.current(1049)), (false, 1));
        assert_eq!((timer.expire(false, 1050), timer.current(1050)), (true, 0));
        assert_eq!((timer.expire(false, 9999), timer.deadline()), (false, None));
    }

    #[test]
    fn periodic_keeps_phase_and_counts_missed_periods_once() {
        let mut timer = Timer {
            divide: 0b1011,
            ..Timer::default()
        };
        timer.start(1_000_000, true, 7);
        assert!(timer.expire(true, 1_000_007 + 3_400_000));
        assert_eq!(timer.deadline(), Some(5_000_007));
        assert!(!timer.expire(true, 5_000_006));
        assert_eq!(timer.current(4_400_007), 600_000);
    }

    #[test]
    fn a_short_period_is_stretched_to_the_bound() {
        let mut timer = Timer {
            divide: 0b1011,
            ..Timer::default()
        };
        timer.start(1, true, 0);
        assert_eq!(
            (timer.deadline(), timer.current(0)),
            (Some(MIN_TIMER_PERIOD_NS), 1)
        );
        assert!(timer.expire(true, MIN_TIMER_PERIOD_NS));
        assert_eq!(timer.deadline(), Some(2 * MIN_TIMER_PERIOD_NS));
    }

    #[test]
    fn a_new_divisor_changes_the_pace_and_not_the_count() {
        let mut timer = Timer {
            divide: 0b1011,
            ..Timer::default()
        };
        timer.start(1000, false, 0);
        timer.set_divide(0b0001, 400);
        assert_eq!(
            (timer.current(400), timer.deadline()),
            (600, Some(400 + 4 * 600))
        );
    }

    #[test]
    fn the_end_of_time_does_not_overflow() {
        let mut timer = Timer {
            divide: 0b1010,
            ..Timer::default()
        };
        timer.start(u32::MAX, true, u64::MAX - 1);
        assert_eq!(timer.deadline(), Some(u64::MAX));
        assert!(timer.expire(true, u64::MAX));
        assert_eq!(timer.current(0), u32::MAX);
    }
}
