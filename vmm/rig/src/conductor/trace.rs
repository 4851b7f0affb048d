//! Has the guest's kernel trace its own IPIs, and fetches what it traced.
//!
//! Tracing is on from before the first window to after the last: to enable an event flips a static
//! key, which sends the very IPIs that are looked at.

use ipirig_abi::{Command, Role, TraceStep};
use ipirig_entry::KernelLayout;
use ipirig_evidence::ledger::Ledger;
use ipirig_machine::clock::Moment;

use super::{Conductor, Edge, Ended, Phase, Recorded, Tracing};

/// KiB of the guest's buffer for each CPU. An operation sends three IPIs to each of three CPUs in the
/// storms that there are, and each leaves 150 bytes or so.
const BUFFER_KIB: std::ops::RangeInclusive<u64> = 128..=8192;
const KIB_AN_OPERATION: u64 = 4;
/// Most parts of a trace that are fetched, of [`ipirig_abi::TEXT_LEN`] bytes each.
const PARTS: usize = 1024;

impl Conductor<'_> {
    /// If the plan wants it: switches tracing on, for all CPUs but the control one.
    pub(super) fn start_trace(
        &mut self,
        layout: &Result<std::sync::Arc<KernelLayout>, String>,
    ) -> Result<(), Ended> {
        if !self.plan.cross_check {
            return Ok(());
        }
        self.enter(Phase::StartTrace);
        let roles = self.plan.roles.iter().enumerate();
        let cpus = roles.filter(|(_, role)| **role != Role::Control);
        let mask = cpus.fold(0_u64, |mask, (cpu, _)| mask | 1 << cpu);
        self.tracing = match self.trace_step(TraceStep::Start, [mask, self.buffer_kib()]) {
            Ok(filters) => Tracing::On(filters),
            Err(Ended::Lacking { what }) => Tracing::Lacking(what),
            Err(ended @ Ended::Command { .. }) => Tracing::Failed(ended.to_string()),
            Err(ended) => return Err(ended),
        };
        if let (Tracing::On(_), Ok(layout)) = (&self.tracing, layout) {
            let symbols = layout.symbols();
            let handlers = self.ledger.handlers();
            self.handlers = handlers.find(|name| symbols.address(name));
        }
        Ok(())
    }

    /// Switches tracing off and fetches what it left.
    pub(super) fn read_trace(&mut self) -> Result<Tracing, Ended> {
        let filters = match std::mem::take(&mut self.tracing) {
            Tracing::On(filters) => filters,
            other => return Ok(other),
        };
        match self.fetch_trace(filters) {
            Ok(recorded) => Ok(Tracing::Recorded(Box::new(recorded))),
            Err(ended @ (Ended::Lacking { .. } | Ended::Command { .. })) => {
                Ok(Tracing::Failed(ended.to_string()))
            }
            Err(ended) => Err(ended),
        }
    }

    fn fetch_trace(&mut self, filters: String) -> Result<Recorded, Ended> {
        self.enter(Phase::ReadTrace);
        self.trace_step(TraceStep::Stop, [0; 2])?;
        let mut recorded = Recorded {
            filters,
            cut: true,
            edges: std::mem::take(&mut self.edges),
            details: self.ledger.details().iter().copied().collect(),
            callers: self.ledger.stacks().callers(self.ledger.details()),
            handled: self.ledger.handlers().seen(),
            ..Recorded::default()
        };
        for _ in 0..PARTS {
            // Each part is progress.
            self.enter(Phase::ReadTrace);
            let part = self.trace_step(TraceStep::Read, [0; 2])?;
            if part.is_empty() {
                recorded.cut = false;
                break;
            }
            recorded.trace += &part;
        }
        for cpu in 0..self.plan.roles.len() {
            let stats = self.trace_step(TraceStep::Stats, [cpu as u64, 0])?;
            recorded.stats.insert(cpu, stats);
        }
        recorded.histogram = self.trace_step(TraceStep::Histogram, [0; 2])?;
        Ok(recorded)
    }

    fn trace_step(&mut self, step: TraceStep, [first, second]: [u64; 2]) -> Result<String, Ended> {
        let args = [u32::from(step).into(), first, second, 0];
        self.command(Command::Trace, args)?;
        Ok(self.whole_text())
    }

    fn buffer_kib(&self) -> u64 {
        let plan = self.plan;
        let operations = self.scenario.map_or(0, |scenario| {
            let windows = scenario.entries.len() as u64;
            scenario.storm.operations().saturating_mul(windows)
        });
        // All buffers together at most a quarter of the guest's memory.
        let most = plan.memory_mib * 1024 / 4 / plan.roles.len().max(1) as u64;
        let wanted = operations.saturating_mul(KIB_AN_OPERATION);
        wanted
            .clamp(*BUFFER_KIB.start(), *BUFFER_KIB.end())
            .min(most)
    }

    /// Opens or closes a window, between two looks at the clocks if the kernel traces.
    pub(super) fn edge(&mut self, step: impl FnOnce(&Ledger)) -> Result<Edge, Ended> {
        let before = self.moments()?;
        self.machine(|guest| guest.catch_up())?;
        step(self.ledger);
        let after = self.moments()?;
        Ok(Edge { before, after })
    }

    fn moments(&mut self) -> Result<Vec<Moment>, Ended> {
        if !matches!(self.tracing, Tracing::On(_)) {
            return Ok(Vec::new());
        }
        let cpus = 0..self.plan.roles.len();
        cpus.map(|cpu| self.machine(|guest| guest.moment(cpu)))
            .collect()
    }

    /// Has the handlers of call-function IPIs watched on isolated vCPUs, or no more.
    pub(super) fn watch_handlers(&mut self, watch: bool) -> Result<(), Ended> {
        if self.handlers.is_empty() {
            return Ok(());
        }
        let addresses = if watch { self.handlers.clone() } else { vec![] };
        for cpu in self.isolated.clone() {
            self.machine(|guest| guest.watch(cpu, &addresses))?;
        }
        Ok(())
    }
}
