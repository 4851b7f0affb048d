//! Numbers for chains: a storm sends thousands of IPIs from a handful of places.

use std::collections::HashMap;

use crate::chain::Chain;

/// Gives equal chains one number. Of bounded size.
#[derive(Debug)]
pub struct Interner {
    numbers: HashMap<Chain, u32>,
    chains: Vec<Chain>,
    capacity: usize,
    dropped: u64,
}

impl Interner {
    /// An empty one for at most `capacity` chains.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            numbers: HashMap::new(),
            chains: Vec::new(),
            capacity,
            dropped: 0,
        }
    }

    /// The number of `chain`, from 0. None if there is no place left for a new one, which is counted.
    ///
    /// Interrupts come anywhere, so what they interrupted makes any number of chains of one. Once
    /// three quarters are full, that part is left out of new ones.
    pub fn number(&mut self, chain: &Chain) -> Option<u32> {
        if let Some(number) = self.numbers.get(chain) {
            return Some(*number);
        }
        if self.chains.len() >= self.capacity / 4 * 3
            && let Some(short) = chain.up_to_interrupt()
        {
            return self.number(&short);
        }
        if self.chains.len() >= self.capacity {
            self.dropped += 1;
            return None;
        }
        let number = u32::try_from(self.chains.len()).ok()?;
        self.numbers.insert(chain.clone(), number);
        self.chains.push(chain.clone());
        Some(number)
    }

    /// The chain with this number.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&Chain> {
        self.chains.get(number as usize)
    }

    /// How often there was no place for a chain.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{Broken, End};

    fn chain(addresses: &[u64], interrupted: Option<usize>) -> Chain {
        let mut chain = Chain::new(addresses[0], End::User);
        for (index, &address) in addresses.iter().enumerate().skip(1) {
            if interrupted == Some(index) {
                chain.interrupt();
            }
            chain.push(address);
        }
        chain
    }

    #[test]
    fn equal_chains_have_one_number_and_others_another() {
        let mut interner = Interner::new(8);
        let mut cut = chain(&[1, 2], None);
        cut.end = End::Cut(Broken::Unreadable);
        for (number, chain) in [
            (0, chain(&[1, 2], None)),
            (0, chain(&[1, 2], None)),
            (1, chain(&[1, 2, 3], None)),
            (2, cut.clone()),
            (0, chain(&[1, 2], None)),
        ] {
            assert_eq!(interner.number(&chain), Some(number));
        }
        assert_eq!(interner.get(2), Some(&cut));
        assert_eq!(interner.get(3), None);
        assert_eq!(interner.dropped(), 0);
    }

    #[test]
    fn what_does_not_fit_is_counted_and_what_is_known_stays_known() {
        let mut interner = Interner::new(2);
        assert_eq!(interner.number(&chain(&[1], None)), Some(0));
        assert_eq!(interner.number(&chain(&[2], None)), Some(1));
        assert_eq!(interner.number(&chain(&[3], None)), None);
        assert_eq!(interner.number(&chain(&[3], None)), None);
        assert_eq!(interner.number(&chain(&[1], None)), Some(0));
        assert_eq!(interner.dropped(), 2);
    }

    #[test]
    fn interrupts_anywhere_do_not_use_up_all_numbers() {
        let mut interner = Interner::new(8);
        for place in 100..106 {
            let chain = chain(&[1, 2, place], Some(2));
            assert_eq!(interner.number(&chain), Some(place as u32 - 100));
        }
        for place in 106..200 {
            assert_eq!(interner.number(&chain(&[1, 2, place], Some(2))), Some(6));
        }
        let short = interner.get(6).unwrap();
        assert_eq!(short.addresses(), [1, 2]);
        assert_eq!(short.end, End::Cut(Broken::Interrupt));
        assert_eq!(interner.number(&chain(&[7], None)), Some(7));
        assert_eq!(interner.dropped(), 0);
    }
}
