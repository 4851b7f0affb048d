//! A moment of a machine, kept in memory, to which it is put back again and again.
//!
//! A snapshot is a file, and another machine is made from it. A checkpoint is this machine's own: its
//! vCPUs stay, and of its memory only the pages are copied back that changed since, which KVM logs
//! (KVM API 4.8, `KVM_GET_DIRTY_LOG`). The log has what vCPUs write, and what KVM writes for them. The
//! machine itself writes to the guest's RAM only before it starts (`boot`), and to the mailbox, which is
//! put back as a whole.

use std::fmt;

use ipirig_abi::Mailbox;
use ipirig_apic::Line;
use ipirig_entry::Began;
use ipirig_entry::passage::EventAt;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::error::{MachineError, failed};
use super::{Machine, clock};
use crate::memory;
use crate::snapshot::{SavedSerial, SavedVcpu, SnapshotError};
use crate::vcpu_set::Held;
use crate::vm::Apics;

const PAGE: usize = 4096;
/// Slot of the RAM's first region; the mailbox is in the one after it, and not logged.
const RAM_SLOT: u32 = 0;

/// What one vCPU finds as a machine that was put back goes on: before it executes anything, so that the
/// same comes of it each time.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// The vCPU.
    pub cpu: usize,
    /// What of it is written down.
    pub follow: Follow,
    /// What interrupts it at once.
    pub raise: Option<Raise>,
}

/// What is written down of a vCPU.
#[derive(Clone, Debug)]
pub enum Follow {
    /// Nothing.
    Nothing,
    /// Its next entry into the kernel, as [`Machine::arm`] has it.
    Entry {
        /// Most instructions.
        limit: usize,
        /// Ways by which it may come besides those that [`Machine::arm`] always waits for.
        ways: Vec<Began>,
    },
    /// An event at an instruction, and what comes after, as [`Machine::place`] has it.
    Event(EventAt),
}

/// An interrupt that is raised from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raise {
    /// A line of the APIC.
    Line(Line),
    /// An IPI with this vector.
    Ipi(u8),
}

/// A moment of a machine.
pub struct Checkpoint {
    vcpus: Vec<SavedVcpu>,
    /// kvmclock, in nanoseconds.
    clock: u64,
    serial: SavedSerial,
    mailbox: Vec<u8>,
    /// The RAM, by pages; `None` is a page of zeroes.
    pages: Vec<Option<Box<[u8; PAGE]>>>,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint").finish_non_exhaustive()
    }
}

impl Machine {
    /// Takes a checkpoint of the machine, which runs on. What it wrote to memory before is not looked
    /// at again; from here on KVM logs what it writes, so a machine has one checkpoint at a time: an
    /// older one is of no use any more.
    ///
    /// # Errors
    /// A vCPU does not answer, KVM does not give its state, or it does not log writes.
    pub fn checkpoint(&self) -> Result<Checkpoint, MachineError> {
        if self.apics == Apics::Kernel {
            return Err(SnapshotError::Misfit("KVM's own APICs are not saved").into());
        }
        let held = self.hold_all()?;
        memory::log(&self.vm, RAM_SLOT, &self.vcpu_set.memory)?;
        // What was logged before.
        self.dirty()?;
        let now = clock::now();
        let mut vcpus = Vec::with_capacity(held.len());
        for (cpu, vcpu) in held.iter().enumerate() {
            let registers = self.registers.clone();
            let saved = vcpu.call(move |vcpu| vcpu.save(&registers, now));
            vcpus.push(saved.ok_or(MachineError::NoAnswer(cpu))??);
        }
        let clock = self.vm.get_clock().map_err(failed("KVM_GET_CLOCK"))?.clock;
        Ok(Checkpoint {
            vcpus,
            clock,
            serial: SavedSerial(self.vcpu_set.ports.save()),
            mailbox: self.mailbox.bytes(),
            pages: self.pages(),
        })
    }

    /// Puts the machine back to where it was at `checkpoint`, which must be its newest. How many pages
    /// had changed. Addresses that are watched stay so; a record that was asked for is dropped. The
    /// guest's time-stamp counter is what it was, on all vCPUs.
    ///
    /// # Errors
    /// A vCPU does not answer, or KVM does not take its state; the machine is of no use then.
    pub fn rewind(&self, checkpoint: &Checkpoint) -> Result<usize, MachineError> {
        let held = self.hold_all()?;
        self.put_back(&held, checkpoint)
    }

    /// Puts the machine back, as [`Machine::rewind`] does, and has it continue from there with what
    /// `beginning` says and what `order` leaves in the mailbox. `false`: the guest has not set up what was
    /// to be raised.
    ///
    /// # Errors
    /// Also if the host cannot stop guests, or there are too few debug registers.
    pub fn rewind_and(
        &self,
        checkpoint: &Checkpoint,
        beginning: Beginning,
        order: impl FnOnce(&Mailbox),
    ) -> Result<bool, MachineError> {
        let (raised, _held) = self.rewind_held(checkpoint, beginning, order)?;
        Ok(raised)
    }

