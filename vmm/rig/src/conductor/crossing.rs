//! A window in which the isolated vCPUs enter the kernel in mid-operation: the vCPU that runs the storm is
//! held before one of its changes until they are there. From then on nothing may be deferred for
//! them.

use std::time::{Duration, Instant};

use ipirig_abi::{Command, Order};
use ipirig_evidence::ledger::Doing;
use ipirig_machine::clock;
use ipirig_scenario::EntryKind;

use super::{Conductor, Ended, NoRecord, Phase, StormReport, USER, WindowRecord};

impl Conductor<'_> {
    /// Opens a window, and has the isolated vCPUs enter the kernel before the `nth` change in it.
    pub(super) fn entered_window(&mut self, nth: u64) -> Result<(WindowRecord, Duration), Ended> {
        self.enter(Phase::Quiet);
        self.quiet()?;
        self.enter(Phase::Storm);
        let opened = self.open_for(EntryKind::Syscall, false, |this, _| {
            let done = this.storm_with_entry(nth);
            // Whatever became of it: the vCPU is not to be held.
            this.ledger.hold().release();
            done
        });
        let (mut window, (storm, entered), time) = opened?;
        window.storm = storm;
        window.entered_before = entered.then_some(nth);
        self.enter(Phase::Release);
        if entered {
            self.command(Command::LetGo, [0; 4])?;
        }
        for cpu in self.isolated.clone() {
            if entered {
                let stay = self.end_order(cpu, Order::Stay)?;
                window.released.insert(cpu, stay);
            }
            window.records.insert(cpu, Err(NoRecord::InKernel));
        }
        Ok((window, time))
    }

    /// Runs the storm. Whether the isolated vCPUs entered: they do not where there are fewer changes.
    fn storm_with_entry(&mut self, nth: u64) -> Result<(Vec<StormReport>, bool), Ended> {
        self.ledger.hold().before(nth);
        let mut entered = false;
        let mut reports = Vec::new();
        for (number, part) in self.parts().into_iter().enumerate() {
            let doing = Doing::Storm { part: number };
            self.ledger.journal().begin(doing, clock::now());
            let args = self.args(&part);
            self.begin_command(Command::Storm, args);
            while !entered && !self.acknowledged() {
                if self.ledger.hold().holding() {
                    self.all_stay()?;
                    entered = true;
                    self.ledger.hold().release();
                } else if Instant::now() >= self.deadline {
                    break;
                } else {
                    self.pause()?;
                }
            }
            let [done, value, ..] = self.end_command(Command::Storm)?;
            self.ledger.journal().end(doing, clock::now());
            reports.push(StormReport { done, value });
        }
        Ok((reports, entered))
    }

    /// Has each isolated vCPU enter the kernel and stay there.
    fn all_stay(&mut self) -> Result<(), Ended> {
        for cpu in self.isolated.clone() {
            self.begin_order(cpu, Order::Stay);
            while self.sample(cpu)?.cpl == USER {
                self.pause()?;
                if Instant::now() >= self.deadline {
                    return Err(self.protocol(format!("vCPU {cpu} did not enter the kernel")));
                }
            }
        }
        Ok(())
    }
}
