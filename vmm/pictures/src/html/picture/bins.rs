//! Time cut into bins, window after window, and what is counted in them.

use ipirig_evidence::timeline::Span;

use crate::html::words::duration;

/// Bars of a picture, roughly: of all lanes together.
const BARS: usize = 2400;
/// Room between two windows.
const GAP: f64 = 6.0;

/// The bins of all windows, from left to right.
#[derive(Debug)]
pub(super) struct Bins {
    bins: Vec<Bin>,
}

/// A stretch of a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bin {
    pub(super) x: f64,
    pub(super) width: f64,
    from_ns: u64,
    to_ns: u64,
    /// When its window opened.
    opened_ns: u64,
}

impl Bin {
    /// When it was, from the opening of its window on.
    pub(super) fn when(&self) -> String {
        let from = duration(self.from_ns - self.opened_ns);
        let to = duration(self.to_ns - self.opened_ns);
        format!("{from} to {to}")
    }
}

impl Bins {
    /// Bins for `windows`, which are in the order of time and apart, between `left` and `right`.
    pub(super) fn new<T>(windows: &[Span<T>], lanes: usize, left: f64, right: f64) -> Self {
        let wanted = (BARS / lanes.max(1)).clamp(48, 240) as f64;
        let gaps = windows.len().saturating_sub(1) as f64 * GAP;
        let room = (right - left - gaps).max(1.0);
        let length = |window: &Span<T>| (window.to_ns - window.from_ns).max(1) as f64;
        let whole: f64 = windows.iter().map(length).sum();
        let mut bins = Vec::new();
        let mut x = left;
        for window in windows {
            let share = length(window) / whole;
            // No more than there are nanoseconds.
            let count = (wanted * share).round().clamp(1.0, length(window)) as u64;
            let width = room * share / count as f64;
            let border = |number: u64| {
                let part = u128::from(window.to_ns - window.from_ns) * u128::from(number);
                window.from_ns + u64::try_from(part / u128::from(count)).unwrap_or(u64::MAX)
            };
            for number in 0..count {
                bins.push(Bin {
                    x,
                    width,
                    from_ns: border(number),
                    to_ns: border(number + 1),
                    opened_ns: window.from_ns,
                });
                x += width;
            }
            x += GAP;
        }
        Self { bins }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Bin> {
        self.bins.iter()
    }

    /// Where a moment is. One between windows is at the end of the window before.
    pub(super) fn x(&self, time_ns: u64) -> f64 {
        let Some(bin) = self.find(time_ns).and_then(|index| self.bins.get(index)) else {
            return 0.0;
        };
        let length = (bin.to_ns - bin.from_ns).max(1) as f64;
        let part = time_ns.saturating_sub(bin.from_ns) as f64 / length;
        bin.x + bin.width * part.min(1.0)
    }

    /// How much time the bin with most of it has.
    pub(super) fn longest_ns(&self) -> u64 {
        let lengths = self.bins.iter().map(|bin| bin.to_ns - bin.from_ns);
        lengths.max().unwrap_or(0)
    }

    fn find(&self, time_ns: u64) -> Option<usize> {
        let after = self.bins.partition_point(|bin| bin.from_ns <= time_ns);
        (!self.bins.is_empty()).then(|| after.saturating_sub(1))
    }
}

/// How many events each bin has.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) counts: Vec<u64>,
    /// The largest of them.
    pub(super) most: u64,
    pub(super) total: u64,
}

impl Lane {
    pub(super) fn new(bins: &Bins, times: impl Iterator<Item = u64>) -> Self {
        let mut counts = vec![0; bins.bins.len()];
        for time in times {
            if let Some(count) = bins.find(time).and_then(|index| counts.get_mut(index)) {
                *count += 1;
            }
        }
        Self {
            most: counts.iter().copied().max().unwrap_or(0),
            total: counts.iter().sum(),
            counts,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::specimen::span;

    #[test]
    fn windows_share_the_room_by_their_length_and_have_gaps_between() {
        let bins = Bins::new(&[span(10, 30, ()), span(50, 110, ())], 20, 100.0, 506.0);
        let first: Vec<&Bin> = bins.iter().filter(|bin| bin.opened_ns == 10).collect();
        let last = bins.bins.last().unwrap();
        assert_eq!(first[0].x, 100.0);
        assert!((first.last().unwrap().x + first[0].width - 200.0).abs() < 1e-9);
        assert!((last.x + last.width - 506.0).abs() < 1e-9);
        assert!((bins.x(50) - 206.0).abs() < 1e-9);
        // Between windows, and beyond them.
        assert!((bins.x(40) - 200.0).abs() < 1e-9);
        assert_eq!(bins.x(0), 100.0);
        assert!((bins.x(500) - 506.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn every_event_is_counted_once_in_the_bin_that_has_its_time(
            lengths in prop::collection::vec((0_u64..50, 0_u64..5000), 1..5),
            times in prop::collection::vec(0_u64..30_000, 0..50),
            lanes in 1_usize..66,
        ) {
            let mut at = 0;
            let mut windows = Vec::new();
            for (pause, length) in lengths {
                windows.push(span(at + pause, at + pause + length, ()));
                at += pause + length;
            }
            let bins = Bins::new(&windows, lanes, 0.0, 900.0);
            let lane = Lane::new(&bins, times.iter().copied());
            prop_assert_eq!(lane.total, times.len() as u64);
            for time in times {
                let inside = windows.iter().any(|w| (w.from_ns..w.to_ns).contains(&time));
                let bin = bins.bins[bins.find(time).unwrap()];
                prop_assert!(!inside || (bin.from_ns..=bin.to_ns).contains(&time));
                let x = bins.x(time);
                prop_assert!((0.0..=900.001).contains(&x), "{}", x);
            }
        }
    }
}
