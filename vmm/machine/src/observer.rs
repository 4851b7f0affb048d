//! What hangs on the machine's APICs and is told of every IPI and every injected interrupt.

use std::fmt;

use ipirig_apic::{Accepted, Sent};

/// One ICR write that meant an IPI.
#[derive(Clone, Debug)]
pub struct IpiEvent {
    /// When, in nanoseconds of [`crate::clock::now`].
    pub time_ns: u64,
    /// What it meant: vector, mode, source, targets, and what became of each.
    pub sent: Sent,
    /// The sender's RIP: at the WRMSR that wrote the ICR in x2APIC mode, which KVM completes at the
    /// next entry; after the store in xAPIC mode, which KVM's emulator has completed.
    pub rip: u64,
}

/// One interrupt, NMI, INIT or SIPI that a vCPU took.
#[derive(Clone, Debug)]
pub struct AcceptedEvent {
    /// When, in nanoseconds of [`crate::clock::now`].
    pub time_ns: u64,
    /// Which vCPU.
    pub cpu: usize,
    /// What it took.
    pub accepted: Accepted,
    /// The privilege level it interrupted: 0 or 3. `None` where that was not asked (INIT, SIPI).
    pub cpl: Option<u8>,
}

/// Told of every event, on the vCPU's own thread. Must be quick and must not block: the guest
/// waits.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A vCPU wrote its ICR.
    fn ipi(&self, _event: &IpiEvent) {}
    /// A vCPU is about to take an interrupt.
    fn accepted(&self, _event: &AcceptedEvent) {}
}

/// Looks away.
impl Observer for () {}
