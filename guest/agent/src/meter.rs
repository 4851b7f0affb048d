//! Measures how long an isolated task is kept from its loop.

use std::sync::atomic::Ordering;

use ipirig_abi::{Gap, Gaps};

/// To tell of a gap is a gap too where it takes so many times as long as it need: the CPU may be taken away then, above all
/// where it is emulated and little else is done for so long.
const TELLING: u64 = 8;

/// What stands between two turns of the loop.
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    gaps: &'a Gaps,
    /// The counter at the last turn; 0 before the first one that is measured.
    last: u64,
    /// The fewest ticks that it took to tell of a gap.
    telling: u64,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(gaps: &'a Gaps) -> Self {
        Self {
            gaps,
            last: 0,
            telling: u64::MAX,
        }
    }

    /// One more turn. `counter` reads the time-stamp counter; it is not asked unless somebody wants to know.
    pub(crate) fn turn(&mut self, counter: impl Fn() -> u64) {
        let threshold = self.gaps.threshold.load(Ordering::Relaxed);
        if threshold == 0 {
            self.last = 0;
            return;
        }
        let now = counter();
        let last = std::mem::replace(&mut self.last, now);
        if last != 0 && now.saturating_sub(last) >= threshold {
            self.tell(last, threshold, counter);
        }
    }

    /// Tells of the gap from `begin` to the last turn, and of what interrupted that.
    fn tell(&mut self, mut begin: u64, threshold: u64, counter: impl Fn() -> u64) {
        loop {
            let ticks = self.last.saturating_sub(begin);
            self.gaps.tell(Gap { begin, ticks });
            begin = self.last;
            self.last = counter();
            let took = self.last.saturating_sub(begin);
            self.telling = self.telling.min(took);
            if took < threshold.max(self.telling.saturating_mul(TELLING)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Takes a turn at each of these readings of the counter; what was told, and how many readings were taken.
    fn told(threshold: u64, readings: &[u64]) -> (Vec<Gap>, usize) {
        let gaps = Gaps::new();
        gaps.threshold.store(threshold, Ordering::Relaxed);
        let mut meter = Meter::new(&gaps);
        let taken = Cell::new(0);
        let next = || {
            taken.set(taken.get() + 1);
            readings.get(taken.get() - 1).copied().unwrap_or(0)
        };
        while taken.get() < readings.len() {
            meter.turn(next);
            if threshold == 0 {
                break;
            }
        }
        let mut found = Vec::new();
        assert_eq!(gaps.fetch(&mut 0, |gap| found.push(gap)), 0);
        (found, taken.get())
    }

    const fn gap(begin: u64, ticks: u64) -> Gap {
        Gap { begin, ticks }
    }

    #[test]
    fn a_turn_that_took_as_long_as_the_threshold_is_a_gap_and_telling_it_is_none() {
        // 1019 and 1060 are read after a gap was told; the next turn counts from there.
        let readings = [1000, 1004, 1014, 1019, 1028, 1048, 1060];
        assert_eq!(told(10, &readings).0, [gap(1004, 10), gap(1028, 20)]);
    }

    #[test]
    fn an_interruption_while_a_gap_is_told_is_a_gap_of_its_own() {
        let readings = [1000, 1100, 1103, 1104, 1204, 1904, 1908, 1910];
        let all = [gap(1000, 100), gap(1104, 100), gap(1204, 700)];
        assert_eq!(told(10, &readings).0, all);
        // To tell takes 20 ticks here, which is longer than what makes a gap; and 170 once.
        let slow = [1000, 1100, 1120, 1121, 1221, 1391, 1411, 1412];
        let all = [gap(1000, 100), gap(1121, 100), gap(1221, 170)];
        assert_eq!(told(10, &slow).0, all);
    }

    #[test]
    fn a_counter_that_goes_back_is_no_gap() {
        assert_eq!(told(10, &[1000, 900, 905]).0, []);
    }

    #[test]
    fn without_a_threshold_the_counter_is_not_read() {
        assert_eq!(told(0, &[1, 2]), (vec![], 0));
    }
}
