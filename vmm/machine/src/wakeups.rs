//! What [`crate::Machine::wait`] waits on: the doorbell, the end of the vCPUs, and signals.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use ipirig_terminal::interrupt;

/// What happened while waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitEvent {
    /// The guest wrote to the doorbell port.
    Doorbell,
    /// Something else, or nothing in time.
    Other,
}

pub(crate) struct Wakeups {
    manager: EventManager<Arc<Mutex<Sources>>>,
    sources: Arc<Mutex<Sources>>,
}

impl std::fmt::Debug for Wakeups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wakeups").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Sources {
    doorbell: EventFd,
    stopped: EventFd,
    rung: bool,
}

impl Wakeups {
    pub(crate) fn new(doorbell: EventFd, stopped: EventFd) -> io::Result<Self> {
        let sources = Arc::new(Mutex::new(Sources {
            doorbell,
            stopped,
            rung: false,
        }));
        let mut manager = EventManager::new().map_err(io::Error::other)?;
        manager.add_subscriber(Arc::clone(&sources));
        Ok(Self { manager, sources })
    }

    /// Waits at most `patience`.
    pub(crate) fn wait(&mut self, patience: Duration) -> io::Result<WaitEvent> {
        // Round up: a wait of less than a millisecond must not become a busy loop.
        let milliseconds = i32::try_from(patience.as_nanos().div_ceil(1_000_000));
        match self
            .manager
            .run_with_timeout(milliseconds.unwrap_or(i32::MAX))
        {
            Ok(_) => {}
            Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EINTR => {}
            Err(error) => return Err(io::Error::other(error)),
        }
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(if std::mem::take(&mut sources.rung) {
            WaitEvent::Doorbell
        } else {
            WaitEvent::Other
        })
    }
}

impl MutEventSubscriber for Sources {
    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        // Non-blocking reads that only reset the counters.
        if events.fd() == self.doorbell.as_raw_fd() {
            let _ = self.doorbell.read();
            self.rung = true;
        } else if events.fd() == self.stopped.as_raw_fd() {
            let _ = self.stopped.read();
        } else if let Some(signal) = interrupt::event() {
            let _ = signal.read();
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let sources = [
            Some(&self.doorbell),
            Some(&self.stopped),
            interrupt::event(),
        ];
        for source in sources.into_iter().flatten() {
            // Only fails without memory; waiting then ends at its deadline.
            let _ = ops.add(Events::new(source, EventSet::IN));
        }
    }
}
