//! What all vCPU threads of a machine and the machine itself share.
//!
//! This file and [`crate::vcpu`] name each other: a job is code that runs with a vCPU at hand on its thread,
//! and whoever asks for one knows neither which vCPU that is nor when its thread gets to it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use ipirig_apic::{Bus, CpuSet};
use ipirig_kick::{Kicker, SignalledThread};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::console::Console;
use crate::observer::Observer;
use crate::ports::Ports;
use crate::stop::StopReason;
use crate::vcpu::Vcpu;

/// How long a vCPU may take to answer: it only has to leave `KVM_RUN`.
const ANSWER: Duration = Duration::from_secs(5);

/// A look at a running vCPU from outside. The guest cannot tell that it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// Page-table base.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Privilege level: 0 or 3.
    pub cpl: u8,
    /// Not running: it waits for a SIPI, or in HLT for an interrupt.
    pub parked: bool,
    /// When its APIC timer will next interrupt it, in nanoseconds of [`crate::clock::now`].
    pub timer: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct VcpuSet {
    pub(crate) bus: Arc<Bus>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) memory: GuestMemoryMmap,
    pub(crate) ports: Ports,
    pub(crate) console: Console,
    stopping: AtomicBool,
    booting: AtomicBool,
    reason: Mutex<Option<StopReason>>,
    stopped: EventFd,
}

/// Something to do with a vCPU on its own thread, between two runs of the guest.
type Job = Box<dyn FnOnce(&mut Vcpu) + Send>;

/// `job` as one that tells its outcome, and goes on with `then`.
fn telling<T: Send + 'static>(
    job: impl FnOnce(&mut Vcpu) -> T + Send + 'static,
    then: impl FnOnce(&mut Vcpu) + Send + 'static,
) -> (Job, mpsc::Receiver<T>) {
    let (sender, outcome) = mpsc::channel();
    let job = Box::new(move |vcpu: &mut Vcpu| {
        // The asker may have given up.
        let _ = sender.send(job(vcpu));
        then(vcpu);
    });
    (job, outcome)
}

/// A vCPU that stands still. It goes on when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    jobs: mpsc::Sender<Job>,
}

impl Held {
    /// Has the vCPU's thread do `job` and waits for its outcome.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Vcpu) -> T + Send + 'static,
    ) -> Option<T> {
        let (job, outcome) = telling(job, |_| {});
        self.jobs.send(job).ok()?;
        outcome.recv_timeout(ANSWER).ok()
    }
}

/// One vCPU, as the others and the machine see it.
#[derive(Default)]
pub(crate) struct Slot {
    pub(crate) kicker: Kicker<SignalledThread>,
    asked: AtomicBool,
    /// A [`crate::Placed`].
    placed: AtomicU8,
    /// For whoever waits until that is another one.
    placed_turn: (Mutex<()>, Condvar),
    job: Mutex<Option<Job>>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("kicker", &self.kicker)
            .finish_non_exhaustive()
    }
}

impl VcpuSet {
    pub(crate) fn new(
        bus: Arc<Bus>,
        observer: Arc<dyn Observer>,
        memory: GuestMemoryMmap,
        console: Console,
        stopped: EventFd,
    ) -> Self {
        let slots = (0..bus.cpus()).map(|_| Slot::default()).collect();
        Self {
            bus,
            slots,
            observer,
            memory,
            ports: Ports::new(console.clone()),
            console,
            stopping: AtomicBool::new(false),
            booting: AtomicBool::new(false),
            reason: Mutex::new(None),
            stopped,
        }
    }

    pub(crate) fn kick(&self, cpus: CpuSet) {
        for cpu in cpus.iter() {
            if let Some(slot) = self.slots.get(cpu) {
                slot.kicker.kick();
            }
        }
    }

    /// Ends the run, for the first reason given; all vCPU threads end soon.
    pub(crate) fn stop(&self, reason: Option<StopReason>) {
        if let Some(reason) = reason {
            let mut first = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(reason);
        }
        self.stopping.store(true, Ordering::SeqCst);
        for slot in &self.slots {
            slot.kicker.kick();
        }
        // Only fails when the counter is full, and then the reader is awake.
        let _ = self.stopped.write(1);
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Whether the guest is in a boot that [`crate::Machine::expect_boot`] announced.
    pub(crate) fn booting(&self) -> bool {
        self.booting.load(Ordering::Relaxed)
    }

    pub(crate) fn set_booting(&self, booting: bool) {
        self.booting.store(booting, Ordering::Relaxed);
    }

    pub(crate) fn reason(&self) -> Option<StopReason> {
        self.reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Slot {
    /// Has the vCPU's thread do `job` and waits for its outcome; `None` if the vCPU does not answer.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Vcpu) -> T + Send + 'static,
    ) -> Option<T> {
        self.call_then(job, |_| {})
    }

    /// The same; when the outcome has been told, the thread goes on with `then`.
    fn call_then<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Vcpu) -> T + Send + 'static,
        then: impl FnOnce(&mut Vcpu) + Send + 'static,
    ) -> Option<T> {
        let (job, outcome) = telling(job, then);
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
        self.asked.store(true, Ordering::SeqCst);
        self.kicker.kick();
        outcome.recv_timeout(ANSWER).ok()
    }

    /// Has the vCPU stand still, between two instructions, until what is returned is dropped. `None`
    /// if it does not answer.
    pub(crate) fn hold(&self) -> Option<Held> {
        let (jobs, work) = mpsc::channel::<Job>();
        let still = self.call_then(Vcpu::finish_exit, move |vcpu| {
            while let Ok(job) = work.recv() {
                job(vcpu);
            }
        })?;
        still.then_some(Held { jobs })
    }

    /// A [`crate::Placed`].
    pub(crate) fn placed(&self) -> u8 {
        self.placed.load(Ordering::SeqCst)
    }

    /// Tells whoever waits.
    pub(crate) fn announce_placed(&self, placed: u8) {
        let turn = self.placed_turn.0.lock();
        self.placed.store(placed, Ordering::SeqCst);
        drop(turn);
        self.placed_turn.1.notify_all();
    }

    /// Waits until it is not `was` any more, or for `longest`.
    pub(crate) fn wait_placed(&self, was: u8, longest: Duration) {
        let turn = self.placed_turn.0.lock();
        let turn = turn.unwrap_or_else(PoisonError::into_inner);
        let same = |_: &mut ()| self.placed() == was;
        // Either way it is looked at again.
        drop(self.placed_turn.1.wait_timeout_while(turn, longest, same));
    }

    /// Whether [`Slot::answer`] has something to do.
    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// The vCPU's side of [`Slot::call`]. Whether something was asked for.
    pub(crate) fn answer(&self, vcpu: &mut Vcpu) -> bool {
        if !self.asked.swap(false, Ordering::SeqCst) {
            return false;
        }
        let job = self
            .job
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(job) = job {
            job(vcpu);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_an_event_is_woken_as_it_comes_further_and_not_before() {
        let slot = Slot::default();
        slot.wait_placed(0, Duration::from_millis(1));
        assert_eq!(slot.placed(), 0);
        std::thread::scope(|scope| {
            scope.spawn(|| slot.announce_placed(2));
            while slot.placed() == 0 {
                // Longer than a test may take.
                slot.wait_placed(0, Duration::from_secs(3600));
            }
        });
        assert_eq!(slot.placed(), 2);
        // It has come further already.
        slot.wait_placed(0, Duration::from_secs(3600));
    }
}
