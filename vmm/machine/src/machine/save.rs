//! Writing a machine that runs into a snapshot. It goes on afterwards.

use std::fs::File;

use super::error::{MachineError, failed};
use super::{Machine, clock};
use crate::snapshot::{SavedMachine, SavedSerial, SnapshotError, write};
use crate::vm::Apics;

impl Machine {
    /// Holds all vCPUs still, writes the whole machine to `file`, which must be empty, and lets them
    /// go on. `key` is what [`crate::Snapshot::open`] is to ask for: [`crate::snapshot_key`]'s.
    ///
    /// # Errors
    /// A vCPU does not answer, KVM does not give its state, or the file cannot be written; the
    /// machine runs on, and the file is of no use.
    pub fn save(&self, key: &str, file: &mut File) -> Result<(), MachineError> {
        if self.apics == Apics::Kernel {
            return Err(SnapshotError::Misfit("KVM's own APICs are not saved").into());
        }
        // First all are still, then each is looked at: an IPI is in its sender or in its target.
        let held = self.hold_all()?;
        let now = clock::now();
        let mut vcpus = Vec::with_capacity(held.len());
        for (cpu, vcpu) in held.iter().enumerate() {
            let registers = self.registers.clone();
            let saved = vcpu.call(move |vcpu| vcpu.save(&registers, now));
            vcpus.push(saved.ok_or(MachineError::NoAnswer(cpu))??);
        }
        let clock = self.vm.get_clock().map_err(failed("KVM_GET_CLOCK"))?;
        let state = SavedMachine {
            vcpus,
            clock: clock.clock,
            serial: SavedSerial(self.vcpu_set.ports.save()),
            console: self.vcpu_set.console.tail(usize::MAX),
        };
        write(file, key, &state, &self.mailbox, &self.vcpu_set.memory)
            .map_err(|source| SnapshotError::Write(source).into())
    }
}
