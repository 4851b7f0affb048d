//! Waiting for the target, which runs alone where it can.

use std::time::{Duration, Instant};

use ipirig_machine::{Placed, Still};
use ipirig_scenario::{EntryKind, Trigger};

use super::super::Ended;
use super::{PATIENCE, Sweep};

/// Between two looks at what the target does.
const LOOK: Duration = Duration::from_micros(200);
/// The same where the target says when it has come further.
const LONG_LOOK: Duration = Duration::from_millis(10);
/// How long the target may run alone. Then it waits for another vCPU, or is slow.
const ALONE: Duration = Duration::from_millis(500);
/// So many looks are between two at whether the guest still runs.
const LOOKS: u32 = 200;

impl Sweep<'_, '_> {
    /// Waits until the task's own code goes on: it acknowledges its order, or its heart beats.
    pub(super) fn back_in_user(&mut self, entry: EntryKind) -> Result<bool, Ended> {
        let deadline = Instant::now() + PATIENCE;
        let cpu = self.cpu;
        let ordered = matches!(entry.trigger(false), Trigger::Order(_));
        let beat = self.conductor.heartbeat(cpu);
        let mut looks = 0;
        loop {
            let done = if ordered {
                self.conductor.obeyed(cpu)
            } else {
                self.conductor.heartbeat(cpu) != beat
            };
            if done || Instant::now() >= deadline {
                return Ok(done);
            }
            self.look_again(&mut looks)?;
        }
    }

    pub(super) fn wait_until(&mut self, cpu: usize, wanted: Placed) -> Result<bool, Ended> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let placed = self.real(|machine| Ok(machine.placed(cpu)))?;
            if placed == wanted || placed == Placed::Over {
                return Ok(placed == wanted);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.real(|machine| {
                machine.wait_placed(cpu, placed, LONG_LOOK);
                Ok(())
            })?;
            self.see_whether_it_runs()?;
        }
    }

    /// Sees whether the guest still runs. Lets the other vCPUs go on if it does not, to say where they are, and
    /// if the target does not come further without them.
    fn see_whether_it_runs(&mut self) -> Result<(), Ended> {
        let stopping = self.real(|machine| Ok(machine.stopping()))?;
        let long = |(_, since): &mut (Still, Instant)| stopping || since.elapsed() >= ALONE;
        drop(self.still.take_if(long));
        self.conductor.glance()
    }

    /// Leaves the core to the guest for a moment. Now and then, sees whether it still runs.
    pub(super) fn look_again(&mut self, looks: &mut u32) -> Result<(), Ended> {
        *looks += 1;
        if looks.is_multiple_of(LOOKS) {
            return self.see_whether_it_runs();
        }
        std::thread::sleep(LOOK);
        Ok(())
    }
}