    /// [`Machine::rewind_and`], with all vCPUs still held.
    pub(super) fn rewind_held(
        &self,
        checkpoint: &Checkpoint,
        beginning: Beginning,
        order: impl FnOnce(&Mailbox),
    ) -> Result<(bool, Vec<Held>), MachineError> {
        if let Some(lack) = self.debug.lack() {
            return Err(MachineError::NoStopping(lack));
        }
        let held = self.hold_all()?;
        self.put_back(&held, checkpoint)?;
        order(self.mailbox.mailbox());
        let Beginning { cpu, follow, raise } = beginning;
        let gone = MachineError::NoAnswer(cpu);
        let Some(vcpu) = held.get(cpu) else {
            return Err(gone);
        };
        let fits = vcpu.call(move |vcpu| match follow {
            Follow::Nothing => Ok(true),
            Follow::Entry { limit, ways } => vcpu.arm(limit, &ways),
            Follow::Event(at) => vcpu.place(at),
        });
        if !fits.ok_or(gone)?.map_err(failed("KVM_SET_GUEST_DEBUG"))? {
            return Err(MachineError::TooManyStops(cpu));
        }
        let Some(raise) = raise else {
            return Ok((true, held));
        };
        let raised = vcpu.call(move |vcpu| match raise {
            Raise::Line(line) => vcpu.raise(line),
            Raise::Ipi(vector) => vcpu.raise_ipi(vector),
        });
        let raised = raised.ok_or(MachineError::NoAnswer(cpu))?;
        Ok((raised, held))
    }

    fn put_back(&self, held: &[Held], checkpoint: &Checkpoint) -> Result<usize, MachineError> {
        let dirty = self.dirty()?;
        let memory = &self.vcpu_set.memory;
        for &page in &dirty {
            let at = GuestAddress(page as u64 * PAGE as u64);
            let kept = checkpoint.pages.get(page);
            let bytes = kept.and_then(Option::as_deref).unwrap_or(&[0; PAGE]);
            let written = memory.write_slice(bytes, at);
            written.map_err(|_| SnapshotError::Misfit("a page beyond its memory changed"))?;
        }
        self.mailbox.fill(&checkpoint.mailbox);
        self.vcpu_set.ports.restore(&checkpoint.serial.0);
        let now = clock::now();
        for (cpu, (vcpu, saved)) in held.iter().zip(&checkpoint.vcpus).enumerate() {
            let (saved, registers) = (saved.clone(), self.registers.clone());
            let done = vcpu.call(move |vcpu| vcpu.rewind(&saved, &registers, now));
            done.ok_or(MachineError::NoAnswer(cpu))??;
        }
        let clock = kvm_bindings::kvm_clock_data {
            clock: checkpoint.clock,
            ..kvm_bindings::kvm_clock_data::default()
        };
        self.vm.set_clock(&clock).map_err(failed("KVM_SET_CLOCK"))?;
        Ok(dirty.len())
    }

    /// Has all vCPUs stand still, each with its last exit completed.
    pub(super) fn hold_all(&self) -> Result<Vec<Held>, MachineError> {
        self.hold(|_| true)
    }

    /// Has those vCPUs stand still that are `chosen`.
    pub(super) fn hold(&self, chosen: impl Fn(usize) -> bool) -> Result<Vec<Held>, MachineError> {
        let slots = self.vcpu_set.slots.iter().enumerate();
        slots
            .filter(|(cpu, _)| chosen(*cpu))
            .map(|(cpu, slot)| slot.hold().ok_or(MachineError::NoAnswer(cpu)))
            .collect()
    }

    /// The pages written since this was asked last, by number.
    fn dirty(&self) -> Result<Vec<usize>, MachineError> {
        let mut dirty = Vec::new();
        for (slot, region) in (RAM_SLOT..).zip(self.vcpu_set.memory.iter()) {
            let bytes = usize::try_from(region.len()).unwrap_or(usize::MAX);
            let first = region.start_addr().raw_value() as usize / PAGE;
            let log = self.vm.get_dirty_log(slot, bytes);
            let log = log.map_err(failed("KVM_GET_DIRTY_LOG"))?;
            for (index, &word) in log.iter().enumerate() {
                let mut left = word;
                while left != 0 {
                    dirty.push(first + index * 64 + left.trailing_zeros() as usize);
                    left &= left - 1;
                }
            }
        }
        Ok(dirty)
    }

    fn pages(&self) -> Vec<Option<Box<[u8; PAGE]>>> {
        let count = memory::bytes(&self.vcpu_set.memory) as usize / PAGE;
        let mut bytes = [0; PAGE];
        let page = |page: usize| {
            let at = GuestAddress(page as u64 * PAGE as u64);
            let read = self.vcpu_set.memory.read_slice(&mut bytes, at).is_ok();
            (read && bytes != [0; PAGE]).then(|| Box::new(bytes))
        };
        (0..count).map(page).collect()
    }
}
