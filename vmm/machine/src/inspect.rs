//! Looking into a running guest and at what its vCPUs execute, without the guest noticing.
//!
//! Each call is carried out on the vCPU's own thread, between two runs of the guest.

use ipirig_entry::passage::{EventAt, Passage};
use ipirig_entry::{Began, Record};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::errno;

use crate::Line;
use crate::clock::Moment;
use crate::machine::{Machine, MachineError, failed};
use crate::vcpu::{Placed, Vcpu};
use crate::vcpu_set::Sample;

impl Machine {
    /// Looks at a vCPU from outside. `None` if there is no such vCPU or it does not answer,
    /// because the machine stopped.
    #[must_use]
    pub fn sample(&self, cpu: usize) -> Option<Sample> {
        self.on(cpu, |vcpu| vcpu.sample()).ok()?.ok()
    }

    /// Why a guest's kernel cannot be stopped or stepped on this host; `None` if it can.
    #[must_use]
    pub fn cannot_stop(&self) -> Option<String> {
        self.debug
            .lack()
            .map(|lack| MachineError::NoStopping(lack).to_string())
    }

    /// Has the next entry of `cpu` from user space into the kernel recorded, instruction by
    /// instruction, up to `limit` of them or until it is back in user space. Entries by SYSCALL, by
    /// page fault, by interrupts and NMIs of the machine's APICs, and by the exceptions `vectors`
    /// (numbers of IDT entries) are seen; there are debug registers for one of the latter. While a
    /// record runs the vCPU takes no interrupt. A record that was not fetched is dropped.
    ///
    /// # Errors
    /// The host cannot stop guests, the vCPU does not answer, there are too many `vectors`, or an ioctl
    /// failed.
    pub fn arm(&self, cpu: usize, limit: usize, ways: &[Began]) -> Result<(), MachineError> {
        let ways = ways.to_vec();
        self.stopping_at(cpu, move |vcpu| vcpu.arm(limit, &ways))
    }

    /// The record that [`Machine::arm`] asked for, once it is finished. `None` before, and after it
    /// has been fetched.
    ///
    /// # Errors
    /// The vCPU does not answer.
    pub fn record(&self, cpu: usize) -> Result<Option<Record>, MachineError> {
        self.on(cpu, Vcpu::take_record)
    }

    /// How many instructions of the record that [`Machine::arm`] asked for there are so far; 0 before it begins
    /// and once it has been fetched.
    ///
    /// # Errors
    /// The vCPU does not answer.
    pub fn recorded(&self, cpu: usize) -> Result<usize, MachineError> {
        self.on(cpu, |vcpu| vcpu.recorded())
    }

    /// Has each interrupt of `vectors` that `cpu` takes recorded from now on, whatever it interrupts, up
    /// to `limit` instructions each. No vectors: no more.
    ///
    /// # Errors
    /// The host cannot stop guests, the vCPU does not answer, there are too many `vectors`, or an ioctl
    /// failed.
    pub fn follow(&self, cpu: usize, limit: usize, vectors: &[u8]) -> Result<(), MachineError> {
        let vectors = vectors.to_vec();
        self.stopping_at(cpu, move |vcpu| vcpu.follow(limit, &vectors))
    }

    /// Has each call of the kernel's functions at `addresses` that `cpu` makes recorded from now on, up to
    /// `limit` instructions each, in place of interrupts. No addresses: no more.
    ///
    /// # Errors
    /// As of [`Machine::follow`].
    pub fn follow_calls(
        &self,
        cpu: usize,
        limit: usize,
        addresses: &[u64],
    ) -> Result<(), MachineError> {
        let addresses = addresses.to_vec();
        self.stopping_at(cpu, move |vcpu| vcpu.follow_calls(limit, &addresses))
    }

    /// The records of such interrupts and calls that have ended since this was asked last. `None`: one is being
    /// recorded.
    ///
    /// # Errors
    /// The vCPU does not answer.
    pub fn followed(&self, cpu: usize) -> Result<Option<Vec<Record>>, MachineError> {
        self.on(cpu, Vcpu::followed)
    }

    /// Ends what [`Machine::arm`] began; what has been recorded by then can be fetched.
    ///
    /// # Errors
    /// The vCPU does not answer, or an ioctl failed.
    pub fn disarm(&self, cpu: usize) -> Result<(), MachineError> {
        self.on(cpu, Vcpu::disarm)?
            .map_err(failed("KVM_SET_GUEST_DEBUG"))
    }

    /// Has an event come to `cpu` at an instruction of the kernel, when it next is about to execute it,
    /// and writes down what the vCPU executes from then on until it is back in user space. Takes the
    /// place of a record that was armed. While the assembly is followed the vCPU takes no interrupt;
    /// while what that calls runs freely, it does. Where the passage ends otherwise than in user space
    /// the vCPU stands still: rewind the machine.
    ///
    /// # Errors
    /// The host cannot stop guests, the vCPU does not answer, or an ioctl failed.
    pub fn place(&self, cpu: usize, at: EventAt) -> Result<(), MachineError> {
        self.stopping_at(cpu, move |vcpu| vcpu.place(at))
    }

