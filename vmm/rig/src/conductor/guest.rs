//! What the conductor needs of a running guest. The machine provides it; tests provide a guest
//! that follows a script.

use std::error::Error;
use std::fs::File;
use std::ops::Range;
use std::time::{Duration, Instant};

use ipirig_abi::Mailbox;
use ipirig_entry::paging::kernel_translation;
use ipirig_entry::{Began, Paging, Record};
use ipirig_machine::clock::{self, Moment};
use ipirig_machine::{Line, Machine, StopReason, Wakeup};

use ipirig_evidence::USER;

/// Bytes of a page table.
const PAGE: usize = 4096;

/// What went wrong inside the machine; the conductor can only pass it on.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Where a vCPU was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuSample {
    /// Current privilege level: 3 is user space.
    pub cpl: u8,
    /// The instruction pointer.
    pub rip: u64,
    /// How long until its APIC timer interrupts it, if that is armed.
    pub timer: Option<Duration>,
}

/// A running guest.
pub trait Guest {
    /// The page that rig and agent share.
    fn mailbox(&self) -> &Mailbox;

    /// Waits for the doorbell, the guest's end, a signal to us, or the deadline.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn wait(&mut self, deadline: Instant) -> Result<Wakeup, Failure>;

    /// Writes the whole guest down, which goes on afterwards.
    ///
    /// # Errors
    ///
    /// The machine's, or the file's.
    fn save(&self, key: &str, file: &mut File) -> Result<(), Failure>;

    /// Brings the ledger up to date, where the machine hears of interrupts late.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn catch_up(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Gives each vCPU its own place on the host, once the guest has booted.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn settle(&mut self) -> Result<(), Failure>;

    /// Looks at where a vCPU is, without the guest noticing. `None`: it does not answer, because
    /// the guest stopped.
    fn sample(&self, cpu: usize) -> Option<VcpuSample>;

    /// The time that it is on a vCPU, by the guest's time-stamp counter and by the clock of events.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn moment(&self, cpu: usize) -> Result<Moment, Failure>;

    /// Why the guest's kernel cannot be stopped or stepped, which the rest of this trait needs; `None`
    /// if it can.
    fn cannot_stop(&self) -> Option<String>;

    /// Where SYSCALL takes a vCPU: IA32_LSTAR.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn lstar(&self, cpu: usize) -> Result<u64, Failure>;

    /// Reads `len` bytes at an address through the page tables that a vCPU has loaded. `None`: there
    /// is nothing.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn read(&self, cpu: usize, address: u64, len: usize) -> Result<Option<Vec<u8>>, Failure>;

    /// The 8 bytes at an address of the kernel's, whichever of a pair of page tables a vCPU has loaded. `None`:
    /// there is nothing.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn kernel_word(&self, cpu: usize, address: u64) -> Result<Option<u64>, Failure>;

    /// How the kernel's page tables are set up whose vmalloc memory is in `vmalloc`, by those of a vCPU
    /// that is in user space. `None`: it is not, or they cannot be read.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn paging(&self, cpu: usize, vmalloc: &Range<u64>) -> Result<Option<Paging>, Failure>;

    /// Tells the observer each time a vCPU is about to execute one of these kernel addresses.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn watch(&self, cpu: usize, addresses: &[u64]) -> Result<(), Failure>;

    /// Has the next entry of a vCPU recorded, up to `limit` instructions; `ways` are those by which it
    /// may come besides SYSCALL, page faults and interrupts.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn arm(&self, cpu: usize, limit: usize, ways: &[Began]) -> Result<(), Failure>;

    /// Has each interrupt of `vectors` that a vCPU takes recorded from now on, whatever it interrupts,
    /// up to `limit` instructions each. No vectors: no more.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn follow(&self, cpu: usize, limit: usize, vectors: &[u8]) -> Result<(), Failure>;

    /// Has each call of the functions at `addresses` that `cpu` makes recorded from now on, as
    /// [`Guest::follow`] does interrupts.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn follow_calls(&self, cpu: usize, limit: usize, addresses: &[u64]) -> Result<(), Failure>;

    /// The records of such interrupts and calls that have ended since this was asked last. `None`: one is being
    /// recorded.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn followed(&self, cpu: usize) -> Result<Option<Vec<Record>>, Failure>;

    /// Stops waiting for an entry, and recording one.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn disarm(&self, cpu: usize) -> Result<(), Failure>;

    /// The record, once it is finished.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn record(&self, cpu: usize) -> Result<Option<Record>, Failure>;

    /// How many instructions of the record of a vCPU's entry there are so far.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn recorded(&self, cpu: usize) -> Result<usize, Failure>;

