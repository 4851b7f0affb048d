//! Programs by chance, the same for the same seed. What [`crate::DEVIATIONS`] exclude is not in them.

use ipirig_fuzz::Numbers;

use crate::operation::{Operation, Register};
use crate::program::{ENABLED, Face, MASKED, Program, Step};

/// Vectors that are sent and that timers have: some of one class, some of each other class. 0xff is the spurious
/// vector.
const VECTORS: [u8; 16] = [
    0x20, 0x2f, 0x30, 0x35, 0x3a, 0x41, 0x52, 0x67, 0x7f, 0x80, 0x91, 0xa5, 0xb0, 0xc4, 0xd8, 0xef,
];
/// Divide configurations: by 1, 2, 4, 16 and 128 (SDM figure 11-10).
const DIVIDES: [u32; 5] = [0xb, 0, 1, 3, 0xa];
/// An ICR's assert bit, its logical destination mode, its shorthands.
const ASSERT: u32 = 1 << 14;
const LOGICAL: u32 = 1 << 11;
const ITSELF: u32 = 1 << 18;
const EVERYBODY: u32 = 2 << 18;
const OTHERS: u32 = 3 << 18;
/// Delivery modes (SDM 11.6.1).
const LOWEST_PRIORITY: u32 = 1 << 8;
const NMI: u32 = 4 << 8;
/// A start-up IPI, which a CPU that runs ignores, and an INIT level de-assert, which everybody does.
const STARTUP: u32 = 6 << 8;
const INIT_DEASSERT: u32 = 5 << 8 | 1 << 15;

impl Program {
    /// A program of `steps` steps of seed `seed` for `cpus` CPUs: 1 to 8, as their logical ids are bits of a
    /// byte in the xAPIC's flat model.
    #[must_use]
    pub fn random(seed: u64, face: Face, cpus: u8, steps: usize) -> Self {
        let mut choice = Choice {
            numbers: Numbers::new(seed),
            face,
            cpus: cpus.clamp(1, 8),
        };
        let mut program = Program {
            face,
            cpus: choice.cpus,
            steps: Vec::new(),
        };
        for _ in 0..steps {
            let cpu = choice.cpu();
            let operation = choice.operation(cpu);
            program.steps.push(Step { cpu, operation });
        }
        for cpu in 0..choice.cpus {
            let operation = Operation::Dump;
            program.steps.push(Step { cpu, operation });
        }
        program
    }
}

struct Choice {
    numbers: Numbers,
    face: Face,
    cpus: u8,
}

