//! Sets of CPUs.

use std::fmt;
use std::ops::{BitAnd, BitOr};

/// The most CPUs a [`Bus`](crate::Bus) can join: one bit each in a [`CpuSet`].
pub const MAX_CPUS: usize = 64;

/// A set of CPU numbers below [`MAX_CPUS`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CpuSet(u64);

/// The bit of `cpu`, or none for a number out of range: guests choose some of these numbers.
fn bit(cpu: usize) -> u64 {
    u32::try_from(cpu)
        .ok()
        .and_then(|cpu| 1u64.checked_shl(cpu))
        .unwrap_or(0)
}

impl CpuSet {
    /// The set without members.
    pub const EMPTY: CpuSet = CpuSet(0);

    /// The set without members.
    #[must_use]
    pub const fn new() -> Self {
        Self::EMPTY
    }

    /// CPUs 0 to `cpus - 1`; more than [`MAX_CPUS`] means all of them.
    #[must_use]
    pub const fn all(cpus: usize) -> Self {
        if cpus >= MAX_CPUS {
            CpuSet(u64::MAX)
        } else {
            CpuSet((1 << cpus) - 1)
        }
    }

    /// Adds `cpu` and says whether it is new. A number out of range is not added.
    pub fn insert(&mut self, cpu: usize) -> bool {
        let before = self.0;
        self.0 |= bit(cpu);
        self.0 != before
    }

    /// Whether `cpu` is a member; never for a number out of range.
    #[must_use]
    pub fn contains(self, cpu: usize) -> bool {
        self.0 & bit(cpu) != 0
    }

    /// How many members there are.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there are no members.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The same set, less `cpu`.
    #[must_use]
    pub fn without(self, cpu: usize) -> Self {
        CpuSet(self.0 & !bit(cpu))
    }

    /// Its members as bits: CPU n is bit n.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        CpuSet(bits)
    }

    /// The same set, less the members of `other`.
    #[must_use]
    pub const fn difference(self, other: CpuSet) -> Self {
        CpuSet(self.0 & !other.0)
    }

    /// The members, lowest first.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            (rest != 0).then(|| {
                let lowest = rest.trailing_zeros();
                rest &= rest - 1;
                lowest as usize
            })
        })
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> Self {
        CpuSet(cpus.into_iter().fold(0, |set, cpu| set | bit(cpu)))
    }
}

impl BitOr for CpuSet {
    type Output = CpuSet;

    fn bitor(self, other: CpuSet) -> CpuSet {
        CpuSet(self.0 | other.0)
    }
}

impl BitAnd for CpuSet {
    type Output = CpuSet;

    fn bitand(self, other: CpuSet) -> CpuSet {
        CpuSet(self.0 & other.0)
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_back_in_order() {
        let set: CpuSet = [63, 0, 5, 5].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 5, 63]);
        assert_eq!(set.len(), 3);
        assert_eq!(format!("{set:?}"), "{0, 5, 63}");
    }

    #[test]
    fn numbers_out_of_range_are_never_members() {
        let mut set = CpuSet::all(1000);
        assert_eq!(set.len(), MAX_CPUS);
        assert!(!set.insert(64));
        assert!(!set.insert(usize::MAX));
        assert!(!set.contains(64));
        assert_eq!(set.without(64 + 3), set);
    }

    #[test]
    fn union_intersection_and_difference_are_by_member() {
        let (low, high) = (CpuSet::all(3), [2, 3].into_iter().collect::<CpuSet>());
        assert_eq!(low | high, CpuSet::all(4));
        assert_eq!(low & high, [2].into_iter().collect());
        assert_eq!(low.difference(high), CpuSet::all(2));
        assert_eq!(high.difference(low), [3].into_iter().collect());
        assert_eq!(low.without(0) & CpuSet::all(1), CpuSet::EMPTY);
    }
}
