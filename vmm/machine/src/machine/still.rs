//! vCPUs that stand still while another one runs, and waiting for the one that runs.

use std::fmt;
use std::time::Duration;

use super::Machine;
use super::checkpoint::{Beginning, Checkpoint};
use super::error::MachineError;
use crate::vcpu::Placed;
use crate::vcpu_set::Held;
use ipirig_abi::Mailbox;

/// All vCPUs but one, standing still. They go on when this is dropped, which must be before anything is asked
/// of them.
#[must_use = "they go on when this is dropped"]
pub struct Still {
    _held: Vec<Held>,
}

impl fmt::Debug for Still {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Still").finish_non_exhaustive()
    }
}

impl Machine {
    /// Has all vCPUs but `cpu` stand still. One that `cpu` waits for, as for an IPI to be acknowledged, keeps
    /// it waiting.
    ///
    /// # Errors
    /// A vCPU does not answer.
    pub fn still(&self, cpu: usize) -> Result<Still, MachineError> {
        let held = self.hold(|other| other != cpu)?;
        Ok(Still { _held: held })
    }

    /// Puts the machine back, as [`Machine::rewind_and`] does, and has the vCPU of `beginning` alone continue.
    /// `None`: the guest has not set up what was to be raised.
    ///
    /// # Errors
    /// Those of [`Machine::rewind_and`].
    pub fn rewind_alone(
        &self,
        checkpoint: &Checkpoint,
        beginning: Beginning,
        order: impl FnOnce(&Mailbox),
    ) -> Result<Option<Still>, MachineError> {
        let cpu = beginning.cpu;
        let (raised, mut held) = self.rewind_held(checkpoint, beginning, order)?;
        if cpu < held.len() {
            // This one goes on.
            drop(held.remove(cpu));
        }
        Ok(raised.then_some(Still { _held: held }))
    }

    /// Whether the guest has come to its end, or is about to.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.vcpu_set.stopping()
    }

    /// Waits until the event that was asked of `cpu` has come further ([`Machine::placed`] is not `was` any
    /// more), or for `longest`.
    pub fn wait_placed(&self, cpu: usize, was: Placed, longest: Duration) {
        let Some(slot) = self.vcpu_set.slots.get(cpu) else {
            return;
        };
        slot.wait_placed(was as u8, longest);
    }
}