impl Choice {
    fn below(&mut self, end: usize) -> usize {
        self.numbers.below(end)
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T], otherwise: T) -> T {
        let at = self.below(all.len());
        all.get(at).copied().unwrap_or(otherwise)
    }

    fn cpu(&mut self) -> u8 {
        // Below 8: truncation loses nothing.
        self.below(usize::from(self.cpus)) as u8
    }

    fn vector(&mut self) -> u8 {
        self.of(&VECTORS, 0x20)
    }

    fn byte(&mut self) -> u8 {
        // Truncation is the choice.
        self.numbers.next_u64() as u8
    }

    fn operation(&mut self, cpu: u8) -> Operation {
        match self.below(40) {
            0..=11 => self.send(cpu),
            12..=15 => Operation::Write {
                register: Register::EOI,
                value: 0,
            },
            16..=17 => Operation::InterruptsOn,
            18 => Operation::InterruptsOff,
            19..=20 => Operation::Write {
                register: Register::TPR,
                // Often low: with a high one nothing happens any more.
                value: u32::from(if self.chance(2) {
                    0
                } else {
                    self.byte() & 0xf0
                }),
            },
            21 => Operation::Cr8(if self.chance(2) { 0 } else { self.byte() & 0xf }),
            22..=23 => Operation::Handlers {
                end: !self.chance(3),
                open: self.chance(2),
                sends: self.byte() & 3,
                vector_step: self.of(&[-0x10, -1, 0, 1, 0x10, 0x35], 0),
                nmis: self.byte() & 1,
            },
            24..=25 => Operation::Dump,
            26..=27 => self.read(),
            28..=30 => self.write(cpu),
            31..=32 => Operation::OneShot {
                vector: self.vector(),
                masked: self.chance(3),
                count: self.of(&[1, 1000, 20_000], 1000),
                divide: self.of(&DIVIDES, 0xb),
            },
            33 => Operation::TscDeadline {
                vector: self.vector(),
                cycles: self.of(&[1, 10_000, 200_000], 1),
            },
            34 => Operation::Periodic {
                vector: self.vector(),
                ticks: 1 + (self.byte() & 1),
                count: 300_000,
            },
            35 => Operation::Halt {
                vector: self.vector(),
                count: self.of(&[1, 50_000], 1),
            },
            36 => Operation::Count {
                divide: self.of(&DIVIDES, 0xb),
            },
            37 => match self.face {
                Face::Xapic => self.read(),
                Face::X2apic => Operation::Page {
                    register: Register(self.byte() & 0x3f),
                    page: 0xfee0_0000,
                },
            },
            38 => Operation::ApicBase(self.base()),
            _ => Operation::Settle,
        }
    }

    /// Values that are refused: reserved bits, EXTD without EN, and a way back from x2APIC.
    fn base(&mut self) -> u32 {
        let wrong = [0xfee0_0801, 0xfee0_0a00, 0xfee0_0400];
        let back = [0xfee0_0c02, 0xfee0_0800, 0xfee0_0400];
        match self.face {
            Face::Xapic => self.of(&wrong, 0xfee0_0801),
            Face::X2apic => self.of(&back, 0xfee0_0800),
        }
    }

    fn send(&mut self, cpu: u8) -> Operation {
        let vector = u32::from(self.vector());
        let broadcast = match self.face {
            Face::Xapic => 0xff,
            Face::X2apic => u32::MAX,
        };
        // One that is there, or sometimes one that is not.
        let one = if self.chance(8) {
            u32::from(self.cpus) + 3
        } else {
            u32::from(self.cpu())
        };
        let (command, destination) = match self.below(13) {
            0..=2 => (vector | ITSELF, 0),
            3 => (vector | EVERYBODY, 0),
            4 => (vector | OTHERS, 0),
            5..=6 => (vector, one),
            7 => (vector, broadcast),
            8 => (vector | LOGICAL, self.logical()),
            9 => {
                let to = u32::from(self.cpu());
                let logical = LOWEST_PRIORITY | LOGICAL | vector;
                match self.face {
                    Face::X2apic => (logical, 1 << to),
                    // Its logical id may be another by now.
                    Face::Xapic => (LOWEST_PRIORITY | vector, to),
                }
            }
            10 => (NMI, u32::from(self.cpu())),
            11 if self.cpus > 1 => (NMI | OTHERS, 0),
            11 => (NMI, u32::from(cpu)),
            _ => {
                let nothing = [
                    STARTUP | OTHERS | 0x13,
                    STARTUP | 0x13,
                    INIT_DEASSERT | EVERYBODY,
                ];
                return Operation::Send {
                    command: self.of(&nothing, STARTUP),
                    destination: u32::from(self.cpu()),
                };
            }
        };
        Operation::Send {
            command: command | ASSERT,
            destination,
        }
    }

    /// A message destination address: of one, of several, of everybody, of nobody.
    fn logical(&mut self) -> u32 {
        let bits = u32::from(self.byte());
        match (self.face, self.below(6)) {
            (Face::Xapic, 0) => 0xff,
            (Face::X2apic, 0) => u32::MAX,
            // Of another cluster.
            (Face::X2apic, 1) => 1 << 16 | bits,
            _ => bits,
        }
    }

    fn read(&mut self) -> Operation {
        let all = self.byte() & 0x3f;
        let register = match self.face {
            // What is not there raises #GP on both.
            Face::X2apic => all,
            Face::Xapic => self.of(
                &[
                    0x02, 0x03, 0x08, 0x0a, 0x0d, 0x0e, 0x0f, 0x12, 0x17, 0x19, 0x22, 0x25, 0x27,
                    0x28, 0x30, 0x31, 0x32, 0x35, 0x37, 0x38, 0x39, 0x3e,
                ],
                0x02,
            ),
        };
        Operation::Read(Register(register))
    }

    fn write(&mut self, cpu: u8) -> Operation {
        let vector = u32::from(self.vector());
        let mask = if self.chance(2) { MASKED } else { 0 };
        // Delivery modes that nothing here ever uses, as no pin is raised.
        let mode = self.of(&[0, 2 << 8, 4 << 8], 0);
        let refused = self.chance(2);
        let (register, value) = match self.below(12) {
            // Off, and with another spurious vector; or on again, which is what is needed for more to happen.
            0 => (Register::SVR, self.of(&[0xff, 0xef, 0x2ff], 0xff)),
            1..=3 => (Register::SVR, self.of(&[ENABLED, 0x3ff], ENABLED)),
            4 => (Register(0x33), vector | mask | mode),
            5 => (Register(0x34), vector | mask | mode),
            6 => (
                Register(0x36),
                vector | mask | mode | u32::from(self.byte() & 1) << 13,
            ),
            7 => (Register::LVT_ERROR, vector | mask),
            8 => (Register::DIVIDE, self.of(&DIVIDES, 0)),
            9 => (Register::ESR, 0),
            10 => match self.face {
                Face::X2apic if refused => {
                    // What only the other face has, or nobody writes: #GP.
                    let refused = [
                        0x02, 0x03, 0x0a, 0x0d, 0x0e, 0x12, 0x1a, 0x25, 0x31, 0x39, 0x2a,
                    ];
                    (Register(self.of(&refused, 0x02)), 0)
                }
                Face::X2apic => (Register::SELF_IPI, vector),
                Face::Xapic => (
                    Register::LDR,
                    self.of(&[1_u32 << cpu, 0x11, 0x12, 0x21, 0xff, 0], 1) << 24,
                ),
            },
            _ => match self.face {
                Face::X2apic => (Register::SELF_IPI, vector),
                Face::Xapic => (Register::DFR, self.of(&[u32::MAX, 0x0fff_ffff], u32::MAX)),
            },
        };
        Operation::Write { register, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_program_each_time_and_another_one_another() {
        let program = |seed| Program::random(seed, Face::X2apic, 3, 50);
        assert_eq!(program(7), program(7));
        assert_ne!(program(7), program(8));
    }

    #[test]
    fn nothing_that_the_deviations_exclude_is_in_a_program() {
        for seed in 0..200 {
            for face in [Face::Xapic, Face::X2apic] {
                let program = Program::random(seed, face, 3, 200);
                for step in [program.beginning(), program.steps].concat() {
                    excluded(face, step.operation);
                }
            }
        }
    }

    fn excluded(face: Face, operation: Operation) {
        match operation {
            Operation::Send { command, .. } => {
                let mode = command >> 8 & 7;
                let vector = command & 0xff;
                assert!(matches!(mode, 0 | 1 | 4 | 5 | 6), "{operation}");
                assert!(mode > 1 || vector >= 0x20, "{operation}");
                assert!(mode > 1 || command & (1 << 15 | ASSERT) == ASSERT);
                assert!(mode != 5 || command & (1 << 15 | ASSERT) == 1 << 15);
                assert!(mode != 1 || command & 3 << 18 == 0, "{operation}");
            }
            Operation::Write { register, value } => match register.0 {
                0x32..=0x37 => {
                    assert!(value & 0xff >= 0x20 && value & 0x5000 == 0, "{operation}");
                }
                0x28 | 0x0b => assert_eq!(value, 0),
                0x08 => assert_eq!(value & 0xf, 0),
                _ => {}
            },
            Operation::ApicBase(value) => {
                assert_eq!(value & 0xffff_f000, 0xfee0_0000);
                let allowed = match face {
                    Face::Xapic => [0xfee0_0800, 0xfee0_0900, 0xfee0_0000, 0xfee0_0c00],
                    Face::X2apic => [0xfee0_0c00, 0xfee0_0d00, 0xfee0_0000, 0xfee0_0100],
                };
                assert!(!allowed.contains(&value), "{operation}");
            }
            _ => {}
        }
    }
}
