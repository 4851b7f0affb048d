//! The first entry after a window: provoked on each isolated vCPU, one after the other, and fetched.

use std::collections::BTreeMap;
use std::time::Instant;

use ipirig_abi::Command;
use ipirig_entry::{Began, Record};
use ipirig_evidence::ledger::Doing;
use ipirig_machine::clock;
use ipirig_scenario::{EntryKind, Trigger};

use super::{Conductor, Ended, EntryReport, NOT_PRODUCED, NoRecord};

/// Most instructions of a record. A system call has some hundred, a timer interrupt some thousand, an
/// NMI soon twenty thousand: stepped, its handler takes long enough for the kernel to print who was
/// slow (`nmi_check_duration` of arch/x86/kernel/nmi.c). An entry that goes through seven other address spaces has
/// thirty thousand, and with PREEMPT_RT, where that many ticks come meanwhile, more than a hundred
/// thousand. So many are 60 MB.
pub(super) const RECORD_MAX: usize = 300_000;

/// What each isolated vCPU saw, if it was ordered to enter.
type Released = BTreeMap<usize, EntryReport>;
/// What each isolated vCPU executed.
type Records = BTreeMap<usize, Result<Record, NoRecord>>;

impl Conductor<'_> {
    /// Has the next entry of each isolated vCPU recorded.
    pub(super) fn arm_all(&mut self, entry: EntryKind) -> Result<(), Ended> {
        let ways: Vec<Began> = match entry.trigger(true) {
            Trigger::Order(_) => vec![entry.began()],
            Trigger::Signal | Trigger::Raise(_) => vec![],
        };
        for cpu in self.isolated.clone() {
            self.machine(|guest| guest.arm(cpu, RECORD_MAX, &ways))?;
        }
        Ok(())
    }

    /// Has each isolated vCPU enter the kernel; fetches what it saw there and what it executed.
    pub(super) fn release_all(
        &mut self,
        trigger: Trigger,
        recorded: bool,
    ) -> Result<(Released, Records), Ended> {
        let mut released = Released::new();
        let mut records = Records::new();
        for cpu in self.isolated.clone() {
            let doing = Doing::Entry { cpu };
            self.ledger.journal().begin(doing, clock::now());
            let mut produced = true;
            // An order is over when it is acknowledged; anything else takes its time.
            let mut over = true;
            match trigger {
                Trigger::Order(order) => {
                    let entry = self.order(cpu, order)?;
                    produced = entry.errno != NOT_PRODUCED;
                    released.insert(cpu, entry);
                }
                Trigger::Signal => {
                    self.command(Command::Signal, [cpu as u64, 0, 0, 0])?;
                    over = false;
                }
                Trigger::Raise(line) => {
                    produced = self.machine(|guest| guest.raise(cpu, line))?;
                    over = !produced;
                }
            }
            let record = match (recorded, produced) {
                (_, false) => Err(NoRecord::NotProduced),
                (false, true) => Err(NoRecord::CannotStep),
                (true, true) => self.fetch(cpu, over)?.ok_or(NoRecord::NotSeen),
            };
            self.ledger.journal().end(doing, clock::now());
            if recorded {
                self.machine(|guest| guest.disarm(cpu))?;
            }
            records.insert(cpu, record);
        }
        Ok((released, records))
    }

    /// The record of `cpu`. If the entry is not `over`, it is waited for: as long as a phase may take, and once
    /// more as long whenever it has grown meanwhile. On a busy host the handler of an NMI is stepped for minutes.
    fn fetch(&mut self, cpu: usize, over: bool) -> Result<Option<Record>, Ended> {
        let mut steps = 0;
        loop {
            if let Some(record) = self.machine(|guest| guest.record(cpu))? {
                return Ok(Some(record));
            }
            if over {
                return Ok(None);
            }
            if Instant::now() >= self.deadline {
                // Not before: to ask stops the vCPU.
                let now = self.machine(|guest| guest.recorded(cpu))?;
                if now == steps {
                    return Ok(None);
                }
                steps = now;
                self.deadline = Instant::now() + self.time_for(self.phase);
            }
            self.pause()?;
        }
    }
}
