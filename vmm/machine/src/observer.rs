//! What hangs on the machine's APICs and is told of every IPI and every injected interrupt.

use std::fmt;

use ipirig_apic::{Accepted, Sent};

/// Memory as a vCPU sees it, for as long as an event lasts. Each call costs at most a few ioctls; who
/// asks nothing pays nothing.
pub trait VirtualMemory: fmt::Debug {
    /// Reads at a virtual address, by the vCPU's page tables; `false`, and anything in `buffer`, where
    /// not all of it is mapped to RAM.
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool;
}

/// The vCPU that sends an IPI, for as long as the event lasts.
pub trait Sender: VirtualMemory {
    /// The registers that say where it is and how it came there.
    fn registers(&self) -> SenderRegisters;
    /// Its page-table base, if KVM gives it.
    fn cr3(&self) -> Option<u64>;
}

/// Those registers of a sender on which the layout of a kernel's stack may depend
/// (arch/x86/include/asm/orc_types.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderRegisters {
    /// RIP, as in [`IpiEvent::rip`].
    pub rip: u64,
    /// RSP.
    pub rsp: u64,
    /// RBP.
    pub rbp: u64,
    /// RAX.
    pub rax: u64,
    /// RDX.
    pub rdx: u64,
    /// RDI.
    pub rdi: u64,
    /// R10.
    pub r10: u64,
    /// R13.
    pub r13: u64,
}

/// One ICR write that meant an IPI.
#[derive(Clone, Debug)]
pub struct IpiEvent {
    /// When it was written, before anyone could take the IPI, in nanoseconds of [`crate::clock::now`].
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
    /// Whether it was in HLT.
    pub idle: bool,
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
    /// The same, with the vCPU that wrote it, to ask for more.
    fn ipi_from(&self, event: &IpiEvent, _sender: &dyn Sender) {
        self.ipi(event);
    }
    /// A vCPU is about to take an interrupt.
    fn accepted(&self, _event: &AcceptedEvent) {}
    /// The same, where the memory of the vCPU that takes it can be read. What it was doing has ended; the
    /// handler has not begun.
    fn accepted_in(&self, event: &AcceptedEvent, _memory: &dyn VirtualMemory) {
        self.accepted(event);
    }
    /// An IPI of which was not said what it interrupts ([`AcceptedEvent::cpl`]) interrupted user space.
    fn interrupted_user(&self, _cpu: usize) {}
    /// This many events happened that nobody will hear of.
    fn lost(&self, _count: u64) {}
    /// A vCPU reached an address that is watched.
    fn watched(&self, _event: &WatchEvent) {}
}

/// Looks away.
impl Observer for () {}
