//! The ledger: the record of every IPI and every delivery, written on the vCPU threads.
//!
//! Two parts. Counters are exact whatever happens, and of fixed size. Details (one record an
//! event, for those who ask who and when) are kept for the window only and up to a limit; what did
//! not fit is counted, and makes the verdict `error`.
//!
//! Nothing there blocks: a vCPU thread does a few atomic additions an event. Beside them are kept
//! the kernel's [`changes`] of text and mappings, on the vCPUs of the storm only.

pub mod changes;
pub mod handlers;
mod hold;
mod journal;
mod observe;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use ipirig_machine::{WatchEvent, clock};

use crate::blame::{Attribution, TimerAttribution};
pub use crate::details::{DETAILS, Delivery, Detail, Details, Write};
use crate::stacks::Stacks;
use crate::vectors::Kind;
use changes::Changes;
use handlers::Handlers;
pub use hold::Hold;
pub use journal::{Doing, Journal, Stretch};

/// The record of one run.
pub struct Ledger {
    cpus: Box<[Cpu]>,
    /// 0 before, 1 in, 2 after the window.
    phase: AtomicU8,
    details: Details,
    /// What the kernel changed in the window.
    changes: Changes,
    hold: Hold,
    /// What the rig itself did.
    journal: Journal,
    /// The calls that led to IPIs of the window.
    stacks: Stacks,
    /// When handlers of IPIs began, as far as they are watched.
    handlers: Handlers,
    /// Events that name a vCPU which does not exist.
    strangers: AtomicU64,
    /// Events that the machine lost.
    unheard: AtomicU64,
    counts_only: AtomicBool,
}

const BEFORE: u8 = 0;
const INSIDE: u8 = 1;
const AFTER: u8 = 2;

/// Counters of one vCPU.
struct Cpu {
    outside: Cells,
    window: Cells,
    /// Sends that target it and interrupts that it took, all in one: cheap to look at often.
    activity: AtomicU64,
}

/// Counters of one vCPU for one stretch of time.
struct Cells {
    writes: AtomicU64,
    undeliverable: AtomicU64,
    coalesced: AtomicU64,
    ipis_at_user: AtomicU64,
    ipis_at_idle: AtomicU64,
    targeted: Box<[AtomicU64]>,
    targeted_by: Box<[AtomicU64]>,
    delivered: Box<[AtomicU64]>,
    other: Box<[AtomicU64]>,
}

/// What one vCPU sent and got in one stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// ICR writes of this vCPU.
    pub writes: u64,
    /// Those of its writes that reached nobody.
    pub undeliverable: u64,
    /// Sends that target it, by kind. The number that verdicts are about.
    pub targeted: BTreeMap<Kind, u64>,
    /// The same sends, by the vCPU that sent.
    pub targeted_by: BTreeMap<usize, u64>,
    /// Those of the sends that found the same interrupt pending: one delivery serves both.
    pub coalesced: u64,
    /// IPIs that it took, by kind.
    pub delivered: BTreeMap<Kind, u64>,
    /// IPIs that it took while in user space, as far as that is known: at least so many.
    pub ipis_at_user: u64,
    /// IPIs that it took while it waited in HLT, as far as that is known: at least so many.
    pub ipis_at_idle: u64,
    /// Interrupts that it took and that are no IPIs, by kind.
    pub other: BTreeMap<Kind, u64>,
}

impl Tally {
    /// Sends that target it.
    #[must_use]
    pub fn ipis_targeted(&self) -> u64 {
        self.targeted.values().sum()
    }

    /// IPIs that it took.
    #[must_use]
    pub fn ipi_deliveries(&self) -> u64 {
        self.delivered.values().sum()
    }

    /// Interrupts that it took and that are no IPIs.
    #[must_use]
    pub fn other_interrupts(&self) -> u64 {
        self.other.values().sum()
    }
}

/// One vCPU's part of a [`LedgerCounts`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuRecord {
    /// Before and after the window.
    pub outside: Tally,
    /// In the window.
    pub window: Tally,
}

impl CpuRecord {
    /// Interrupts with one of `vectors` that it took since the start, IPI or not.
    #[must_use]
    pub fn taken(&self, vectors: &[u8]) -> u64 {
        let tallies = [&self.outside, &self.window];
        let maps = tallies
            .into_iter()
            .flat_map(|tally| [&tally.delivered, &tally.other]);
        maps.flat_map(|map| vectors.iter().filter_map(|&v| map.get(&Kind::Vector(v))))
            .sum()
    }
}