    /// How an event that was asked for is coming along. Does not disturb the vCPU.
    #[must_use]
    pub fn placed(&self, cpu: usize) -> Placed {
        let slot = self.vcpu_set.slots.get(cpu);
        slot.map_or(Placed::Waiting, |slot| slot.placed().into())
    }

    /// Has a vCPU go on that stands at an instruction ([`ipirig_entry::passage::Event::Stand`]).
    ///
    /// # Errors
    /// The vCPU does not answer, or an ioctl failed.
    pub fn go_on(&self, cpu: usize) -> Result<(), MachineError> {
        self.on(cpu, Vcpu::go_on)?
            .map_err(failed("KVM_SET_GUEST_DEBUG"))
    }

    /// Has a vCPU go on that stands at an instruction, and writes nothing down of it.
    ///
    /// # Errors
    /// The vCPU does not answer, or an ioctl failed.
    pub fn release(&self, cpu: usize) -> Result<(), MachineError> {
        self.on(cpu, Vcpu::release)?
            .map_err(failed("KVM_SET_GUEST_DEBUG"))
    }

    /// What was executed after an event, once that is over.
    ///
    /// # Errors
    /// The vCPU does not answer.
    pub fn passage(&self, cpu: usize) -> Result<Option<Passage>, MachineError> {
        self.on(cpu, Vcpu::take_passage)
    }

    /// The guest-physical address of a guest-virtual one, through the page tables that `cpu` has loaded.
    /// `None` where nothing is mapped.
    ///
    /// # Errors
    /// The vCPU does not answer.
    pub fn translate(&self, cpu: usize, address: u64) -> Result<Option<u64>, MachineError> {
        self.on(cpu, move |vcpu| vcpu.translate(address))
    }

    /// Tells the observer each time `cpu` is about to execute the instruction at one of `addresses`,
    /// in the kernel. Replaces what was watched before.
    ///
    /// # Errors
    /// The host cannot stop guests, the vCPU does not answer, there are more addresses than debug
    /// registers, or an ioctl failed.
    pub fn watch(&self, cpu: usize, addresses: &[u64]) -> Result<(), MachineError> {
        let addresses = addresses.to_vec();
        self.stopping_at(cpu, move |vcpu| vcpu.watch(&addresses))
    }

    /// Raises a line of the APIC of `cpu`. `false`: the guest has not set that line up.
    ///
    /// # Errors
    /// The vCPU does not answer.
    pub fn raise(&self, cpu: usize, line: Line) -> Result<bool, MachineError> {
        self.on(cpu, move |vcpu| vcpu.raise(line))
    }

    /// Where SYSCALL takes `cpu`: IA32_LSTAR.
    ///
    /// # Errors
    /// The vCPU does not answer, or an ioctl failed.
    pub fn lstar(&self, cpu: usize) -> Result<u64, MachineError> {
        self.on(cpu, |vcpu| vcpu.lstar())?
            .map_err(failed("KVM_GET_MSRS"))
    }

    /// The time that it is on `cpu`, by the guest's clock and by the machine's.
    ///
    /// # Errors
    /// The vCPU does not answer, or an ioctl failed.
    pub fn moment(&self, cpu: usize) -> Result<Moment, MachineError> {
        self.on(cpu, |vcpu| vcpu.moment())?
            .map_err(failed("KVM_GET_MSRS"))
    }

    /// Reads `len` bytes at a guest-virtual address through the page tables that `cpu` has loaded.
    /// `None` where nothing is mapped there.
    ///
    /// # Errors
    /// The vCPU does not answer.
    pub fn read_virtual(
        &self,
        cpu: usize,
        address: u64,
        len: usize,
    ) -> Result<Option<Vec<u8>>, MachineError> {
        self.on(cpu, move |vcpu| {
            let mut bytes = vec![0; len];
            vcpu.read_virtual(address, &mut bytes).then_some(bytes)
        })
    }

    /// Reads `len` bytes of the guest's memory at a physical address. `None` where there is no memory.
    #[must_use]
    pub fn read_physical(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        let memory = &self.vcpu_set.memory;
        memory
            .read_slice(&mut bytes, GuestAddress(address))
            .is_ok()
            .then_some(bytes)
    }

    fn stopping_at(
        &self,
        cpu: usize,
        job: impl FnOnce(&mut Vcpu) -> Result<bool, errno::Error> + Send + 'static,
    ) -> Result<(), MachineError> {
        if let Some(lack) = self.debug.lack() {
            return Err(MachineError::NoStopping(lack));
        }
        let fits = self.on(cpu, job)?.map_err(failed("KVM_SET_GUEST_DEBUG"))?;
        if fits {
            Ok(())
        } else {
            Err(MachineError::TooManyStops(cpu))
        }
    }

    fn on<T: Send + 'static>(
        &self,
        cpu: usize,
        job: impl FnOnce(&mut Vcpu) -> T + Send + 'static,
    ) -> Result<T, MachineError> {
        let gone = MachineError::NoAnswer(cpu);
        if self.threads.is_empty() || self.vcpu_set.stopping() {
            return Err(gone);
        }
        let slot = self.vcpu_set.slots.get(cpu);
        slot.and_then(|slot| slot.call(job)).ok_or(gone)
    }
}
