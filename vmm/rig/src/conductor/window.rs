//! One window: what is looked at before, the storm, and what is looked at afterwards.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipirig_abi::{Order, Role};
use ipirig_entry::KernelLayout;

use super::{Conductor, Ended, Mark, Phase, Place, StormReport, Window};
use crate::ledger::changes::{self, Changed};
use crate::scenario::{EntryKind, Trigger};

impl Conductor<'_> {
    /// Opens a window, has the storm run in it, and lets each isolated vCPU enter the kernel by
    /// `entry`, with a record of it if `recorded`. Says how long the window was open, too.
    pub(super) fn window(
        &mut self,
        entry: EntryKind,
        module: bool,
        recorded: bool,
    ) -> Result<(Window, Duration), Ended> {
        let trigger = entry.trigger(module);
        self.enter(Phase::Baseline);
        let mut baseline = BTreeMap::new();
        if trigger == Trigger::Order(Order::Probe) {
            for cpu in self.isolated.clone() {
                baseline.insert(cpu, self.order(cpu, Order::Probe)?);
            }
        }

        self.enter(Phase::Quiet);
        self.quiet()?;

        self.enter(Phase::Storm);
        let before = self.targeted();
        // What was changed outside of windows has been caught up with since.
        let _ = self.ledger.changes().take();
        self.ledger.open_window();
        let opened = Instant::now();
        let open = self.mark_all()?;
        let storm = self.storm()?;
        // Before the window closes: the first entry after it must not be missed.
        if recorded {
            self.arm_all(entry)?;
        }
        let close = self.mark_all()?;
        let time = opened.elapsed();
        self.ledger.close_window();
        let changed = if self.watching {
            self.ledger.changes().take()
        } else {
            Changed::everything("the kernel's functions are not watched")
        };
        let marks = open
            .into_iter()
            .zip(close)
            .map(|((cpu, a), (_, b))| (cpu, (a, b)))
            .collect();
        let ipis = self
            .targeted()
            .into_iter()
            .map(|(cpu, count)| (cpu, count - before.get(&cpu).copied().unwrap_or(0)))
            .collect();

        self.enter(Phase::Release);
        let (released, records) = self.release_all(trigger, recorded)?;
        let window = Window {
            entry,
            baseline,
            marks,
            ipis,
            storm,
            changed,
            released,
            records,
        };
        Ok((window, time))
    }

    /// Has the functions that change text and mappings watched, where the storm may run.
    pub(super) fn watch(&mut self, layout: &KernelLayout) -> Result<(), Ended> {
        let points = changes::points(|name| layout.symbols().address(name));
        if points.is_empty() {
            return Ok(());
        }
        let addresses: Vec<u64> = points.iter().map(|point| point.address).collect();
        self.ledger.changes().watch(points);
        for (cpu, role) in self.plan.roles.iter().enumerate() {
            if *role != Role::Isolated {
                self.machine(|guest| guest.watch(cpu, &addresses))?;
            }
        }
        self.watching = true;
        Ok(())
    }

    fn storm(&mut self) -> Result<Vec<StormReport>, Ended> {
        let mut reports = Vec::new();
        for part in self.plan.scenario.storm.parts() {
            let [done, value, ..] = self.command(part.command, part.args)?;
            reports.push(StormReport { done, value });
        }
        Ok(reports)
    }

    /// Sends in windows so far, by isolated vCPU.
    fn targeted(&self) -> BTreeMap<usize, u64> {
        let snapshot = self.ledger.snapshot();
        let count = |&cpu: &usize| {
            let record = snapshot.cpus.get(cpu);
            (
                cpu,
                record.map_or(0, |record| record.window.ipis_targeted()),
            )
        };
        self.isolated.iter().map(count).collect()
    }

    fn mark_all(&mut self) -> Result<BTreeMap<usize, Mark>, Ended> {
        let mut marks = BTreeMap::new();
        for cpu in self.isolated.clone() {
            let Place { cpl, rip } = self.sample(cpu)?;
            marks.insert(
                cpu,
                Mark {
                    cpl,
                    rip,
                    heartbeat: self.heartbeat(cpu),
                },
            );
        }
        Ok(marks)
    }
}
