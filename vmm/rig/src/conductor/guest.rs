//! What the conductor needs of a running guest. The machine provides it; tests provide a guest
//! that follows a script.

use std::error::Error;
use std::time::Instant;

use ipirig_abi::Mailbox;
use ipirig_machine::{Machine, StopReason, Wakeup};

/// What went wrong inside the machine; the conductor can only pass it on.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Where a vCPU was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Current privilege level: 3 is user space.
    pub cpl: u8,
    /// The instruction pointer.
    pub rip: u64,
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

    /// Gives each vCPU its own place on the host, once the guest has booted.
    ///
    /// # Errors
    ///
    /// The machine's.
    fn settle(&mut self) -> Result<(), Failure>;

    /// Looks at where a vCPU is, without the guest noticing. `None`: it does not answer, because
    /// the guest stopped.
    fn sample(&self, cpu: usize) -> Option<Place>;

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

    fn settle(&mut self) -> Result<(), Failure> {
        Ok(Machine::settle(self)?)
    }

    fn sample(&self, cpu: usize) -> Option<Place> {
        Machine::sample(self, cpu).map(|sample| Place {
            cpl: sample.cpl,
            rip: sample.rip,
        })
    }

    fn report(&mut self, reason: StopReason) -> String {
        Machine::report(self, reason).to_string()
    }
}
