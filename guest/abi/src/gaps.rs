//! Gaps: times when the task on an isolated CPU did not get on with its loop, as it measures them itself by the
//! time-stamp counter (as the programs oslat and sysjitter do). The task puts them into a ring that the rig empties while
//! the task runs; neither waits for the other.

use core::sync::atomic::{AtomicU64, Ordering, fence};

/// Gaps that the ring of a CPU holds. What the rig does not fetch before as many more came is counted and lost.
pub const GAPS: usize = 256;
/// Buckets of the task's own histogram: by the number of binary digits of the gap, less one.
pub const BUCKETS: usize = 64;

/// The gaps of the task on one isolated CPU.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Gaps {
    /// Turns of the loop that take as many ticks of the counter, or more, are gaps. 0: none is looked for. Rig.
    pub threshold: AtomicU64,
    /// What the task itself writes. Agent; on cache lines of its own.
    pub told: GapRecord,
}

/// What a task says of its gaps.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct GapRecord {
    /// Gaps so far. Agent, written after all else of a gap.
    pub count: AtomicU64,
    /// Their ticks, in all. Agent.
    pub ticks: AtomicU64,
    /// The ticks of the longest. Agent.
    pub longest: AtomicU64,
    /// How many there were, by length. Agent.
    pub buckets: [AtomicU64; BUCKETS],
    /// The newest gaps, by their number modulo [`GAPS`]. Agent.
    pub ring: [[AtomicU64; 2]; GAPS],
}

/// One gap, by the time-stamp counter of its CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// When the last turn before it was over.
    pub begin: u64,
    /// How long it was.
    pub ticks: u64,
}

impl Gaps {
    /// With nothing in it.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            threshold: AtomicU64::new(0),
            told: GapRecord {
                count: AtomicU64::new(0),
                ticks: AtomicU64::new(0),
                longest: AtomicU64::new(0),
                buckets: [const { AtomicU64::new(0) }; BUCKETS],
                ring: [const { [const { AtomicU64::new(0) }; 2] }; GAPS],
            },
        }
    }

    /// The agent's half: adds one.
    pub fn tell(&self, gap: Gap) {
        let told = &self.told;
        // Stores, not atomic additions: nobody else writes them.
        let add = |cell: &AtomicU64, more: u64| {
            let sum = cell.load(Ordering::Relaxed).wrapping_add(more);
            cell.store(sum, Ordering::Relaxed);
        };
        let number = told.count.load(Ordering::Relaxed);
        // The rig sees the number before the place is used again.
        fence(Ordering::Release);
        if let Some([begin, ticks]) = told.ring.get(place(number)) {
            begin.store(gap.begin, Ordering::Relaxed);
            ticks.store(gap.ticks, Ordering::Relaxed);
        }
        add(&told.ticks, gap.ticks);
        if gap.ticks > told.longest.load(Ordering::Relaxed) {
            told.longest.store(gap.ticks, Ordering::Relaxed);
        }
        if let Some(bucket) = told.buckets.get(bucket(gap.ticks)) {
            add(bucket, 1);
        }
        told.count.store(number.wrapping_add(1), Ordering::Release);
    }

    /// The rig's half: hands over the gaps from number `seen` on, and moves `seen` to the next one. Says how many of
    /// them are lost because newer ones took their places. Whatever the guest writes, at most [`GAPS`] come.
    pub fn fetch(&self, seen: &mut u64, mut each: impl FnMut(Gap)) -> u64 {
        let told = &self.told;
        let newest = told.count.load(Ordering::Acquire);
        let from = (*seen).max(newest.saturating_sub(GAPS as u64));
        let mut lost = from - (*seen).min(from);
        for number in from..newest {
            let Some([begin, ticks]) = told.ring.get(place(number)) else {
                continue;
            };
            let gap = Gap {
                begin: begin.load(Ordering::Relaxed),
                ticks: ticks.load(Ordering::Relaxed),
            };
            fence(Ordering::Acquire);
            // The task may be at work on the gap after the newest, which has the place of this one.
            let newest = told.count.load(Ordering::Relaxed);
            if newest.saturating_sub(number) >= GAPS as u64 {
                lost += 1;
            } else {
                each(gap);
            }
        }
        *seen = newest;
        lost
    }
}

impl Default for Gaps {
    fn default() -> Self {
        Self::new()
    }
}

/// The bucket of a gap of so many ticks.
#[must_use]
pub fn bucket(ticks: u64) -> usize {
    ticks.checked_ilog2().unwrap_or(0) as usize
}

fn place(number: u64) -> usize {
    usize::try_from(number % GAPS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    fn gap(number: u64) -> Gap {
        Gap {
            begin: 1000 * number,
            ticks: number + 1,
        }
    }

    fn fetched(gaps: &Gaps, seen: &mut u64) -> (Vec<Gap>, u64) {
        let mut found = Vec::new();
        let lost = gaps.fetch(seen, |gap| found.push(gap));
        (found, lost)
    }

    #[test]
    fn each_gap_is_fetched_once_in_its_order() {
        let gaps = Gaps::new();
        let mut seen = 0;
        (0..3).for_each(|number| gaps.tell(gap(number)));
        assert_eq!(fetched(&gaps, &mut seen), ((0..3).map(gap).collect(), 0));
        gaps.tell(gap(3));
        assert_eq!(fetched(&gaps, &mut seen), ([gap(3)].into(), 0));
        assert_eq!(fetched(&gaps, &mut seen), (Vec::new(), 0));
    }

    #[test]
    fn those_that_were_not_fetched_in_time_are_counted_as_lost() {
        let gaps = Gaps::new();
        let mut seen = 0;
        let all = 2 * GAPS as u64 + 5;
        (0..all).for_each(|number| gaps.tell(gap(number)));
        // The oldest in the ring has the place that the next gap would be written to.
        let (found, lost) = fetched(&gaps, &mut seen);
        assert_eq!(lost + found.len() as u64, all);
        assert!(
            found
                .iter()
                .copied()
                .eq((all - GAPS as u64 + 1..all).map(gap))
        );
    }

    #[test]
    fn the_histogram_has_all_of_them_by_length() {
        let gaps = Gaps::new();
        for ticks in [1, 2, 3, 4, 1 << 40, u64::MAX >> 1] {
            gaps.tell(Gap { begin: 0, ticks });
        }
        let told = &gaps.told;
        let buckets: Vec<_> = (0..BUCKETS)
            .map(|at| told.buckets[at].load(Ordering::Relaxed))
            .enumerate()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(buckets, [(0, 1), (1, 2), (2, 1), (40, 1), (62, 1)]);
        assert_eq!(told.longest.load(Ordering::Relaxed), u64::MAX >> 1);
        assert_eq!(
            told.ticks.load(Ordering::Relaxed),
            10 + (1 << 40) + (u64::MAX >> 1)
        );
    }

    #[test]
    fn a_count_that_lies_makes_no_more_than_a_ring_of_them() {
        let gaps = Gaps::new();
        for (count, most) in [(u64::MAX, GAPS), (5, 5), (0, 0)] {
            gaps.told.count.store(count, Ordering::Relaxed);
            let mut seen = 0;
            assert!(fetched(&gaps, &mut seen).0.len() <= most);
            assert_eq!(seen, count);
            let mut later = u64::MAX;
            assert!(fetched(&gaps, &mut later).0.len() <= most);
        }
    }
}