    /// Raises a line of a vCPU's APIC. `false`: the guest has not set it up.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn raise(&self, cpu: usize, line: Line) -> Result<bool, Failure>;

    /// The machine, if it is a real one.
    fn real(&self) -> Option<&Machine> {
        None
    }

    /// Stops the guest and gives all that a person needs to see why it stopped or hangs; several
    /// lines.
    fn report(&mut self, reason: StopReason) -> String;
}

impl Guest for Machine {
    fn mailbox(&self) -> &Mailbox {
        Machine::mailbox(self)
    }

    fn wait(&mut self, deadline: Instant) -> Result<Wakeup, Failure> {
        Ok(Machine::wait(self, deadline)?)
    }

    fn save(&self, key: &str, file: &mut File) -> Result<(), Failure> {
        Ok(Machine::save(self, key, file)?)
    }

    fn catch_up(&self) -> Result<(), Failure> {
        Ok(Machine::report_kvm(self)?)
    }

    fn settle(&mut self) -> Result<(), Failure> {
        Ok(Machine::settle(self)?)
    }

    fn sample(&self, cpu: usize) -> Option<VcpuSample> {
        Machine::sample(self, cpu).map(|sample| VcpuSample {
            cpl: sample.cpl,
            rip: sample.rip,
            timer: sample
                .timer
                .map(|at| Duration::from_nanos(at.saturating_sub(clock::now()))),
        })
    }

    fn moment(&self, cpu: usize) -> Result<Moment, Failure> {
        Ok(Machine::moment(self, cpu)?)
    }

    fn cannot_stop(&self) -> Option<String> {
        Machine::cannot_stop(self)
    }

    fn lstar(&self, cpu: usize) -> Result<u64, Failure> {
        Ok(Machine::lstar(self, cpu)?)
    }

    fn read(&self, cpu: usize, address: u64, len: usize) -> Result<Option<Vec<u8>>, Failure> {
        Ok(Machine::read_virtual(self, cpu, address, len)?)
    }

    fn kernel_word(&self, cpu: usize, address: u64) -> Result<Option<u64>, Failure> {
        let word = |bytes: Vec<u8>| Some(u64::from_le_bytes(bytes.try_into().ok()?));
        let physical = |at| self.read_physical(at, size_of::<u64>()).and_then(word);
        // The one that is loaded has it, but for a vCPU in user space with page table isolation.
        let loaded = Machine::read_virtual(self, cpu, address, size_of::<u64>())?;
        Ok(loaded.and_then(word).or_else(|| {
            let sample = Machine::sample(self, cpu)?;
            physical(kernel_translation(
                sample.cr3, sample.cr4, address, physical,
            )?)
        }))
    }

    fn paging(&self, cpu: usize, vmalloc: &Range<u64>) -> Result<Option<Paging>, Failure> {
        let sample = Machine::sample(self, cpu).filter(|sample| sample.cpl == USER);
        Ok(sample.and_then(|sample| {
            let read = |address| self.read_physical(address, PAGE);
            Paging::look(sample.cr3, sample.cr4, vmalloc, read)
        }))
    }

    fn watch(&self, cpu: usize, addresses: &[u64]) -> Result<(), Failure> {
        Ok(Machine::watch(self, cpu, addresses)?)
    }

    fn arm(&self, cpu: usize, limit: usize, ways: &[Began]) -> Result<(), Failure> {
        Ok(Machine::arm(self, cpu, limit, ways)?)
    }

    fn follow(&self, cpu: usize, limit: usize, vectors: &[u8]) -> Result<(), Failure> {
        Ok(Machine::follow(self, cpu, limit, vectors)?)
    }

    fn follow_calls(&self, cpu: usize, limit: usize, addresses: &[u64]) -> Result<(), Failure> {
        Ok(Machine::follow_calls(self, cpu, limit, addresses)?)
    }

    fn followed(&self, cpu: usize) -> Result<Option<Vec<Record>>, Failure> {
        Ok(Machine::followed(self, cpu)?)
    }

    fn disarm(&self, cpu: usize) -> Result<(), Failure> {
        Ok(Machine::disarm(self, cpu)?)
    }

    fn record(&self, cpu: usize) -> Result<Option<Record>, Failure> {
        Ok(Machine::record(self, cpu)?)
    }

    fn recorded(&self, cpu: usize) -> Result<usize, Failure> {
        Ok(Machine::recorded(self, cpu)?)
    }

    fn raise(&self, cpu: usize, line: Line) -> Result<bool, Failure> {
        Ok(Machine::raise(self, cpu, line)?)
    }

    fn real(&self) -> Option<&Machine> {
        Some(self)
    }

    fn report(&mut self, reason: StopReason) -> String {
        Machine::report(self, reason).to_string()
    }
}
