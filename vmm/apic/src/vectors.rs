//! Sets of interrupt vectors: the 256-bit registers, private and shared.

use crate::atomics::{AtomicU64, Ordering};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Vectors below this are reserved for exceptions; an APIC never sets their IRR bit (SDM 11.5.2).
pub(crate) const FIRST_LEGAL_VECTOR: u8 = 16;

const WORDS: usize = 4;

const fn place(vector: u8) -> (usize, u64) {
    ((vector / 64) as usize, 1 << (vector % 64))
}

/// A set of interrupt vectors, as the ISR, TMR and IRR hold them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct VectorSet([u64; WORDS]);

impl VectorSet {
    /// The set without members.
    pub const EMPTY: VectorSet = VectorSet([0; WORDS]);

    /// Whether `vector` is a member.
    #[must_use]
    pub fn contains(self, vector: u8) -> bool {
        let (word, bit) = place(vector);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The highest member: the one of highest priority.
    #[must_use]
    pub fn highest(self) -> Option<u8> {
        let (last, word) = (0..).zip(self.0).filter(|(_, word)| *word != 0).last()?;
        // At most 4 * 64 - 1: ilog2 of a word is below 64.
        u8::try_from(last * 64 + word.ilog2()).ok()
    }

    /// The members, lowest first.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0u32..).zip(self.0).flat_map(|(index, mut rest)| {
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                u8::try_from(index * 64 + bit).ok()
            })
        })
    }

    /// The 32 vectors from `32 * part` on, as one register of the set shows them.
    pub(crate) fn register(self, part: u8) -> u32 {
        let word = self.0.get(usize::from(part / 2)).copied().unwrap_or(0);
        // Truncation picks the half.
        (word >> (32 * u32::from(part % 2))) as u32
    }

    pub(crate) fn insert(&mut self, vector: u8) {
        let (word, bit) = place(vector);
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    /// Removes `vector` and says whether it was a member.
    pub(crate) fn remove(&mut self, vector: u8) -> bool {
        let was = self.contains(vector);
        let (word, bit) = place(vector);
        if let Some(word) = self.0.get_mut(word) {
            *word &= !bit;
        }
        was
    }

    pub(crate) fn union(mut self, other: VectorSet) -> VectorSet {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word |= other;
        }
        self
    }
}

impl FromIterator<u8> for VectorSet {
    fn from_iter<I: IntoIterator<Item = u8>>(vectors: I) -> Self {
        let mut set = VectorSet::EMPTY;
        vectors.into_iter().for_each(|vector| set.insert(vector));
        set
    }
}

impl fmt::Debug for VectorSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A set of vectors that any CPU may add to and only its owner takes from.
#[derive(Debug, Default)]
pub(crate) struct SharedVectors([AtomicU64; WORDS]);

impl SharedVectors {
    /// Adds `vector` and says whether it is new.
    pub(crate) fn insert(&self, vector: u8) -> bool {
        let (word, bit) = place(vector);
        // Release: whatever the sender wrote before is seen by whoever takes the vector. Acquire is
        // for the sender that finds the bit set: it leaves the kick to the one that set it.
        self.0
            .get(word)
            .is_some_and(|word| word.fetch_or(bit, Ordering::AcqRel) & bit == 0)
    }

    /// Removes `vector` and says whether it was a member.
    pub(crate) fn remove(&self, vector: u8) -> bool {
        let (word, bit) = place(vector);
        self.0
            .get(word)
            .is_some_and(|word| word.fetch_and(!bit, Ordering::AcqRel) & bit != 0)
    }

    pub(crate) fn clear(&self) {
        for word in &self.0 {
            word.store(0, Ordering::Release);
        }
    }

    pub(crate) fn load(&self) -> VectorSet {
        let mut set = VectorSet::EMPTY;
        for (to, from) in set.0.iter_mut().zip(&self.0) {
            *to = from.load(Ordering::Acquire);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_show_32_vectors_each() {
        let set: VectorSet = [0, 7, 31, 32, 66, 74, 255].into_iter().collect();
        let registers: Vec<u32> = (0..8).map(|part| set.register(part)).collect();
        assert_eq!(
            registers,
            [0x8000_0081, 1, 0x0000_0404, 0, 0, 0, 0, 0x8000_0000]
        );
    }

    #[test]
    fn the_highest_member_is_found_in_every_word() {
        for vector in 0..=u8::MAX {
            assert_eq!(
                [0, vector].into_iter().collect::<VectorSet>().highest(),
                Some(vector)
            );
        }
        assert_eq!(VectorSet::EMPTY.highest(), None);
    }

    #[test]
    fn members_come_back_in_order() {
        let vectors = [0, 1, 63, 64, 127, 128, 254, 255];
        let set: VectorSet = vectors.into_iter().rev().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), vectors);
        assert_eq!(VectorSet::EMPTY.iter().next(), None);
    }

    #[test]
    fn shared_vectors_report_what_was_new() {
        let shared = SharedVectors::default();
        assert!(shared.insert(0xfb));
        assert!(!shared.insert(0xfb));
        assert_eq!(shared.load(), [0xfb].into_iter().collect());
        assert!(shared.remove(0xfb));
        assert!(!shared.remove(0xfb));
        assert_eq!(shared.load(), VectorSet::EMPTY);
    }
}