/// What the ledger has counted up to one moment. Exact once the storm has ended; while it runs, counters
/// of one event may be some in, some out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerCounts {
    /// By vCPU number.
    pub cpus: Vec<CpuRecord>,
    /// Details and call chains that did not fit.
    pub dropped: u64,
    /// Events that named a vCPU which does not exist.
    pub strangers: u64,
    /// What interrupts interrupted is not known, but of IPIs that are said to have interrupted user space.
    pub counts_only: bool,
}

impl Ledger {
    /// An empty ledger for `cpus` vCPUs (at most 64 are told apart) and `details` records.
    #[must_use]
    pub fn new(cpus: usize, details: usize) -> Self {
        let cpus = cpus.min(ipirig_abi::MAX_CPUS);
        let cells = || Cells {
            writes: AtomicU64::new(0),
            undeliverable: AtomicU64::new(0),
            coalesced: AtomicU64::new(0),
            ipis_at_user: AtomicU64::new(0),
            ipis_at_idle: AtomicU64::new(0),
            targeted: zeroes(Kind::COUNT),
            targeted_by: zeroes(cpus),
            delivered: zeroes(Kind::COUNT),
            other: zeroes(Kind::COUNT),
        };
        let cpus: Box<[Cpu]> = (0..cpus)
            .map(|_| Cpu {
                outside: cells(),
                window: cells(),
                activity: AtomicU64::new(0),
            })
            .collect();
        Self {
            phase: AtomicU8::new(BEFORE),
            details: Details::new(details),
            changes: Changes::default(),
            hold: Hold::default(),
            journal: Journal::default(),
            stacks: Stacks::new(cpus.len()),
            cpus,
            handlers: Handlers::default(),
            strangers: AtomicU64::new(0),
            unheard: AtomicU64::new(0),
            counts_only: AtomicBool::new(false),
        }
    }

    /// What is recorded comes from KVM's own APICs: who sends and who gets is known; what was interrupted is
    /// known of those IPIs only of which it is said that they interrupted user space.
    pub fn count_only(&self) {
        self.counts_only.store(true, Relaxed);
    }

    /// Opens the window: what is recorded from here on counts as inside.
    pub fn open_window(&self) {
        self.journal.begin(Doing::Window, clock::now());
        self.phase.store(INSIDE, SeqCst);
    }

    /// Closes the window.
    pub fn close_window(&self) {
        self.phase.store(AFTER, SeqCst);
        self.journal.end(Doing::Window, clock::now());
    }

    /// Whether the window is open.
    #[must_use]
    pub fn inside(&self) -> bool {
        self.phase.load(SeqCst) == INSIDE
    }

    /// The calls that led to the IPIs of the window.
    #[must_use]
    pub fn stacks(&self) -> &Stacks {
        &self.stacks
    }

    /// Who sent the IPIs of all windows, and why, most sends first. Empty if no stacks were taken.
    #[must_use]
    pub fn blame(&self) -> Vec<Attribution> {
        let stretches = self.journal.stretches();
        let windows = stretches.iter().filter(|s| s.doing == Doing::Window);
        let opened: Vec<u64> = windows.map(|window| window.from_ns).collect();
        self.stacks.account(&self.details, &opened)
    }

    /// What the timer interrupts of all windows came for, most first. Empty if no stacks were taken, or nobody asked for
    /// any ([`Stacks::tell_timers_of`]).
    #[must_use]
    pub fn timers(&self) -> Vec<TimerAttribution> {
        self.stacks.timers(&self.details)
    }

    /// Records an ICR write.
    pub fn write(&self, write: &Write) {
        let inside = self.phase.load(SeqCst) == INSIDE;
        let Some(source) = self.cells(write.source, inside) else {
            return;
        };
        source.writes.fetch_add(1, Relaxed);
        if write.undeliverable {
            source.undeliverable.fetch_add(1, Relaxed);
        }
        for cpu in write.targets.iter() {
            let Some(target) = self.cells(cpu, inside) else {
                continue;
            };
            self.stir(cpu);
            bump(&target.targeted, write.kind.index());
            bump(&target.targeted_by, write.source);
            if write.coalesced.contains(cpu) {
                target.coalesced.fetch_add(1, Relaxed);
            }
        }
        if inside {
            self.details.push(Detail::Write(*write));
        }
    }

