//! A program: what is done, by which CPU, in which order.

use std::fmt;

use crate::operation::{Operation, Register};

/// How the guest reaches its APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// A page in memory.
    Xapic,
    /// MSRs.
    X2apic,
}

/// One operation of one CPU. The next one begins when it is over, and when every CPU that it sent something
/// has taken what it can take of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Whose.
    pub cpu: u8,
    /// What.
    pub operation: Operation,
}

impl Step {
    /// Whether it sets a TSC deadline, or the timer's mode to that (SDM vol. 3, 11.5.4.1).
    #[must_use]
    pub fn needs_tsc_deadline(&self) -> bool {
        match self.operation {
            Operation::TscDeadline { .. } => true,
            Operation::Write { register, value } => {
                register == Register::LVT_TIMER && value >> 17 & 3 == 2
            }
            _ => false,
        }
    }

    /// Whether it has software disable an APIC (SDM vol. 3, 11.4.7.2).
    fn disables(&self) -> bool {
        let Operation::Write { register, value } = self.operation else {
            return false;
        };
        register == Register::SVR && value & SOFTWARE_ENABLED == 0
    }
}

/// A list of operations on the APICs of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// How the APICs are reached.
    pub face: Face,
    /// How many CPUs there are.
    pub cpus: u8,
    /// What is done, in this order, after each CPU's registers have been set as [`Program::beginning`] has it.
    pub steps: Vec<Step>,
}

/// SVR: software enables the APIC, and the spurious vector is 0xff.
pub(crate) const ENABLED: u32 = SOFTWARE_ENABLED | 0xff;
/// In the SVR: software enables the APIC (SDM vol. 3, 11.9).
const SOFTWARE_ENABLED: u32 = 1 << 8;
/// The mask of an entry of the local vector table.
pub(crate) const MASKED: u32 = 1 << 16;

/// Bytes of a step in the guest's memory.
const STEP: usize = 16;
/// Set in a step's second argument: afterwards every CPU looks for what it was sent.
const ALL_SETTLE: u8 = 1 << 7;

impl Program {
    /// The same without the steps by which software disables an APIC. `None` if it has none.
    #[must_use]
    pub fn without_disabling(&self) -> Option<Self> {
        let mut steps = self.steps.clone();
        steps.retain(|step| !step.disables());
        (steps.len() < self.steps.len()).then_some(Self {
            steps,
            ..self.clone()
        })
    }

    /// What comes first: each CPU enables its APIC and writes those registers that are not the same after a reset on
    /// all APICs; in the xAPIC its logical id as well, a bit of its own in the flat model.
    #[must_use]
    pub fn beginning(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for cpu in 0..self.cpus {
            let mut write = |register, value| {
                let operation = Operation::Write { register, value };
                steps.push(Step { cpu, operation });
            };
            write(Register::SVR, ENABLED);
            for entry in Register::LVT_TIMER.0..=Register::LVT_ERROR.0 {
                write(Register(entry), MASKED | 0x20);
            }
            if self.face == Face::Xapic {
                write(Register::LDR, 1 << (24 + u32::from(cpu & 7)));
                write(Register::DFR, u32::MAX);
            }
        }
        steps
    }

    /// The program as the guest's interpreter reads it: the number of steps, of CPUs, whether it is to stay in
    /// xAPIC mode, each in 8 bytes; then each step in 16.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let stays = u64::from(self.face == Face::Xapic);
        let steps = [self.beginning(), self.steps.clone()].concat();
        let mut bytes = Vec::with_capacity(24 + STEP * steps.len());
        for word in [steps.len() as u64, u64::from(self.cpus), stays] {
            bytes.extend(word.to_le_bytes());
        }
        for step in &steps {
            let (kind, first, second, third, fourth) = step.operation.encode();
            let settle = if step.operation.reaches_others() {
                ALL_SETTLE
            } else {
                0
            };
            bytes.extend([kind, step.cpu, first, second | settle]);
            bytes.extend(third.to_le_bytes());
            bytes.extend(fourth.to_le_bytes());
        }
        bytes
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}, CPUs: {}", self.face, self.cpus)?;
        let first = self.beginning().len();
        for (number, step) in (first..).zip(&self.steps) {
            writeln!(f, "{number:5}  cpu {}  {}", step.cpu, step.operation)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Register;

    #[test]
    fn a_program_is_three_words_and_sixteen_bytes_a_step() {
        let program = Program {
            face: Face::Xapic,
            cpus: 2,
            steps: vec![
                Step {
                    cpu: 1,
                    operation: Operation::Write {
                        register: Register::TPR,
                        value: 0x1234_5678,
                    },
                },
                Step {
                    cpu: 0,
                    operation: Operation::Send {
                        command: 0xc4040,
                        destination: 0xff,
                    },
                },
            ],
        };
        let mut expected = Vec::new();
        let beginning = program.beginning();
        assert_eq!(beginning.len(), 2 * 9);
        for word in [20_u64, 2, 1] {
            expected.extend(word.to_le_bytes());
        }
        expected.extend([1, 0, 0x0f, 0, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(program.encode()[..40], expected);
        let expected = &mut Vec::new();
        expected.extend([1, 1, 8, 0, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([2, 0, 0, 0x80, 0x40, 0x40, 0x0c, 0]);
        expected.extend([0xff, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(program.encode()[24 + 18 * STEP..], expected[..]);
        assert_eq!(
            program.to_string(),
            "Xapic, CPUs: 2\n   18  cpu 1  write TPR = 0x12345678\n   19  cpu 0  send 0xc4040 to 0xff\n"
        );
    }
}
