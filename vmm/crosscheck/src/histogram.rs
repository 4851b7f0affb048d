//! Counts by powers of two: of microseconds, for people, and of ticks, as the kernel's own histograms
//! have them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

/// How many took how long, by powers of two.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Histogram {
    /// Counts by the shortest time of the bucket in microseconds: 0, 1, 2, 4, ... Each bucket ends
    /// where the next begins. Those without counts are left out.
    pub buckets: BTreeMap<u64, u64>,
}

impl Histogram {
    /// Counts times in nanoseconds.
    #[must_use]
    pub fn of(times: impl IntoIterator<Item = u64>) -> Self {
        let mut histogram = Self::default();
        for time in times {
            histogram.add(time, 1);
        }
        histogram
    }

    fn add(&mut self, ns: u64, count: u64) {
        let us = ns / 1000;
        let bucket = if us == 0 { 0 } else { 1 << us.ilog2() };
        let sum = self.buckets.entry(bucket).or_default();
        *sum = sum.saturating_add(count);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets
            .values()
            .fold(0, |sum, &n| sum.saturating_add(n))
    }

    /// Reads a kernel's histogram of `time.log2`, whose ticks `ns` turns into nanoseconds. A bucket
    /// goes where the middle of it belongs. `Err`: a line that makes no sense, or what the kernel could
    /// not count.
    ///
    /// A line is `{ time: ~ 2^N } hitcount: M`, with N rounded up (hist_field_log2,
    /// kernel/trace/trace_events_hist.c).
    pub(crate) fn of_kernel(text: &str, ns: impl Fn(u64) -> u64) -> Result<Self, String> {
        let mut histogram = Self::default();
        for line in text.lines() {
            if let Some(dropped) = line.trim().strip_prefix("Dropped:")
                && dropped.trim() != "0"
            {
                return Err(format!("the guest's histogram dropped{dropped}"));
            }
            if !line.starts_with('{') {
                continue;
            }
            let (power, count) = bucket(line)
                .ok_or_else(|| format!("the guest's histogram makes no sense: {line:?}"))?;
            // From 2^(N-1) to 2^N.
            let middle = 3 << power.max(2) >> 2;
            histogram.add(ns(middle), count);
        }
        Ok(histogram)
    }
}

fn bucket(line: &str) -> Option<(u32, u64)> {
    let (_, rest) = line.split_once("time: ~ 2^")?;
    let (power, rest) = rest.split_once('}')?;
    let count = rest.split_once("hitcount:")?.1;
    let power = power.trim().parse().ok().filter(|&power| power < 62)?;
    Some((power, count.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(buckets: &[(u64, u64)]) -> Histogram {
        Histogram {
            buckets: buckets.iter().copied().collect(),
        }
    }

    #[test]
    fn times_are_counted_by_powers_of_two_of_microseconds() {
        let times = [0, 999, 1000, 1999, 2000, 4_095_999, 4_096_000, u64::MAX];
        let expected = histogram(&[(0, 2), (1, 2), (2, 1), (2048, 1), (4096, 1), (1 << 54, 1)]);
        assert_eq!(Histogram::of(times), expected);
    }

    #[test]
    fn a_kernels_ticks_become_microseconds() {
        let text = "\
# event histogram
#
# trigger info: hist:keys=time.log2:vals=hitcount:sort=hitcount:size=128:clock=x86-tsc [active]
#

{ time: ~ 2^22               } hitcount:          3
{ time: ~ 2^1                } hitcount:        600

Totals:
    Hits: 603
    Entries: 2
    Dropped: 0
";
        // Two ticks a nanosecond: 2^21 to 2^22 are 1049 to 2097 us.
        let expected = histogram(&[(0, 600), (1024, 3)]);
        assert_eq!(Histogram::of_kernel(text, |ticks| ticks / 2), Ok(expected));
        assert_eq!(Histogram::of_kernel("", |_| 0), Ok(Histogram::default()));
    }

    #[test]
    fn what_is_no_histogram_or_not_whole_is_an_error() {
        for line in [
            "{ time: ~ 2^99 } hitcount: 3",
            "{ time: 77 } hitcount: 3",
            "{ time: ~ 2^7 } hitcount: -3",
            "{ time: ~ 2^7 ",
        ] {
            let expected = format!("the guest's histogram makes no sense: {line:?}");
            assert_eq!(Histogram::of_kernel(line, |t| t), Err(expected));
        }
        assert_eq!(
            Histogram::of_kernel("Totals:\n    Dropped: 4\n", |t| t),
            Err("the guest's histogram dropped 4".to_owned())
        );
    }
}
