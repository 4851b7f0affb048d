//! What an interrupt is: its vector or delivery mode, and the name Linux has for it.

use std::fmt;

/// What arrives at a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A fixed or lowest-priority interrupt with this vector.
    Vector(u8),
    /// A non-maskable interrupt; its vector field means nothing (SDM vol. 3, 12.6.1).
    Nmi,
    /// A system-management interrupt.
    Smi,
    /// INIT.
    Init,
    /// Start-up IPI.
    Startup,
    /// Any other delivery mode.
    Other,
}

/// Vectors that Linux 6.12 gives fixed meanings on x86-64 (arch/x86/include/asm/irq_vectors.h),
/// with the words of /proc/interrupts made short.
const LINUX: [(u8, &str); 19] = [
    (0x80, "int80"),
    (0xec, "local-timer"),
    (0xed, "hyperv-stimer"),
    (0xee, "hyperv-reenlightenment"),
    (0xef, "managed-irq-shutdown"),
    (0xf0, "posted-interrupt-nested"),
    (0xf1, "posted-interrupt-wakeup"),
    (0xf2, "posted-interrupt"),
    (0xf3, "hypervisor-callback"),
    (0xf4, "deferred-error"),
    (0xf6, "irq-work"),
    (0xf7, "platform-ipi"),
    (0xf8, "reboot"),
    (0xf9, "threshold-apic"),
    (0xfa, "thermal-apic"),
    (0xfb, "call-function-single"),
    (0xfc, "call-function"),
    (0xfd, "reschedule"),
    (0xff, "spurious"),
];

/// The vectors that /proc/interrupts counts as `CAL`.
pub const CALL_FUNCTION: [u8; 2] = [0xfb, 0xfc];
/// The vector that /proc/interrupts counts as `RES`.
pub const RESCHEDULE: [u8; 1] = [0xfd];
/// The vector that /proc/interrupts counts as `IWI`.
pub const IRQ_WORK: [u8; 1] = [0xf6];

impl Kind {
    /// How many kinds there are; [`Kind::index`] is below it.
    pub(crate) const COUNT: usize = 256 + 5;

    /// A dense number, for tables of counters.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Vector(vector) => usize::from(vector),
            Self::Nmi => 256,
            Self::Smi => 257,
            Self::Init => 258,
            Self::Startup => 259,
            Self::Other => 260,
        }
    }

    /// All kinds, by [`Kind::index`].
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self::Vector).chain([
            Self::Nmi,
            Self::Smi,
            Self::Init,
            Self::Startup,
            Self::Other,
        ])
    }
}

/// The kernel's name for it; `0x41` where it has none, because vectors below the system range are
/// given out at run time.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vector(vector) => match LINUX.iter().find(|(number, _)| number == vector) {
                Some((_, name)) => f.pad(name),
                None => f.pad(&format!("{vector:#04x}")),
            },
            Self::Nmi => f.pad("nmi"),
            Self::Smi => f.pad("smi"),
            Self::Init => f.pad("init"),
            Self::Startup => f.pad("startup"),
            Self::Other => f.pad("other-mode"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_is_dense_and_agrees_with_all() {
        let all: Vec<Kind> = Kind::all().collect();
        assert_eq!(all.len(), Kind::COUNT);
        for (i, kind) in all.iter().enumerate() {
            assert_eq!(kind.index(), i);
        }
    }

    #[test]
    fn known_vectors_have_names_and_strangers_are_hex() {
        for (kind, name) in [
            (Kind::Vector(0xfd), "reschedule"),
            (Kind::Vector(0xfc), "call-function"),
            (Kind::Vector(0xfb), "call-function-single"),
            (Kind::Vector(0xf6), "irq-work"),
            (Kind::Vector(0xec), "local-timer"),
            (Kind::Vector(0xf8), "reboot"),
            (Kind::Vector(0x22), "0x22"),
            (Kind::Vector(0x05), "0x05"),
            (Kind::Nmi, "nmi"),
        ] {
            assert_eq!(kind.to_string(), name);
        }
    }

    #[test]
    fn no_two_kinds_share_a_name() {
        let mut names: Vec<String> = Kind::all().map(|kind| kind.to_string()).collect();
        names.sort();
        let before = names.len();
        names.dedup();
        assert_eq!(names.len(), before);
    }
}
