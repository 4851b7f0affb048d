//! What may be pending on a CPU that was left alone: text that was patched, addresses that were
//! unmapped.

use std::collections::BTreeMap;
use std::ops::Range;

/// Most ranges that are told apart. More are everything.
pub const RANGES_MAX: usize = 4096;

/// Addresses about which a CPU may be out of date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pending {
    /// These.
    Known(Ranges),
    /// Possibly all.
    Everything {
        /// Why that is not known better, for a person.
        why: String,
    },
}

impl Default for Pending {
    /// Nothing.
    fn default() -> Self {
        Self::Known(Ranges::default())
    }
}

impl Pending {
    /// Everything, because of `why`.
    #[must_use]
    pub fn everything(why: impl Into<String>) -> Self {
        Self::Everything { why: why.into() }
    }

    /// Adds `range`. One more than [`RANGES_MAX`] that do not touch makes it everything.
    pub fn add(&mut self, range: Range<u64>) {
        if let Self::Known(ranges) = self {
            ranges.add(range);
            if ranges.0.len() > RANGES_MAX {
                *self = Self::everything(format!("more than {RANGES_MAX} places changed"));
            }
        }
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Known(ranges) if ranges.0.is_empty())
    }

    /// Whether an address of `range` is known to be among them. Everything is nothing known.
    #[must_use]
    pub fn knows(&self, range: &Range<u64>) -> bool {
        matches!(self, Self::Known(ranges) if ranges.overlap(range).next().is_some())
    }
}

impl From<Range<u64>> for Pending {
    fn from(range: Range<u64>) -> Self {
        let mut pending = Self::default();
        pending.add(range);
        pending
    }
}

impl FromIterator<Range<u64>> for Pending {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut pending = Self::default();
        for range in ranges {
            pending.add(range);
        }
        pending
    }
}

/// Addresses: ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(
    /// Start and end.
    BTreeMap<u64, u64>,
);

impl Ranges {
    /// The ranges, by address.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|(&start, &end)| start..end)
    }

    /// The parts of `range` that are among them, by address.
    pub fn overlap(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let Range { start, end } = *range;
        let before = self.0.range(..start).next_back();
        let within = (start < end).then(|| self.0.range(start..end));
        before
            .into_iter()
            .chain(within.into_iter().flatten())
            .map(move |(&from, &to)| from.max(start)..to.min(end))
            .filter(|part| part.start < part.end)
    }

    fn add(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        // The last that starts at or before the end; those that touch become one.
        while let Some((&from, &to)) = self.0.range(..=end).next_back()
            && to >= start
        {
            self.0.remove(&from);
            start = start.min(from);
            end = end.max(to);
        }
        self.0.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn too_many_ranges_are_everything() {
        let apart = |count: u64| -> Pending { (0..count).map(|i| i * 2..i * 2 + 1).collect() };
        let most = apart(RANGES_MAX as u64);
        assert!(matches!(&most, Pending::Known(ranges) if ranges.iter().count() == RANGES_MAX));
        let one_more = apart(RANGES_MAX as u64 + 1);
        let why = "more than 4096 places changed";
        assert_eq!(one_more, Pending::everything(why));
        assert!(!one_more.is_empty());
    }

    proptest! {
        #[test]
        fn ranges_hold_the_addresses_that_were_added(
            added in vec((0..64_u64, 0..8_u64), 0..24),
            probe in (0..80_u64, 0..8_u64),
        ) {
            let pending: Pending = added.iter().map(|&(start, len)| start..start + len).collect();
            let has = |address: u64| {
                added.iter().any(|&(start, len)| (start..start + len).contains(&address))
            };
            let Pending::Known(ranges) = &pending else { unreachable!() };
            let found: Vec<u64> = ranges.iter().flatten().collect();
            let expected: Vec<u64> = (0..80).filter(|&address| has(address)).collect();
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(pending.is_empty(), expected.is_empty());
            let probe = probe.0..probe.0 + probe.1;
            let parts: Vec<u64> = ranges.overlap(&probe).flatten().collect();
            let expected: Vec<u64> = probe.clone().filter(|&address| has(address)).collect();
            prop_assert_eq!(pending.knows(&probe), !expected.is_empty());
            prop_assert_eq!(parts, expected);
            // Neither overlap nor touch.
            let list: Vec<_> = ranges.iter().collect();
            prop_assert!(list.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
