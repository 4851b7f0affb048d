//! The window's events, one record each, in a buffer of fixed size that any thread may append to.

use ipirig_apic::CpuSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::vectors::Kind;

/// Details kept of one window. A storm of ten thousand operations on three vCPUs fits several
/// times; beyond the limit a smaller storm is the answer.
pub const DETAILS: usize = 1 << 18;

/// One ICR write, as the ledger sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// When, in nanoseconds of the machine's clock.
    pub time_ns: u64,
    /// The vCPU that wrote.
    pub source: usize,
    /// What it sent.
    pub kind: Kind,
    /// The vCPUs it goes to.
    pub targets: CpuSet,
    /// Those of the targets where the same interrupt was still pending.
    pub coalesced: CpuSet,
    /// Something was to be sent and nobody takes it.
    pub undeliverable: bool,
    /// The instruction that wrote.
    pub rip: u64,
    /// The number of the calls that led to it, among those of its sender; see [`Stacks`](crate::stacks::Stacks).
    pub chain: Option<u32>,
}

/// One interrupt that a vCPU took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// When, in nanoseconds of the machine's clock.
    pub time_ns: u64,
    /// The vCPU that took it.
    pub cpu: usize,
    /// What it took.
    pub kind: Kind,
    /// Whether it is an IPI; else a timer or another local interrupt.
    pub ipi: bool,
    /// Whether it interrupted user space.
    pub user: bool,
    /// Whether it ended a HLT.
    pub idle: bool,
    /// Of a timer's interrupt, the number of what was due, among those of its vCPU; see
    /// [`Stacks`](crate::stacks::Stacks).
    pub due: Option<u32>,
}

/// One recorded event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// A vCPU wrote its ICR.
    Write(Write),
    /// A vCPU took an interrupt.
    Delivery(Delivery),
}

/// An append-only buffer. Places are handed out by one atomic counter, so that writers never meet;
/// when they run out, events are counted and dropped. The first events are kept, not the last: how
/// a violation began is what people ask.
#[derive(Debug)]
pub struct Details {
    slots: Box<[OnceLock<Detail>]>,
    pushed: AtomicUsize,
}

impl Details {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            slots: (0..capacity).map(|_| OnceLock::new()).collect(),
            pushed: AtomicUsize::new(0),
        }
    }

    pub(crate) fn push(&self, detail: Detail) {
        let place = self.pushed.fetch_add(1, Relaxed);
        if let Some(slot) = self.slots.get(place) {
            // Each place is handed out once, so it is empty and nobody waits.
            let _ = slot.set(detail);
        }
    }

    /// Events that did not fit.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.pushed.load(Relaxed).saturating_sub(self.slots.len()) as u64
    }

    /// The events that fit, in the order in which they were recorded. One that is being written at
    /// this moment is left out.
    pub fn iter(&self) -> impl Iterator<Item = &Detail> {
        self.slots
            .iter()
            .take(self.pushed.load(Relaxed))
            .filter_map(OnceLock::get)
    }
}
