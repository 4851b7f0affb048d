//! What the guest's kernel traced of its IPIs, and what the ledger has to compare it with.

use std::collections::BTreeMap;

use ipirig_machine::clock::Moment;

use crate::details::Detail;
use crate::ledger::handlers::Handled;
use crate::stacks::Callers;

/// What became of the wish that the kernel trace its IPIs.
#[derive(Clone, Debug, Default)]
pub enum Tracing {
    /// There was none.
    #[default]
    NotAsked,
    /// The guest lacks this.
    Lacking(String),
    /// It did not work, because of this.
    Failed(String),
    /// Tracing is on: the events and their filters, a line each.
    On(String),
    /// It was traced.
    Recorded(Box<Recorded>),
}

/// What the kernel traced, and what the ledger has to compare it with.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// The events and their filters, a line each.
    pub filters: String,
    /// The guest's `trace`.
    pub trace: String,
    /// The trace has more than was fetched.
    pub cut: bool,
    /// The guest's `per_cpu/cpuN/stats`, by N.
    pub stats: BTreeMap<usize, String>,
    /// The guest's histogram of ticks from `csd_queue_cpu` to `csd_function_entry`, since tracing
    /// began; empty if its kernel has none.
    pub histogram: String,
    /// When each window opened and closed.
    pub edges: Vec<(Edge, Edge)>,
    /// The windows' ICR writes and deliveries.
    pub details: Vec<Detail>,
    /// The stacks of who wrote.
    pub callers: Callers,
    /// When handlers of call-function IPIs began on isolated vCPUs.
    pub handled: Vec<Handled>,
}

/// A moment that was just then, on every vCPU: between two looks at the clocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    /// Just before, by vCPU.
    pub before: Vec<Moment>,
    /// Just after, by vCPU.
    pub after: Vec<Moment>,
}
