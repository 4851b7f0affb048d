//! Where counting hangs on.

use crate::route::Sent;

/// What a CPU took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AcceptedKind {
    /// An interrupt with this vector.
    Fixed(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// A reset.
    Init,
    /// A start at this page number.
    Startup(u8),
}

/// Where an accepted interrupt came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Another CPU, or the CPU itself, through its ICR or self-IPI register.
    Ipi,
    /// The APIC's own timer.
    Timer,
    /// Another entry of the local vector table: the error interrupt, or an NMI that was raised from
    /// outside.
    Lvt,
}

/// One delivery: an interrupt left the pending state and is in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Accepted {
    /// What was taken.
    pub kind: AcceptedKind,
    /// Where it came from. A vector that was pending from several sources counts for the first in
    /// the order of [`Origin`]: as an IPI if there was one.
    pub origin: Origin,
    /// The vector was pending from another source too, and this delivery serves both.
    pub merged: bool,
}

/// Is told of every IPI and every delivery, on the thread of the vCPU concerned. It must be quick
/// and must not block.
pub trait ApicObserver {
    /// A CPU wrote its ICR or self-IPI register. Comes once a write, whoever it reaches, and after
    /// the targets can see the interrupt: a target on another thread may report its delivery first.
    fn ipi_sent(&self, sent: &Sent) {
        let _ = sent;
    }

    /// `cpu` took an interrupt.
    fn interrupt_accepted(&self, cpu: usize, accepted: Accepted) {
        let _ = (cpu, accepted);
    }
}

/// Ignores everything.
impl ApicObserver for () {}
