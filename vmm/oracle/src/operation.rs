//! What a CPU of the guest is told to do, one thing at a time.

use std::fmt;

/// A register of the APIC by its number: offset `0x10 * n` of the xAPIC's page, MSR `0x800 + n` of the
/// x2APIC (SDM tables 11-1 and 11-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register(pub u8);

impl Register {
    /// Task priority.
    pub const TPR: Self = Self(0x08);
    /// End of interrupt.
    pub const EOI: Self = Self(0x0b);
    /// Logical destination.
    pub const LDR: Self = Self(0x0d);
    /// Destination format; in the xAPIC only.
    pub const DFR: Self = Self(0x0e);
    /// Spurious-interrupt vector, and the software's switch of the APIC.
    pub const SVR: Self = Self(0x0f);
    /// Error status.
    pub const ESR: Self = Self(0x28);
    /// Interrupt command; in the xAPIC its lower half.
    pub const ICR: Self = Self(0x30);
    /// The upper half of the interrupt command register.
    pub const ICR_HIGH: Self = Self(0x31);
    /// The timer's entry of the local vector table; five more follow.
    pub const LVT_TIMER: Self = Self(0x32);
    /// The last entry of the local vector table: errors.
    pub const LVT_ERROR: Self = Self(0x37);
    /// Initial count of the timer.
    pub const INITIAL_COUNT: Self = Self(0x38);
    /// Divide configuration of the timer.
    pub const DIVIDE: Self = Self(0x3e);
    /// Self-IPI; in the x2APIC only.
    pub const SELF_IPI: Self = Self(0x3f);
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0x02 => "ID",
            0x03 => "version",
            0x08 => "TPR",
            0x0a => "PPR",
            0x0b => "EOI",
            0x0d => "LDR",
            0x0e => "DFR",
            0x0f => "SVR",
            0x28 => "ESR",
            0x30 => "ICR",
            0x31 => "ICR (upper half)",
            0x32 => "LVT timer",
            0x33 => "LVT thermal",
            0x34 => "LVT performance",
            0x35 => "LVT LINT0",
            0x36 => "LVT LINT1",
            0x37 => "LVT error",
            0x38 => "initial count",
            0x39 => "current count",
            0x3e => "divide configuration",
            0x3f => "self-IPI",
            part @ 0x10..=0x17 => return write!(f, "ISR[{}]", part & 7),
            part @ 0x18..=0x1f => return write!(f, "TMR[{}]", part & 7),
            part @ 0x20..=0x27 => return write!(f, "IRR[{}]", part & 7),
            other => return write!(f, "register {other:#04x}"),
        };
        f.write_str(name)
    }
}

/// What is done. Each operation is whole: it can be left out, or stand alone, and the guest still comes to its
/// end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads a register.
    Read(Register),
    /// Writes a register.
    Write {
        /// Which.
        register: Register,
        /// What.
        value: u32,
    },
    /// Writes the ICR: a destination (in the xAPIC 8 bits of it) and a command.
    Send {
        /// The lower half of the ICR.
        command: u32,
        /// Who.
        destination: u32,
    },
    /// STI.
    InterruptsOn,
    /// CLI.
    InterruptsOff,
    /// Writes CR8 with interrupts on, and reads it back.
    Cr8(u8),
    /// How this CPU's handlers behave from now on.
    Handlers {
        /// They end their interrupt; else it stays in service until a write of EOI.
        end: bool,
        /// They turn interrupts on for some instructions before that.
        open: bool,
        /// The next so many each send this CPU an IPI, of their own vector and so much more.
        sends: u8,
        /// How much more; vectors below 0x20 and the spurious vector are not sent.
        vector_step: i8,
        /// The next NMI handler sends this CPU so many NMIs.
        nmis: u8,
    },
    /// Reads every register that has state.
    Dump,
    /// Has the timer count down once, and waits until it has.
    OneShot {
        /// The timer's vector.
        vector: u8,
        /// Its entry of the local vector table is masked.
        masked: bool,
        /// Where it begins.
        count: u32,
        /// The divide configuration.
        divide: u32,
    },
    /// Has the timer expire at a value of the TSC, and waits until it has. Nothing where CPUID does not offer
    /// that, or where the timer's entry stays masked.
    TscDeadline {
        /// The timer's vector.
        vector: u8,
        /// How many cycles from now.
        cycles: u32,
    },
    /// Takes some interrupts of the periodic timer, which are not written down, as their number is not the same each
    /// time. Nothing where the processor's priority or a mask is in the way.
    Periodic {
        /// The timer's vector.
        vector: u8,
        /// How many at least.
        ticks: u8,
        /// The period.
        count: u32,
    },
    /// Waits in HLT for a one-shot timer. Nothing where the processor's priority or a mask is in the way.
    Halt {
        /// The timer's vector.
        vector: u8,
        /// How long it counts.
        count: u32,
    },
    /// Starts a count that takes seconds, sees that it has begun, and stops it.
    Count {
        /// The divide configuration.
        divide: u32,
    },
    /// Reads a page at a register of the xAPIC, whatever the APIC's mode.
    Page {
        /// Which.
        register: Register,
        /// The page's guest-physical address: one of the 512 from 0xfee0_0000 on, which the guest has mapped.
        page: u32,
    },
    /// Writes IA32_APIC_BASE.
    ApicBase(u32),
    /// Nothing.
    Settle,
    /// Waits in HLT, with interrupts on, until it has taken one. The next step begins at once. For CPUs but the
    /// first, and not by chance: somebody must send it something.
    Rest,
}

