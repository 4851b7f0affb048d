//! What a run brought to light. Facts only; `ipirig-verdict` says what they mean.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipirig_abi::Order;
use ipirig_entry::{KernelLayout, Paging, Record};
use ipirig_scenario::EntryKind;

use crate::blame::Attribution;
use crate::guest_text::{Counters, Interrupts};
use crate::ledger::changes::{Changed, Sighting};
use crate::ledger::{Detail, LedgerCounts};
use crate::setup::KernelSetup;
use crate::tracing::Tracing;

/// The privilege level of user space.
pub const USER: u8 = 3;
/// The guest's error number for an order that its machine cannot produce (ENOTSUP).
pub const NOT_PRODUCED: u32 = 95;

/// Everything that the conductor saw.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Whether the guest has `ipirig.ko`.
    pub module: bool,
    /// `uname -srvm` in the guest.
    pub version: String,
    /// How the kernel is set up, if the guest says so.
    pub setup: Option<KernelSetup>,
    /// How long the windows were open, all together.
    pub window: Duration,
    /// Deferral counters before the first isolated task was started, as in [`KernelView::counters`].
    pub at_boot: Result<Option<Counters>, String>,
    /// The kernel's own view before the window.
    pub before: KernelView,
    /// The same after the release.
    pub after: KernelView,
    /// The ledger just before the kernel's first view was read.
    pub ledger_before: LedgerCounts,
    /// The ledger just after the second one.
    pub ledger: LedgerCounts,
    /// Who sent the IPIs of the windows, and why; empty if no stacks were taken.
    pub blame: Vec<Attribution>,
    /// Where things are in the kernel, or why that is not known and no entry can be judged.
    pub layout: Result<Arc<KernelLayout>, String>,
    /// How the kernel's page tables are set up, seen before the first window; `None` if they could not
    /// be read.
    pub paging: Option<Paging>,
    /// The windows, one for each entry kind.
    pub windows: Vec<WindowRecord>,
    /// What the kernel itself recorded of its IPIs.
    pub tracing: Tracing,
    /// What came when in the windows. Only kept where a scenario asks for IPIs by their causes.
    pub sequence: Option<Sequence>,
}

/// Changes and IPIs with their times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// ICR writes and deliveries.
    pub details: Vec<Detail>,
    /// Changes of text and mappings.
    pub sightings: Vec<Sighting>,
}

/// One window, and the entries after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowRecord {
    /// The entry kind that ends it.
    pub entry: EntryKind,
    /// What each isolated vCPU saw on an entry before the window. Only where the entry after it
    /// shows the same, and the guest has the module.
    pub baseline: BTreeMap<usize, EntryReport>,
    /// Where each isolated vCPU was just after the window opened and just before it closed.
    pub marks: BTreeMap<usize, (Mark, Mark)>,
    /// IPIs sent to each isolated vCPU in this window.
    pub ipis: BTreeMap<usize, u64>,
    /// What the guest says of the storm's parts.
    pub storm: Vec<StormReport>,
    /// What the kernel changed.
    pub changed: Changed,
    /// What each isolated vCPU saw on its first entry after the window, if it was ordered.
    pub released: BTreeMap<usize, EntryReport>,
    /// What each isolated vCPU executed on that entry.
    pub records: BTreeMap<usize, Result<Record, NoRecord>>,
    /// What isolated vCPUs executed for the IPIs of the window, and the control vCPU when it made changes,
    /// where that was followed.
    pub handled: Vec<Handled>,
    /// Before which change the isolated vCPUs entered the kernel, to stay there, if they did.
    pub entered_before: Option<u64>,
}

/// What an isolated vCPU executed for one IPI; or what the control vCPU did in one call that changes text or
/// flushes mappings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handled {
    /// The storm's part that sent it, by its place.
    pub part: usize,
    /// The vCPU.
    pub cpu: usize,
    /// From the first instruction of the handler, or the function, to the return.
    pub record: Record,
}

/// Why an entry was not recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoRecord {
    /// The host cannot step a guest's kernel.
    CannotStep,
    /// The vCPU was in the kernel all the while: there was no entry.
    InKernel,
    /// The host cannot produce this entry kind, or the guest cannot.
    NotProduced,
    /// It should have come, and was not seen.
    NotSeen,
}

/// What the guest's kernel counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelView {
    /// Deferral counters. `Ok(None)`: the kernel has none. `Err`: it has, and they make no sense.
    pub counters: Result<Option<Counters>, String>,
    /// /proc/interrupts; without rows if it could not be read.
    pub interrupts: Interrupts,
}

/// Where an isolated vCPU was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Privilege level: 3 is user space.
    pub cpl: u8,
    /// The instruction pointer.
    pub rip: u64,
    /// The task's count of turns of its loop.
    pub heartbeat: u64,
}

/// What the task on an isolated vCPU brought back from an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryReport {
    /// What it was asked to do there.
    pub order: Order,
    /// The branch it took; a claim, so not always 0 or 1.
    pub branch: u32,
    /// The word it read through the alias.
    pub alias: u64,
    /// The system call's error, 0 for none.
    pub errno: u32,
}

/// What the guest says of one part of the storm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StormReport {
    /// Operations done.
    pub done: u64,
    /// The key's value or the word behind the alias, as the control vCPU knows it.
    pub value: u64,
}
