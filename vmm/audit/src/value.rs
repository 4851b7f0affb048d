//! What is known of a register's value without running anything: bit by bit.

/// A value of 64 bits, of which some are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Value {
    /// Which bits are known.
    known: u64,
    /// These; the others are zero.
    bits: u64,
    /// Whether it was read from a per-CPU variable: if it is used as a pointer, it may lead anywhere.
    pub(crate) per_cpu: bool,
}

impl Value {
    /// Nothing is known.
    pub(crate) const UNKNOWN: Self = Self {
        known: 0,
        bits: 0,
        per_cpu: false,
    };

    pub(crate) fn constant(bits: u64) -> Self {
        Self {
            known: u64::MAX,
            bits,
            per_cpu: false,
        }
    }

    /// One bit is known.
    pub(crate) fn bit_is(bit: u32, set: bool) -> Self {
        let mask = 1_u64 << (bit & 63);
        Self {
            known: mask,
            bits: if set { mask } else { 0 },
            per_cpu: false,
        }
    }

    /// The same, read from a per-CPU variable or not.
    pub(crate) fn with_per_cpu(self, per_cpu: bool) -> Self {
        Self { per_cpu, ..self }
    }

    /// What is known of one bit.
    pub(crate) fn bit(self, bit: u32) -> Option<bool> {
        let mask = 1_u64 << (bit & 63);
        (self.known & mask != 0).then_some(self.bits & mask != 0)
    }

    /// All of it, if all is known of its low `size` bytes.
    pub(crate) fn whole(self, size: usize) -> Option<u64> {
        let mask = low(size);
        (self.known & mask == mask).then_some(self.bits & mask)
    }

    /// Whether its low `size` bytes are zero.
    pub(crate) fn is_zero(self, size: usize) -> Option<bool> {
        let mask = low(size);
        if self.bits & mask != 0 {
            Some(false)
        } else {
            (self.known & mask == mask).then_some(true)
        }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        let zeros = self.zeros() | other.zeros();
        let ones = self.bits & other.bits;
        Self::from_bits(zeros, ones)
    }

    pub(crate) fn or(self, other: Self) -> Self {
        let ones = self.bits | other.bits;
        let zeros = self.zeros() & other.zeros();
        Self::from_bits(zeros, ones)
    }

    pub(crate) fn xor(self, other: Self) -> Self {
        let known = self.known & other.known;
        Self {
            known,
            bits: (self.bits ^ other.bits) & known,
            per_cpu: false,
        }
    }

    /// One bit changed, to something known or not.
    pub(crate) fn with_bit(self, bit: u32, set: Option<bool>) -> Self {
        let mask = 1_u64 << (bit & 63);
        let (known, bits) = match set {
            Some(true) => (mask, mask),
            Some(false) => (mask, 0),
            None => (0, 0),
        };
        Self {
            known: self.known & !mask | known,
            bits: self.bits & !mask | bits,
            per_cpu: self.per_cpu,
        }
    }

    /// `new` written to the low `size` bytes of a register that holds this: 4 bytes clear the rest,
    /// 1 and 2 leave it (SDM vol. 1, 3.4.1.1).
    pub(crate) fn written(self, new: Self, size: usize) -> Self {
        match size {
            8 => new,
            4 => Self {
                known: new.known | !low(4),
                bits: new.bits & low(4),
                per_cpu: new.per_cpu,
            },
            size => {
                let mask = low(size);
                Self {
                    known: self.known & !mask | new.known & mask,
                    bits: self.bits & !mask | new.bits & mask,
                    per_cpu: self.per_cpu || new.per_cpu,
                }
            }
        }
    }

    fn zeros(self) -> u64 {
        self.known & !self.bits
    }

    fn from_bits(zeros: u64, ones: u64) -> Self {
        Self {
            known: zeros | ones,
            bits: ones,
            per_cpu: false,
        }
    }
}

/// The bits of the low `size` bytes.
fn low(size: usize) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A value and one that it may be.
    fn value() -> impl Strategy<Value = (Value, u64)> {
        (any::<u64>(), any::<u64>()).prop_map(|(known, real)| {
            let value = Value {
                known,
                bits: real & known,
                per_cpu: false,
            };
            (value, real)
        })
    }

    fn may_be(value: Value, real: u64) -> bool {
        real & value.known == value.bits
    }

    proptest! {
        #[test]
        fn what_is_known_after_an_operation_is_true_of_what_it_may_be(
            (a, x) in value(),
            (b, y) in value(),
            bit in 0..64_u32,
        ) {
            prop_assert!(may_be(a.and(b), x & y));
            prop_assert!(may_be(a.or(b), x | y));
            prop_assert!(may_be(a.xor(b), x ^ y));
            prop_assert!(may_be(a.with_bit(bit, Some(true)), x | 1 << bit));
            prop_assert!(may_be(a.with_bit(bit, Some(false)), x & !(1 << bit)));
            prop_assert!(may_be(a.with_bit(bit, None), x ^ 1 << bit));
            prop_assert!(may_be(a.written(b, 8), y));
            prop_assert!(may_be(a.written(b, 4), y & 0xffff_ffff));
            prop_assert!(may_be(a.written(b, 1), x & !0xff | y & 0xff));
            prop_assert!(a.is_zero(4).is_none_or(|zero| zero == (x as u32 == 0)));
            prop_assert!(a.bit(bit).is_none_or(|set| set == (x >> bit & 1 == 1)));
        }
    }

    #[test]
    fn a_mask_makes_bits_known() {
        let masked = Value::UNKNOWN.and(Value::constant(!0x1800));
        assert_eq!(masked.bit(12), Some(false));
        assert_eq!(masked.bit(13), None);
        assert_eq!(
            Value::UNKNOWN.or(Value::constant(0x1000)).bit(12),
            Some(true)
        );
        assert_eq!(Value::constant(7).xor(Value::constant(7)).whole(8), Some(0));
        assert_eq!(Value::UNKNOWN.whole(1), None);
    }
}
