//! One window: what is looked at before, the storm, and what is looked at afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipirig_abi::{Command, Order, Role};
use ipirig_entry::KernelLayout;

use super::quiet::USER;
use super::{Conductor, Ended, Mark, NoRecord, Phase, Place, StormReport, Window};
use crate::ledger::changes::{self, Changed};
use crate::scenario::{EntryKind, Mode, Trigger};

/// Bytes of the SYSCALL entry that are searched for a NOP: less than to the switch of stacks.
const ENTRY_CODE: usize = 64;

impl Conductor<'_> {
    /// Opens a window, has the storm run in it, and lets each isolated vCPU enter the kernel by
    /// `entry`, with a record of it if `recorded`. Says how long the window was open, too.
    pub(super) fn window(
        &mut self,
        entry: EntryKind,
        module: bool,
        recorded: bool,
    ) -> Result<(Window, Duration), Ended> {
        if self.plan.scenario.vcpus.isolated_in == Mode::Kernel {
            return self.kernel_window(entry);
        }
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

        let (mut window, time) = self.open_for_storm(entry, recorded)?;
        window.baseline = baseline;
        self.enter(Phase::Release);
        (window.released, window.records) = self.release_all(trigger, recorded)?;
        Ok((window, time))
    }

    /// The same with the isolated vCPUs in the kernel all the while: nothing may be held back from
    /// them, and there is no entry to look at.
    fn kernel_window(&mut self, entry: EntryKind) -> Result<(Window, Duration), Ended> {
        self.enter(Phase::Quiet);
        self.quiet()?;
        self.enter(Phase::Baseline);
        for cpu in self.isolated.clone() {
            self.begin_order(cpu, Order::Stay);
            while self.sample(cpu)?.cpl == USER {
                self.pause()?;
                if Instant::now() >= self.deadline {
                    return Err(self.protocol(format!("vCPU {cpu} did not enter the kernel")));
                }
            }
        }
        let (mut window, time) = self.open_for_storm(entry, false)?;
        self.enter(Phase::Release);
        self.command(Command::LetGo, [0; 4])?;
        for cpu in self.isolated.clone() {
            window
                .released
                .insert(cpu, self.end_order(cpu, Order::Stay)?);
            window.records.insert(cpu, Err(NoRecord::InKernel));
        }
        Ok((window, time))
    }

    /// Opens a window, runs the storm in it, and closes it.
    fn open_for_storm(
        &mut self,
        entry: EntryKind,
        recorded: bool,
    ) -> Result<(Window, Duration), Ended> {
        self.enter(Phase::Storm);
        let (mut window, storm, time) = self.open_for(entry, recorded, |this, open| {
            let storm = this.storm()?;
            if this.plan.scenario.expect.delivered() {
                this.back_where_they_were(open)?;
            }
            Ok(storm)
        })?;
        window.storm = storm;
        Ok((window, time))
    }

    /// Opens a window, has `work` done in it, and closes it. `work` is told where the isolated vCPUs
    /// were when the window opened.
    pub(super) fn open_for<T>(
        &mut self,
        entry: EntryKind,
        recorded: bool,
        work: impl FnOnce(&mut Self, &BTreeMap<usize, Mark>) -> Result<T, Ended>,
    ) -> Result<(Window, T, Duration), Ended> {
        let before = self.targeted();
        // What was changed outside of windows has been caught up with since.
        let _ = self.ledger.changes().take();
        self.ledger.open_window();
        let opened = Instant::now();
        let open = self.mark_all()?;
        let done = work(self, &open)?;
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
        let window = Window {
            entry,
            baseline: BTreeMap::new(),
            marks,
            ipis,
            storm: Vec::new(),
            changed,
            released: BTreeMap::new(),
            records: BTreeMap::new(),
        };
        Ok((window, done, time))
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

    /// Finds a place in entry text that may be poked while nobody executes it, and tells the guest
    /// where its kernel has what it does not export.
    pub(super) fn prepare_entry_text_poke(
        &mut self,
        layout: &Result<Arc<KernelLayout>, String>,
    ) -> Result<(), Ended> {
        let lacking = |what: String| Err(Ended::Lacking { what });
        let layout = match layout {
            Ok(layout) => layout,
            Err(why) => return lacking(format!("entry text cannot be poked: {why}")),
        };
        let symbol = |name: &str| layout.symbols().address(name);
        let poke = symbol("text_poke_bp").or_else(|| symbol("smp_text_poke_single"));
        let (Some(poke), Some(mutex)) = (poke, symbol("text_mutex")) else {
            return lacking("the kernel has no text_poke_bp or no text_mutex".to_owned());
        };
        let cpu = self.isolated.first().copied().unwrap_or_default();
        let entry = self.machine(|guest| guest.lstar(cpu))?;
        let code = self.machine(|guest| guest.read(cpu, entry, ENTRY_CODE))?;
        let target = code.and_then(|code| ipirig_entry::first_nop(entry, &code));
        let Some(target) = target else {
            return lacking("the kernel's SYSCALL entry has no NOP that could be poked".to_owned());
        };
        self.poke_target = target;
        self.command(Command::Symbols, [poke, mutex, 0, 0])?;
        Ok(())
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
            let mut args = part.args;
            if part.command == Command::Storm {
                args[3] = self.poke_target;
            }
            let [done, value, ..] = self.command(part.command, args)?;
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
            let Place { cpl, rip, .. } = self.sample(cpu)?;
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
