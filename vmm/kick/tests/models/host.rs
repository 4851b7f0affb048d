//! KVM and the host's threads, as far as kicks go.

use std::time::Duration;

use ipirig_kick::{ImmediateExit, KickedThread};
use loom::sync::atomic::{AtomicU8, Ordering};
use loom::sync::{Condvar, Mutex};

/// The one vCPU thread that is kicked, as the host's kernel has it.
#[derive(Debug, Default)]
pub(crate) struct ModelThread {
    signal: Event,
    token: Event,
}

impl ModelThread {
    /// Has the handler run of a signal that is pending, as the kernel does on each way back to user mode.
    pub(crate) fn handle_signal(&self, exit: &ImmediateExit) {
        if self.signal.take() {
            exit.set();
        }
    }

    /// `KVM_RUN` (KVM API 4.10): polls the flag `byte` once, and then has the guest execute until a signal comes, whose
    /// handler runs on the way out. Always an EINTR.
    pub(crate) fn run(&self, exit: &ImmediateExit, byte: &AtomicU8) -> Result<(), Interrupted> {
        self.handle_signal(exit);
        if byte.load(Ordering::Relaxed) == 0 {
            self.signal.wait();
            exit.set();
        }
        Err(Interrupted)
    }
}

/// EINTR.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl KickedThread for ModelThread {
    fn signal(&self, _id: i32) {
        self.signal.set();
    }

    fn unpark(&self) {
        self.token.set();
    }

    // A signal does not end it: the standard library goes back to sleep.
    fn park(&self, _longest: Option<Duration>) {
        self.token.wait();
    }
}

/// What is pending, or is not. Synchronizes by its lock, as the kernel does.
#[derive(Debug, Default)]
struct Event {
    pending: Mutex<bool>,
    came: Condvar,
}

impl Event {
    fn set(&self) {
        *self.pending.lock().unwrap() = true;
        self.came.notify_one();
    }

    fn take(&self) -> bool {
        std::mem::take(&mut *self.pending.lock().unwrap())
    }

    fn wait(&self) {
        let mut pending = self.pending.lock().unwrap();
        while !std::mem::take(&mut *pending) {
            pending = self.came.wait(pending).unwrap();
        }
    }
}