impl Operation {
    /// Whether other CPUs may get an interrupt by it.
    #[must_use]
    pub const fn reaches_others(self) -> bool {
        matches!(self, Self::Send { .. })
    }

    /// As the guest's interpreter reads it: kind, two small arguments (the second after the CPU's number), a
    /// larger one, and the largest.
    pub(crate) fn encode(self) -> (u8, u8, u8, u32, u64) {
        let flag = u8::from;
        match self {
            Self::Read(register) => (0, register.0, 0, 0, 0),
            Self::Write { register, value } => (1, register.0, 0, value, 0),
            Self::Send {
                command,
                destination,
            } => (2, 0, 0, command, u64::from(destination)),
            Self::InterruptsOn => (3, 0, 0, 0, 0),
            Self::InterruptsOff => (4, 0, 0, 0, 0),
            Self::Cr8(value) => (5, 0, 0, u32::from(value), 0),
            Self::Handlers {
                end,
                open,
                sends,
                vector_step,
                nmis,
            } => (
                6,
                flag(end) | flag(open) << 1,
                nmis,
                u32::from(sends),
                // Sign-extended: the guest adds it to the vector.
                i64::from(vector_step) as u64,
            ),
            Self::Dump => (7, 0, 0, 0, 0),
            Self::OneShot {
                vector,
                masked,
                count,
                divide,
            } => (8, vector, flag(masked), count, u64::from(divide)),
            Self::TscDeadline { vector, cycles } => (9, vector, 0, cycles, 0),
            Self::Periodic {
                vector,
                ticks,
                count,
            } => (10, vector, ticks, count, 0),
            Self::Halt { vector, count } => (11, vector, 0, count, 0),
            Self::Count { divide } => (12, 0, 0, divide, 0),
            Self::Page { register, page } => (13, register.0, 0, page, 0),
            Self::ApicBase(value) => (14, 0, 0, value, 0),
            Self::Settle => (15, 0, 0, 0, 0),
            // 16 is a step of the interpreter's own.
            Self::Rest => (17, 0, 0, 0, 0),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let masked = |masked: bool| if masked { ", masked" } else { "" };
        match *self {
            Self::Read(register) => write!(f, "read {register}"),
            Self::Write { register, value } => write!(f, "write {register} = {value:#x}"),
            Self::Send {
                command,
                destination,
            } => write!(f, "send {command:#x} to {destination:#x}"),
            Self::InterruptsOn => f.write_str("sti"),
            Self::InterruptsOff => f.write_str("cli"),
            Self::Cr8(value) => write!(f, "mov cr8, {value:#x}"),
            Self::Handlers {
                end,
                open,
                sends,
                vector_step,
                nmis,
            } => write!(
                f,
                "handlers: EOI {end}, STI {open}, {sends} send a vector {vector_step:+}, the next NMI's sends {nmis}"
            ),
            Self::Dump => f.write_str("read all"),
            Self::OneShot {
                vector,
                masked: mask,
                count,
                divide,
            } => write!(
                f,
                "one-shot timer {vector:#x}, count {count}, divide {divide:#x}{}",
                masked(mask)
            ),
            Self::TscDeadline { vector, cycles } => {
                write!(f, "TSC-deadline timer {vector:#x} in {cycles} cycles")
            }
            Self::Periodic {
                vector,
                ticks,
                count,
            } => write!(
                f,
                "periodic timer {vector:#x}, count {count}, {ticks} times"
            ),
            Self::Halt { vector, count } => {
                write!(f, "hlt until timer {vector:#x}, count {count}")
            }
            Self::Count { divide } => write!(f, "count, divide {divide:#x}"),
            Self::Page { register, page } => write!(f, "read {register} at {page:#x}"),
            Self::ApicBase(value) => write!(f, "write IA32_APIC_BASE = {value:#x}"),
            Self::Settle => f.write_str("nothing"),
            Self::Rest => f.write_str("hlt until an interrupt"),
        }
    }
}
