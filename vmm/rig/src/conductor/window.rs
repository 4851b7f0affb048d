//! One window: what is looked at before, the storm, and what is looked at afterwards.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipirig_abi::{Command, Order, Role};
use ipirig_entry::KernelLayout;
use ipirig_evidence::ledger::Doing;
use ipirig_evidence::ledger::Ledger;
use ipirig_evidence::ledger::changes::{self, Changed};
use ipirig_machine::clock;
use ipirig_scenario::{EntryKind, Mode, Scenario, Trigger};

use super::{Conductor, Ended, Mark, NoRecord, Phase, StormReport, USER, VcpuSample, WindowRecord};

impl Conductor<'_> {
    /// Opens a window, has the storm run in it, and lets each isolated vCPU enter the kernel by
    /// `entry`, with a record of it if `recorded`. Says how long the window was open, too.
    pub(super) fn window(
        &mut self,
        scenario: &Scenario,
        entry: EntryKind,
        module: bool,
        recorded: bool,
    ) -> Result<(WindowRecord, Duration), Ended> {
        if self.plan.isolated_in != Mode::User {
            return self.kernel_window(entry);
        }
        let trigger = scenario.trigger(entry, module);
        self.enter(Phase::Baseline);
        let mut baseline = BTreeMap::new();
        if let Trigger::Order(order @ (Order::Probe | Order::Relay)) = trigger {
            for cpu in self.isolated.clone() {
                baseline.insert(cpu, self.order(cpu, order)?);
            }
        }

        self.enter(Phase::Quiet);
        self.quiet()?;

        let (mut window, time) = self.open_for_storm(entry, recorded)?;
        window.baseline = baseline;
        self.enter(Phase::Release);
        (window.released, window.records) = self.release_all(trigger, recorded)?;
        Ok((window, time))
    }

    /// The same with the isolated vCPUs in the kernel all the while: nothing may be deferred from
    /// them, and there is no entry to look at.
    fn kernel_window(&mut self, entry: EntryKind) -> Result<(WindowRecord, Duration), Ended> {
        self.enter(Phase::Quiet);
        self.quiet()?;
        self.enter(Phase::Baseline);
        let order = match self.plan.isolated_in {
            Mode::Idle => Some(Order::Sleep),
            Mode::Unused | Mode::Replugged => None,
            Mode::User | Mode::Kernel => Some(Order::Stay),
        };
        for cpu in self.isolated.clone() {
            let Some(order) = order else {
                continue;
            };
            self.begin_order(cpu, order);
            while self.sample(cpu)?.cpl == USER {
                self.pause()?;
                if Instant::now() >= self.deadline {
                    return Err(self.protocol(format!("vCPU {cpu} did not enter the kernel")));
                }
            }
        }
        let (mut window, time) = self.open_for_storm(entry, false)?;
        self.enter(Phase::Release);
        if order.is_some() {
            self.command(Command::LetGo, [0; 4])?;
        }
        for cpu in self.isolated.clone() {
            if let Some(order) = order {
                window.released.insert(cpu, self.end_order(cpu, order)?);
            }
            window.records.insert(cpu, Err(NoRecord::InKernel));
        }
        Ok((window, time))
    }

    /// Opens a window, runs the storm in it, and closes it.
    fn open_for_storm(
        &mut self,
        entry: EntryKind,
        recorded: bool,
    ) -> Result<(WindowRecord, Duration), Ended> {
        self.enter(Phase::Storm);
        let (mut window, storm, time) = self.open_for(entry, recorded, |this, open| {
            this.follow_handlers(true)?;
            let storm = this.storm()?;
            this.follow_handlers(false)?;
            let interrupted = |scenario: &Scenario| scenario.expect.interrupted();
            if this.scenario.is_some_and(interrupted) {
                this.back_where_they_were(open)?;
            }
            Ok(storm)
        })?;
        window.storm = storm;
        window.handled = std::mem::take(&mut self.handled);
        Ok((window, time))
    }

    /// Opens a window, has `work` done in it, and closes it. `work` is told where the isolated vCPUs
    /// were when the window opened.
    pub(super) fn open_for<T>(
        &mut self,
        entry: EntryKind,
        recorded: bool,
        work: impl FnOnce(&mut Self, &BTreeMap<usize, Mark>) -> Result<T, Ended>,
    ) -> Result<(WindowRecord, T, Duration), Ended> {
        let before = self.targeted();
        // What was changed outside of windows has been caught up with since.
        let _ = self.ledger.changes().take();
        self.watch_handlers(true)?;
        let opening = self.edge(Ledger::open_window)?;
        let opened = Instant::now();
        let open = self.mark_all()?;
        let done = work(self, &open)?;
        self.have_run(&open)?;
        // There are four debug registers, and an entry may need as many.
        self.watch_handlers(false)?;
        // Before the window closes: the first entry after it must not be missed.
        if recorded {
            self.arm_all(entry)?;
        }
        let close = self.mark_all()?;
        let time = opened.elapsed();
        let closing = self.edge(Ledger::close_window)?;
        self.edges.push((opening, closing));
        let changed = match &self.watched {
            Some(watched) => self.ledger.changes().take().with(watched),
            None => Changed::everything("the kernel's functions are not known"),
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
        let window = WindowRecord {
            entry,
            baseline: BTreeMap::new(),
            marks,
            ipis,
            storm: Vec::new(),
            changed,
            released: BTreeMap::new(),
            records: BTreeMap::new(),
            handled: Vec::new(),
            entered_before: None,
        };
        Ok((window, done, time))
    }

    /// Keeps the window open until each task that was in user space has run in it: where vCPUs share a CPU of the
    /// host, a short storm may be over before. Not for ever: one that never runs is for the verdict to name.
    fn have_run(&mut self, open: &BTreeMap<usize, Mark>) -> Result<(), Ended> {
        let patience = Instant::now() + self.plan.timeouts.timer;
        for (&cpu, mark) in open.iter().filter(|(_, mark)| mark.cpl == USER) {
            while self.heartbeat(cpu) == mark.heartbeat
                && self.sample(cpu)?.cpl == USER
                && Instant::now() < patience
            {
                self.pause()?;
            }
        }
        Ok(())
    }

    /// Waits for vCPUs that are still in the handler of the last IPI, but not for ever: one that stays
    /// there is for the verdict to name.
    fn back_where_they_were(&mut self, open: &BTreeMap<usize, Mark>) -> Result<(), Ended> {
        let patience = Instant::now() + self.plan.timeouts.timer;
        for (&cpu, mark) in open {
            while self.sample(cpu)?.cpl != mark.cpl && Instant::now() < patience {
                self.pause()?;
            }
        }
        Ok(())
    }

    /// Has the functions that change text and mappings watched, where the storm may run.
    pub(super) fn watch(&mut self, layout: &KernelLayout) -> Result<(), Ended> {
        let watched = changes::watched(|name| layout.symbols().function(name));
        let addresses: Vec<u64> = watched.points.iter().map(|point| point.address).collect();
        self.ledger.changes().watch(watched.points.clone());
        for (cpu, role) in self.plan.roles.iter().enumerate() {
            if *role != Role::Isolated {
                self.machine(|guest| guest.watch(cpu, &addresses))?;
            }
        }
        self.watched = Some(watched);
        Ok(())
    }

    fn storm(&mut self) -> Result<Vec<StormReport>, Ended> {
        let mut reports = Vec::new();
        for (number, part) in self.parts().into_iter().enumerate() {
            let doing = Doing::Storm { part: number };
            self.ledger.journal().begin(doing, clock::now());
            let [done, value, ..] = self.command(Command::Storm, self.args(&part))?;
            self.ledger.journal().end(doing, clock::now());
            self.take_handled(number)?;
            reports.push(StormReport { done, value });
        }
        Ok(reports)
    }

    /// Sends in windows so far, by isolated vCPU.
    fn targeted(&self) -> BTreeMap<usize, u64> {
        let counts = self.ledger.counts();
        let count = |&cpu: &usize| {
            let record = counts.cpus.get(cpu);
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
            let VcpuSample { cpl, rip, .. } = self.sample(cpu)?;
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
