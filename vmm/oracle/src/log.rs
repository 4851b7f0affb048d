//! What a CPU of the guest saw, in order.

use std::fmt;

use crate::operation::Register;

/// One thing that a CPU saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It took an interrupt.
    Interrupt {
        /// The vector.
        vector: u8,
        /// The processor's priority in its handler.
        priority: u8,
    },
    /// It took an NMI.
    Nmi,
    /// It read a value.
    Value {
        /// Where.
        register: Register,
        /// What.
        value: u32,
    },
    /// An access to this register raised #GP.
    Refused(Register),
    /// It begins with this step.
    Begins(u32),
    /// An observation of a timer or of another place that is no register: what the step is for.
    Observed(u32),
    /// Nothing that the interpreter writes.
    Unknown(u64),
}

impl Entry {
    fn decode(word: u64) -> Self {
        // Truncations pick fields: the tag is the top byte, the low half a value.
        let value = word as u32;
        let register = Register((word >> 40) as u8);
        match word >> 56 {
            1 => Self::Interrupt {
                vector: value as u8,
                priority: (value >> 8) as u8,
            },
            2 => Self::Nmi,
            3 => Self::Value { register, value },
            4 => Self::Refused(register),
            5 => Self::Begins(value),
            6 => Self::Observed(value),
            _ => Self::Unknown(word),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupt { vector, priority } => {
                write!(f, "interrupt {vector:#x} at priority {priority:#x}")
            }
            Self::Nmi => f.write_str("NMI"),
            Self::Value { register, value } => write!(f, "{register} reads {value:#x}"),
            Self::Refused(register) => write!(f, "#GP at {register}"),
            Self::Begins(step) => write!(f, "begins step {step}"),
            Self::Observed(value) => write!(f, "observes {value:#x}"),
            Self::Unknown(word) => write!(f, "wrote {word:#x}"),
        }
    }
}

/// All that one CPU saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log(pub Vec<Entry>);

impl Log {
    /// From the guest's memory: the number of entries, then each, in 8 bytes. What the guest says of the
    /// number is not believed beyond the bytes that there are.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        let mut words = bytes
            .chunks_exact(8)
            .filter_map(|chunk| chunk.try_into().ok().map(u64::from_le_bytes));
        let number = usize::try_from(words.next().unwrap_or(0)).unwrap_or(usize::MAX);
        Self(words.take(number).map(Entry::decode).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn entries_are_told_by_their_top_byte() {
        let words = [
            7,
            1 << 56 | 0x50_51,
            2 << 56,
            3 << 56 | 0x0a << 40 | 0xdead_beef,
            4 << 56 | 0x0e << 40,
            5 << 56 | 12,
            6 << 56 | 1,
            9 << 56,
        ];
        assert_eq!(
            Log::decode(&bytes(&words)).0,
            [
                Entry::Interrupt {
                    vector: 0x51,
                    priority: 0x50,
                },
                Entry::Nmi,
                Entry::Value {
                    register: Register(0x0a),
                    value: 0xdead_beef,
                },
                Entry::Refused(Register(0x0e)),
                Entry::Begins(12),
                Entry::Observed(1),
                Entry::Unknown(9 << 56),
            ]
        );
    }

    #[test]
    fn a_log_ends_with_its_bytes_whatever_its_number_says() {
        assert_eq!(Log::decode(&bytes(&[u64::MAX, 2 << 56])).0, [Entry::Nmi]);
        assert_eq!(Log::decode(&[1, 0, 0]), Log::default());
    }
}
