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

/// A vCPU is about to execute an instruction that [`crate::Machine::watch`] named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// When, in nanoseconds of [`crate::clock::now`].
    pub time_ns: u64,
    /// Which vCPU.
    pub cpu: usize,
    /// The instruction's address.
    pub address: u64,
    /// RDI, RSI, RDX, RCX, R8, R9: at a function's first instruction, its first six arguments
    /// (System V ABI for x86-64, 3.2.3).
    pub arguments: [u64; 6],
}

/// Told of every event, on the vCPU's own thread. Must be quick and must not block: the guest
/// waits.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A vCPU wrote its ICR.
    fn ipi(&self, _event: &IpiEvent) {}
    /// A vCPU is about to take an interrupt.
    fn accepted(&self, _event: &AcceptedEvent) {}
    /// A vCPU reached an address that is watched.
    fn watched(&self, _event: &WatchEvent) {}
}

/// Looks away.
impl Observer for () {}