    /// Records a delivery.
    pub fn delivery(&self, delivery: &Delivery) {
        let inside = self.phase.load(SeqCst) == INSIDE;
        let Some(cells) = self.cells(delivery.cpu, inside) else {
            return;
        };
        self.stir(delivery.cpu);
        if delivery.ipi {
            bump(&cells.delivered, delivery.kind.index());
            if delivery.user {
                cells.ipis_at_user.fetch_add(1, Relaxed);
            }
            if delivery.idle {
                cells.ipis_at_idle.fetch_add(1, Relaxed);
            }
        } else {
            bump(&cells.other, delivery.kind.index());
        }
        if inside {
            self.details.push(Detail::Delivery(*delivery));
        }
    }

    /// Records that an IPI whose delivery is recorded without saying so interrupted user space.
    pub fn ipi_at_user(&self, cpu: usize) {
        let inside = self.phase.load(SeqCst) == INSIDE;
        if let Some(cells) = self.cells(cpu, inside) {
            cells.ipis_at_user.fetch_add(1, Relaxed);
        }
    }

    /// A number that grows whenever an interrupt is sent to `cpu` or taken by it.
    #[must_use]
    pub fn activity(&self, cpu: usize) -> u64 {
        self.cpus
            .get(cpu)
            .map_or(0, |cpu| cpu.activity.load(SeqCst))
    }

    /// The window's events, in the order in which they were recorded.
    #[must_use]
    pub fn details(&self) -> &Details {
        &self.details
    }

    /// What the kernel changed in the window, as far as it is watched.
    #[must_use]
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// What the rig did, and when.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// When handlers of IPIs began in the window, as far as they are watched.
    #[must_use]
    pub fn handlers(&self) -> &Handlers {
        &self.handlers
    }

    /// Records that a vCPU reached a function that is watched.
    pub fn reached(&self, event: &WatchEvent) {
        if self.phase.load(SeqCst) == INSIDE {
            self.changes.note(event);
            self.handlers.note(event);
            if self.changes.knows(event.address) {
                self.hold.pass();
            }
        }
    }

    /// Where a vCPU can be held before a change that it is about to make.
    #[must_use]
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    /// The counters as they are now.
    #[must_use]
    pub fn counts(&self) -> LedgerCounts {
        LedgerCounts {
            cpus: self
                .cpus
                .iter()
                .map(|cpu| CpuRecord {
                    outside: cpu.outside.tally(),
                    window: cpu.window.tally(),
                })
                .collect(),
            dropped: self.details.dropped() + self.stacks.dropped() + self.unheard.load(Relaxed),
            counts_only: self.counts_only.load(Relaxed),
            strangers: self.strangers.load(Relaxed),
        }
    }

    fn stir(&self, cpu: usize) {
        if let Some(cpu) = self.cpus.get(cpu) {
            cpu.activity.fetch_add(1, SeqCst);
        }
    }

    fn cells(&self, cpu: usize, inside: bool) -> Option<&Cells> {
        let Some(cpu) = self.cpus.get(cpu) else {
            self.strangers.fetch_add(1, Relaxed);
            return None;
        };
        Some(if inside { &cpu.window } else { &cpu.outside })
    }
}

/// Prints its size only: the counters of 64 vCPUs would fill a screen.
impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("cpus", &self.cpus.len())
            .finish_non_exhaustive()
    }
}

impl Cells {
    fn tally(&self) -> Tally {
        let by_kind = |cells: &[AtomicU64]| {
            let counts = Kind::all()
                .zip(cells)
                .map(|(kind, cell)| (kind, cell.load(Relaxed)));
            counts.filter(|(_, count)| *count > 0).collect()
        };
        let by_cpu = |cells: &[AtomicU64]| {
            let counts = cells.iter().map(|cell| cell.load(Relaxed)).enumerate();
            counts.filter(|(_, count)| *count > 0).collect()
        };
        Tally {
            writes: self.writes.load(Relaxed),
            undeliverable: self.undeliverable.load(Relaxed),
            targeted: by_kind(&self.targeted),
            targeted_by: by_cpu(&self.targeted_by),
            coalesced: self.coalesced.load(Relaxed),
            delivered: by_kind(&self.delivered),
            ipis_at_user: self.ipis_at_user.load(Relaxed),
            ipis_at_idle: self.ipis_at_idle.load(Relaxed),
            other: by_kind(&self.other),
        }
    }
}

fn zeroes(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

fn bump(cells: &[AtomicU64], index: usize) {
    if let Some(cell) = cells.get(index) {
        cell.fetch_add(1, Relaxed);
    }
}
