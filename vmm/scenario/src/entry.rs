//! Ways from user space into the kernel, as scenarios name them.

use std::fmt;

use ipirig_abi::Order;
use ipirig_apic::Line;
use ipirig_entry::Began;

/// Vector of an NMI (SDM vol. 3, table 6-1).
const NMI: u8 = 2;
/// Vectors that Linux gives to its timer and to reschedule IPIs
/// (arch/x86/include/asm/irq_vectors.h).
pub const LOCAL_TIMER: u8 = 0xec;
/// See [`LOCAL_TIMER`].
pub const RESCHEDULE: u8 = 0xfd;

/// A way from user space into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// A system call.
    Syscall,
    /// A page fault on a page that is valid and not present.
    PageFault,
    /// #GP.
    GeneralProtection,
    /// #UD.
    InvalidOpcode,
    /// #DB.
    Debug,
    /// #BP.
    Breakpoint,
    /// #AC.
    AlignmentCheck,
    /// INT 0x80, a 32-bit system call.
    Int80,
    /// SYSENTER, the same.
    Sysenter,
    /// SYSCALL in compatibility mode, the same.
    CompatSyscall,
    /// `rt_sigreturn` to a code segment that there is not: its IRET raises #GP. What is recorded is the way
    /// in by that, not the system call before it.
    BadIret,
    /// SYSCALL, `rt_sigreturn` to a stack segment of 16 bits: the way out is by espfix64.
    Espfix,
    /// Both: the IRET raises #DF. What is recorded begins with that.
    DoubleFault,
    /// The interrupt of the CPU's own APIC timer.
    Timer,
    /// A reschedule IPI, which a signal to the running task makes the kernel send.
    Reschedule,
    /// An NMI.
    Nmi,
}

/// How the rig makes an isolated vCPU enter the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Its task does it when told to.
    Order(Order),
    /// The control task signals its task.
    Signal,
    /// The machine raises a line of its APIC.
    Raise(Line),
}

impl EntryKind {
    /// Whether one CPU has it and another lacks it: SYSENTER is Intel's in IA-32e mode and 32-bit SYSCALL AMD's,
    /// and KVMs that emulate lack what they do not emulate. espfix64 is the kernel's, and a return that faults
    /// something that some KVMs get wrong.
    #[must_use]
    pub const fn depends_on_cpu(self) -> bool {
        matches!(
            self,
            Self::AlignmentCheck
                | Self::Int80
                | Self::Sysenter
                | Self::CompatSyscall
                | Self::BadIret
                | Self::Espfix
                | Self::DoubleFault
        )
    }

    /// Every way, in the order in which people want to read them.
    pub const ALL: [Self; 16] = [
        Self::Syscall,
        Self::PageFault,
        Self::GeneralProtection,
        Self::InvalidOpcode,
        Self::Debug,
        Self::Breakpoint,
        Self::AlignmentCheck,
        Self::Int80,
        Self::Sysenter,
        Self::CompatSyscall,
        Self::BadIret,
        Self::Espfix,
        Self::DoubleFault,
        Self::Timer,
        Self::Reschedule,
        Self::Nmi,
    ];

    /// Its name in scenario files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Syscall => "syscall",
            Self::PageFault => "page-fault",
            Self::GeneralProtection => "general-protection",
            Self::InvalidOpcode => "invalid-opcode",
            Self::Debug => "debug",
            Self::Breakpoint => "breakpoint",
            Self::AlignmentCheck => "alignment-check",
            Self::Int80 => "int80",
            Self::Sysenter => "sysenter",
            Self::CompatSyscall => "compat-syscall",
            Self::BadIret => "bad-iret",
            Self::Espfix => "espfix",
            Self::DoubleFault => "double-fault",
            Self::Timer => "timer",
            Self::Reschedule => "reschedule",
            Self::Nmi => "nmi",
        }
    }

    /// The way of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// How a record of it begins.
    #[must_use]
    pub fn began(self) -> Began {
        let vector = match self.trigger(false) {
            Trigger::Order(order) => match (order.vector(), order) {
                (Some(vector), Order::BadIret | Order::DoubleFault) => {
                    return Began::FaultingReturn(vector);
                }
                (Some(vector), _) => vector,
                (None, Order::Sysenter) => return Began::Sysenter,
                (None, Order::CompatSyscall) => return Began::CompatSyscall,
                (None, _) => return Began::Syscall,
            },
            Trigger::Signal => RESCHEDULE,
            Trigger::Raise(Line::Nmi) => NMI,
            Trigger::Raise(_) => LOCAL_TIMER,
        };
        Began::Vector(vector)
    }

    /// How to provoke it. A system call goes to the module's probe where the guest has it.
    #[must_use]
    pub fn trigger(self, module: bool) -> Trigger {
        match self {
            Self::Syscall if module => Trigger::Order(Order::Probe),
            Self::Syscall => Trigger::Order(Order::Enter),
            Self::PageFault => Trigger::Order(Order::PageFault),
            Self::GeneralProtection => Trigger::Order(Order::GeneralProtection),
            Self::InvalidOpcode => Trigger::Order(Order::InvalidOpcode),
            Self::Debug => Trigger::Order(Order::SingleStep),
            Self::Breakpoint => Trigger::Order(Order::Breakpoint),
            Self::AlignmentCheck => Trigger::Order(Order::AlignmentCheck),
            Self::Int80 => Trigger::Order(Order::Int80),
            Self::Sysenter => Trigger::Order(Order::Sysenter),
            Self::CompatSyscall => Trigger::Order(Order::CompatSyscall),
            Self::BadIret => Trigger::Order(Order::BadIret),
            Self::Espfix => Trigger::Order(Order::Espfix),
            Self::DoubleFault => Trigger::Order(Order::DoubleFault),
            Self::Timer => Trigger::Raise(Line::Timer),
            Self::Reschedule => Trigger::Signal,
            Self::Nmi => Trigger::Raise(Line::Nmi),
        }
    }
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Syscall => "SYSCALL",
            Self::PageFault => "#PF",
            Self::GeneralProtection => "#GP",
            Self::InvalidOpcode => "#UD",
            Self::Debug => "#DB",
            Self::Breakpoint => "#BP",
            Self::AlignmentCheck => "#AC",
            Self::Int80 => "INT 0x80",
            Self::Sysenter => "SYSENTER",
            Self::CompatSyscall => "32-bit SYSCALL",
            Self::BadIret => "#GP of IRET",
            Self::Espfix => "SYSCALL out by espfix",
            Self::DoubleFault => "#DF of IRET",
            Self::Timer => "timer interrupt",
            Self::Reschedule => "reschedule IPI",
            Self::Nmi => "NMI",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_begins_at_the_handler_that_its_trigger_reaches() {
        let began = EntryKind::ALL.map(EntryKind::began);
        let vectors = |all: &[u8]| all.iter().copied().map(Began::Vector).collect::<Vec<_>>();
        let mut expected = vec![Began::Syscall];
        expected.extend(vectors(&[14, 13, 6, 1, 3, 17, 0x80]));
        expected.extend([Began::Sysenter, Began::CompatSyscall]);
        expected.extend([
            Began::FaultingReturn(13),
            Began::Syscall,
            Began::FaultingReturn(8),
        ]);
        expected.extend(vectors(&[0xec, 0xfd, 2]));
        assert_eq!(began[..], expected);
    }

    #[test]
    fn each_way_is_found_by_its_name() {
        for kind in EntryKind::ALL {
            assert_eq!(EntryKind::find(kind.name()), Some(kind));
        }
        assert_eq!(EntryKind::find("smi"), None);
    }
}
